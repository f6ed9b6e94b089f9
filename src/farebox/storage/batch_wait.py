"""How long a batch waits for more items. A turn of the event loop takes microseconds; a commit takes as much processor
time as all the rest of a call, however few items share it."""

import asyncio
from collections.abc import Sized

IDLE_TURNS_MAX = 4
"""Turns of the loop without a new item, after a batch of several. After a single item no other is expected, so one turn
is enough."""
AMORTIZED_AT = 16
"""Items from which on one idle turn is enough on PostgreSQL: the cost of a statement is then shared by many, and with
longer waits its server is idle in between."""
TURNS_MAX = 16
"""Turns of the loop after which a batch begins even if items still arrive."""


async def wait_for_more(pending: Sized, *, after: int, enough: int) -> None:
    """Return once the loop brings no more items, or `enough` are pending. `after`: the size of the batch before."""
    seen = idle = 0
    for _ in range(TURNS_MAX):
        count = len(pending)
        idle = 0 if seen < count else idle + 1
        if count >= enough or idle >= (IDLE_TURNS_MAX if after > 1 and count < AMORTIZED_AT else 1):
            return
        seen = count
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop, no time
