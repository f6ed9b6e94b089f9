"""A PostgreSQL database as the rest of the program sees it.

Jobs that write take turns, across all processes, by an advisory lock: what one reads before it writes cannot be changed
by another meanwhile, as with SQLite's one writer. Calls do not take part in that: their holds and charges go through
the ledger's lanes (farebox.ledger.lanes), which lock the rows of their accounts and nothing else. Hence a job that goes
on from an account's balance, lots or holds locks its row first (ledger.rows.read_balance does).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import structlog

from farebox.clock import SystemClock
from farebox.storage.activity import Activity, Notes
from farebox.storage.postgres import bridge
from farebox.storage.postgres.connecting import TRY_AGAIN, Session, connect, named
from farebox.storage.postgres.health import Health, Standby, check_fitness
from farebox.storage.postgres.migrations import TURN, migrate
from farebox.storage.postgres.pooler import require_sessions
from farebox.storage.sql import Connection, DatabaseUnavailable

T = TypeVar("T")

READERS = 8
"""Connections for short reads, opened when they are needed."""
SCANNERS = 4
"""Connections for long ones."""
SCAN_SECONDS = 60.0
TRIES = 10
"""How often a transaction is run that another one made impossible."""

# The message is empty: it is there so that a job which found its work done already has something to commit, and so
# waits for the standby like the commit that did the work.
_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({TURN}); SELECT pg_logical_emit_message(true, 'farebox', '')"

log = structlog.get_logger("farebox.storage")


class Sessions:
    """A few connections, opened when they are needed and given to one user at a time."""

    def __init__(self, url: str, size: int, *, timeout: float, health: Health) -> None:
        self._url = url
        self._timeout = timeout
        self._health = health
        self._free: list[Session] = []
        self._places = asyncio.Semaphore(size)
        self._closed = False

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Session]:
        """A connection of the user's own for a while. Raises DatabaseUnavailable; where the database is known to be
        away, at once."""
        self._health.check_reads()
        await self._place()
        try:
            if self._closed:
                raise DatabaseUnavailable("the database is closed")
            self._health.check_reads()  # it may have gone while others had all the places
            session = self._open_one() or await self._connect()
            try:
                with named():
                    yield session
            except DatabaseUnavailable as error:
                session.terminate()  # whatever it was doing
                self._health.failed(error)
                raise
            except asyncio.CancelledError:
                session.terminate()
                raise
            finally:
                self._give_back(session)
        finally:
            self._places.release()

    async def _place(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._places.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("the database is too busy: no connection became free in time") from error

    async def _connect(self) -> Session:
        try:
            return await connect(self._url, timeout=self._timeout)
        except DatabaseUnavailable as error:
            self._health.failed(error)
            raise

    def _give_back(self, session: Session) -> None:
        if self._closed or session.is_closed() or session.is_in_transaction():
            session.terminate()
        else:
            self._free.append(session)

    def _open_one(self) -> Session | None:
        while self._free:
            session = self._free.pop()
            if not session.is_closed():
                return session
        return None

    def close(self) -> None:
        self._closed = True
        for session in self._free:
            session.terminate()
        self._free.clear()


class PostgresDatabase:
    """A PostgreSQL database, open for a server."""

    engine = "postgres"

    def __init__(
        self, url: str, *, timeout: float, standby: Standby = "ignore", activity: Activity | None = None
    ) -> None:
        self.url = url
        self.activity = activity
        self._monotonic = SystemClock().monotonic
        self.timeout = timeout
        """Longest wait for a statement, in seconds."""
        self.health = Health(url, timeout=timeout, standby=standby)
        self._readers = Sessions(url, READERS, timeout=timeout, health=self.health)
        self._scanners = Sessions(url, SCANNERS, timeout=SCAN_SECONDS, health=self.health)
        self._writers = Sessions(url, 1, timeout=timeout, health=self.health)
        self._writing: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls, url: str, *, timeout: float, standby: Standby = "ignore", activity: Activity | None = None
    ) -> "PostgresDatabase":
        """Connect, bring the schema up to date and begin to watch. Raises DatabaseUnavailable, SchemaMismatch."""
        session = await connect(url, timeout=SCAN_SECONDS)
        try:
            with named():
                await require_sessions(session, partial(connect, url, timeout=timeout))
                await check_fitness(session, standby)
                await migrate(session)
        finally:
            session.terminate()
        database = cls(url, timeout=timeout, standby=standby, activity=activity)
        database.health.watch()
        return database

    async def get(self, read: Callable[[Connection], T]) -> T:
        """A read of a few rows by key."""
        async with self._readers.one() as session:
            return await bridge.run(read, session)

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """A read that may take long: on connections of its own, so that short ones need not wait for it."""
        async with self._scanners.one() as session:
            return await bridge.run(read, session)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction of its own; its result, once that is durable.

        The job may be run more than once. It goes on where its caller is cancelled. Raises what the job raises, or
        DatabaseUnavailable: then it may or may not have been committed.
        """
        self.health.check()
        task: asyncio.Task[T] = asyncio.ensure_future(self._write(job))
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: "asyncio.Task[Any]") -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone

    async def _write(self, job: Callable[[Connection], T]) -> T:
        async with self._writers.one() as session:  # kept until it is done: jobs are done in the order they came in
            for _ in range(TRIES):
                notes: Notes = {}
                await session.execute(_BEGIN)
                try:
                    result = await bridge.run(job, session, notes)
                    began = self._monotonic()
                    await session.execute("COMMIT")
                except TRY_AGAIN as error:
                    log.info("transaction tried again", why=str(error))
                    await session.execute("ROLLBACK")
                    continue
                except Exception:
                    if not session.is_closed():  # else there is nothing to undo
                        await session.execute("ROLLBACK")
                    raise
                if self.activity is not None:
                    self.activity.job(self._monotonic() - began, notes)
                return result
        raise DatabaseUnavailable(f"the transaction was undone {TRIES} times for others' sake")

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn, or have it."""
        return len(self._writing)

    def check(self) -> None:
        """Raises DatabaseUnavailable where the database is away, or has no standby and needs one."""
        self.health.check()

    def suspect(self, error: DatabaseUnavailable) -> None:
        """A connection that is not one of these failed."""
        self.health.failed(error)

    async def close(self) -> None:
        """Finish what is being written, then close the connections."""
        if self._writing:
            await asyncio.wait(self._writing)
        await self.health.close()
        for sessions in (self._readers, self._scanners, self._writers):
            sessions.close()
