"""An SQLite file as the rest of the program sees it: short reads at once, long reads aside, writes in groups."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from farebox.storage.activity import Activity
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import SqliteConnection, connect, open_file
from farebox.storage.sqlite.writer import Writer

T = TypeVar("T")

READERS = 4
"""Threads for long reads, each with a connection of its own."""


class SqliteDatabase:
    """One SQLite file, open for a server. Make it inside the running loop; `await close()` at the end."""

    engine = "sqlite"

    def __init__(self, path: Path, activity: Activity | None = None) -> None:
        open_file(path).close()
        self.path = path
        self.writer = Writer(path, activity)
        self._near = connect(path, readonly=True)
        self._far = threading.local()
        self._far_opened: list[SqliteConnection] = []
        self._far_threads = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="farebox-reader")

    async def get(self, read: Callable[[Connection], T]) -> T:
        """A read of a few rows by key: microseconds, so it runs on the event loop itself."""
        return read(self._near)

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """A read that may take long (lists, reports): runs on a thread, so that nobody's report waits for another's."""
        return await asyncio.get_running_loop().run_in_executor(self._far_threads, self._read_far, read)

    def _read_far(self, read: Callable[[Connection], T]) -> T:
        connection: SqliteConnection | None = getattr(self._far, "connection", None)
        if connection is None:  # the thread's first read
            connection = self._far.connection = connect(self.path, readonly=True)
            self._far_opened.append(connection)
        return read(connection)

    async def write(self, job: Callable[[Connection], T]) -> T:
        """A write, durable when it returns; see storage.sqlite.writer.Writer.run."""
        return await self.writer.run(job)

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        return self.writer.waiting

    def check(self) -> None:
        """Nothing is known beforehand of a file: whoever writes finds out."""

    def suspect(self, error: DatabaseUnavailable) -> None:
        """Nothing is kept in mind."""

    async def close(self) -> None:
        self._far_threads.shutdown()
        for connection in self._far_opened:
            connection.close()
        self._near.close()
        await self.writer.close()  # last: whoever closes last folds the write-ahead log into the database file
