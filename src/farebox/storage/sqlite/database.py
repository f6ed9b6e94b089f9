"""An SQLite file as the rest of the program sees it: short reads inline, long reads on threads, writes in groups."""

import asyncio
import errno
import stat
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import structlog

from farebox.jobs import OnFailure
from farebox.storage.activity import Activity
from farebox.storage.journal_files import reserve_space
from farebox.storage.sql import Connection, DatabaseDamaged, DatabaseFull, DatabaseLocked, DatabaseUnavailable
from farebox.storage.sqlite import SqliteConnection, connect, open_file
from farebox.storage.sqlite.failures import Failures, LogHead, damages
from farebox.storage.sqlite.writer import Writer

T = TypeVar("T")

log = structlog.get_logger("farebox.storage")

APPLICATION_ID = 0x46415245
"""`FARE`: `file farebox.db` shows it, and it is written to test whether writing works."""
RECHECK_SECONDS = 60.0

READERS = 4
"""Threads for long reads, each with its own connection."""


class SqliteDatabase:
    """One SQLite file, opened by a server. Create it inside the running loop; `await close()` at the end."""

    engine = "sqlite"

    def __init__(self, path: Path, activity: Activity | None = None, *, failed: OnFailure | None = None) -> None:
        _close_to_others(path)
        open_file(path).close()
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._failures = Failures()
        self.writer = Writer(path, activity, failed=failed, met=self._failures.record)
        self._log_head = LogHead(path)
        self._loop_connection = connect(path, readonly=True)
        self._thread_local = threading.local()
        self._thread_connections: list[SqliteConnection] = []
        self._read_threads = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="farebox-reader")

    async def get(self, read: Callable[[Connection], T]) -> T:
        """Read a few rows by key; takes microseconds, so it runs on the event loop itself."""
        try:
            return read(self._loop_connection)
        except apsw.Error as error:
            raise self._failures.record(error) from error

    def get_shared(self, read: Callable[[Connection, str], T], account_id: str) -> "asyncio.Future[T]":
        """The same for an account. Nothing is shared, so nothing waits."""
        found: asyncio.Future[T] = self._loop.create_future()
        try:
            found.set_result(read(self._loop_connection, account_id))
        except apsw.Error as error:
            raise self._failures.record(error) from error
        return found

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """Run a read that may take long (lists, reports) on a thread, so that reports do not wait for each other."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._read_threads, self._read_in_thread, read)
        except (apsw.Error, DatabaseUnavailable) as error:
            raise self._failures.record(error) from error

    def _read_in_thread(self, read: Callable[[Connection], T]) -> T:
        connection: SqliteConnection | None = getattr(self._thread_local, "connection", None)
        if connection is None:  # the thread's first read
            connection = self._thread_local.connection = connect(self.path, readonly=True)
            self._thread_connections.append(connection)
        return read(connection)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """A write, durable when it returns; see storage.sqlite.writer.Writer.run."""
        return await self.writer.run(job)

    def take_queued(self) -> bool:
        """True: no other process searches the queues."""
        return True

    def forget_buckets(self, account_ids: Collection[str] | None) -> None:
        """Nothing to do: in a file, accounts stay in their buckets."""

    async def check_writable(self) -> None:
        """Commit something; after damage was found, check for it first. Raises DatabaseUnavailable."""
        failures, now = self._failures, asyncio.get_running_loop().time()
        if failures.damage is not None:
            if now - failures.checked_at < RECHECK_SECONDS:  # it reads the whole file
                raise failures.damage
            failures.checked_at = now
            found = await self.scan(partial(damages, at_most=1))
            failures.damage = DatabaseDamaged(f"{self.path} is damaged: {found[0]}") if found else None
            if failures.damage is not None:
                raise failures.damage
        await asyncio.get_running_loop().run_in_executor(None, self._check_space)
        await self.write(self._mark)

    def _mark(self, connection: Connection) -> None:
        """Write a page even if its content does not change. Raises DatabaseDamaged."""
        self._log_head.check()
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _check_space(self) -> None:
        """Check that there is space: the mark alone needs none, as it overwrites a page. Raises DatabaseFull."""
        try:
            reserve_space(self.path.parent)
        except OSError as error:  # other errors concern the folder: the files in it may still be writable
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DatabaseFull(f"{self.path.parent}: {error.strerror}") from error

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return self.writer.waiting

    def check(self) -> None:
        """Does nothing: whether the file works shows only when a write runs."""

    def report_failure(self, error: DatabaseUnavailable) -> None:
        """Does nothing."""

    @property
    def blocked_by(self) -> DatabaseLocked | None:
        """DatabaseLocked while another process holds the write lock; otherwise None."""
        return DatabaseLocked(f"{self.path}: another process is writing") if self.writer.awaits_turn else None

    @property
    def failure_count(self) -> int:
        """How many reads and writes have failed since the start."""
        return self._failures.count

    def take_failures(self) -> list[DatabaseUnavailable]:
        """The failures since the last call, the latest of each state."""
        latest, self._failures.latest = self._failures.latest, {}
        return list(latest.values())

    async def close(self) -> None:
        self._read_threads.shutdown()
        for connection in self._thread_connections:
            connection.close()
        self._loop_connection.close()
        await (
            self.writer.close()
        )  # last: the last connection to close copies the write-ahead log into the database file


def _close_to_others(path: Path) -> None:
    """Remove permissions for others that earlier releases, or a copy, have left. The group's permissions stay."""
    for file in (path, *(Path(f"{path}{end}") for end in ("-wal", "-shm"))):
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & stat.S_IRWXO:
                file.chmod(mode & ~stat.S_IRWXO)
                log.warning("data file was accessible to other users", file=str(file), mode=f"{mode:o}")
        except FileNotFoundError:
            continue
        except OSError as error:  # owned by another user, or on a file system without modes: the operator has to do it
            log.warning("data file is accessible to other users", file=str(file), mode=f"{mode:o}", why=error.strerror)
