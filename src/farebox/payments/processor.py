"""The payment processor as the rest of the program sees it. payments.stripe is the only implementation.

Every method is one or more network calls and is never called inside a database transaction. Methods that create
something take an idempotency `key` derived from the row that requests it: repeating the call, after a crash or a lost
response, has its effect only once. Amounts are US cents; times are milliseconds since the Unix epoch.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from farebox.payments.model import Card

InvoiceState: TypeAlias = Literal["draft", "open", "paid", "void", "uncollectible"]
PaymentState: TypeAlias = Literal["none", "processing", "action_required", "failed", "succeeded", "canceled"]


CUSTOMER_DELETED: Final = "customer_deleted"
MISSING: Final = "resource_missing"
"""Codes of refusals: the customer was deleted at the processor; the object does not exist there at all."""


class ProcessorUnavailable(RuntimeError):
    """No usable response: time-out, reset, 5xx, rate limit, key in use. Whether the request took effect is unknown."""


class ProcessorRefused(RuntimeError):
    """The processor refused the request itself (invalid, unknown object, bad key): it took no effect."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Declined(Exception):
    """The card was not charged. `code` is the decline code, or `authentication_required`."""

    def __init__(self, code: str, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        """Text for the customer."""
        self.advice = advice
        """The network's advice: try_again_later, do_not_try_again, confirm_card_data."""


class InvalidSignature(ValueError):
    """A webhook without a valid signature made with our secret, or one that is too old."""


class ProcessorLine(msgspec.Struct, frozen=True):
    """One line of an invoice; its amount in US cents."""

    description: str
    amount_cents: int


class ProcessorInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice at the processor, with the state of its payment. Amounts in US cents; `created_at` in milliseconds
    since the Unix epoch, by the processor's clock, whose seconds are whole."""

    invoice_id: str
    state: InvoiceState
    payment_state: PaymentState
    amount_cents: int
    paid_cents: int
    due_cents: int = 0
    """What will be charged: the amount, unless the customer has a balance at the processor."""
    customer_id: str
    metadata: Mapping[str, str] = {}
    payment_intent_id: str | None = None
    charge_id: str | None = None
    client_secret: str | None = None
    hosted_url: str | None = None
    decline_code: str | None = None
    """Why the latest payment attempt failed."""
    decline_advice: str | None = None
    created_at: int = 0


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted Checkout page and its state."""

    checkout_id: str
    url: str | None
    mode: Literal["setup", "payment"]
    state: Literal["open", "complete", "expired"]
    paid: bool = False
    customer_id: str | None = None
    metadata: Mapping[str, str] = {}
    card_id: str | None = None
    invoice: ProcessorInvoice | None = None


class ProcessorRefund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as the processor has it. The amount in US cents, `created_at` in milliseconds since the Unix epoch."""

    refund_id: str
    state: Literal["pending", "requires_action", "succeeded", "failed", "canceled"]
    amount_cents: int
    payment_intent_id: str | None
    charge_id: str | None
    metadata: Mapping[str, str] = {}
    failure: str | None = None
    created_at: int = 0


class ProcessorDispute(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute as the processor has it. The amount in US cents, `created_at` in milliseconds since the Unix epoch."""

    dispute_id: str
    state: Literal["inquiry", "inquiry_closed", "open", "won", "lost"]
    """inquiry: no money has moved. open: the money was withdrawn."""
    amount_cents: int
    payment_intent_id: str | None
    charge_id: str | None
    reason: str
    created_at: int = 0


class ProcessorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event at the processor. Only a hint: the object it names is fetched, and its state applied.

    `created_at` in milliseconds since the Unix epoch, by the processor's clock.
    """

    event_id: str
    type: str
    object_id: str
    created_at: int
    body: bytes


class Processor(Protocol):
    """Raises ProcessorUnavailable or ProcessorRefused from every method that calls the network."""

    async def create_customer(self, account_id: str, *, name: str, email: str, key: str) -> str: ...

    async def cards(self, customer_id: str) -> list[Card]:
        """The customer's saved cards, with the default one marked. Refused with CUSTOMER_DELETED, or MISSING."""
        ...

    async def set_default_card(self, customer_id: str, card_id: str) -> None: ...

    async def remove_card(self, card_id: str) -> None: ...

    async def open_setup(
        self, customer_id: str, *, success_url: str, cancel_url: str, metadata: Mapping[str, str], key: str
    ) -> Checkout:
        """A hosted page that saves a card for charges without the customer present."""
        ...

    async def open_purchase(
        self,
        customer_id: str,
        lines: Sequence[ProcessorLine],
        *,
        success_url: str,
        cancel_url: str,
        metadata: Mapping[str, str],
        key: str,
    ) -> Checkout:
        """A hosted page on which the customer buys credit and saves the card; the payment gets its own invoice."""
        ...

    async def fetch_checkout(self, checkout_id: str) -> Checkout: ...

    async def expire_checkout(self, checkout_id: str) -> None: ...

    async def open_invoice(
        self, customer_id: str, lines: Sequence[ProcessorLine], *, card_id: str, metadata: Mapping[str, str], key: str
    ) -> ProcessorInvoice:
        """Create a finalized one-off invoice that is not yet paid."""
        ...

    async def pay_invoice(self, invoice_id: str, *, card_id: str, on_session: bool, key: str) -> ProcessorInvoice:
        """Charge the card. Raises Declined; `payment_state` says if the owner must confirm."""
        ...

    async def fetch_invoice(self, invoice_id: str) -> ProcessorInvoice: ...

    async def void_invoice(self, invoice_id: str) -> ProcessorInvoice:
        """Make sure that the invoice can no longer be paid; one that was paid meanwhile is returned unchanged."""
        ...

    def invoices(self, *, since: int, customer_id: str | None = None) -> AsyncIterator[ProcessorInvoice]:
        """Invoices created since `since`, of one customer or of all, newest first."""
        ...

    async def refund(
        self, payment_intent_id: str, amount_cents: int, *, metadata: Mapping[str, str], key: str
    ) -> ProcessorRefund: ...

    async def fetch_refund(self, refund_id: str) -> ProcessorRefund: ...

    def refunds(self, *, since: int, payment_intent_id: str | None = None) -> AsyncIterator[ProcessorRefund]: ...

    async def fetch_dispute(self, dispute_id: str) -> ProcessorDispute: ...

    def disputes(self, *, since: int) -> AsyncIterator[ProcessorDispute]: ...

    def read_event(self, body: bytes, signature: str, *, at: int) -> ProcessorEvent:
        """The event of a webhook. Raises InvalidSignature. No network call."""
        ...

    def events(self, *, since: int, undelivered: bool = False) -> AsyncIterator[ProcessorEvent]:
        """Events since `since`, oldest last; `undelivered`: only those that a webhook endpoint did not accept."""
        ...

    async def close(self) -> None: ...
