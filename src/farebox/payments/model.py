"""The types of payments: cards, top-ups, rules, refunds, disputes.

Amounts (`…_cents`) are whole US cents. Moments (`…_at`, `…until`) are milliseconds since the Unix epoch, by our clock
unless it says otherwise; where a day or a month is counted, it is UTC's.
"""

from typing import Literal, TypeAlias

import msgspec

TopUpKind: TypeAlias = Literal["manual", "auto", "checkout"]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A saved card. Its number is never stored here."""

    card_id: str
    """The processor's ID of the payment method."""
    brand: str
    last4: str
    exp_month: int
    """1 to 12; the card is valid to the end of this month."""
    exp_year: int
    """Four digits."""
    fingerprint: str
    """The same for the same card saved twice."""
    is_default: bool = False
    created_at: int = 0
    """When it was saved, in milliseconds, by the processor's clock."""


class NoInvoice(RuntimeError):
    """A step was taken with an invoice that is not open yet, or that its event does not come with."""


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """One purchase of credit: a row of `top_ups`. Amounts in US cents, moments in milliseconds since the Unix epoch."""

    account_id: str
    top_up_id: str
    kind: TopUpKind
    state: str
    """A key of states.TOP_UP_STATES."""
    credit_cents: int
    """The credit that the account gets."""
    fee_cents: int
    tax_cents: int
    lines: bytes
    """The purchase.Purchase as it was priced, as JSON."""
    card_id: str | None = None
    fingerprint: str | None = None
    brand: str | None = None
    last4: str | None = None
    payment_id: str | None = None
    """The ID of the processor's invoice; called `payment_intent_id` in the API."""
    checkout_id: str | None = None
    request_key: str | None = None
    request_hash: str | None = None
    attempt: int = 0
    """Number of the latest attempt; 0 before the first."""
    lease_owner: str | None = None
    """The process that is working on it."""
    lease_epoch: int = 0
    """Increased by each claim: writes by an earlier worker are refused."""
    lease_until: int | None = None
    next_at: int | None = None
    """When it is to be processed next; None: nothing is left to do."""
    first_unknown_at: int | None = None
    """Since when the processor's response has been missing."""
    unseen_at: int | None = None
    """When a list of invoices first lacked its invoice."""
    retry_at: int | None = None
    """If declined: when the card may be charged again."""
    client_secret: str | None = None
    action_url: str | None = None
    decline_code: str | None = None
    error: str | None = None
    refunded_cents: int = 0
    """Taken from the charge by refunds."""
    disputed_cents: int = 0
    """Taken from the charge by disputes that are open or lost."""
    clawed_cents: int = 0
    """Taken from the credit by both."""
    created_at: int
    updated_at: int
    """When its state last changed."""
    paid_at: int | None = None
    """When it was credited."""

    @property
    def invoice_id(self) -> str:
        """`payment_id`, once the invoice is open. Raises NoInvoice."""
        if self.payment_id is None:
            raise NoInvoice(f"top-up {self.top_up_id} has no invoice yet")
        return self.payment_id

    @property
    def charge_cents(self) -> int:
        """What the card is charged."""
        return self.credit_cents + self.fee_cents + self.tax_cents


class TopUpRule(msgspec.Struct, frozen=True, kw_only=True):
    """An account's auto top-up: buy `amount_cents` when the posted balance is below `threshold_cents`.

    Amounts in US cents, moments in milliseconds since the Unix epoch.
    """

    account_id: str
    amount_cents: int
    threshold_cents: int
    monthly_cap_cents: int
    """The most that it charges in a calendar month (UTC), fees and taxes included."""
    state: str = "active"
    """A key of states.RULE_STATES."""
    reason: str | None = None
    """A key of states.DISABLED_REASONS, unless active."""
    error: str | None = None
    until: int | None = None
    """When a paused rule resumes."""
    failures: int = 0
    """Consecutive declines."""
    last_failed_at: int | None = None
    fingerprint: str | None = None
    """Fingerprint of the card that was declined when the rule was suspended."""
    sequence: int = 0
    """Number of the latest request."""
    updated_at: int = 0


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Money paid back to the card it came from. Amounts in US cents, moments in milliseconds since the Unix epoch."""

    account_id: str
    refund_id: str
    top_up_id: str
    processor_id: str | None
    state: str
    """A key of states.REFUND_STATES."""
    amount_cents: int
    """What is paid back to the card, including its share of fee and tax."""
    credit_cents: int
    """What is taken from the credit for it."""
    reason: str = ""
    error: str | None = None
    next_at: int | None = None
    """When it is to be processed next; None: nothing is left to do."""
    created_at: int
    updated_at: int


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A charge that the card's owner disputes at their bank.

    Amounts in US cents, moments in milliseconds since the Unix epoch.
    """

    account_id: str
    dispute_id: str
    top_up_id: str
    state: str
    """A key of states.DISPUTE_STATES."""
    amount_cents: int
    """What the bank disputes."""
    taken_cents: int = 0
    """The part that counts against the captured amount: refunds go first, and nothing is taken twice."""
    credit_cents: int
    """What was taken from the credit for it."""
    take_id: str = ""
    """The ledger's transfer is `dispute:{take_id}`."""
    reason: str
    created_at: int
    updated_at: int
