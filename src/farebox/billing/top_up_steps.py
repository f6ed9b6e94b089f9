"""The steps of a top-up at the payment processor: the requests sent to it, and their results as events.

A step sends one request or several, and writes nothing about the top-up to the database. Every outcome, including a
refusal or no response, is an event that `top_up_machine` looks up in its table; the processor's exceptions do not leave
a step.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec
import structlog

from farebox.billing.cards import customer_of, for_customer, translate_processor_errors
from farebox.calendar import HOUR_MS
from farebox.errors import PROCESSOR_UNAVAILABLE, Problem
from farebox.payments import metadata
from farebox.payments.declines import classify
from farebox.payments.model import NoInvoice, TopUp
from farebox.payments.processor import (
    MISSING,
    Checkout,
    Declined,
    Processor,
    ProcessorInvoice,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.payments.purchase import Purchase
from farebox.runtime.services import Services, processor_of

KEY_LIFE_MS: Final = 23 * HOUR_MS
"""The processor may forget an idempotency key after 24 hours: from then on nothing is sent again, only searched for."""
LISTING_SLACK_MS: Final = HOUR_MS
"""How far the processor's clock may be from ours."""
PAGE_LIFE_MS: Final = 24 * HOUR_MS
"""How long the processor keeps a purchase page open."""
PAGE_GRACE_MS: Final = HOUR_MS
"""How long after that we close it ourselves."""

log = structlog.get_logger("farebox.top_up")

StepEvent: TypeAlias = Literal[
    "claimed",
    "opened",
    "not_listed",
    "paid",
    "closed",
    "processing",
    "to_confirm",
    "unpaid",
    "payment_failed",
    "declined",
    "refused",
    "no_response",
    "voided",
    "not_voided",
    "page_opened",
    "page_not_opened",
    "page_unknown",
    "page_open",
    "page_expired",
]

EVENTS: Final[Mapping[str, str]] = {
    "claimed": "A worker has claimed it; nothing has been requested yet.",
    "opened": "The invoice was created, or found.",
    "not_listed": "The invoice was requested more than a day ago, and no listing shows it.",
    "unpaid": "The invoice awaits a payment.",
    "payment_failed": "The invoice awaits a payment; its latest one failed.",
    "processing": "A payment is in progress at the bank.",
    "to_confirm": "The bank wants the cardholder to confirm the payment.",
    "paid": "The invoice is paid.",
    "closed": "The invoice is void, or marked uncollectible.",
    "declined": "The card was charged now, and declined.",
    "refused": "The processor rejected the request itself, or does not have the invoice.",
    "no_response": "Whether the request took effect is not known.",
    "voided": "The invoice can never be paid.",
    "not_voided": "The invoice may still be paid.",
    "page_opened": "The page to buy on is open, and this is its URL.",
    "page_not_opened": "The page was rejected, or it is not known whether it was opened.",
    "page_unknown": "The process that requested the page died before its URL was recorded.",
    "page_open": "The page is still open, or cannot be fetched now.",
    "page_expired": "The page is closed, and no purchase was made on it.",
}
"""What each event means."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a step: an event, and the data that came with it."""

    event: StepEvent
    invoice: ProcessorInvoice | None = None
    """As the processor shows it now."""
    page: Checkout | None = None
    decline_code: str = ""
    decline_advice: str | None = None
    refusal: ProcessorRefused | None = None
    problem: Problem | None = None
    """The error returned to the caller that requested the page."""

    @property
    def known_invoice(self) -> ProcessorInvoice:
        """The invoice, of an event that comes with it. Raises NoInvoice."""
        if self.invoice is None:
            raise NoInvoice(f"{self.event} came without an invoice")
        return self.invoice


# --- the invoice ------------------------------------------------------------------------------------------------------


async def open_invoice(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """Request the invoice, under the top-up's key; if it may have been requested before, look for it first."""
    processor = processor_of(services)
    key_lives = _key_lives(top_up, services.clock.now_ms())
    try:
        customer_id = await customer_of(services, top_up.account_id)
        found = None
        if top_up.lease_epoch > 1:
            found = await _listed(processor, top_up, customer_id)
            if found is None and not key_lives:
                return StepResult(event="not_listed")
        if found is None or (found.state == "draft" and key_lives):
            found = await processor.open_invoice(
                customer_id,
                msgspec.json.decode(top_up.lines, type=Purchase).lines(),
                card_id=top_up.card_id or "",
                metadata=metadata.of_top_up(top_up.account_id, top_up.top_up_id),
                key=key_of(top_up),
            )
    except ProcessorUnavailable:
        return StepResult(event="no_response")
    except ProcessorRefused as refusal:
        return StepResult(event="refused", refusal=refusal)
    except Problem as problem:  # raised for the customer
        if problem.kind is PROCESSOR_UNAVAILABLE:
            return StepResult(event="no_response")
        return StepResult(event="refused", refusal=ProcessorRefused(problem.message))
    return StepResult(event="opened", invoice=found)


async def _listed(processor: Processor, top_up: TopUp, customer_id: str) -> ProcessorInvoice | None:
    """The invoice that names this top-up, if the processor lists one."""
    wanted = (top_up.account_id, top_up.top_up_id)
    async for invoice in processor.invoices(since=top_up.created_at - LISTING_SLACK_MS, customer_id=customer_id):
        if metadata.top_up_of(invoice.metadata) == wanted:
            return invoice
    return None


async def read_opened(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """The state of the invoice that has just been opened, or found: no request is made."""
    assert before is not None
    return _read(before.known_invoice, top_up)


async def fetch_invoice(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """Fetch the invoice."""
    try:
        invoice = await processor_of(services).fetch_invoice(top_up.invoice_id)
    except ProcessorUnavailable:
        return StepResult(event="no_response")
    except ProcessorRefused as refusal:
        if refusal.code == MISSING:
            return StepResult(event="refused", refusal=refusal)
        return StepResult(event="no_response")  # only the fetch was refused: whether the card was charged is not known
    return _read(invoice, top_up)


def _read(invoice: ProcessorInvoice, top_up: TopUp) -> StepResult:
    return StepResult(event=_event_of(invoice, top_up), invoice=invoice)


def _event_of(invoice: ProcessorInvoice, top_up: TopUp) -> StepEvent:
    if invoice.state == "paid":
        return "paid"
    if invoice.state in ("void", "uncollectible"):
        return "closed"
    if invoice.payment_state in ("processing", "succeeded"):
        return "processing"
    if invoice.payment_state == "action_required" and top_up.attempt:
        return "to_confirm"
    return "payment_failed" if invoice.payment_state == "failed" else "unpaid"


# --- the charge -------------------------------------------------------------------------------------------------------


async def charge(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """Charge the card, under the attempt's key: once done, the same request gets the same response."""
    processor = processor_of(services)
    try:
        invoice = await processor.pay_invoice(
            top_up.invoice_id,
            card_id=top_up.card_id or "",
            on_session=top_up.kind == "manual",
            key=f"{key_of(top_up)}:pay:{top_up.attempt}",
        )
    except ProcessorUnavailable:
        return StepResult(event="no_response")
    except Declined as decline:
        if classify(decline.code) != "authentication":
            return StepResult(event="declined", decline_code=decline.code, decline_advice=decline.advice)
        found = await _fetch_after_failure(processor, top_up.invoice_id)
        if found is None:
            return StepResult(event="no_response")
        if found.state == "open":
            return StepResult(event="to_confirm", invoice=found)
        invoice = found
    except ProcessorRefused as refusal:
        found = await _fetch_after_failure(processor, top_up.invoice_id)
        if found is None:
            return StepResult(event="no_response")
        if found.state == "open" and found.payment_state not in ("processing", "succeeded", "action_required"):
            return StepResult(event="refused", refusal=refusal)
        invoice = found
    return _charged(invoice, top_up)


def _charged(invoice: ProcessorInvoice, top_up: TopUp) -> StepResult:
    """The state of the invoice right after the card was charged: without a payment on it, the result is unknown."""
    event = _event_of(invoice, top_up)
    if event == "unpaid":
        return StepResult(event="no_response")
    if event == "payment_failed":
        return failed_payment(invoice)
    return StepResult(event=event, invoice=invoice)


def failed_payment(invoice: ProcessorInvoice) -> StepResult:
    """The invoice's latest payment was declined."""
    return StepResult(
        event="declined",
        decline_code=invoice.decline_code or "generic_decline",
        decline_advice=invoice.decline_advice,
    )


async def _fetch_after_failure(processor: Processor, payment_id: str) -> ProcessorInvoice | None:
    """The invoice after a charge was declined; None if that cannot be known now."""
    try:
        return await processor.fetch_invoice(payment_id)
    except (ProcessorUnavailable, ProcessorRefused):
        return None


# --- the end of an invoice that is not to be paid ---------------------------------------------------------------------


async def void(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """Void the invoice. One that was paid in the meantime is credited."""
    try:
        invoice = await processor_of(services).void_invoice(top_up.invoice_id)
    except (ProcessorUnavailable, ProcessorRefused) as error:
        if isinstance(error, ProcessorRefused) and error.code == MISSING:  # such as a deleted draft
            return StepResult(event="voided")
        log.warning("invoice could not be confirmed as void", invoice=top_up.invoice_id, error=str(error))
        return StepResult(event="not_voided")
    if invoice.state == "paid":
        return StepResult(event="paid", invoice=invoice)
    return StepResult(event="voided" if invoice.state in ("void", "uncollectible") else "not_voided")


# --- a purchase on the processor's hosted page ------------------------------------------------------------------------


async def open_page(services: Services, top_up: TopUp, *, success_url: str, cancel_url: str) -> StepResult:
    """Request the hosted page, under the top-up's key."""

    async def ask(customer_id: str) -> Checkout:
        return await processor_of(services).open_purchase(
            customer_id,
            msgspec.json.decode(top_up.lines, type=Purchase).lines(),
            success_url=success_url,
            cancel_url=cancel_url,
            metadata=metadata.of_top_up(top_up.account_id, top_up.top_up_id),
            key=key_of(top_up),
        )

    try:
        with translate_processor_errors("open a page to buy"):
            page = await for_customer(services, top_up.account_id, ask)
    except Problem as problem:
        return StepResult(event="page_not_opened", problem=problem)
    return StepResult(event="page_opened", page=page)


async def fetch_page(services: Services, top_up: TopUp, before: StepResult | None) -> StepResult:
    """Fetch the outcome of the page; close it when its time is over."""
    if top_up.checkout_id is None:
        return StepResult(event="page_unknown")
    processor = processor_of(services)
    try:
        page = await processor.fetch_checkout(top_up.checkout_id)
        age = services.clock.now_ms() - top_up.created_at
        if page.state == "open" and (top_up.state == "canceled" or age >= PAGE_LIFE_MS + PAGE_GRACE_MS):
            await processor.expire_checkout(top_up.checkout_id)
            page = await processor.fetch_checkout(top_up.checkout_id)
    except (ProcessorUnavailable, ProcessorRefused):
        return StepResult(event="page_open")
    if page.invoice is not None and page.invoice.state == "paid":
        return StepResult(event="paid", invoice=page.invoice)
    return StepResult(event="page_expired" if page.state == "expired" else "page_open")


# --- keys -------------------------------------------------------------------------------------------------------------


def key_of(top_up: TopUp) -> str:
    """The idempotency key of all requests for a top-up; its charges add `:pay:{attempt}`."""
    return f"topup:{top_up.account_id}:{top_up.top_up_id}"


def _key_lives(top_up: TopUp, at: int) -> bool:
    return key_age(top_up, at) < KEY_LIFE_MS


def key_age(top_up: TopUp, at: int) -> int:
    """How many milliseconds ago the processor may first have received the key."""
    return at - (top_up.first_unknown_at or top_up.updated_at)
