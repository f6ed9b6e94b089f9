"""Rate limits across processes: each adds its counts to the sums in the database, and reads the sums."""

from functools import partial

from farebox.limits.rate import RateLimiter, RateWindow
from farebox.storage.database import Database
from farebox.storage.rate_counts import add_counts, forget_windows
from farebox.storage.sql import DatabaseUnavailable


async def exchange(limiter: RateLimiter, database: Database) -> None:
    """Report the counts since the last time, and read the sums of the same windows.

    If nothing was counted here, nothing is queried. Raises DatabaseUnavailable; the counts are then reported the next
    time. If they had been stored after all, they count twice: a limit is then reached too early, never too late.
    """
    unreported = limiter.take_unreported()
    if not unreported:
        return
    counts = [(*span, calls) for span, calls in sorted(unreported.items())]
    try:
        totals = await database.write(partial(add_counts, counts=counts))
    except DatabaseUnavailable:
        limiter.give_back(unreported)
        raise
    limiter.learn(
        {RateWindow(account, gateway, length, number): calls for account, gateway, length, number, calls in totals}
    )


async def forget_old(database: Database, *, at: int) -> None:
    """Delete the sums of windows that no limit uses any more."""
    await database.write(partial(forget_windows, at=at))
