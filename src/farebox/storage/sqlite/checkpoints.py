"""Moving what commits have written to the log (WAL) into the database file, beside the commits.

SQLite does it in whichever commit makes the log long: that one takes ten times as long as the others, and all wait for
it. Here a thread with a connection of its own does most of it while commits go on, and a commit only the little that
came meanwhile; then the log begins anew.
"""

import queue
import threading
from pathlib import Path
from typing import Final

import apsw

from farebox.storage.sqlite import LOG_PAGES, SqliteConnection, connect

PAGES: Final = LOG_PAGES
"""Of a log that is moved, as SQLite itself would."""
PAGES_MAX: Final = 4 * PAGES
"""From here on commits wait for it: they come faster than it can be moved."""


class Checkpoints:
    """Of one writing connection, from the commits of which it is called."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._due: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Whether there is something to do, or it is the end."""
        self._under_way = False
        self._nearly_done = False
        self._pages = 0
        self._thread = threading.Thread(target=self._work, name="farebox-checkpoint", daemon=True)
        self._thread.start()

    def watch(self, connection: SqliteConnection) -> None:
        """Take its commits' checkpoints over."""
        connection.set_wal_hook(self._written)

    def committed(self, connection: SqliteConnection) -> None:
        """Behind each commit, on its thread."""
        if self._nearly_done or self._pages > PAGES_MAX:
            self._nearly_done = False
            _move(connection)
        elif self._pages > PAGES and not self._under_way:
            self._under_way = True
            self._due.put(True)

    def close(self) -> None:
        """Waits for what is under way."""
        self._due.put(False)
        self._thread.join()
        self._connection.close()

    def _written(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _work(self) -> None:
        while self._due.get():
            self._nearly_done = _move(self._connection)
            self._under_way = False


def _move(connection: SqliteConnection) -> bool:
    """Whether it worked: a disk that fails will be met by commits, and the log keeps what they have written."""
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.Error:
        return False
    return True
