"""Work that continues after its caller has disconnected: a lost client never interrupts a charge."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def gather_all(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all, in order. If some fail, the first exception is raised once all have ended: none continues
    unobserved."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return cast(list[T], ended)


class Tasks:
    """The server's tasks, by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._not_awaited = set[asyncio.Task[Any]]()

    async def shared(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await the work under this key, which is started unless it is running. It continues if the caller is
        canceled."""
        found: T = await asyncio.shield(self.begin(key, work))
        return found

    def begin(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task under this key; it is started unless it is running."""
        task = self._running.get(key)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def begin_long(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """The same for work that takes minutes: a stopping server cancels it at once."""
        task = self.begin(key, work)
        self._not_awaited.add(task)
        task.add_done_callback(self._not_awaited.discard)

    def running(self, key: Hashable) -> bool:
        return key in self._running

    async def drain(self, seconds: float) -> None:
        """Wait at most this long for all tasks; those that still run are then canceled, as by a crash."""
        for task in self._not_awaited:
            task.cancel()
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _forget(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        if self._running.get(key) is done:  # otherwise another one has been started since
            del self._running[key]
        if not done.cancelled():
            done.exception()  # retrieved, so that asyncio does not log it: the row's lease causes a retry
