"""The search for background work that is due: one for all queues, in which the processes take turns.

No queue and no bucket belongs to a process. Each process searches all of them, so nothing is overlooked when one dies,
hangs, or is unknown to the others. The processes only search less often the more of them there are: with N processes,
each skips N - 1 ticks on average, and never more than SKIPPED_MAX, so that the database gets about one search per tick
from up to ten of them together. The number of skipped ticks is random, so that their searches do not coincide.

A process that may have put something into a queue itself searches at the next tick.
"""

import asyncio
from functools import partial
from typing import Final

from farebox.clock import Clock, random_below
from farebox.storage.database import Database
from farebox.storage.queues import find_due

TICK_SECONDS: Final = 0.5
"""How soon work is found."""
SKIPPED_MAX: Final = 19
"""Each process searches every ten seconds or more often, however many there are."""


def skipped_ticks(processes: int, *, at_most: int) -> int:
    """How many ticks a process skips, if this many processes take turns: `processes - 1` on average, at random."""
    return min(random_below(2 * processes - 1), at_most)


class QueueSearch:
    """What the latest searches of this process have found."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.processes = 1
        """How many processes take turns. If fewer do, work is found later, within the bound of SKIPPED_MAX."""
        self._skip = 0
        """How many ticks to skip before the next search."""
        self._found = set[str]()
        self._tick = asyncio.Event()

    async def search(self) -> None:
        """One tick: search, if it is our turn or we have filled a queue. Raises DatabaseUnavailable."""
        try:
            if self._database.take_queued() or not self._skip:
                self._skip = 0  # so that a search that fails is repeated at the next tick
                await self._database.get(partial(find_due, at=self._clock.now_ms(), found=self._found))
                self._skip = skipped_ticks(self.processes, at_most=SKIPPED_MAX)
            else:
                self._skip -= 1
        finally:
            tick, self._tick = self._tick, asyncio.Event()
            tick.set()

    async def ticked(self) -> None:
        """Wait until the next tick has ended."""
        await self._tick.wait()

    def take(self, queue: str) -> bool:
        """Whether something was found in the queue since this was last asked."""
        if queue not in self._found:
            return False
        self._found.remove(queue)
        return True

    def give_back(self, queue: str) -> None:
        """What was found in the queue has not been processed: it is taken again in the next round."""
        self._found.add(queue)
