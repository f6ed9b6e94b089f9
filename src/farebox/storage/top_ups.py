"""The store of top-ups: their rows, moves along the state table, fenced leases, and the directory of payments.

A worker claims a top-up first, which increments its `lease_epoch`. Its later writes succeed only while the epoch is
still the one it was given, so a worker that was wrongly considered dead writes nothing.
"""

from typing import Literal

import msgspec

from farebox.payments.model import TopUp
from farebox.payments.states import OPEN_TOP_UPS, PENDING_TOP_UPS, TOP_UP_STATES
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.activity import note_activity
from farebox.storage.every_bucket import list_available, rows_available
from farebox.storage.sql import Connection, RowMissing, row, rows
from farebox.storage.top_up_rules import rearm, request_auto, rule_of

__all__ = [
    "StaleLease", "auto_under_way", "charged_since", "claim", "due", "find", "find_by_charge",
    "find_by_intent", "find_by_payment", "find_by_request", "history", "insert", "latest", "make_due", "move",
    "note_charge", "open_auto", "postpone", "rearm", "request_auto", "revoke_lease", "rule_of", "tie_payment",
    "voids_pending",
]  # fmt: skip

LEASE_MS = 120_000
"""Longer than a step usually takes, so that an expired lease nearly always means a dead worker. If not, the
slow worker writes nothing (StaleLease), and both use the same idempotency keys."""

_FIELDS = TopUp.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_KEY = f"{OF_ACCOUNT} AND top_up_id = ?"


class StaleLease(Exception):
    """Another worker has claimed the top-up, or another event ended it. Nothing was written."""


def _quoted(states: tuple[str, ...]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _key(connection: Connection, account_id: str, top_up_id: str) -> tuple[int, str, str]:
    return (*key_of(connection, account_id), top_up_id)


def _from_row(fields: tuple[object, ...]) -> TopUp:
    values = dict(zip(_FIELDS, fields, strict=True))
    return TopUp(**{**values, "lines": str(values["lines"]).encode()})  # type: ignore[arg-type] # as the columns are


def _select(connection: Connection, condition: str, values: tuple[object, ...]) -> list[TopUp]:
    return [_from_row(found) for found in rows(connection, f"SELECT {_COLUMNS} FROM top_ups WHERE {condition}", values)]


def _first(connection: Connection, condition: str, values: tuple[object, ...]) -> TopUp | None:
    found = _select(connection, f"{condition} LIMIT 1", values)
    return found[0] if found else None


# --- finding ----------------------------------------------------------------------------------------------------------


def find(connection: Connection, account_id: str, top_up_id: str) -> TopUp | None:
    return _first(connection, _KEY, _key(connection, account_id, top_up_id))


def top_up_of(connection: Connection, account_id: str, top_up_id: str) -> TopUp:
    """The top-up that a row names. Raises RowMissing."""
    top_up = find(connection, account_id, top_up_id)
    if top_up is None:
        raise RowMissing(f"there is no top-up {top_up_id} of account {account_id}")
    return top_up


def find_by_payment(connection: Connection, payment_id: str) -> TopUp | None:
    """The top-up that a payment (the processor's invoice) is tied to."""
    return _find_in_directory(connection, "payment_id", payment_id)


def find_by_intent(connection: Connection, payment_intent_id: str) -> TopUp | None:
    return _find_in_directory(connection, "payment_intent_id", payment_intent_id)


def find_by_charge(connection: Connection, charge_id: str) -> TopUp | None:
    return _find_in_directory(connection, "charge_id", charge_id)


def _find_in_directory(connection: Connection, column: str, value: str) -> TopUp | None:
    tied = row(connection, f"SELECT account_id, top_up_id FROM payments WHERE {column} = ?", (value,))
    return None if tied is None else find(connection, *tied)


def find_by_request(connection: Connection, account_id: str, request_key: str) -> TopUp | None:
    condition = f"{OF_ACCOUNT} AND request_key = ?"
    return _first(connection, condition, (*key_of(connection, account_id), request_key))


def latest(connection: Connection, account_id: str, kind: str, since: int) -> list[TopUp]:
    """Top-ups of one kind that were started since, or are still open; newest first."""
    condition = (
        f"{OF_ACCOUNT} AND kind = ? "
        f"AND (created_at >= ? OR state IN ({_quoted(OPEN_TOP_UPS)})) ORDER BY created_at DESC, top_up_id DESC"
    )
    return _select(connection, condition, (*key_of(connection, account_id), kind, since))


def not_paid(connection: Connection, account_id: str, since: int, limit: int) -> list[TopUp]:
    """The latest that are open, or ended since without being paid; newest first."""
    condition = (
        f"{OF_ACCOUNT} AND state <> 'paid' AND (created_at >= ? OR state IN ({_quoted(OPEN_TOP_UPS)})) "
        "ORDER BY created_at DESC, top_up_id DESC LIMIT ?"
    )
    return _select(connection, condition, (*key_of(connection, account_id), since, limit))


def open_auto(connection: Connection, account_id: str) -> TopUp | None:
    """The account's auto top-up that has not ended."""
    condition = f"{OF_ACCOUNT} AND kind = 'auto' AND state IN ({_quoted(OPEN_TOP_UPS)})"
    return _first(connection, condition, key_of(connection, account_id))


def auto_under_way(connection: Connection, account_id: str) -> bool:
    """Whether an auto top-up is open that may bring credit at any moment."""
    found = open_auto(connection, account_id)
    return found is not None and found.state in PENDING_TOP_UPS


def voids_pending(connection: Connection, account_id: str) -> bool:
    """Whether an invoice of a failed auto top-up may still be paid, because it is not known to be void."""
    found = row(
        connection,
        f"SELECT 1 FROM top_ups WHERE {OF_ACCOUNT} AND kind = 'auto' "
        "AND state IN ('failed', 'canceled') AND payment_id IS NOT NULL AND next_at IS NOT NULL LIMIT 1",
        key_of(connection, account_id),
    )
    return found is not None


def charged_since(connection: Connection, account_id: str, since: int) -> int:
    """What auto top-up charged since then, in cents, fees and taxes included; including charges in progress."""
    found = row(
        connection,
        "SELECT coalesce(sum(credit_cents + fee_cents + tax_cents), 0) FROM top_ups "
        f"WHERE {OF_ACCOUNT} AND kind = 'auto' AND "
        "((state = 'paid' AND paid_at >= ?) OR state IN ('submitting', 'unknown', 'processing', 'action_required'))",
        (*key_of(connection, account_id), since),
    )
    assert found is not None
    return int(found[0])


_PAID_OR_OPEN = "payment_id IS NOT NULL AND state NOT IN ('failed', 'canceled')"
_HISTORY_KINDS = {"all": "1 = 1", "auto": "kind = 'auto'", "manual": "kind <> 'auto'"}


def history(
    connection: Connection,
    account_id: str,
    kind: Literal["all", "auto", "manual"],
    offset: int,
    limit: int,
    *,
    every: bool = False,
) -> tuple[list[TopUp], int]:
    """Paid top-ups and open ones that have a payment, newest first, and how many there are in all; with `every`, also
    those that failed or have no payment yet."""
    key = key_of(connection, account_id)
    condition = f"{OF_ACCOUNT} AND {_HISTORY_KINDS[kind]}" + ("" if every else f" AND {_PAID_OR_OPEN}")
    counted = row(connection, f"SELECT count(*) FROM top_ups WHERE {condition}", key)
    page = f"{condition} ORDER BY created_at DESC, top_up_id DESC LIMIT ? OFFSET ?"
    return _select(connection, page, (*key, limit, offset)), int(counted[0]) if counted else 0


def latest_paid_or_open(connection: Connection, account_id: str, limit: int) -> list[TopUp]:
    """The newest of the top-ups in `history`, without counting the rest."""
    page = f"{OF_ACCOUNT} AND {_PAID_OR_OPEN} ORDER BY created_at DESC, top_up_id DESC LIMIT ?"
    return _select(connection, page, (*key_of(connection, account_id), limit))


def latest_everywhere(connection: Connection, limit: int) -> tuple[list[TopUp], bool]:
    """The latest purchases of all accounts, newest first, in whatever state, and whether none are missing because a
    node is unavailable."""
    found, complete = list_available(
        connection, f"SELECT {_COLUMNS} FROM top_ups WHERE bucket = ? ORDER BY created_at DESC LIMIT ?", limit
    )
    return sorted(map(_from_row, found), key=lambda top_up: -top_up.created_at)[:limit], complete


def due(connection: Connection, at: int, limit: int, *, requests_only: bool = False) -> list[tuple[str, str]]:
    """Account and ID of due top-ups, the most overdue first; or only of requests among them."""
    only = "AND state = 'requested' " if requests_only else ""
    found = rows_available(
        connection,
        "SELECT next_at, account_id, top_up_id FROM top_ups INDEXED BY top_ups_due "
        f"WHERE bucket = ? AND next_at <= ? {only}ORDER BY next_at LIMIT ?",
        at,
        limit,
    )
    return [(account_id, top_up_id) for _, account_id, top_up_id in sorted(found)[:limit]]


# --- writing ----------------------------------------------------------------------------------------------------------


def insert(connection: Connection, bucket: int, top_up: TopUp) -> None:
    note_activity(connection, "top_up", top_up.state)
    values = [top_up.lines.decode() if name == "lines" else getattr(top_up, name) for name in _FIELDS]
    connection.execute(f"INSERT INTO top_ups (bucket, {_COLUMNS}) VALUES (?{', ?' * len(_FIELDS)})", (bucket, *values))


def claim(
    connection: Connection, account_id: str, top_up_id: str, *, owner: str, at: int, early: bool = False
) -> TopUp | None:
    """Claim a top-up; None if it is not due (unless `early`) or another worker has it."""
    connection.execute(
        "UPDATE top_ups SET lease_owner = ?, lease_epoch = lease_epoch + 1, lease_until = ?, next_at = ? "
        f"WHERE {_KEY} AND next_at IS NOT NULL AND (lease_until IS NULL OR lease_until <= ?)"
        + ("" if early else " AND next_at <= ?"),
        (owner, at + LEASE_MS, at + LEASE_MS, *_key(connection, account_id, top_up_id), at, *(() if early else (at,))),
    )
    return find(connection, account_id, top_up_id) if connection.changes() == 1 else None


def revoke_lease(connection: Connection, account_id: str, top_up_id: str) -> TopUp:
    """Take a top-up away from its worker for something more important: the worker's next write raises StaleLease.

    Raises RowMissing.
    """
    connection.execute(
        f"UPDATE top_ups SET lease_epoch = lease_epoch + 1, lease_owner = NULL, lease_until = NULL WHERE {_KEY}",
        _key(connection, account_id, top_up_id),
    )
    return top_up_of(connection, account_id, top_up_id)


def move(
    connection: Connection,
    top_up: TopUp,
    state: str,
    at: int,
    *,
    next_at: int | None,
    keep: bool = False,
    **changes: object,
) -> TopUp:
    """Move along TOP_UP_STATES, if the row is as `top_up` says and the lease is still ours; returns the new row.

    `keep` continues under the lease, renewed, and `next_at` is then its end. Raises StaleLease.
    """
    allowed = TOP_UP_STATES[top_up.state]
    assert state == top_up.state or state in allowed, f"a top-up cannot go from {top_up.state} to {state}"
    if state != top_up.state:
        changes["updated_at"] = at
        note_activity(connection, "top_up", state)
    return _write(connection, top_up, at, next_at, keep, {"state": state, **changes})


def postpone(connection: Connection, top_up: TopUp, at: int, next_at: int, **changes: object) -> TopUp:
    """Leave the state as it is, release the lease and check again later. Raises StaleLease."""
    assert next_at > at, "a top-up that is postponed is looked at later"
    return _write(connection, top_up, at, next_at, keep=False, changes=changes)


def _write(
    connection: Connection, top_up: TopUp, at: int, next_at: int | None, keep: bool, changes: dict[str, object]
) -> TopUp:
    if keep:
        changes |= {"lease_until": at + LEASE_MS, "next_at": at + LEASE_MS}
    else:
        changes |= {"lease_owner": None, "lease_until": None, "next_at": next_at}
    connection.execute(
        f"UPDATE top_ups SET {', '.join(f'{name} = ?' for name in changes)} "
        f"WHERE {_KEY} AND lease_epoch = ? AND state = ?",
        (
            *(value.decode() if isinstance(value, bytes) else value for value in changes.values()),
            *_key(connection, top_up.account_id, top_up.top_up_id),
            top_up.lease_epoch,
            top_up.state,
        ),
    )
    if connection.changes() != 1:
        raise StaleLease(f"{top_up.top_up_id} of {top_up.account_id} is no longer at epoch {top_up.lease_epoch}")
    return msgspec.structs.replace(top_up, **changes)


def make_due(connection: Connection, top_up: TopUp, at: int) -> bool:
    """Make a top-up due now, because of an event, unless a worker is handling it."""
    connection.execute(
        f"UPDATE top_ups SET next_at = ? WHERE {_KEY} AND next_at > ? AND lease_until IS NULL",
        (at, *_key(connection, top_up.account_id, top_up.top_up_id), at),
    )
    return connection.changes() == 1


# --- the directory of payments ----------------------------------------------------------------------------------------


def tie_payment(connection: Connection, payment_id: str, account_id: str, top_up_id: str) -> bool:
    """Tie a payment to a top-up permanently. Returns False, and changes nothing, if it is tied to another one."""
    connection.execute(
        "INSERT INTO payments (payment_id, account_id, top_up_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (payment_id, account_id, top_up_id),
    )
    tied = row(connection, "SELECT account_id, top_up_id FROM payments WHERE payment_id = ?", (payment_id,))
    return tied == (account_id, top_up_id)


def note_charge(connection: Connection, payment_id: str, payment_intent_id: str | None, charge_id: str | None) -> None:
    """Store the payment intent and charge that a payment has at the processor: refunds and disputes name these."""
    connection.execute(
        "UPDATE payments SET payment_intent_id = coalesce(?, payment_intent_id), "
        "charge_id = coalesce(?, charge_id) WHERE payment_id = ?",
        (payment_intent_id, charge_id, payment_id),
    )
