"""A PostgreSQL database as the rest of the program sees it.

Jobs that write take turns, across all processes, by an advisory lock: what a job reads before it writes cannot be
changed by another job in the meantime, as with SQLite's single writer. Calls do not take turns: their holds and charges
go through the ledger's lanes (farebox.ledger.lanes), which lock only the rows of their accounts. So a job that depends
on an account's balance, lots or holds locks its row first (ledger.rows.read_balance does).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, cast

import structlog

from farebox.clock import SystemClock
from farebox.storage.activity import Activity, Notes
from farebox.storage.buckets import KnownBuckets
from farebox.storage.postgres import bridge
from farebox.storage.postgres.connecting import RECONNECTS_MAX, TRY_AGAIN, Session, connect, has_ended, translate_errors
from farebox.storage.postgres.distributing import is_distributed
from farebox.storage.postgres.health import DatabaseHealth, Standby, check_fitness
from farebox.storage.postgres.migrations import TURN, migrate
from farebox.storage.postgres.pooler import require_sessions
from farebox.storage.postgres.shared_reads import SharedReads
from farebox.storage.sql import Connection, DatabaseFull, DatabaseUnavailable, NodeUnavailable

T = TypeVar("T")

READERS = 8
"""Connections for short reads, opened when they are needed."""
SCANNERS = 4
"""Connections for long reads."""
SCAN_SECONDS = 60.0
TRIES = 10
"""How often a transaction that conflicts with others is tried."""

_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({TURN})"
_MARK = "SELECT pg_current_xact_id()::text, pg_postmaster_start_time(), pg_logical_emit_message(true, 'farebox', '')"
"""The transaction's ID, and the server's start time, because an ID is meaningless on another server. The empty message
gives a job that found its work already done something to commit, so that it waits for the standby like the commit that
did the work."""
_BECAME = "SELECT pg_xact_status($1::text::xid8)"

log = structlog.get_logger("farebox.storage")


class SessionLost(DatabaseUnavailable):
    """The connection has ended, which says nothing about the database: another connection may work."""


class Sessions:
    """A few connections, opened when they are needed and used by one task at a time."""

    def __init__(self, url: str, size: int, *, timeout: float, health: DatabaseHealth, plan_each: bool = False) -> None:
        self._url = url
        self._plan_each = plan_each
        self._timeout = timeout
        self._health = health
        self._free: list[Session] = []
        self._places = asyncio.Semaphore(size)
        self._closed = False

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do `work` with a connection of its own; if the connection ends, start again with a new one, up to
        RECONNECTS_MAX times.

        Raises DatabaseUnavailable; at once if the database is known to be unavailable.
        """
        self._health.check_reads()
        if self._places.locked():
            await self._place()
        else:
            await self._places.acquire()  # at once
        try:
            if self._closed:
                raise DatabaseUnavailable("the database is closed")
            self._health.check_reads()  # it may have become unavailable while all connections were in use
            session = self._open_one()
            for _ in range(RECONNECTS_MAX):
                with suppress(SessionLost):
                    return await self._run(work, session or await self._connect())
                session = None
            try:
                return await self._run(work, await self._connect())
            except SessionLost as error:
                self._health.failed(error)
                raise
        finally:
            self._places.release()

    async def _run(self, work: Callable[[Session], Awaitable[T]], session: Session) -> T:
        try:
            with translate_errors():
                return await work(session)
        except NodeUnavailable as error:  # the session still works
            self._health.failed(error)
            raise
        except DatabaseUnavailable as error:
            # A server that shuts down because its disk is full says so: another session will not help.
            lost = has_ended(session, error) and not isinstance(error, DatabaseFull)
            session.terminate()  # even if a statement is still running
            if lost:
                raise SessionLost(str(error)) from error
            self._health.failed(error)
            raise
        except asyncio.CancelledError:
            session.terminate()
            raise
        finally:
            self._give_back(session)

    async def _place(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._places.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("the database is too busy: no connection became free in time") from error

    async def _connect(self) -> Session:
        try:
            return await connect(self._url, timeout=self._timeout, plan_each=self._plan_each)
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


class _Transaction(Generic[T]):
    """A job and its transaction, which may be restarted on another connection if the first one ends."""

    def __init__(self, job: Callable[[Connection], T], monotonic: Callable[[], float]) -> None:
        self._job = job
        self._monotonic = monotonic
        self.notes: Notes = {}
        """What the committed job did."""
        self.seconds = 0.0
        """How long its commit took."""
        self._sent: tuple[str, datetime] | None = None
        """Transaction whose commit was sent but not acknowledged: its ID, and the start time of its server."""
        self._done = False
        """The job has been committed, and only the acknowledgement is missing."""
        self._result: T | None = None

    async def run(self, session: Session) -> T:
        for _ in range(TRIES):
            await session.execute(_BEGIN)
            try:
                transaction, server, _ = await session.fetchrow(_MARK)
                if self._sent is not None and not self._done:
                    self._done = await self._was_committed(session, server)
                if not self._done:
                    self.notes = {}
                    self._result = await bridge.run(self._job, session, self.notes)
                    self._sent = transaction, server
                began = self._monotonic()
                await session.execute("COMMIT")
                self.seconds = self._monotonic() - began
            except TRY_AGAIN as error:
                log.info("transaction tried again", why=str(error))
                await session.execute("ROLLBACK")
            except Exception:
                if not session.is_closed():  # otherwise there is nothing to undo
                    await session.execute("ROLLBACK")
                raise
            else:
                return cast(T, self._result)
            self._sent = None
        raise DatabaseUnavailable(f"the transaction conflicted with others and was rolled back {TRIES} times")

    async def _was_committed(self, session: Session, server: datetime) -> bool:
        """Whether the transaction whose commit was not acknowledged went through. It is over, as we have the lock.

        Raises DatabaseUnavailable if that cannot be determined.
        """
        assert self._sent is not None
        if server == self._sent[1]:
            became = await session.fetchval(_BECAME, self._sent[0])
            if became in ("committed", "aborted"):
                return bool(became == "committed")
        raise DatabaseUnavailable("whether the transaction was committed is unknown: it was another server's")


class PostgresDatabase:
    """A PostgreSQL database, opened by a server."""

    engine = "postgres"

    def __init__(
        self, url: str, *, timeout: float, standby: Standby = "ignore", activity: Activity | None = None
    ) -> None:
        self.url = url
        self.activity = activity
        self._monotonic = SystemClock().monotonic
        self.timeout = timeout
        """Longest wait for a statement, in seconds."""
        self.buckets = KnownBuckets()
        """The known buckets of accounts (storage.account_keys)."""
        self.health = DatabaseHealth(url, timeout=timeout, standby=standby)
        self._readers = Sessions(url, READERS, timeout=timeout, health=self.health)
        self._scanners = Sessions(url, SCANNERS, timeout=SCAN_SECONDS, health=self.health, plan_each=True)
        self._writers = Sessions(url, 1, timeout=timeout, health=self.health)
        self._shared = SharedReads(self.get)
        self._writing: set[asyncio.Task[Any]] = set()
        self._queued = True

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        timeout: float,
        standby: Standby = "ignore",
        activity: Activity | None = None,
        buckets: int | None = None,
    ) -> "PostgresDatabase":
        """Connect, bring the schema up to date and start to watch the database. `buckets`, if given, must be the stored
        number. Raises DatabaseUnavailable, SchemaMismatch."""
        session = await connect(url, timeout=SCAN_SECONDS)
        try:
            with translate_errors():
                await require_sessions(session, partial(connect, url, timeout=timeout))
                await check_fitness(session, standby)
                await migrate(session, buckets=buckets)
                is_cluster = await is_distributed(session)
        finally:
            session.terminate()
        database = cls(url, timeout=timeout, standby=standby, activity=activity)
        database.health.is_cluster = is_cluster
        database.health.watch()
        return database

    async def get(self, read: Callable[[Connection], T]) -> T:
        """Read a few rows by key."""
        return await self._readers.run(partial(bridge.run, read, buckets=self.buckets))

    def get_shared(self, read: Callable[[Connection, str], T], account_id: str) -> "asyncio.Future[T]":
        """Read a few rows of an account; callers that ask at the same time share a query."""
        return self._shared.read(read, account_id)

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """Run a read that may take long, on separate connections, so that short reads need not wait for it."""
        return await self._scanners.run(partial(bridge.run, read, buckets=self.buckets))

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in its own transaction; returns its result once it is durable.

        The job may be run more than once. It continues if its caller is canceled. Raises what the job raises, or
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
            task.exception()  # the caller has it, or is gone

    async def _write(self, job: Callable[[Connection], T]) -> T:
        transaction = _Transaction(job, self._monotonic)
        try:
            # One connection: jobs run in the order in which they were submitted.
            result = await self._writers.run(transaction.run)
        finally:  # not before the commit, and also if its outcome is unknown
            if transaction.notes.pop(bridge.QUEUED, 0):
                self.note_queued()
        if self.activity is not None:
            self.activity.job(transaction.seconds, transaction.notes)
        return result

    def note_queued(self) -> None:
        """A transaction of this process that may have put work into a queue has ended."""
        self._queued = True

    def take_queued(self) -> bool:
        queued, self._queued = self._queued, False
        return queued

    async def check_writable(self) -> None:
        """Commit something. Raises DatabaseUnavailable; DatabaseDamaged if damage was found recently."""
        if (damage := self.health.damage) is not None:
            raise damage
        await self.write(lambda connection: None)

    blocked_by = None

    @property
    def failure_count(self) -> int:
        """How many failures were reported to the watch."""
        return self.health.failure_count

    def take_failures(self) -> list[DatabaseUnavailable]:
        """The failures since the last call, the latest of each state."""
        return self.health.take_failures()

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn, or have it."""
        return len(self._writing)

    def forget_buckets(self, account_ids: Collection[str] | None) -> None:
        if account_ids is None:
            self.buckets.forget_all()
        else:
            self.buckets.forget(account_ids)

    def check(self) -> None:
        """Raises DatabaseUnavailable if the database is unavailable, or lacks a required standby."""
        self.health.check()

    def report_failure(self, error: DatabaseUnavailable) -> None:
        """Report that a connection outside this object failed."""
        self.health.failed(error)

    async def close(self) -> None:
        """Finish what is being written, then close the connections."""
        if self._writing:
            await asyncio.wait(self._writing)
        await self.health.close()
        for sessions in (self._readers, self._scanners, self._writers):
            sessions.close()
