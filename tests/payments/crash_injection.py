"""Databases in which a process can die: at each writing statement, before each commit, and after it.

The point after a commit is before its result is delivered. After a crash nothing more reaches the database, and
uncommitted changes are undone, as when the system closes a dead process's files and sockets.
"""

import asyncio
import contextlib
import traceback
from collections.abc import Coroutine
from typing import Any, ClassVar, Protocol, TypeVar
from unittest import mock

import asyncpg

from farebox.settings import Settings
from farebox.storage.database import Database, open_database
from farebox.storage.sqlite.database import SqliteDatabase

T = TypeVar("T")

WRITES = ("INSERT", "UPDATE", "DELETE", "REPLAC")


class Crash(BaseException):
    """The process dies here."""


class Life(Protocol):
    dead: bool

    def point(self, where: str) -> None:
        """Raises Crash if the process dies here or is already dead."""
        ...


class Mortal:
    """A life that ends at its `die_at`-th point, or never."""

    def __init__(self, die_at: int | None) -> None:
        self.points: list[str] = []
        self.dead = False
        self._die_at = die_at
        self._died = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_quiet_about_crashes)

    def point(self, where: str) -> None:
        """Die if this is the point; anything that continues after death dies too."""
        if not self.dead:
            self.points.append(where)
            if len(self.points) != self._die_at:
                return
            self.dead = True
            self._loop.call_soon_threadsafe(self._died.set)
        raise Crash(where)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`. Raises Crash if the process dies meanwhile."""
        task = asyncio.ensure_future(work)
        died = asyncio.ensure_future(self._died.wait())
        await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if not self.dead:
            return task.result()
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)  # a task that waits for a dead committer would never end
        if task.done() and not task.cancelled():
            task.exception()
        raise Crash(self.points[-1])

    async def cancel_tasks(self) -> None:
        """Cancel the remaining tasks of a dead process."""
        if self.dead:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        await asyncio.sleep(0)


def _quiet_about_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, Crash):
        loop.default_exception_handler(context)
        return
    # The loop's frame and the error refer to each other, so objects in the frames below would be left to the garbage
    # collector. That may run in any thread, and a cursor that is being freed keeps its connection from closing.
    traceback.clear_frames(error.__traceback__)


class CrashInjection(Protocol):
    database: Database

    async def end(self) -> None: ...


async def open_with_crashes(settings: Settings, life: Life) -> CrashInjection:
    if settings.engine == "sqlite":
        return _CrashingSqlite(settings, life)
    return await _CrashingPostgres.open(settings, life)


def _is_write(sql: str) -> bool:
    return sql.lstrip()[:6].upper() in WRITES


def _named(sql: str) -> str:
    return " ".join(sql.split())[:60]


class _CrashingSqlite:
    def __init__(self, settings: Settings, life: Life) -> None:
        self._file = SqliteDatabase(settings.database_path)
        self.database: Database = self._file
        self._life = life
        self._dirty = False
        writer = self._file.writer
        self._commit, self._deliver, self._fail = writer._commit, writer._deliver, writer._fail
        writer._connection.exec_trace = self._trace
        writer._commit = self._committing  # type: ignore[method-assign]
        writer._deliver = self._delivering  # type: ignore[method-assign]
        writer._fail = self._failing  # type: ignore[method-assign]

    def _trace(self, cursor: Any, sql: str, bindings: Any) -> bool:
        if _is_write(sql):
            self._dirty = True
            self._life.point(_named(sql))
        elif self._life.dead:
            raise Crash(sql)
        return True

    def _committing(self, batch: Any, results: Any) -> None:  # on the writer's thread, which a crash simply stops
        with contextlib.suppress(Crash):
            if self._dirty:
                self._life.point("before COMMIT")
            self._commit(batch, results)

    def _delivering(self, batch: Any, results: Any) -> None:
        was, self._dirty = self._dirty, False
        with contextlib.suppress(Crash):
            if was:
                self._life.point("after COMMIT")
            if not self._life.dead:
                self._deliver(batch, results)

    def _failing(self, batch: Any, error: Exception) -> None:
        self._dirty = False
        if not self._life.dead:
            self._fail(batch, error)

    async def end(self) -> None:
        writer = self._file.writer
        writer._blocking.put(None)
        writer._thread.join(10)
        self._file._read_threads.shutdown()
        await asyncio.to_thread(writer._checkpoints.close)
        writer._connection.exec_trace = None
        for connection in (self._file._loop_connection, *self._file._thread_connections, writer._connection):
            connection.close()


class _Watched(asyncpg.Connection):
    """A connection during one life."""

    owner: ClassVar["_CrashingPostgres"]
    __slots__ = ("dirty",)

    async def execute(self, query: str, *values: Any, timeout: float | None = None) -> str:
        self._before(query)
        status: str = await super().execute(query, *values, timeout=timeout)
        self._after(query)
        return status

    async def fetch(self, query: str, *values: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        self._before(query)
        found = await super().fetch(query, *values, timeout=timeout, record_class=record_class)
        self._after(query)
        return found

    async def prepare(self, query: str, **options: Any) -> Any:
        statement = await super().prepare(query, **options)  # type: ignore[no-untyped-call]
        return _Batches(statement, self.owner.life) if query.startswith("SELECT ledger_batch") else statement

    def _before(self, query: str) -> None:
        life = self.owner.life
        if _is_write(query):
            self.dirty = True
            life.point(_named(query))
        elif query.startswith("COMMIT") and getattr(self, "dirty", False):
            life.point("before COMMIT")
        elif life.dead:
            raise Crash(query)

    def _after(self, query: str) -> None:
        if getattr(self, "dirty", False) and not self.is_in_transaction():  # type: ignore[no-untyped-call]
            self.dirty = False
            if not query.startswith("ROLLBACK"):
                self.owner.life.point("after COMMIT")


class _Batches:
    """The statement that executes and commits a batch of the ledger's commands."""

    def __init__(self, statement: Any, life: Life) -> None:
        self._statement, self._life = statement, life

    async def fetchval(self, *values: Any, **options: Any) -> Any:
        self._life.point("before a batch")
        found = await self._statement.fetchval(*values, **options)
        self._life.point("after a batch")
        return found


class _CrashingPostgres:
    database: Database

    def __init__(self, life: Life) -> None:
        self.life = life
        self._sessions: list[_Watched] = []
        self._watched = type("Watched", (_Watched,), {"owner": self, "__slots__": ()})
        self._connect = asyncpg.connect
        self._patch = mock.patch.object(asyncpg, "connect", self._connecting)

    @classmethod
    async def open(cls, settings: Settings, life: Life) -> "_CrashingPostgres":
        made = cls(life)
        made._patch.start()
        made.database = await open_database(settings)
        return made

    async def _connecting(self, *arguments: Any, **named: Any) -> Any:
        if (
            named.get("server_settings", {}).get("application_name") == "farebox test"
        ):  # a connection for reads from outside
            return await self._connect(*arguments, **named)  # type: ignore[no-untyped-call]
        if self.life.dead:
            raise Crash("connecting")
        session = await self._connect(  # type: ignore[no-untyped-call]
            *arguments, **named, connection_class=self._watched
        )
        self._sessions.append(session)
        return session

    async def end(self) -> None:
        self._patch.stop()
        if not self.life.dead:
            await self.database.close()
        for session in self._sessions:
            session.terminate()  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)
