"""Checkpoints: copies pages from the log (WAL) into the database file, in parallel with commits.

By default, SQLite does this in the commit that makes the log long enough: that commit takes ten times as long as
others, and all others wait for it. Here a thread with its own connection does most of the work while commits continue,
and a commit copies only the little that was added in the meantime; then the log starts from the beginning.
"""

import queue
import threading
from pathlib import Path
from typing import Final

import apsw

from farebox.storage.sqlite import LOG_PAGES, SqliteConnection, connect

PAGES: Final = LOG_PAGES
"""Length of the log at which it is copied, as SQLite itself would."""
PAGES_MAX: Final = 4 * PAGES
"""From this length on, commits wait for the copy, because they write faster than it copies."""


class Checkpoints:
    """The checkpoints of one writing connection; its commits call this object."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._due: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: there is something to do; False: stop."""
        self._under_way = False
        self._nearly_done = False
        self._pages = 0
        self._thread = threading.Thread(target=self._work, name="farebox-checkpoint", daemon=True)
        self._thread.start()

    def watch(self, connection: SqliteConnection) -> None:
        """Make the checkpoints for its commits, in place of SQLite."""
        connection.wal_autocheckpoint(0)

    def committed(self, connection: SqliteConnection) -> None:
        """Called after each commit, on its thread."""
        written, _ = connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)
        self._pages += written
        if self._nearly_done or self._pages > PAGES_MAX:
            self._nearly_done = False
            left = _move(connection)
            self._pages = self._pages if left is None else left
        elif self._pages > PAGES and not self._under_way:
            self._under_way = True
            self._due.put(True)

    def close(self) -> None:
        """Wait for a checkpoint in progress, then stop."""
        self._due.put(False)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while self._due.get():
            self._nearly_done = _move(self._connection) is not None
            self._under_way = False


def _move(connection: SqliteConnection) -> int | None:
    """The number of pages in the log that the next commit appends to: 0 if all could be copied, because the commit then
    starts the log from the beginning. None if copying failed: commits will meet the failing disk themselves, and the
    log keeps what they have written."""
    try:
        pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.Error:
        return None
    return 0 if copied == pages else pages
