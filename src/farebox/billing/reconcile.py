"""Reconciliation: every night our books are compared with the processor's, in both directions, to the cent.

Every paid invoice of ours has one credit of its amount, every credit its paid invoice; refunds and disputes match.
Anything else is a row of `findings` and a log line. Missed events are applied, by the same code that applies a webhook,
if no more than AUTO_CENTS are at stake; nothing else is ever corrected automatically.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog

from farebox.billing import disputes, processor_events, refund
from farebox.calendar import DAY_MS
from farebox.model import Operator
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.payments.metadata import top_up_of
from farebox.payments.processor import (
    MISSING,
    Processor,
    ProcessorDispute,
    ProcessorInvoice,
    ProcessorRefund,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.runtime.services import Services, processor_of
from farebox.storage import reconciliation as books
from farebox.storage.findings import Finding, add_finding, open_findings, resolve_all_but
from farebox.storage.operator_actions import record_action
from farebox.storage.reconciliation import BookedClawback, BookedPayment
from farebox.storage.sql import Connection

log = structlog.get_logger("farebox.reconcile")

AUTO_CENTS: Final = 10_000
"""Missed events up to this amount are applied; above it, they are only reported."""

KINDS: dict[str, str] = {
    "no_top_up": "The processor has a paid invoice for a top-up that does not exist here.",
    "not_credited": "The processor was paid, but no credit was given.",
    "paid_too_much": "The processor was paid more than the top-up's amount. The credit is the top-up's amount.",
    "credited_not_paid": "Credit was given, but the processor was not paid.",
    "amount_differs": "The processor was paid less than the top-up's amount, and credit was given.",
    "credit_differs": "The ledger does not have exactly one credit of the top-up's amount.",
    "paid_without_payment": "A top-up is marked paid without any payment at the processor.",
    "refund_differs": "A refund is missing on one side, or its amount or state differs.",
    "dispute_differs": "A dispute is missing on one side, or its amount or state differs.",
    "payment_taken": "The processor answered a purchase with an invoice that belongs to another one.",
    "not_void": "The invoice of a purchase that failed could not be voided for an hour: it may still be paid, and auto "
    "top-up waits for it. Void it at the processor.",
    "event_given_up": "An event from the processor could not be processed for three days.",
}
"""Kind of finding → what it means. Documented in docs/payments.md."""

_OF_INVOICES = (
    "no_top_up", "not_credited", "paid_too_much", "credited_not_paid", "amount_differs", "credit_differs",
)  # fmt: skip
_REPORTED_ELSEWHERE = ("no_top_up", "not_credited", "paid_too_much")
"""Also found when the event about the payment arrives."""
_REFUND_STATES = {"requires_action": "pending", "canceled": "failed"}
_DISPUTE_STATES = {"inquiry_closed": "won"}
_COUNTED_REFUNDS = ("pending", "succeeded")
_COUNTED_DISPUTES = ("open", "lost")

T = TypeVar("T")


class ReconciledSums(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of what was compared, in US cents."""

    captured: int = 0
    refunded: int = 0
    disputed: int = 0


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run."""

    findings: list[Finding]
    theirs: ReconciledSums
    ours: ReconciledSums
    payments: int
    """How many payments were compared."""
    applied: int
    """How many missed events were applied."""


class _Theirs(msgspec.Struct, kw_only=True):
    """The processor's objects by ID; None for an object of ours that the processor does not have."""

    invoices: dict[str, ProcessorInvoice | None] = {}
    refunds: dict[str, ProcessorRefund | None] = {}
    disputes: dict[str, ProcessorDispute | None] = {}


async def reconcile(services: Services, *, since: int) -> list[Finding]:
    """Compare both sets of books for everything that has happened since (milliseconds since the Unix epoch). Returns
    the differences.

    Raises Problem(PAYMENTS_OFF), ProcessorUnavailable, ProcessorRefused.
    """
    return (await examine(services, since=since)).findings


async def examine_for(services: Services, days: int, *, by: Operator) -> Reconciliation:
    """As `reconcile`, for an operator who asks for this many days, and with the sums of both sides."""
    processor_of(services)  # raises without a processor, before the action is recorded
    at = services.clock.now_ms()
    await services.database.write(
        lambda connection: record_action(connection, by, "reconcile.begin", at, after={"days": days})
    )
    return await examine(services, since=at - days * DAY_MS)


async def examine(services: Services, *, since: int) -> Reconciliation:
    """As `reconcile`, with the sums of both sides."""
    processor = processor_of(services)
    theirs = await _collect(services, processor, since)
    applied = await _apply_missed(services, processor, theirs)
    suspects = await services.database.scan(partial(_differences, theirs=theirs, at=services.clock.now_ms()))
    if suspects:  # something may have changed between their response and our read: check these once more
        await _fetch_again(processor, theirs, suspects)
    at = services.clock.now_ms()
    found, sums = await services.database.scan(partial(_compare, theirs=theirs, at=at))
    fresh = await services.database.write(partial(_keep, theirs=theirs, found=found, at=at))
    for finding in fresh:
        log.error(
            "the books differ",
            kind=finding.kind,
            finding=finding.finding_id,
            account_id=finding.account_id,
            cents=finding.amount_cents,
            detail=finding.detail,
        )
    result = Reconciliation(
        findings=found, theirs=sums[0], ours=sums[1], payments=len(theirs.invoices), applied=applied
    )
    log.info(
        "reconciled",
        payments=result.payments,
        findings=len(found),
        applied=applied,
        theirs=msgspec.to_builtins(result.theirs),
        ours=msgspec.to_builtins(result.ours),
    )
    return result


# --- what both have ---------------------------------------------------------------------------------------------------


async def _collect(services: Services, processor: Processor, since: int) -> _Theirs:
    """All our objects at the processor, and the objects that our books name in addition."""
    theirs = _Theirs()
    scan = services.database.scan
    async for invoice in processor.invoices(since=since):
        booked = await scan(partial(books.booked_payment, payment_id=invoice.invoice_id))
        if booked is not None or top_up_of(invoice.metadata) is not None:
            theirs.invoices[invoice.invoice_id] = invoice
    async for back in processor.refunds(since=since):
        if await scan(_payment_of(back)):
            theirs.refunds[back.refund_id] = back
    async for dispute in processor.disputes(since=since):
        if await scan(_payment_of(dispute)):
            theirs.disputes[dispute.dispute_id] = dispute
    for recent in await scan(partial(books.booked_since, since=since)):
        await _complete(theirs.invoices, recent.payment_id, processor.fetch_invoice)
    for clawback in await scan(partial(books.refunds_since, since=since)):
        await _complete(theirs.refunds, clawback.processor_id, processor.fetch_refund)
    for clawback in await scan(partial(books.disputes_since, since=since)):
        await _complete(theirs.disputes, clawback.processor_id, processor.fetch_dispute)
    return theirs


def _payment_of(clawback: ProcessorRefund | ProcessorDispute) -> Callable[[Connection], BookedPayment | None]:
    return partial(books.booked_payment, payment_intent_id=clawback.payment_intent_id, charge_id=clawback.charge_id)


async def _complete(
    known: dict[str, T | None], object_id: str, fetch: Callable[[str], Awaitable[T]], *, again: bool = False
) -> None:
    """Fetch objects that a list did not have: they are older than the list, or do not exist."""
    if object_id in known and not again:
        return
    try:
        known[object_id] = await fetch(object_id)
    except ProcessorRefused as error:
        if error.code != MISSING:
            raise
        known[object_id] = None


async def _fetch_again(processor: Processor, theirs: _Theirs, suspects: Sequence[Finding]) -> None:
    for finding in suspects:
        object_id = finding.finding_id.partition(":")[2]
        if finding.kind == "refund_differs":
            await _complete(theirs.refunds, object_id, processor.fetch_refund, again=True)
        elif finding.kind == "dispute_differs":
            await _complete(theirs.disputes, object_id, processor.fetch_dispute, again=True)
        else:
            await _complete(theirs.invoices, object_id, processor.fetch_invoice, again=True)


async def _apply_missed(services: Services, processor: Processor, theirs: _Theirs) -> int:
    """Apply missed events, up to AUTO_CENTS each. Returns how many were applied."""
    applied = 0
    suspects = await services.database.scan(partial(_differences, theirs=theirs, at=services.clock.now_ms()))
    for finding in suspects:
        try:
            done = await _apply_one(services, processor, theirs, finding)
        except (ProcessorUnavailable, ProcessorRefused):
            raise
        except Exception:  # an object that we cannot handle must not hide the others: it stays a finding
            log.exception("a missed event cannot be applied", kind=finding.kind, finding=finding.finding_id)
            continue
        if done:
            applied += 1
            log.warning(
                "missed event applied", kind=finding.kind, finding=finding.finding_id, cents=finding.amount_cents
            )
    return applied


async def _apply_one(services: Services, processor: Processor, theirs: _Theirs, finding: Finding) -> bool:
    """Apply it if that may be done automatically; returns whether it was."""
    object_id = finding.finding_id.partition(":")[2]
    refunded, disputed = theirs.refunds.get(object_id), theirs.disputes.get(object_id)
    if finding.kind == "not_credited" and finding.amount_cents <= AUTO_CENTS:
        await processor_events.note_invoice(services, await processor.fetch_invoice(object_id))
    elif finding.kind == "refund_differs" and refunded is not None and refunded.amount_cents <= AUTO_CENTS:
        await refund.apply_refund(services, refunded)
    elif finding.kind == "dispute_differs" and disputed is not None and disputed.amount_cents <= AUTO_CENTS:
        await disputes.apply_dispute(services, disputed)
    else:
        return False
    return True


# --- what differs -----------------------------------------------------------------------------------------------------


def _compare(
    connection: Connection, theirs: _Theirs, at: int
) -> tuple[list[Finding], tuple[ReconciledSums, ReconciledSums]]:
    """The differences, including purchases that have no payment at all, and both sides' sums."""
    found = [*_differences(connection, theirs, at), *_unbacked(connection, at)]
    return found, (_sum_theirs(theirs), _sum_ours(connection, theirs))


def _differences(connection: Connection, theirs: _Theirs, at: int) -> list[Finding]:
    refunds = books.refunds_named(connection, theirs.refunds)
    contested = books.disputes_named(connection, theirs.disputes)
    return [
        *_of_payments(connection, theirs, at),
        *_of_clawbacks("refund", theirs.refunds, refunds, _REFUND_STATES, at),
        *_of_clawbacks("dispute", theirs.disputes, contested, _DISPUTE_STATES, at),
    ]


def _of_payments(connection: Connection, theirs: _Theirs, at: int) -> Iterable[Finding]:
    for payment_id, invoice in theirs.invoices.items():
        booked = books.booked_payment(connection, payment_id=payment_id)
        difference = _difference(invoice, booked)
        if difference is None:
            continue
        kind, cents, detail = difference
        ids = None if invoice is None else top_up_of(invoice.metadata)
        account_id = booked.account_id if booked else ids[0] if ids else None
        yield Finding(
            finding_id=f"{kind}:{payment_id}",
            kind=kind,
            account_id=account_id,
            payment_id=payment_id,
            amount_cents=cents,
            detail=detail,
            found_at=at,
        )


def _difference(invoice: ProcessorInvoice | None, booked: BookedPayment | None) -> tuple[str, int, str] | None:
    """Kind, cents (theirs less ours) and detail of the difference in one payment."""
    paid = invoice.paid_cents if invoice is not None and invoice.state == "paid" else None
    if booked is None:
        return None if paid is None else ("no_top_up", paid, "no top-up has this payment")
    credited = sum(booked.credited)
    if paid is None:
        if booked.state != "paid" and not credited:
            return None
        state = "missing" if invoice is None else invoice.state
        detail = f"top-up {booked.top_up_id} is {booked.state}, the invoice {state}"
        return "credited_not_paid", -booked.charge_cents, detail
    if booked.state != "paid":
        return "not_credited", paid, f"top-up {booked.top_up_id} is {booked.state}"
    if paid != booked.charge_cents:
        detail = f"paid {_usd(paid)}, top-up {booked.top_up_id} says {_usd(booked.charge_cents)}"
        kind = "paid_too_much" if paid > booked.charge_cents else "amount_differs"
        return kind, paid - booked.charge_cents, detail
    if booked.credited != (booked.credit_cents * NANOS_PER_CENT,):
        detail = (
            f"top-up {booked.top_up_id} is of {_usd(booked.credit_cents)}, the ledger has {format_usd(credited)} USD "
            f"in {len(booked.credited)} transfers"
        )
        return "credit_differs", booked.credit_cents - credited // NANOS_PER_CENT, detail
    return None


def _of_clawbacks(
    what: str,
    theirs: Mapping[str, ProcessorRefund | ProcessorDispute | None],
    ours: Mapping[str, BookedClawback],
    same: Mapping[str, str],
    at: int,
) -> Iterable[Finding]:
    """Refunds or disputes that differ between both sides."""
    for processor_id, clawback in theirs.items():
        booked = ours.get(processor_id)
        there = None if clawback is None else (clawback.amount_cents, same.get(clawback.state, clawback.state))
        here = None if booked is None else (booked.amount_cents, booked.state)
        if there == here or (booked is None and there is not None and there[1] == "failed"):
            continue
        yield Finding(
            finding_id=f"{what}_differs:{processor_id}",
            kind=f"{what}_differs",
            account_id=None if booked is None else booked.account_id,
            payment_id=None if booked is None else booked.payment_id,
            amount_cents=(there[0] if there else 0) - (here[0] if here else 0),
            detail=f"theirs: {_shown(there)}; ours: {_shown(here)}",
            found_at=at,
        )


def _unbacked(connection: Connection, at: int) -> Iterable[Finding]:
    for account_id, top_up_id, cents in books.paid_without_payment(connection):
        yield Finding(
            finding_id=f"paid_without_payment:{account_id}:{top_up_id}",
            kind="paid_without_payment",
            account_id=account_id,
            amount_cents=-cents,
            detail=f"top-up {top_up_id}",
            found_at=at,
        )


def _usd(cents: int) -> str:
    return f"{format_usd(cents * NANOS_PER_CENT)} USD"


def _shown(clawback: tuple[int, str] | None) -> str:
    return "missing" if clawback is None else f"{_usd(clawback[0])}, {clawback[1]}"


# --- sums and findings ------------------------------------------------------------------------------------------------


def _sum_theirs(theirs: _Theirs) -> ReconciledSums:
    paid = [invoice.paid_cents for invoice in theirs.invoices.values() if invoice and invoice.state == "paid"]
    refunded = [
        back.amount_cents
        for back in theirs.refunds.values()
        if back and _REFUND_STATES.get(back.state, back.state) in _COUNTED_REFUNDS
    ]
    disputed = [item.amount_cents for item in theirs.disputes.values() if item and item.state in _COUNTED_DISPUTES]
    return ReconciledSums(captured=sum(paid), refunded=sum(refunded), disputed=sum(disputed))


def _sum_ours(connection: Connection, theirs: _Theirs) -> ReconciledSums:
    booked = [books.booked_payment(connection, payment_id=payment_id) for payment_id in theirs.invoices]
    refunds = books.refunds_named(connection, theirs.refunds)
    contested = books.disputes_named(connection, theirs.disputes)
    return ReconciledSums(
        captured=sum(item.charge_cents for item in booked if item and item.state == "paid"),
        refunded=sum(_counted(refunds, _COUNTED_REFUNDS)),
        disputed=sum(_counted(contested, _COUNTED_DISPUTES)),
    )


def _counted(clawbacks: Mapping[str, BookedClawback], states: Sequence[str]) -> Iterable[int]:
    return (clawback.amount_cents for clawback in clawbacks.values() if clawback.state in states)


def _keep(connection: Connection, theirs: _Theirs, found: Sequence[Finding], at: int) -> list[Finding]:
    """Write the findings, and resolve earlier ones about what was compared; returns the new ones."""
    ids = {f"{kind}:{payment_id}" for payment_id in theirs.invoices for kind in _OF_INVOICES}
    ids |= {f"refund_differs:{name}" for name in theirs.refunds} | {
        f"dispute_differs:{name}" for name in theirs.disputes
    }
    ids |= {finding.finding_id for finding in open_findings(connection) if finding.kind == "paid_without_payment"}
    resolve_all_but(connection, ids, found, at)
    before = {finding.finding_id for finding in open_findings(connection)}  # the earlier finding has more detail
    fresh = [
        finding for finding in found if finding.finding_id not in before or finding.kind not in _REPORTED_ELSEWHERE
    ]
    return [finding for finding in fresh if add_finding(connection, finding)]
