"""Rate limits across processes: each adds its counts to the sums in the database, and reads the sums."""

from functools import partial

from farebox.limits.rate import RateLimiter, Span
from farebox.storage.database import Database
from farebox.storage.rate_counts import add_counts, forget_windows
from farebox.storage.sql import DatabaseUnavailable


async def exchange(limiter: RateLimiter, database: Database) -> None:
    """Report what was counted since the last time, and read what the others counted in the same windows.

    If nothing was counted here, nothing is queried. Raises DatabaseUnavailable; the counts are then reported the next
    time. If they had arrived after all, they count twice: a limit is then reached too early, never too late.
    """
    untold = limiter.take_untold()
    if not untold:
        return
    counts = [(*span, calls) for span, calls in sorted(untold.items())]
    try:
        totals = await database.write(partial(add_counts, counts=counts))
    except DatabaseUnavailable:
        limiter.give_back(untold)
        raise
    limiter.learn({Span(account, gateway, length, number): calls for account, gateway, length, number, calls in totals})


async def forget_old(database: Database, *, at: int) -> None:
    """Delete the sums of windows that no limit looks at any more."""
    await database.write(partial(forget_windows, at=at))
