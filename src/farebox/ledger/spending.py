"""Spending limits: the windows they count in, and what was spent in them, exact inside the transaction that asks for
it.

What is spent is the sum of the account's hourly usage. It is summed once for a window and then kept on the balance's
row, where every charge is added to it; the audit compares the two.
"""

from typing import Final

from farebox.calendar import DAY_MS, HOUR_MS, WEEK_MS
from farebox.ledger.rows import BalanceRow
from farebox.periods import Period, Zones, window
from farebox.storage.spending import Duration, Strategy, read_window, spent_since
from farebox.storage.sql import Connection

SLIDING_MS: dict[Duration, int] = {"daily": DAY_MS, "weekly": WEEK_MS, "monthly": 30 * DAY_MS}
"""Lengths of sliding windows."""
_PERIODS: Final[dict[Duration, Period]] = {"daily": "daily", "weekly": "weekly", "monthly": "monthly"}


def window_start(duration: Duration, strategy: Strategy, at: int, zones: Zones = ()) -> int:
    """The beginning of the window that contains `at`; always the beginning of a UTC hour.

    Spending is counted in whole hours. A window that begins within an hour counts all of that hour, so never less than
    the true window. This concerns sliding windows, and time zones that are not a whole number of hours from UTC.
    """
    start = at - SLIDING_MS[duration] if strategy == "sliding" else window(_PERIODS[duration], at, zones).start
    return start - start % HOUR_MS


def window_end(duration: Duration, strategy: Strategy, at: int, zones: Zones = ()) -> int | None:
    """When the window that contains `at` ends and the next begins; None for a sliding window, which never ends."""
    return None if strategy == "sliding" else window(_PERIODS[duration], at, zones).end


def in_window(start: int | None, until: int | None, duration: Duration, strategy: Strategy, at: int) -> bool:
    """Whether the window at that time is the one that begins at `start`, whose sum is stored; `until` is its end, if
    that is not the end by the UTC calendar."""
    if until is None:
        return start == window_start(duration, strategy, at)
    return start is not None and start <= at < until


def spent_in_window(connection: Connection, balance: BalanceRow, at: int) -> int:
    """What the limited account was charged in its window at `at`, and after it."""
    stored = read_window(connection, balance.bucket, balance.account_id)
    duration, strategy = stored.duration, stored.strategy
    start = window_start(duration, strategy, at, stored.zones)
    until = window_end(duration, strategy, at, stored.zones) if stored.zones else None
    if (start, until) == (stored.start, stored.until):
        return stored.spent
    spent = spent_since(connection, balance.bucket, balance.account_id, start)
    if stored.start is None or start > stored.start:  # otherwise a call that began in the previous window
        _write_window(connection, balance, start, until, spent)
    return spent


def _write_window(connection: Connection, balance: BalanceRow, start: int, until: int | None, spent: int) -> None:
    """Store the sum of a window, so that it need not be computed again for each hold."""
    connection.execute(
        "UPDATE balances SET limit_from = ?, limit_until = ?, limit_spent = ? WHERE bucket = ? AND account_id = ?",
        (start, until, spent, balance.bucket, balance.account_id),
    )


def add_to_window(connection: Connection, balance: BalanceRow, at: int, charge: int) -> None:
    """Add a charge made at `at` to the stored sum, if it falls into its window."""
    connection.execute(
        "UPDATE balances SET limit_spent = limit_spent + ? WHERE bucket = ? AND account_id = ? AND limit_from <= ?",
        (charge, balance.bucket, balance.account_id, at),
    )
