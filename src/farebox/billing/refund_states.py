"""What an event about a refund does, inside the caller's transaction: state, credit, credit note, notice."""

import msgspec
import structlog

from farebox.billing.clawback import credit_for, give_back, missing, paid_with, take_back, update_taken
from farebox.billing.documents import issue_credit_note
from farebox.calendar import HOUR_MS, MINUTE_MS
from farebox.payments.declines import public_failure
from farebox.payments.metadata import refund_of
from farebox.payments.model import Refund, TopUp
from farebox.payments.processor import ProcessorRefund
from farebox.payments.states import REFUND_STATES
from farebox.settings import Settings
from farebox.storage import refunds as store
from farebox.storage.accounts import account_of, find_account
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.storage.top_ups import top_up_of

POLL_MS = (MINUTE_MS, 6 * HOUR_MS)
"""Shortest and longest wait before a refund that the processor reports as pending is checked again."""

log = structlog.get_logger("farebox.refunds")


class RefundUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a refund: its state, its ID at the processor, and why it failed."""

    state: str
    processor_id: str | None
    error: str | None = None


_STATES = {
    "pending": "pending",
    "requires_action": "pending",
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "failed",
}


def update_from(found: ProcessorRefund) -> RefundUpdate:
    state = _STATES[found.state]
    error = (public_failure(found.failure) or found.state) if state == "failed" else None
    return RefundUpdate(state=state, processor_id=found.refund_id, error=error)


def apply_found(connection: Connection, settings: Settings, found: ProcessorRefund, at: int) -> tuple[str, str | None]:
    """Find the refund's row or top-up, and apply it. Returns the outcome and the account."""
    known = store.find_by_processor(connection, found.refund_id) or _requested_here(connection, found)
    if known is not None:
        return change(connection, settings, known, update_from(found), at)[1], known.account_id
    top_up = paid_with(connection, found.charge_id, found.payment_intent_id)
    if top_up is None:
        return missing(connection, found.created_at), None
    made = _from_elsewhere(connection, top_up, found, at)
    update = update_from(found)
    change(connection, settings, made, update, at)
    return update.state, top_up.account_id


def _requested_here(connection: Connection, found: ProcessorRefund) -> Refund | None:
    """Our refund that the processor's metadata names, unless it already belongs to another refund at the processor.

    A refund that failed here before it reached the processor does not count: money that did go back must be taken.
    """
    account_id, refund_id = refund_of(found.metadata)
    account = find_account(connection, account_id)
    if account is None:
        return None
    known = store.find_refund(connection, account.bucket, account.account_id, refund_id)
    return None if known is None or known.processor_id is not None or known.state == "failed" else known


def _from_elsewhere(connection: Connection, top_up: TopUp, found: ProcessorRefund, at: int) -> Refund:
    """Record a refund that was made at the processor, and take its share of the credit; a failed one takes none."""
    bucket = account_of(connection, top_up.account_id).bucket
    clawback = store.clawback_of(connection, bucket, top_up)
    failed = _STATES[found.state] == "failed"
    amount = min(found.amount_cents, top_up.charge_cents - clawback.refunded)
    made = Refund(
        account_id=top_up.account_id,
        refund_id=found.refund_id,
        top_up_id=top_up.top_up_id,
        processor_id=found.refund_id,
        state="failed" if failed else "pending",
        amount_cents=amount,
        credit_cents=0 if failed else credit_for(top_up, clawback, amount),
        reason="made at the payment processor",
        error=public_failure(found.failure),
        next_at=None if failed else at + POLL_MS[0],
        created_at=at,
        updated_at=at,
    )
    store.add_refund(connection, bucket, made)
    if not failed:
        # disputes are reduced first, then the refund takes its share
        update_taken(connection, bucket, top_up, made.refund_id, at)
        take_back(connection, top_up, f"refund:{made.refund_id}", made.credit_cents, at)
    return made


def change(
    connection: Connection, settings: Settings, refund: Refund, update: RefundUpdate, at: int
) -> tuple[Refund, str]:
    """Apply the update's state and everything that follows from it; returns the refund afterwards and the outcome."""
    bucket = account_of(connection, refund.account_id).bucket
    now = store.find_refund(connection, bucket, refund.account_id, refund.refund_id)
    assert now is not None
    if update.state not in REFUND_STATES[now.state]:
        if (now.state, update.state) == ("failed", "succeeded"):
            log.error("refund succeeded after it had failed", refund=now.refund_id, processor_id=update.processor_id)
        return now, "repeated"
    changed = msgspec.structs.replace(
        now,
        state=update.state,
        processor_id=update.processor_id or now.processor_id,
        error=update.error,
        next_at=at + POLL_MS[0] if update.state == "pending" else None,
        updated_at=at,
    )
    store.save_refund(connection, bucket, changed)
    top_up = top_up_of(connection, refund.account_id, refund.top_up_id)
    if update.state == "failed":
        give_back(connection, top_up, f"refund_failed:{now.refund_id}", now.credit_cents, at)
        update_taken(connection, bucket, top_up, f"{now.refund_id}:failed", at)
    elif update.state == "succeeded":
        _notify(connection, settings, bucket, top_up, changed, at)
    return changed, update.state


def _notify(connection: Connection, settings: Settings, bucket: int, top_up: TopUp, refund: Refund, at: int) -> None:
    """The credit note, and the notice with its number."""
    number = issue_credit_note(
        connection,
        settings,
        bucket,
        top_up,
        cause_id=refund.refund_id,
        amount_cents=refund.amount_cents,
        credit_cents=refund.credit_cents,
        at=at,
    )
    content = {
        "refund_id": refund.refund_id,
        "top_up_id": refund.top_up_id,
        "payment_id": top_up.payment_id,
        "amount_cents": refund.amount_cents,
        "credit_cents": refund.credit_cents,
        "credit_note": number,
    }
    add_notice(connection, bucket, refund.account_id, f"refunded:{refund.refund_id}", "refunded", content, at)
