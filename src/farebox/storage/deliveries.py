"""The store of deliveries: one row per notice and endpoint, with the time of the next attempt.

Several processes may deliver. To make an attempt, a process moves `next_at` from the value it read to the end of a
lease, in one statement: only one succeeds. Only that attempt may then record its result. If its process dies, the
delivery is due again when the lease expires.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from farebox.storage.account_keys import key_of
from farebox.storage.every_bucket import buckets_in_use, rows_available
from farebox.storage.sql import Connection, rows

MAIL = "mailto:"
"""Prefix of the target of an e-mail; other targets are endpoint IDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A notice on its way to one endpoint. `next_at` None: delivered, or given up."""

    bucket: int
    account_id: str
    notice_id: str
    target: str
    attempts: int
    next_at: int | None
    delivered_at: int | None
    last_error: str | None


_COLUMNS = "bucket, account_id, notice_id, target, attempts, next_at, delivered_at, last_error"
_KEY = "bucket = ? AND account_id = ? AND notice_id = ? AND target = ?"


def add_delivery(
    connection: Connection, bucket: int, account_id: str, notice_id: str, target: str, next_at: int
) -> None:
    """Schedule the delivery of a notice; one that is in progress, or done, stays as it is."""
    connection.execute(
        "INSERT INTO deliveries (bucket, account_id, notice_id, target, next_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (bucket, account_id, notice_id, target, next_at),
    )


def due_deliveries(
    connection: Connection, at: int, *, mail: bool, without: Collection[str], limit: int
) -> list[Delivery]:
    """E-mails or webhooks that are due, the most overdue first, except to the targets in `without`."""
    kind = f"target {'' if mail else 'NOT '}LIKE '{MAIL}%'"
    others = f"AND target NOT IN ({', '.join('?' for _ in without)}) " if without else ""
    found = rows_available(
        connection,
        f"SELECT {_COLUMNS} FROM deliveries INDEXED BY deliveries_due WHERE bucket = ? AND next_at IS NOT NULL "
        f"AND next_at <= ? AND {kind} {others}ORDER BY next_at LIMIT ?",
        at,
        *without,
        limit,
    )
    return sorted((_delivery(fields) for fields in found), key=lambda delivery: delivery.next_at or 0)[:limit]


def claim(connection: Connection, delivery: Delivery, until: int) -> Delivery | None:
    """Start an attempt at the delivery as it was read; None if another process has done so, or it is no longer due."""
    connection.execute(
        f"UPDATE deliveries SET attempts = attempts + 1, next_at = ? WHERE {_KEY} AND next_at = ? AND attempts = ?",
        (until, *_key(connection, delivery), delivery.next_at, delivery.attempts),
    )
    if connection.changes() == 0:
        return None
    return replace(delivery, attempts=delivery.attempts + 1, next_at=until)


def finish(
    connection: Connection, claimed: Delivery, *, next_at: int | None, delivered_at: int | None, error: str | None
) -> bool:
    """Record how the attempt ended, unless its lease had expired and another attempt has started; returns whether it
    was recorded."""
    connection.execute(
        f"UPDATE deliveries SET next_at = ?, delivered_at = ?, last_error = ? "
        f"WHERE {_KEY} AND next_at = ? AND attempts = ?",
        (next_at, delivered_at, error, *_key(connection, claimed), claimed.next_at, claimed.attempts),
    )
    return connection.changes() == 1


def deliver_again(connection: Connection, bucket: int, account_id: str, notice_id: str, target: str, at: int) -> None:
    """Make the delivery due as if it were new."""
    connection.execute(
        f"UPDATE deliveries SET attempts = 0, next_at = ?, delivered_at = NULL, last_error = NULL WHERE {_KEY}",
        (at, bucket, account_id, notice_id, target),
    )


def retry(connection: Connection, delivery: Delivery, at: int) -> bool:
    """Make a delivery that was given up due again. Returns whether it still was given up."""
    connection.execute(
        f"UPDATE deliveries SET attempts = 0, next_at = ?, last_error = NULL "
        f"WHERE {_KEY} AND next_at IS NULL AND delivered_at IS NULL",
        (at, *_key(connection, delivery)),
    )
    return connection.changes() == 1


def abandon_target(connection: Connection, target: str, error: str) -> None:
    """Cancel all pending deliveries to this target."""
    for bucket in buckets_in_use(connection):
        connection.execute(
            "UPDATE deliveries SET next_at = NULL, last_error = ? "
            "WHERE bucket = ? AND target = ? AND next_at IS NOT NULL",
            (error, bucket, target),
        )


def deliveries_of(connection: Connection, bucket: int, account_id: str, notice_id: str) -> list[Delivery]:
    """The deliveries of a notice."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM deliveries WHERE bucket = ? AND account_id = ? AND notice_id = ? ORDER BY target",
        (bucket, account_id, notice_id),
    )
    return [_delivery(fields) for fields in found]


_GIVEN_UP = (
    "FROM deliveries INDEXED BY deliveries_given_up WHERE bucket = ? AND next_at IS NULL AND delivered_at IS NULL"
)
"""In the form that the index can answer."""


def given_up(connection: Connection, account_id: str | None, limit: int) -> list[Delivery]:
    """Deliveries that were given up, of one account or of all, without those of an unavailable node."""
    if account_id is None:
        found = rows_available(connection, f"SELECT {_COLUMNS} {_GIVEN_UP} LIMIT ?", limit)
    else:
        sql = f"SELECT {_COLUMNS} {_GIVEN_UP} AND account_id = ? LIMIT ?"
        found = iter(rows(connection, sql, (*key_of(connection, account_id), limit)))
    return [_delivery(fields) for fields in islice(found, limit)]


def count_given_up(connection: Connection, most: int) -> int:
    """How many deliveries of all accounts were given up; no more than `most` are counted. Those of an unavailable node
    are not."""
    sql = f"SELECT count(*) FROM (SELECT 1 {_GIVEN_UP} LIMIT ?) AS few"
    return min(most, sum(int(count) for (count,) in rows_available(connection, sql, most)))


def _delivery(fields: tuple[Any, ...]) -> Delivery:
    return Delivery(**dict(zip(_COLUMNS.split(", "), fields, strict=True)))


def _key(connection: Connection, delivery: Delivery) -> tuple[int, str, str, str]:
    """The current key of its row: the account may have been moved to another bucket since it was read."""
    return (*key_of(connection, delivery.account_id), delivery.notice_id, delivery.target)
