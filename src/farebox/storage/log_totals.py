"""The store of totals: how many calls the log of each gateway has, without counting them each time.

A total is stored up to a log ID, and the calls above it are counted. IDs begin with the time at which their call began,
so no new ones appear below an ID of some time ago, and recording a call need not update the total. What is removed from
a log is subtracted from its total in the same transaction. A call that is recorded even later (its charge was in a
journal during a long database outage) is missing from the total until all are counted again: at a read, if the last
count is more than a day old and KEEP_FROM calls have been added since the mark.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from typing import TypeAlias

from farebox.calendar import DAY_MS
from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.sql import Connection, row

KEEP_FROM = 2_000
"""This many calls above the mark are counted at each read; if there are more, the mark is moved."""
RECOUNT_MS = DAY_MS
_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"

_Gateway: TypeAlias = tuple[int, str, str]
"""Bucket, account and name of a gateway."""


@dataclass(frozen=True, slots=True)
class LogTotal:
    """A total as stored. The defaults stand for a gateway that has no stored total."""

    upto: str = ""
    calls: int = 0
    forgotten: int = -1
    """Changes whenever calls are removed from the log; -1: nothing is stored yet."""
    counted_at: int = 0


def log_total(connection: Connection, account_id: str, gateway_id: str) -> tuple[int, int]:
    """How many calls the gateway's log has, and how many of them had to be counted for that."""
    gateway = (*key_of(connection, account_id), gateway_id)
    kept = _kept(connection, gateway)
    counted = _count(connection, gateway, kept.upto, None)
    return kept.calls + counted, counted


def new_total(
    connection: Connection, account_id: str, gateway_id: str, *, before: int, now: int
) -> tuple[LogTotal, LogTotal]:
    """The stored total, and the one to store instead: that of the calls that began before `before`."""
    gateway = (*key_of(connection, account_id), gateway_id)
    kept = _kept(connection, gateway)
    if kept.forgotten < 0:  # count only once there is a row: otherwise a removal in the meantime would go unnoticed
        return kept, LogTotal(forgotten=0)
    upto = max(kept.upto, id_at(before))
    if now - kept.counted_at >= RECOUNT_MS:
        calls = _count(connection, gateway, "", upto)
        return kept, LogTotal(upto, calls, kept.forgotten, now)
    calls = kept.calls + _count(connection, gateway, kept.upto, upto)
    return kept, LogTotal(upto, calls, kept.forgotten, kept.counted_at)


def keep_total(connection: Connection, account_id: str, gateway_id: str, was: LogTotal, now: LogTotal) -> None:
    """Store the new total, unless the old one has changed in the meantime."""
    key = find_key(connection, account_id)
    if key is None or _kept(connection, (*key, gateway_id)) != was:
        return
    connection.execute(
        "INSERT INTO log_totals (bucket, account_id, gateway_id, upto, calls, forgotten, counted_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bucket, account_id, gateway_id) DO UPDATE SET "
        "upto = excluded.upto, calls = excluded.calls, counted_at = excluded.counted_at",
        (*key, gateway_id, now.upto, now.calls, now.forgotten, now.counted_at),
    )


def subtract(connection: Connection, gateway: tuple[int, str, str], log_ids: list[str]) -> None:
    """Subtract calls that have been removed from the log of `gateway` (bucket, account and gateway)."""
    found = row(
        connection, "SELECT upto FROM log_totals WHERE bucket = ? AND account_id = ? AND gateway_id = ?", gateway
    )
    if found is not None and log_ids:
        connection.execute(
            "UPDATE log_totals SET calls = calls - ?, forgotten = forgotten + ? "
            "WHERE bucket = ? AND account_id = ? AND gateway_id = ?",
            (sum(log_id < found[0] for log_id in log_ids), len(log_ids), *gateway),
        )


def id_at(at: int) -> str:
    """The ID that separates calls that began before that time (milliseconds) from later ones."""
    hexadecimal = f"{at:012x}"
    return f"{hexadecimal[:8]}-{hexadecimal[8:]}"


def _kept(connection: Connection, gateway: _Gateway) -> LogTotal:
    found = row(
        connection,
        f"SELECT upto, calls, forgotten, counted_at FROM log_totals WHERE {_OF_GATEWAY}",
        gateway,
    )
    return LogTotal() if found is None else LogTotal(*found)


def _count(connection: Connection, gateway: _Gateway, first: str, before: str | None) -> int:
    below, values = ("", ()) if before is None else (" AND log_id < ?", (before,))
    found = row(
        connection,
        f"SELECT count(*) FROM calls WHERE {_OF_GATEWAY} AND logged = 1 AND log_id >= ?{below}",
        (*gateway, first, *values),
    )
    return int(found[0]) if found else 0
