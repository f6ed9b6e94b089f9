"""Disputes: what a bank takes back of a payment is taken from the account's credit, once, and restored if the dispute
is won.

The processor's event is only a hint: the dispute is fetched, and its state applied by the table DISPUTE_STATES. Missed
states are gone through (a dispute first reported as lost was open before); late events change nothing.
"""

from functools import partial

import msgspec

from farebox.billing.auto_top_up import freeze, unfreeze
from farebox.billing.clawback import give_back, missing, paid_with, update_taken
from farebox.billing.documents import issue_credit_note
from farebox.payments.model import Dispute, TopUp
from farebox.payments.processor import ProcessorDispute
from farebox.payments.states import DISPUTE_STATES
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.accounts import account_of, find_account
from farebox.storage.notices import add_notice
from farebox.storage.refunds import disputes_of, find_dispute, put_dispute
from farebox.storage.sql import Connection

REASON = "payment_disputed"
"""Why auto top-up is frozen: a key of payments.states.DISABLED_REASONS."""


async def disputes(services: Services, account_id: str) -> list[Dispute]:
    """The account's disputes, newest first."""

    def read(connection: Connection) -> list[Dispute]:
        account = find_account(connection, account_id)
        return [] if account is None else disputes_of(connection, account.bucket, account_id)[::-1]

    return await services.database.get(read)


async def apply_dispute(services: Services, dispute: ProcessorDispute) -> str:
    """Record a dispute as the processor shows it now, whichever way it was learned, and however often.

    Returns the result: its current state, `repeated`, `not_ours`, or `not_paid` if it may belong to a payment that has
    not been processed yet: such an event must be retried.
    """
    job = partial(_apply, settings=services.settings, found=dispute, at=services.clock.now_ms())
    outcome, account_id = await services.database.write(job)
    if outcome == "won" and account_id is not None:
        services.waiters.wake(account_id)
    return outcome


def _apply(connection: Connection, settings: Settings, found: ProcessorDispute, at: int) -> tuple[str, str | None]:
    """Find the disputed payment, and go through the states to the current one. Returns the outcome and the account."""
    top_up = paid_with(connection, found.charge_id, found.payment_intent_id)
    if top_up is None:
        return missing(connection, found.created_at), None
    bucket = account_of(connection, top_up.account_id).bucket
    earlier = find_dispute(connection, bucket, top_up.account_id, found.dispute_id)
    path = _path(None if earlier is None else earlier.state, found.state)
    for state in path:
        _enter(connection, settings, bucket, top_up, found, state, at)
    return (path[-1] if path else "repeated"), top_up.account_id


def _path(before: str | None, state: str) -> list[str]:
    """The states to go through. A closed inquiry counts as won: no money has moved."""
    goal = "won" if state == "inquiry_closed" else state
    if before is not None and goal not in DISPUTE_STATES[before]:
        return []
    if goal == "lost" and before != "open":
        return ["open", "lost"]
    return [goal]


def _enter(
    connection: Connection,
    settings: Settings,
    bucket: int,
    top_up: TopUp,
    found: ProcessorDispute,
    state: str,
    at: int,
) -> None:
    """Enter the next state, with everything that belongs to it."""
    before = find_dispute(connection, bucket, top_up.account_id, found.dispute_id)
    assert before is None or state in DISPUTE_STATES[before.state]
    fresh = before or Dispute(
        account_id=top_up.account_id,
        dispute_id=found.dispute_id,
        top_up_id=top_up.top_up_id,
        state=state,
        amount_cents=found.amount_cents,
        credit_cents=0,
        reason=found.reason,
        created_at=at,
        updated_at=at,
    )
    now = msgspec.structs.replace(fresh, state=state, amount_cents=found.amount_cents, updated_at=at)
    if state == "won" and now.take_id:
        give_back(connection, top_up, f"dispute_won:{now.take_id}", now.credit_cents, at)
    put_dispute(connection, bucket, now)
    if state in ("inquiry", "open"):  # first, so that taking the credit does not trigger a top-up
        freeze(connection, bucket, top_up.account_id, REASON, at)
    if state == "open":
        update_taken(connection, bucket, top_up, found.dispute_id, at)
    elif state == "won":
        update_taken(connection, bucket, top_up, f"{found.dispute_id}:won", at)
    _follow_up(connection, settings, bucket, top_up, found.dispute_id, None if before is None else before.state, at)


def _follow_up(
    connection: Connection,
    settings: Settings,
    bucket: int,
    top_up: TopUp,
    dispute_id: str,
    before: str | None,
    at: int,
) -> None:
    """What else follows: auto top-up stops or resumes, the credit note, the notices."""
    account_id = top_up.account_id
    dispute = find_dispute(connection, bucket, account_id, dispute_id)
    assert dispute is not None
    if dispute.state == "open":
        _notify(connection, bucket, top_up, dispute, "dispute_opened", at)
    if dispute.state == "lost" and dispute.taken_cents:
        issue_credit_note(
            connection,
            settings,
            bucket,
            top_up,
            cause_id=dispute_id,
            amount_cents=dispute.taken_cents,
            credit_cents=dispute.credit_cents,
            at=at,
        )
    if dispute.state in ("won", "lost") and before == "open":
        _notify(connection, bucket, top_up, dispute, "dispute_closed", at)
    others = [one for one in disputes_of(connection, bucket, account_id) if one.state != "won"]
    # a lost dispute keeps it frozen until the owner saves the rule again
    if dispute.state == "won" and before is not None and not others:
        unfreeze(connection, bucket, account_id, REASON, at)


def _notify(connection: Connection, bucket: int, top_up: TopUp, dispute: Dispute, kind: str, at: int) -> None:
    content = {
        "dispute_id": dispute.dispute_id,
        "top_up_id": dispute.top_up_id,
        "payment_id": top_up.payment_id,
        "state": dispute.state,
        "reason": dispute.reason,
        "amount_cents": dispute.amount_cents,
        "credit_cents": dispute.credit_cents,
    }
    add_notice(connection, bucket, dispute.account_id, f"{kind}:{dispute.dispute_id}", kind, content, at)
