"""The content of each kind of document. It is stored as JSON when a document is issued, so later changes elsewhere do
not affect it.

Amounts are US cents on invoices and credit notes, nano-dollars on statements; times are milliseconds since the epoch.
"""

import msgspec


class Party(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The seller or the customer at the time the document was issued."""

    name: str
    address: tuple[str, ...] = ()
    country: str = ""
    tax_id: str = ""
    email: str = ""


class DocumentLine(msgspec.Struct, frozen=True):
    """One line of an invoice or credit note, before tax."""

    description: str
    amount_cents: int


class TaxLine(msgspec.Struct, frozen=True):
    """The tax on all lines: at a rate, or zero if the customer owes it themselves (reverse charge)."""

    name: str
    parts_per_million: int
    amount_cents: int
    reverse_charge: bool = False


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice: one purchase of credit that was paid."""

    number: str
    issued_at: int
    paid_at: int
    account_id: str
    seller: Party
    customer: Party
    lines: tuple[DocumentLine, ...]
    tax: TaxLine | None
    total_cents: int
    card_brand: str = ""
    card_last4: str = ""
    payment_reference: str = ""
    """The processor's ID of the payment."""

    @property
    def subtotal_cents(self) -> int:
        return sum(line.amount_cents for line in self.lines)


class CreditNote(msgspec.Struct, frozen=True, kw_only=True):
    """What was refunded of an invoice. Amounts are positive: they are credited."""

    number: str
    issued_at: int
    account_id: str
    seller: Party
    customer: Party
    invoice_number: str
    invoice_issued_at: int
    lines: tuple[DocumentLine, ...]
    tax: TaxLine | None
    total_cents: int
    credit_cents: int
    """How much prepaid credit was taken from the account for it."""
    reason: str = ""
    card_brand: str = ""
    card_last4: str = ""
    payment_reference: str = ""

    @property
    def subtotal_cents(self) -> int:
        return sum(line.amount_cents for line in self.lines)


class UsageLine(msgspec.Struct, frozen=True):
    """The month's calls of one model. Tokens are those that the provider counted."""

    provider: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    charge_nanos: int


class MovementSum(msgspec.Struct, frozen=True):
    """The sum of one kind of movement in the month: its effect on the balance."""

    kind: str
    """A key of MOVEMENTS."""
    amount_nanos: int


MOVEMENTS: dict[str, str] = {
    "bought": "Credit bought",
    "granted": "Credit granted",
    "refunded": "Refunds and disputes",
    "corrected": "Corrections",
    "expired": "Expired credit",
    "charged": "Charges",
    "other": "Other movements",
}
"""Kind of movement → its label on the statement, in this order."""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """An account's movements in one calendar month (UTC).

    The balances and movements are sums over transfers: opening + movements = closing, to the nano-dollar. The usage
    lines count calls in the month in which they began; `shifted_nanos` is what was charged in this month for calls that
    began in another month, minus what was charged in other months for calls of this month. So usage + shifted =
    charges.
    """

    account_id: str
    month: str
    """The month, such as 2026-11."""
    start: int
    end: int
    made_at: int
    final: bool
    """Whether the statement is final: the month has ended, and so has every call that began in it."""
    seller: Party
    customer: Party
    opening_nanos: int
    movements: tuple[MovementSum, ...]
    closing_nanos: int
    usage: tuple[UsageLine, ...]
    shifted_nanos: int

    @property
    def usage_nanos(self) -> int:
        return sum(line.charge_nanos for line in self.usage)
