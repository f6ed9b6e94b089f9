"""How much of a top-up refunds and disputes take back, in money and credit: never more than was captured, nothing
twice.

Of a charge A that bought the credit C, money and credit are returned in proportion. Refunds go first: all disputes
together take at most what refunds leave of A, and are rebalanced whenever that changes, in whatever order events
arrive. All of it runs inside the caller's transaction. Amounts are US cents.
"""

import msgspec

from farebox.ledger.commands import GiveBack, TakeBack, Verdict
from farebox.ledger.posting import apply
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Dispute, TopUp
from farebox.storage.refunds import Clawback, clawback_of, disputes_of, may_be_charged, put_dispute, save_clawback
from farebox.storage.sql import Connection
from farebox.storage.top_ups import find_by_charge, find_by_intent


def money_for(top_up: TopUp, clawback: Clawback, credit_cents: int) -> int:
    """The money that a further refund of this much credit pays back: in total, refunds are the same fraction of A as of
    C.
    """
    together = top_up.charge_cents * (clawback.refunded_credit + credit_cents) // top_up.credit_cents
    return max(min(together - clawback.refunded, top_up.charge_cents - clawback.money), 0)


def credit_for(top_up: TopUp, clawback: Clawback, amount_cents: int) -> int:
    """The credit that a further refund of this much money, made at the processor, takes."""
    together = top_up.credit_cents * (clawback.refunded + amount_cents) // top_up.charge_cents
    return max(min(together, top_up.credit_cents) - clawback.refunded_credit, 0)


def take_back(connection: Connection, top_up: TopUp, cause: str, credit_cents: int, at: int) -> None:
    """Take back credit of the top-up; the part that is already spent is owed."""
    if credit_cents > 0:
        _done(
            apply(
                connection,
                TakeBack(
                    account_id=top_up.account_id,
                    cause=cause,
                    payment_id=top_up.payment_id or "",
                    amount=credit_cents * NANOS_PER_CENT,
                    at=at,
                ),
            )
        )


def give_back(connection: Connection, top_up: TopUp, cause: str, credit_cents: int, at: int) -> None:
    """Give back credit that was taken."""
    if credit_cents > 0:
        amount = credit_cents * NANOS_PER_CENT
        _done(apply(connection, GiveBack(account_id=top_up.account_id, cause=cause, amount=amount, at=at)))


def update_taken(connection: Connection, bucket: int, top_up: TopUp, cause: str, at: int) -> None:
    """Set what each open or lost dispute of the top-up takes, and write the sums into the top-up.

    `cause` is a unique ID of the change: the ledger derives transfer IDs from it.
    """
    clawback = clawback_of(connection, bucket, top_up)
    money, credit = clawback.refunded, clawback.refunded_credit
    for dispute in disputes_of(connection, bucket, top_up.account_id, top_up.top_up_id):
        if dispute.state not in ("open", "lost"):
            continue
        taken = min(dispute.amount_cents, top_up.charge_cents - money)
        money += taken
        of_credit = max(top_up.credit_cents * money // top_up.charge_cents - credit, 0)
        credit += of_credit
        _set_taken(connection, bucket, top_up, dispute, taken, of_credit, cause, at)
    save_clawback(connection, bucket, top_up)


def _set_taken(
    connection: Connection,
    bucket: int,
    top_up: TopUp,
    dispute: Dispute,
    taken_cents: int,
    credit_cents: int,
    cause: str,
    at: int,
) -> None:
    """Set a dispute's share: what was taken for it is given back, and the new share is taken."""
    if (taken_cents, credit_cents) == (dispute.taken_cents, dispute.credit_cents):
        return
    give_back(connection, top_up, f"dispute_won:{dispute.take_id}", dispute.credit_cents, at)
    changed = msgspec.structs.replace(
        dispute,
        taken_cents=taken_cents,
        credit_cents=credit_cents,
        take_id=f"{dispute.dispute_id}:{cause}" if dispute.take_id else dispute.dispute_id,
        updated_at=at,
    )
    take_back(connection, top_up, f"dispute:{changed.take_id}", credit_cents, at)
    put_dispute(connection, bucket, changed)


def paid_with(connection: Connection, charge_id: str | None, payment_intent_id: str | None) -> TopUp | None:
    """The paid top-up that a charge at the processor was for; None if there is none."""
    found = None if charge_id is None else find_by_charge(connection, charge_id)
    if found is None and payment_intent_id is not None:
        found = find_by_intent(connection, payment_intent_id)
    return found


def missing(connection: Connection, at: int) -> str:
    """The result for an event about an unknown charge: it may belong to a payment that has not been processed here
    yet.
    """
    return "not_paid" if may_be_charged(connection, at) else "not_ours"


def _done(verdict: Verdict) -> None:
    assert verdict.ok, f"the ledger refused it: {verdict}"
