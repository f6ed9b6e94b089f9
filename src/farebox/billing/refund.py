"""Refunds: credit is taken in the transaction that writes the row; then the processor is asked to return the money.

The processor's key is derived from the row, so asking again is harmless; its response, whichever way it arrives, is
applied by the table REFUND_STATES: once. Refunds made at the processor itself are reported through `apply_refund`.
"""

import hashlib
from functools import partial

import msgspec
import structlog

from farebox import backoff
from farebox.billing.clawback import money_for, take_back
from farebox.billing.refund_states import POLL_MS, RefundUpdate, apply_found, change, update_from
from farebox.calendar import DAY_MS, HOUR_MS
from farebox.errors import (
    KEY_REUSED,
    NOT_FOUND,
    PROCESSOR_REFUSED,
    REFUND_REFUSED,
    VALIDATION_FAILED,
    Problem,
)
from farebox.ledger.rows import read_balance
from farebox.model import Operator
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.payments import metadata
from farebox.payments.declines import public_failure
from farebox.payments.model import Refund, TopUp
from farebox.payments.processor import Processor, ProcessorRefund, ProcessorRefused, ProcessorUnavailable
from farebox.quoting import quoted
from farebox.runtime.services import Services, processor_of
from farebox.storage import refunds as store
from farebox.storage.accounts import find_account
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection
from farebox.storage.top_ups import find, find_by_payment, top_up_of

RETRY_MS = (1_000, HOUR_MS)
"""Shortest and longest wait before a refund with unknown outcome is checked again; it doubles with its age."""
FIRST_STEP_MS = 10_000
"""How long only the request that wrote a refund may process it."""
SEARCH_BACK_MS = DAY_MS
"""The processor's clock may be behind ours: refunds are listed from a day before."""
BATCH = 20

log = structlog.get_logger("farebox.refunds")


class _RefundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller requested, at a time in milliseconds since the Unix epoch. `credit_cents` is credit, in US cents;
    None: everything that may be refunded.
    """

    account_id: str
    top_up_id: str
    refund_id: str
    credit_cents: int | None
    reason: str
    allow_spent: bool
    at: int
    by: Operator | None


async def refund(
    services: Services,
    account_id: str,
    *,
    top_up_id: str,
    credit_cents: int | None = None,
    reason: str = "",
    request_key: str | None = None,
    allow_spent: bool = False,
    by: Operator | None = None,
) -> Refund:
    """Refund credit of a top-up, and pay back the same proportion of its charge; without an amount, everything
    refundable.

    Only credit that is still unspent, unless `allow_spent`: then other bought credit makes up for it, and what that
    does not cover is owed. `top_up_id` may also be the payment's id. With a `request_key` a repeat is the same refund.
    `by` is the operator who does it, for the audit log.
    Raises Problem: PAYMENTS_OFF, NOT_FOUND, VALIDATION_FAILED, REFUND_REFUSED, KEY_REUSED, PROCESSOR_REFUSED.
    """
    processor = processor_of(services)
    if credit_cents is not None and credit_cents <= 0:
        raise Problem(VALIDATION_FAILED, "The amount must be above zero.", path=("body", "amount"))
    request = _RefundRequest(
        account_id=account_id,
        top_up_id=top_up_id,
        refund_id=_refund_id(request_key) if request_key else services.ids.log_id(),
        credit_cents=credit_cents,
        reason=reason,
        allow_spent=allow_spent,
        at=services.clock.now_ms(),
        by=by,
    )
    made, is_new = await services.database.write(partial(_insert, request=request))
    if made.state == "requested":
        made = await _request_money(services, processor, made, is_new=is_new)
    if made.state == "failed" and made.processor_id is None:
        raise Problem(PROCESSOR_REFUSED, f"The payment processor rejected the refund: {made.error}")
    return made


async def refunds(services: Services, account_id: str) -> list[Refund]:
    """The account's refunds, newest first."""

    def read(connection: Connection) -> list[Refund]:
        account = find_account(connection, account_id)
        return [] if account is None else store.refunds_of(connection, account.bucket, account_id)

    return await services.database.get(read)


async def apply_refund(services: Services, refund: ProcessorRefund) -> str:
    """Record a refund as the processor shows it now, whichever way it was learned, and however often.

    Returns the result: its current state, `repeated`, `not_ours`, or `not_paid` if it may belong to a payment that has
    not been processed yet: such an event must be retried.
    """
    job = partial(apply_found, settings=services.settings, found=refund, at=services.clock.now_ms())
    outcome, account_id = await services.database.write(job)
    if outcome == "failed" and account_id is not None:
        services.waiters.wake(account_id)
    return outcome


async def work(services: Services) -> int:
    """Check the refunds that are due; returns how many were checked. Any number of processes may do this at once."""
    if services.processor is None:
        return 0
    done = 0
    due = await services.database.get(partial(store.due_refunds, at=services.clock.now_ms(), limit=BATCH))
    for bucket, waiting in due:
        waits = RETRY_MS if waiting.state == "requested" else POLL_MS
        at = services.clock.now_ms()
        later = at + backoff.with_age(at - waiting.created_at, *waits)
        if await services.database.write(partial(store.claim_refund, bucket=bucket, refund=waiting, next_at=later)):
            done += 1
            if waiting.state == "requested":
                await _request_money(services, services.processor, waiting, is_new=False)
            else:
                await _poll(services, services.processor, waiting)
    return done


# --- the request ------------------------------------------------------------------------------------------------------


def _insert(connection: Connection, request: _RefundRequest) -> tuple[Refund, bool]:
    """Write the row and take the credit. Returns the refund and whether it is new."""
    account = find_account(connection, request.account_id)
    top_up = None if account is None else find(connection, request.account_id, request.top_up_id)
    if account is not None and top_up is None:
        top_up = find_by_payment(connection, request.top_up_id)
    if account is None or top_up is None or top_up.account_id != request.account_id:
        raise Problem(NOT_FOUND, f"The account has no top-up {quoted(request.top_up_id)}.")
    earlier = store.find_refund(connection, account.bucket, request.account_id, request.refund_id)
    if earlier is not None:
        if earlier.top_up_id != top_up.top_up_id or request.credit_cents not in (None, earlier.credit_cents):
            raise Problem(
                KEY_REUSED,
                "The Idempotency-Key was used for a different refund.",
                words=f"This refund has already been made, of {format_usd(earlier.credit_cents * NANOS_PER_CENT)} USD "
                "of credit: open the page again to make another",
            )
        return earlier, False
    credit = _refundable(connection, account.bucket, top_up, request)
    made = Refund(
        account_id=request.account_id,
        refund_id=request.refund_id,
        top_up_id=top_up.top_up_id,
        processor_id=None,
        state="requested",
        amount_cents=money_for(top_up, store.clawback_of(connection, account.bucket, top_up), credit),
        credit_cents=credit,
        reason=request.reason,
        next_at=request.at + FIRST_STEP_MS,
        created_at=request.at,
        updated_at=request.at,
    )
    if made.amount_cents == 0:
        raise Problem(REFUND_REFUSED, "This amount of credit is worth less than a cent of the charge.")
    store.add_refund(connection, account.bucket, made)
    take_back(connection, top_up, f"refund:{made.refund_id}", credit, request.at)
    store.save_clawback(connection, account.bucket, top_up)
    if request.by is not None:
        _record(connection, request.by, made)
    return made, True


def _record(connection: Connection, by: Operator, made: Refund) -> None:
    state = {name: getattr(made, name) for name in ("top_up_id", "credit_cents", "amount_cents", "reason")}
    record_action(
        connection,
        by,
        "credit.refund",
        made.created_at,
        account_id=made.account_id,
        subject=made.refund_id,
        after=state,
    )


def _refundable(connection: Connection, bucket: int, top_up: TopUp, request: _RefundRequest) -> int:
    """How much credit is to be refunded. Raises Problem(REFUND_REFUSED), whose text says how much is left."""
    if top_up.state != "paid":
        raise Problem(REFUND_REFUSED, f"Nothing is left to refund: the top-up is {top_up.state}, not paid.")
    clawback = store.clawback_of(connection, bucket, top_up)
    left, what = top_up.credit_cents - clawback.credit, "is neither refunded nor disputed"
    if clawback.money == top_up.charge_cents:
        left = 0
    if not request.allow_spent:
        balance = read_balance(connection, top_up.account_id)  # locked, as calls may spend credit meanwhile
        available = 0 if balance is None else balance.available // NANOS_PER_CENT
        unspent = min(store.unspent_cents(connection, bucket, top_up, request.at), available)
        if unspent < left:
            left, what = unspent, "is still unspent; only the operator can refund spent credit (--allow-spent)"
    credit = left if request.credit_cents is None else request.credit_cents
    if not 0 < credit <= left:
        raise Problem(REFUND_REFUSED, f"Of this top-up's credit {format_usd(left * NANOS_PER_CENT)} USD {what}.")
    return credit


async def _request_money(services: Services, processor: Processor, refund: Refund, *, is_new: bool) -> Refund:
    """Request the refund from the processor, and apply its response. Returns the refund afterwards.

    If it may have been requested before, it is searched for first: the processor forgets keys after a day, and until
    then repeats an error it returned under the same key.
    """
    try:
        intent = await _intent(services, processor, refund)
        found = None if is_new or intent is None else await _find(processor, refund, intent)
    except (ProcessorUnavailable, ProcessorRefused) as error:  # nothing was requested: try again later
        log.warning("could not look up the refund at the processor", refund=refund.refund_id, error=str(error))
        return refund
    if intent is None:
        update = RefundUpdate(state="failed", processor_id=None, error="it was paid outside the payment processor")
        return (await _apply(services, refund, update))[0]
    try:
        if found is None:
            key = f"refund:{refund.account_id}:{refund.refund_id}"
            names = (refund.account_id, refund.top_up_id, refund.refund_id)
            found = await processor.refund(intent, refund.amount_cents, metadata=metadata.of_refund(*names), key=key)
    except ProcessorUnavailable as error:
        log.warning("refund without answer", refund=refund.refund_id, error=str(error))
        return refund
    except ProcessorRefused as error:
        log.warning("refund refused", refund=refund.refund_id, code=error.code, error=str(error))
        update = RefundUpdate(state="failed", processor_id=None, error=public_failure(str(error)))
    else:
        update = update_from(found)
    return (await _apply(services, refund, update))[0]


async def _intent(services: Services, processor: Processor, refund: Refund) -> str | None:
    """The payment intent of the refund's top-up; None if its invoice was paid without one."""
    top_up = await services.database.get(partial(top_up_of, account_id=refund.account_id, top_up_id=refund.top_up_id))
    intent = await services.database.get(partial(store.intent_of, payment_id=top_up.invoice_id))
    if intent is None:
        intent = (await processor.fetch_invoice(top_up.invoice_id)).payment_intent_id
    return intent


async def _find(processor: Processor, refund: Refund, intent: str) -> ProcessorRefund | None:
    """The refund at the processor, found by our metadata; None if there is none."""
    since = refund.created_at - SEARCH_BACK_MS
    async for found in processor.refunds(since=since, payment_intent_id=intent):
        if metadata.refund_of(found.metadata) == (refund.account_id, refund.refund_id):
            return found
    return None


async def _poll(services: Services, processor: Processor, refund: Refund) -> None:
    assert refund.processor_id is not None
    try:
        found = await processor.fetch_refund(refund.processor_id)
    except (ProcessorUnavailable, ProcessorRefused) as error:
        log.warning("refund cannot be polled", refund=refund.refund_id, error=str(error))
    else:
        await _apply(services, refund, update_from(found))


async def _apply(services: Services, refund: Refund, update: RefundUpdate) -> tuple[Refund, str]:
    at = services.clock.now_ms()
    job = partial(change, settings=services.settings, refund=refund, update=update, at=at)
    changed, outcome = await services.database.write(job)
    if outcome == "failed":
        services.waiters.wake(refund.account_id)
    return changed, outcome


def _refund_id(request_key: str) -> str:
    """The refund ID derived from a caller's key."""
    return "rk-" + hashlib.sha256(request_key.encode()).hexdigest()[:32]
