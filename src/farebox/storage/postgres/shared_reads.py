"""Reads that many callers need at the same time: one query answers all callers that asked before it was sent.

So a caller's result is never older than its request, because the query began after it. Nothing is kept once it is
delivered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from farebox.storage.batch_wait import wait_for_more
from farebox.storage.sql import Connection, DatabaseUnavailable

T = TypeVar("T")

CONCURRENT_QUERIES = 2
"""Most concurrent queries of one kind about one account: one is being answered while the next is sent."""

READERS_MAX = 256
"""Callers that a query waits for; it answers however many there are."""

ReadOfAccount: TypeAlias = Callable[[Connection, str], T]
"""A read of a few rows of an account. It is a module-level function, so that callers that ask for the same read can be
recognized by it."""


class Get(Protocol):
    """`Database.get`."""

    def __call__(self, read: Callable[[Connection], T]) -> Awaitable[T]: ...


class _PendingRead:
    """The callers waiting for one read of one account."""

    __slots__ = ("queries", "waiting")

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Any]] = []
        """Callers waiting for the next query."""
        self.queries: set[asyncio.Task[None]] = set()


class SharedReads:
    """The shared reads of a database. Create it inside the event loop that uses it."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._loop = asyncio.get_running_loop()  # looked up each time, it would take a system call
        self._pending: dict[tuple[ReadOfAccount[Any], str], _PendingRead] = {}

    def read(self, read: ReadOfAccount[T], account_id: str) -> "asyncio.Future[T]":
        """The result of a query that is sent after this call. Raises DatabaseUnavailable, or what `read` raises."""
        key = (read, account_id)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = _PendingRead()
        future: asyncio.Future[T] = self._loop.create_future()
        pending.waiting.append(future)
        if len(pending.queries) < CONCURRENT_QUERIES:
            self._start(key, pending)
        return future

    def _start(self, key: tuple[ReadOfAccount[Any], str], pending: _PendingRead) -> None:
        query = self._loop.create_task(self._query(key, pending))  # begins after everything that is ready now
        pending.queries.add(query)
        query.add_done_callback(partial(self._ended, key, pending))

    async def _query(self, key: tuple[ReadOfAccount[Any], str], pending: _PendingRead) -> None:
        read, account_id = key
        readers: list[asyncio.Future[Any]] = []
        while pending.waiting:
            await wait_for_more(pending.waiting, after=len(readers), enough=READERS_MAX)
            if not pending.waiting:  # another query has taken them
                break
            readers, pending.waiting = pending.waiting, []
            await self._resolve(partial(_of_account, read=read, account_id=account_id), readers)

    def _ended(self, key: tuple[ReadOfAccount[Any], str], pending: _PendingRead, query: "asyncio.Task[None]") -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        pending.queries.discard(query)
        if query.cancelled():
            readers, pending.waiting = pending.waiting, []
            _fail(readers, DatabaseUnavailable("the database is closed"))
        elif pending.waiting:  # since the task's last look
            self._start(key, pending)
        if not pending.queries:
            self._pending.pop(key, None)

    async def _resolve(self, query: Callable[[Connection], Any], readers: "list[asyncio.Future[Any]]") -> None:
        try:
            found = await self._get(query)
        except asyncio.CancelledError:
            _fail(readers, DatabaseUnavailable("the database is closed"))
            raise
        except Exception as error:  # noqa: BLE001 - it is the readers'
            _fail(readers, error)
        else:
            for reader in readers:
                if not reader.done():  # otherwise its caller is gone
                    reader.set_result(found)


def _fail(readers: "list[asyncio.Future[Any]]", error: Exception) -> None:
    for reader in readers:
        if not reader.done():
            reader.set_exception(error)


def _of_account(connection: Connection, read: ReadOfAccount[T], account_id: str) -> T:
    return read(connection, account_id)
