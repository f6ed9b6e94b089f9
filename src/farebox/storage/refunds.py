"""The store of refunds and disputes, and of what both have taken from a top-up. Amounts are US cents."""

from dataclasses import dataclass

import msgspec

from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Dispute, Refund, TopUp
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import list_available, rows_available, rows_everywhere
from farebox.storage.sql import Connection, row, rows

CLOCKS_APART_MS = 300_000
"""The most that the processor's clock may differ from ours."""

_REFUND = (
    "account_id, refund_id, top_up_id, processor_id, state, amount_cents, credit_cents, reason, error, next_at, "
    "created_at, updated_at"
)
_DISPUTE = (
    "account_id, dispute_id, top_up_id, state, amount_cents, taken_cents, credit_cents, take_id, reason, "
    "created_at, updated_at"
)


@dataclass(frozen=True, slots=True)
class Clawback:
    """What refunds and disputes have taken from one top-up, in money and in credit, in US cents."""

    refunded: int = 0
    refunded_credit: int = 0
    disputed: int = 0
    disputed_credit: int = 0

    @property
    def money(self) -> int:
        return self.refunded + self.disputed

    @property
    def credit(self) -> int:
        return self.refunded_credit + self.disputed_credit


def latest_refunds(connection: Connection, limit: int) -> tuple[list[Refund], bool]:
    """The latest refunds of all accounts, newest first, and whether none are missing because a node is unavailable."""
    found, complete = list_available(
        connection, f"SELECT {_REFUND} FROM refunds WHERE bucket = ? ORDER BY created_at DESC LIMIT ?", limit
    )
    return sorted(map(_refund, found), key=lambda refund: -refund.created_at)[:limit], complete


def latest_disputes(connection: Connection, limit: int) -> tuple[list[Dispute], bool]:
    """The latest disputes of all accounts, newest first, and whether none are missing because a node is unavailable."""
    found, complete = list_available(
        connection, f"SELECT {_DISPUTE} FROM disputes WHERE bucket = ? ORDER BY created_at DESC LIMIT ?", limit
    )
    return sorted(map(_dispute, found), key=lambda dispute: -dispute.created_at)[:limit], complete


# --- refunds ----------------------------------------------------------------------------------------------------------


def add_refund(connection: Connection, bucket: int, refund: Refund) -> None:
    _name(connection, refund)
    connection.execute(
        f"INSERT INTO refunds (bucket, {_REFUND}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (bucket, *msgspec.structs.astuple(refund)),
    )


def save_refund(connection: Connection, bucket: int, refund: Refund) -> None:
    """Write the fields of a refund that may change: its state and what the processor reported."""
    _name(connection, refund)
    connection.execute(
        "UPDATE refunds SET processor_id = ?, state = ?, error = ?, next_at = ?, updated_at = ? "
        "WHERE bucket = ? AND account_id = ? AND refund_id = ?",
        (
            refund.processor_id, refund.state, refund.error, refund.next_at, refund.updated_at,
            bucket, refund.account_id, refund.refund_id,
        ),
    )  # fmt: skip


def _name(connection: Connection, refund: Refund) -> None:
    """Store the processor's ID of a refund in the directory, where it is unique across all accounts."""
    if refund.processor_id is None:
        return
    values = (refund.processor_id, refund.account_id, refund.refund_id)
    connection.execute(
        "INSERT INTO refund_names (processor_id, account_id, refund_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        values,
    )
    known = row(
        connection, "SELECT account_id, refund_id FROM refund_names WHERE processor_id = ?", (refund.processor_id,)
    )
    assert known == values[1:], f"{refund.processor_id} is the ID of another refund: {known}"


def claim_refund(connection: Connection, bucket: int, refund: Refund, next_at: int) -> bool:
    """Claim a due refund until then; only the first to claim it succeeds."""
    connection.execute(
        "UPDATE refunds SET next_at = ? WHERE bucket = ? AND account_id = ? AND refund_id = ? AND next_at = ?",
        (next_at, bucket, refund.account_id, refund.refund_id, refund.next_at),
    )
    return connection.changes() == 1


def find_refund(connection: Connection, bucket: int, account_id: str, refund_id: str) -> Refund | None:
    found = row(
        connection,
        f"SELECT {_REFUND} FROM refunds WHERE bucket = ? AND account_id = ? AND refund_id = ?",
        (bucket, account_id, refund_id),
    )
    return None if found is None else _refund(found)


def find_by_processor(connection: Connection, processor_id: str) -> Refund | None:
    """The refund with this ID at the processor."""
    named = row(connection, "SELECT account_id, refund_id FROM refund_names WHERE processor_id = ?", (processor_id,))
    if named is None:
        return None
    account_id, refund_id = named
    return find_refund(connection, key_of(connection, account_id).bucket, account_id, refund_id)


def refunds_of(connection: Connection, bucket: int, account_id: str, top_up_id: str | None = None) -> list[Refund]:
    """The account's refunds, or those of one top-up; newest first."""
    found = rows(
        connection,
        f"SELECT {_REFUND} FROM refunds WHERE bucket = ? AND account_id = ? AND top_up_id = coalesce(?, top_up_id) "
        "ORDER BY created_at DESC, refund_id",
        (bucket, account_id, top_up_id),
    )
    return [_refund(fields) for fields in found]


def due_refunds(connection: Connection, at: int, limit: int) -> list[tuple[int, Refund]]:
    """Due refunds of any account, with their bucket; the most overdue first."""
    found = rows_available(
        connection,
        f"SELECT bucket, {_REFUND} FROM refunds INDEXED BY refunds_due WHERE bucket = ? AND next_at <= ? "
        "ORDER BY next_at, refund_id LIMIT ?",
        at,
        limit,
    )
    due = [(bucket, _refund(fields)) for bucket, *fields in found]
    return sorted(due, key=lambda each: (each[1].next_at or 0, each[1].refund_id))[:limit]


# --- disputes ---------------------------------------------------------------------------------------------------------


def put_dispute(connection: Connection, bucket: int, dispute: Dispute) -> None:
    """Insert or update a dispute."""
    connection.execute(
        f"INSERT INTO disputes (bucket, {_DISPUTE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, dispute_id) DO UPDATE SET state = excluded.state, "
        "amount_cents = excluded.amount_cents, taken_cents = excluded.taken_cents, "
        "credit_cents = excluded.credit_cents, take_id = excluded.take_id, updated_at = excluded.updated_at",
        (
            bucket, dispute.account_id, dispute.dispute_id, dispute.top_up_id, dispute.state, dispute.amount_cents,
            dispute.taken_cents, dispute.credit_cents, dispute.take_id, dispute.reason, dispute.created_at,
            dispute.updated_at,
        ),
    )  # fmt: skip


def find_dispute(connection: Connection, bucket: int, account_id: str, dispute_id: str) -> Dispute | None:
    found = row(
        connection,
        f"SELECT {_DISPUTE} FROM disputes WHERE bucket = ? AND account_id = ? AND dispute_id = ?",
        (bucket, account_id, dispute_id),
    )
    return None if found is None else _dispute(found)


def disputes_of(connection: Connection, bucket: int, account_id: str, top_up_id: str | None = None) -> list[Dispute]:
    """The account's disputes, or those of one top-up; oldest first."""
    found = rows(
        connection,
        f"SELECT {_DISPUTE} FROM disputes WHERE bucket = ? AND account_id = ? AND top_up_id = coalesce(?, top_up_id) "
        "ORDER BY created_at, dispute_id",
        (bucket, account_id, top_up_id),
    )
    return [_dispute(fields) for fields in found]


def open_disputes_of(connection: Connection, account_id: str, limit: int) -> list[Dispute]:
    """The account's disputes that have not ended, the oldest first; at most `limit`."""
    found = rows(
        connection,
        f"SELECT {_DISPUTE} FROM disputes INDEXED BY disputes_open WHERE {OF_ACCOUNT} "
        "AND state IN ('inquiry', 'open') ORDER BY created_at, dispute_id LIMIT ?",
        (*key_of(connection, account_id), limit),
    )
    return [_dispute(fields) for fields in found]


def count_open_disputes(connection: Connection, limit: int) -> int:
    """How many disputes of all accounts have not ended; at most `limit` are counted in each bucket."""
    found = rows_available(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM disputes INDEXED BY disputes_open WHERE bucket = ? "
        "AND state IN ('inquiry', 'open') LIMIT ?) d",
        limit,
    )
    return sum(int(count) for (count,) in found)


def contested(connection: Connection, bucket: int, account_id: str) -> bool:
    """Whether the account has a dispute that has not ended."""
    sql = "SELECT 1 FROM disputes WHERE bucket = ? AND account_id = ? AND state IN ('inquiry', 'open') LIMIT 1"
    return row(connection, sql, (bucket, account_id)) is not None


# --- what they take ---------------------------------------------------------------------------------------------------


def clawback_of(connection: Connection, bucket: int, top_up: TopUp) -> Clawback:
    """What is currently taken from a top-up: refunds that have not failed, disputes that are open or lost."""
    key = (bucket, top_up.account_id, top_up.top_up_id)
    mine = "bucket = ? AND account_id = ? AND top_up_id = ?"
    (refunded,) = rows(
        connection,
        f"SELECT coalesce(sum(amount_cents), 0), coalesce(sum(credit_cents), 0) FROM refunds WHERE {mine} "
        "AND state != 'failed'",
        key,
    )
    (disputed,) = rows(
        connection,
        f"SELECT coalesce(sum(taken_cents), 0), coalesce(sum(credit_cents), 0) FROM disputes WHERE {mine} "
        "AND state IN ('open', 'lost')",
        key,
    )
    return Clawback(*refunded, *disputed)


def save_clawback(connection: Connection, bucket: int, top_up: TopUp) -> Clawback:
    """Write the sums of its refunds and disputes into the top-up's row."""
    clawback = clawback_of(connection, bucket, top_up)
    assert clawback.money <= top_up.charge_cents, f"more is taken of {top_up.top_up_id} than was captured"
    assert clawback.credit <= top_up.credit_cents, f"more credit is taken of {top_up.top_up_id} than was bought"
    connection.execute(
        "UPDATE top_ups SET refunded_cents = ?, disputed_cents = ?, clawed_cents = ? "
        "WHERE bucket = ? AND account_id = ? AND top_up_id = ?",
        (clawback.refunded, clawback.disputed, clawback.credit, bucket, top_up.account_id, top_up.top_up_id),
    )
    return clawback


def unspent_cents(connection: Connection, bucket: int, top_up: TopUp, at: int) -> int:
    """Whole cents left in the top-up's lot, and in the lots that brought its credit back after a refund or dispute."""
    key = (bucket, top_up.account_id, top_up.top_up_id)
    found = row(
        connection,
        "SELECT coalesce(sum(remaining), 0) FROM lots WHERE bucket = ? AND account_id = ? "
        "AND (expires_at IS NULL OR expires_at > ?) AND (lot_id = ? "
        "OR lot_id IN (SELECT 'refund_failed:' || refund_id FROM refunds r "
        "WHERE r.bucket = ? AND r.account_id = ? AND r.top_up_id = ?) "
        # every change of what a dispute takes gives it back, as `dispute_won:ID`, then as `dispute_won:ID:CHANGE`
        "OR EXISTS (SELECT 1 FROM disputes d WHERE d.bucket = ? AND d.account_id = ? AND d.top_up_id = ? "
        "AND (lot_id = 'dispute_won:' || d.dispute_id "
        "OR substr(lot_id, 1, length(d.dispute_id) + 13) = 'dispute_won:' || d.dispute_id || ':')))",
        (bucket, top_up.account_id, at, f"top_up:{top_up.payment_id}", *key, *key),
    )
    return 0 if found is None else int(found[0]) // NANOS_PER_CENT


def intent_of(connection: Connection, payment_id: str) -> str | None:
    """The processor's payment intent behind a payment, if it is known."""
    found = row(connection, "SELECT payment_intent_id FROM payments WHERE payment_id = ?", (payment_id,))
    return None if found is None else found[0]


def may_be_charged(connection: Connection, at: int) -> bool:
    """Whether a top-up started before then still waits for its payment: an unknown charge may belong to it."""
    waits = rows_everywhere(
        connection,
        "SELECT 1 FROM top_ups INDEXED BY top_ups_due WHERE bucket = ? AND next_at IS NOT NULL "
        "AND state != 'requested' AND created_at < ? LIMIT 1",
        at + CLOCKS_APART_MS,
    )
    return next(waits, None) is not None


def _refund(fields: tuple[object, ...] | list[object]) -> Refund:
    return msgspec.convert(dict(zip(Refund.__struct_fields__, fields, strict=True)), Refund)


def _dispute(fields: tuple[object, ...]) -> Dispute:
    return msgspec.convert(dict(zip(_DISPUTE.split(", "), fields, strict=True)), Dispute)
