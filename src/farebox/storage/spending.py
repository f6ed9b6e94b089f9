"""The store of spending limits, and of what an account was charged since a given time."""

from typing import Literal, TypeAlias

import msgspec

from farebox.money import NANOS_PER_CENT
from farebox.periods import Zones
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.account_settings import decode_zones
from farebox.storage.sql import Connection, row, rows

Duration: TypeAlias = Literal["daily", "weekly", "monthly"]
Strategy: TypeAlias = Literal["fixed", "sliding"]


class SpendingLimit(msgspec.Struct, frozen=True):
    """The most that an account's calls may be charged in a window."""

    amount: int
    """Nano-dollars."""
    duration: Duration
    strategy: Strategy
    """fixed: the calendar's day, week from Monday or month, in the account's time zone. sliding: the last 24 hours, 7
    days or 30 days."""

    @property
    def amount_cents(self) -> int:
        return self.amount // NANOS_PER_CENT


class SpendingWindow(msgspec.Struct, frozen=True):
    """The current window of a limited account: its start (milliseconds; None: none yet), its sum so far."""

    duration: Duration
    strategy: Strategy
    start: int | None
    until: int | None
    """End of the window, if it is not that of the UTC calendar."""
    spent: int
    zones: Zones


def find_limit(connection: Connection, account_id: str) -> SpendingLimit | None:
    """The account's limit; None if it has none."""
    found = row(
        connection,
        f"SELECT limit_amount, limit_duration, limit_strategy FROM balances WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    return None if found is None or found[0] is None else SpendingLimit(*found)


def set_limit(connection: Connection, account_id: str, limit: SpendingLimit | None) -> bool:
    """Set or remove the account's limit; returns whether the account exists. The limit applies from the next hold on,
    and counts what was already charged in its window."""
    values = (None, None, None) if limit is None else (limit.amount, limit.duration, limit.strategy)
    connection.execute(
        "UPDATE balances SET limit_amount = ?, limit_duration = ?, limit_strategy = ?, limit_from = NULL, "
        f"limit_until = NULL, limit_spent = 0 WHERE {OF_ACCOUNT}",
        (*values, *key_of(connection, account_id)),
    )
    return connection.changes() == 1


def spent_since(connection: Connection, bucket: int, account_id: str, start: int) -> int:
    """What the account was charged in the hours from `start` on (the beginning of an hour)."""
    found = row(
        connection,
        "SELECT coalesce(sum(charge), 0) FROM usage_hours WHERE bucket = ? AND account_id = ? AND hour >= ?",
        (bucket, account_id, start),
    )
    assert found is not None
    return int(found[0])


def hours_since(connection: Connection, bucket: int, account_id: str, start: int) -> list[tuple[int, int]]:
    """What the account was charged in each of these hours, as beginning and amount, oldest first."""
    return rows(
        connection,
        "SELECT hour, sum(charge) FROM usage_hours WHERE bucket = ? AND account_id = ? AND hour >= ? GROUP BY hour "
        "ORDER BY hour",
        (bucket, account_id, start),
    )


def read_window(connection: Connection, bucket: int, account_id: str) -> SpendingWindow:
    """The stored window of an account that has a limit."""
    found = row(
        connection,
        "SELECT limit_duration, limit_strategy, limit_from, limit_until, limit_spent, zones FROM balances "
        "WHERE bucket = ? AND account_id = ?",
        (bucket, account_id),
    )
    assert found is not None
    duration, strategy, start, until, spent, zones = found
    return SpendingWindow(duration, strategy, start, until, spent, decode_zones(zones))
