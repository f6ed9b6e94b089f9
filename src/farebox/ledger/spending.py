"""Spending limits: the windows they count in, and what was spent in them, exact inside the transaction that asks.

What is spent is the sum of the account's hourly usage. It is summed once for a window and then kept on the balance's
row, where every charge is added to it; the audit compares the two.
"""

from farebox.calendar import DAY_MS, HOUR_MS, WEEK_MS, month_start, next_month
from farebox.ledger.rows import Balance
from farebox.storage.spending import Duration, Strategy, read_counted, spent_since, write_counted
from farebox.storage.sql import Connection

_MONDAY_MS = 4 * DAY_MS
"""The first Monday after the epoch, which was a Thursday."""

SLIDING_MS: dict[Duration, int] = {"daily": DAY_MS, "weekly": WEEK_MS, "monthly": 30 * DAY_MS}
"""How long sliding windows are."""


def window_start(duration: Duration, strategy: Strategy, at: int) -> int:
    """The beginning of the window that `at` lies in, which is the beginning of an hour.

    A sliding window is counted in whole hours, the one that it begins in included: never less than the true window.
    """
    if strategy == "sliding":
        start = at - SLIDING_MS[duration]
        return start - start % HOUR_MS
    if duration == "daily":
        return at - at % DAY_MS
    if duration == "weekly":
        return at - (at - _MONDAY_MS) % WEEK_MS
    return month_start(at)


def window_end(duration: Duration, strategy: Strategy, at: int) -> int | None:
    """When the window that `at` lies in ends and the next begins; None for a sliding one, which never does."""
    if strategy == "sliding":
        return None
    if duration == "monthly":
        return next_month(at)
    return window_start(duration, strategy, at) + SLIDING_MS[duration]


def spent_in_window(connection: Connection, balance: Balance, at: int) -> int:
    """What the limited account was charged in its window of `at`, and after it."""
    counted = read_counted(connection, balance.bucket, balance.account_id)
    start = window_start(counted.duration, counted.strategy, at)
    if start == counted.start:
        return counted.spent
    spent = spent_since(connection, balance.bucket, balance.account_id, start)
    if counted.start is None or start > counted.start:  # else a call that began in the window before
        write_counted(connection, balance.bucket, balance.account_id, start, spent)
    return spent
