"""Events from the payment processor: webhooks, sweeps for missed ones, and returning browsers.

An event is verified, stored and acknowledged at once; then it is processed, and retried as often as needed. It is only
a hint: the object that it names is fetched, and its current state applied. So the order and number of events do not
matter.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from farebox import backoff
from farebox.billing import cards, disputes, refund, top_up
from farebox.calendar import DAY_MS, HOUR_MS
from farebox.errors import BAD_SIGNATURE, NOT_FOUND, Problem
from farebox.metrics.families import WEBHOOKS
from farebox.payments.metadata import top_up_of
from farebox.payments.processor import (
    MISSING,
    Checkout,
    InvalidSignature,
    Processor,
    ProcessorEvent,
    ProcessorInvoice,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.runtime.services import Services, processor_of
from farebox.runtime.tasks import gather_all
from farebox.storage import processor_events as inbox
from farebox.storage.customers import account_of_customer
from farebox.storage.findings import Finding, add_finding, resolve_finding
from farebox.storage.processor_events import StoredEvent
from farebox.storage.sql import Connection

log = structlog.get_logger("farebox.payments")

BATCH = 50
CONCURRENCY = 8
"""Objects that are fetched concurrently."""
CLAIM_MS = 120_000
"""How long an event is claimed by this process. After that it is due again, as the process must have died."""
RETRY_MS = (1_000, HOUR_MS)
"""First and longest wait after a failure; it doubles in between."""
ATTEMPTS_MAX = 84
"""Twelve attempts with waits that double up to an hour, and then one every hour: three days in total."""
SWEEP_BACK_MS = 3 * HOUR_MS
"""How far an hourly sweep looks back: more than the hour, as the processor retries webhooks."""
FIRST_SWEEP_BACK_MS = 3 * DAY_MS
"""How far the first sweep looks back: as long as the processor retries a webhook."""
SWEEP_BATCH = 200
KEPT_MS = 90 * DAY_MS
"""How long processed events can be inspected and replayed."""
REFUSALS_LOGGED = 10
"""Maximum number of refused webhooks that are logged per minute."""
TOO_EARLY = frozenset({"not_paid"})
"""Results of events that arrived before others they depend on: they are retried."""
GONE: Final = "gone"
"""The object no longer exists."""

_Apply: TypeAlias = Callable[[Services, Processor, StoredEvent], Awaitable[str]]


# --- receiving --------------------------------------------------------------------------------------------------------


async def receive(services: Services, body: bytes, signature: str) -> None:
    """Receive a webhook: it is verified and stored, no more. A repeat changes nothing.

    Raises Problem: PAYMENTS_OFF, BAD_SIGNATURE.
    """
    processor = processor_of(services)
    at = services.clock.now_ms()
    try:
        event = processor.read_event(body, signature, at=at)
    except InvalidSignature as error:
        services.metrics.count(WEBHOOKS, "refused")
        if services.rates.admit(("webhook refused", ""), REFUSALS_LOGGED, 60, sliding=True, now_ms=at) is None:
            log.warning("webhook refused", reason=str(error))  # anyone can send one, so logging is limited
        raise Problem(BAD_SIGNATURE, "The signature does not match this endpoint, or is too old.") from error
    await services.database.write(partial(inbox.add_event, event=event, via="webhook", at=at))
    services.metrics.count(WEBHOOKS, "stored")


async def note_checkout(services: Services, checkout_id: str, *, account_id: str | None = None) -> Checkout:
    """The browser returned from a hosted page: fetch the page's state, and apply it without waiting for a webhook.

    With `account_id` the page must be this account's. Raises Problem: PAYMENTS_OFF, NOT_FOUND, PROCESSOR_UNAVAILABLE,
    PROCESSOR_REFUSED.
    """
    processor = processor_of(services)
    missing = Problem(NOT_FOUND, "Checkout not found")
    with cards.translate_processor_errors("look at a checkout"):
        try:
            checkout = await processor.fetch_checkout(checkout_id)
        except ProcessorRefused as error:
            if error.code != MISSING:
                raise
            raise missing from error
        if account_id is not None and await _account_of(services, checkout.customer_id) != account_id:
            raise missing
        await _apply_checkout(services, checkout)
    return checkout


async def sweep_undelivered(services: Services) -> None:
    """Add to the inbox the events that no webhook delivered; runs every hour.

    If no webhook at all has arrived in that time (no endpoint, a wrong URL), every event of it is added. Only the
    events' names are used, so a wide window costs little.
    """
    processor = processor_of(services)
    at = services.clock.now_ms()
    swept = await services.database.get(inbox.last_swept)
    since = (at - FIRST_SWEEP_BACK_MS) if swept is None else swept - SWEEP_BACK_MS
    any_received = await services.database.get(partial(inbox.received_since, at=since))
    missing = 0
    batch: list[ProcessorEvent] = []
    async for event in processor.events(since=since, undelivered=any_received):
        if _handler(event.type) is not None:
            batch.append(event)
        if len(batch) >= SWEEP_BATCH:
            missing += await services.database.write(partial(inbox.add_missing, events=batch, at=at))
            batch = []
    missing += await services.database.write(partial(inbox.add_missing, events=batch, at=at))
    await services.database.write(partial(inbox.note_sweep, at=at))
    await services.database.write(partial(inbox.forget_done, before=at - KEPT_MS))
    if missing:
        log.warning("events not delivered by webhook", events=missing, webhooks=any_received)


async def replay(services: Services, *, event_id: str | None = None, since: int | None = None) -> int:
    """Have one event, or all since a time, processed again. Returns how many. Nothing that was already done is
    repeated."""
    at = services.clock.now_ms()
    return await services.database.write(partial(inbox.make_due, at=at, event_id=event_id, since=since))


# --- processing -------------------------------------------------------------------------------------------------------


async def work(services: Services) -> int:
    """Process the due events once, oldest first; returns how many there were. Any number of processes may do this at
    once.
    """
    processor = services.processor
    at = services.clock.now_ms()
    if processor is None or not await services.database.get(partial(inbox.has_due, at=at)):
        return 0
    job = partial(inbox.claim_due, at=at, until=at + CLAIM_MS, limit=BATCH)
    events = await services.database.write(job)
    semaphore = asyncio.Semaphore(CONCURRENCY)
    await gather_all(_process_group(services, processor, group, semaphore) for group in _by_object(events))
    return len(events)


def _by_object(events: Sequence[StoredEvent]) -> Iterable[list[StoredEvent]]:
    """Events grouped by the object they are about, which is fetched once for each group."""
    groups: dict[tuple[object, str], list[StoredEvent]] = {}
    for event in events:
        groups.setdefault((_handler(event.type), event.object_id or event.event_id), []).append(event)
    return groups.values()


async def _process_group(
    services: Services, processor: Processor, events: list[StoredEvent], semaphore: asyncio.Semaphore
) -> None:
    """Process events about one object: its current state is applied, and all of them get that outcome."""
    async with semaphore:
        newest = events[-1]
        try:
            outcome = await _applied(services, processor, newest)
        except (ProcessorUnavailable, ProcessorRefused, Problem) as error:
            await _failed(services, events, f"{type(error).__name__}: {error}")
        except Exception as error:  # an event that we cannot handle must not block the others
            log.exception("event failed", event_id=newest.event_id, type=newest.type)
            await _failed(services, events, f"{type(error).__name__}: {error}")
        else:
            if outcome in TOO_EARLY:
                await _failed(services, events, outcome)
                return
            at = services.clock.now_ms()
            await services.database.write(partial(_finish, events=events, outcome=outcome, at=at))


async def _applied(services: Services, processor: Processor, event: StoredEvent) -> str:
    apply = _handler(event.type)
    if apply is None or not event.object_id:
        return "ignored"
    try:
        return await apply(services, processor, event)
    except ProcessorRefused as error:
        if error.code == MISSING:
            return GONE
        raise


def _finish(connection: Connection, events: Sequence[StoredEvent], outcome: str, at: int) -> None:
    for event in events:
        inbox.finish_event(connection, event.event_id, outcome, at)
        resolve_finding(connection, f"event_given_up:{event.event_id}", at)


async def _failed(services: Services, events: Sequence[StoredEvent], error: str) -> None:
    at = services.clock.now_ms()
    await services.database.write(partial(_postpone, events=events, error=error, at=at))
    for event in events:
        if event.attempts >= ATTEMPTS_MAX:
            log.error("event given up", event_id=event.event_id, type=event.type, error=error)
        else:
            log.warning("event failed", event_id=event.event_id, type=event.type, attempt=event.attempts, error=error)


def _postpone(connection: Connection, events: Sequence[StoredEvent], error: str, at: int) -> None:
    for event in events:
        if event.attempts < ATTEMPTS_MAX:
            next_at = at + backoff.doubling(event.attempts, *RETRY_MS)
            inbox.postpone_event(connection, event.event_id, error, next_at)
        else:
            inbox.postpone_event(connection, event.event_id, error, None)
            add_finding(
                connection,
                Finding(
                    finding_id=f"event_given_up:{event.event_id}",
                    kind="event_given_up",
                    amount_cents=0,
                    detail=f"{event.type} of {event.object_id}: {error}",
                    found_at=at,
                ),
            )


# --- by kind of object ------------------------------------------------------------------------------------------------


async def _invoice(services: Services, processor: Processor, event: StoredEvent) -> str:
    return await note_invoice(services, await processor.fetch_invoice(event.object_id))


async def note_invoice(services: Services, invoice: ProcessorInvoice) -> str:
    """Apply an invoice. A paid invoice that has our metadata but names an unknown account also becomes a finding."""
    outcome = await top_up.apply_invoice(services, invoice)
    ids = top_up_of(invoice.metadata)
    finding_id = f"no_top_up:{invoice.invoice_id}"
    at = services.clock.now_ms()
    if outcome in ("credited", "already_credited"):
        await services.database.write(partial(resolve_finding, finding_id=finding_id, at=at))
    if outcome != "not_ours" or invoice.state != "paid" or ids is None:
        return outcome
    finding = Finding(
        finding_id=finding_id,
        kind="no_top_up",
        account_id=ids[0],
        payment_id=invoice.invoice_id,
        amount_cents=invoice.paid_cents,
        detail=f"paid for the purchase {ids[1]} of an account that does not exist here",
        found_at=at,
    )
    if await services.database.write(partial(add_finding, finding=finding)):
        log.error("payment for an unknown account", payment_id=invoice.invoice_id, cents=invoice.paid_cents)
    return outcome


async def _checkout(services: Services, processor: Processor, event: StoredEvent) -> str:
    return await _apply_checkout(services, await processor.fetch_checkout(event.object_id))


async def _apply_checkout(services: Services, checkout: Checkout) -> str:
    """Apply a hosted page: a purchase of credit to its top-up; a saved card becomes the default."""
    outcome = "not_ours" if checkout.mode == "setup" else await top_up.apply_checkout(services, checkout)
    account_id = await _account_of(services, checkout.customer_id)
    if account_id is None or checkout.card_id is None:
        return outcome
    await cards.record_saved_card(services, account_id, checkout.card_id)
    return "card_saved" if checkout.mode == "setup" else outcome


async def _refund(services: Services, processor: Processor, event: StoredEvent) -> str:
    return await refund.apply_refund(services, await processor.fetch_refund(event.object_id))


async def _dispute(services: Services, processor: Processor, event: StoredEvent) -> str:
    return await disputes.apply_dispute(services, await processor.fetch_dispute(event.object_id))


async def _customer(services: Services, processor: Processor, event: StoredEvent) -> str:
    """The customer's cards have changed: fetch them."""
    account_id = await _account_of(services, _customer_in(event))
    if account_id is None:
        return "not_ours"
    await cards.refresh(services, account_id)
    return "cards_refreshed"


def _customer_in(event: StoredEvent) -> str | None:
    """The customer that the event is about; for a removed card, its former customer."""
    data: dict[str, Any] = msgspec.json.decode(event.body).get("data") or {}
    stripe_object = data.get("object") or {}
    if stripe_object.get("object") == "customer":
        return event.object_id
    found = stripe_object.get("customer") or (data.get("previous_attributes") or {}).get("customer")
    return found if isinstance(found, str) else None


async def _account_of(services: Services, customer_id: str | None) -> str | None:
    if customer_id is None:
        return None
    return await services.database.get(partial(account_of_customer, customer_id=customer_id))


_HANDLERS: tuple[tuple[str, _Apply], ...] = (
    ("invoice.", _invoice),
    ("checkout.session.", _checkout),
    ("refund.", _refund),
    ("charge.refund.", _refund),
    ("charge.dispute.", _dispute),
    ("payment_method.", _customer),
    ("customer.updated", _customer),
    ("customer.deleted", _customer),
)
"""Prefix of an event's type → handler of the object that it names. Others are ignored."""


def _handler(kind: str) -> _Apply | None:
    return next((apply for prefix, apply in _HANDLERS if kind.startswith(prefix)), None)
