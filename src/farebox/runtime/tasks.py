"""Work that continues after the caller who started it has gone: a charge is never cut off halfway by a lost client."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Tasks that the server owns, by what they work on."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def shared(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await the work under this key, beginning it unless it runs already. A cancelled caller leaves it running."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        found: T = await asyncio.shield(task)
        return found

    def running(self, key: Hashable) -> bool:
        return key in self._running

    async def drain(self, seconds: float) -> None:
        """Wait for everything that runs, at most this long; what still runs then is cut off, as by a crash."""
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _forget(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # seen: where its caller has gone, the row's lease brings it back
