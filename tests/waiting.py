"""Waiting for other threads and processes: for a condition, not for a fixed time.

The pauses between checks grow with the time waited, because frequent checks, which may be calls of the server or
database connections, would slow down the work that is waited for.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

SECONDS = 300.0
"""Timeout in seconds. Only a failing test waits this long, but on a busy machine a process takes half a minute to
start."""
_SHORTEST, _LONGEST = 0.005, 0.25
WINDOW_ROOM = 10.0
"""Seconds that a test of a rate limit may take."""


def pauses(what: str, seconds: float = SECONDS) -> Iterator[float]:
    """Seconds to pause after each check: a tenth of the time waited. Fails the test after `seconds`."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        yield min(max(_SHORTEST, waited / 10), _LONGEST)
    raise AssertionError(f"{what} did not come true in {seconds} s")


def until(true: Callable[[], object], what: str = "it", seconds: float = SECONDS) -> None:
    """Wait until a condition holds; fail if it does not."""
    for pause in pauses(what, seconds):
        if true():
            return
        time.sleep(pause)


async def eventually(true: Callable[[], object], what: str = "it", seconds: float = SECONDS) -> None:
    """`until`, for async tests with connections that need the loop meanwhile."""
    for pause in pauses(what, seconds):
        if true():
            return
        await asyncio.sleep(pause)


def start_of_window(seconds: int) -> None:
    """Wait for the next window of this length if this one is about to end. Rate limits count in windows aligned to the
    clock: calls that fall into two of them are not refused as the test expects.
    """
    left = seconds - time.time() % seconds
    if left < WINDOW_ROOM:
        time.sleep(left)
