"""An SQLite file as one end of a copy."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import apsw

from farebox.storage.copy_mark import COPY_PROGRESS
from farebox.storage.dbcopy.ends import MARK, Progress, Row, mark, select
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import connect, migrate, open_file
from farebox.storage.tables import Table


class SqliteSource:
    """No server uses the file, and nothing writes to it, until this object is closed."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DatabaseUnavailable(f"there is no database at {path}")
        self._lock = _locked(path)
        try:
            self._guard = open_file(path)
            try:
                self._guard.execute("BEGIN IMMEDIATE")
            except apsw.BusyError as error:
                raise DatabaseUnavailable(f"another command writes to {path}: wait until it ends") from error
            self._connection = connect(path, readonly=True)
        except BaseException:
            self._lock.close()
            raise

    @property
    def connection(self) -> Connection:
        return self._connection

    def rows_of(self, table: Table, after: Sequence[Any] | None) -> Iterator[Row]:
        yield from self._connection.execute(select(table, above=after is not None), tuple(after or ()))

    def close(self) -> None:
        self._connection.close()
        self._guard.close()
        self._lock.close()


class SqliteTarget:
    """A file that nothing else uses until this object is closed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(path)
        try:
            self._connection = connect(path)
            migrate(self._connection, copy_incomplete=True)
        except BaseException:
            self._lock.close()
            raise

    @property
    def connection(self) -> Connection:
        return self._connection

    def add(self, table: Table, batch: Sequence[Row], progress: Progress) -> None:
        sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))})"
        with self._connection:
            self._connection.executemany(sql, batch)
            self._connection.execute(MARK, mark(table, progress))

    def tidy(self) -> None:
        """Nothing to do: SQLite plans without statistics."""

    def finish(self) -> None:
        self._connection.execute(f"DROP TABLE {COPY_PROGRESS}")

    def close(self) -> None:
        self._connection.close()
        self._lock.close()


def _locked(path: Path) -> IO[str]:
    """The lock that a server of the file holds for as long as it runs."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    file: IO[str] = os.fdopen(os.open(path.with_suffix(".lock"), flags, 0o600), "a")  # the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise DatabaseUnavailable(f"a Farebox process serves {path}, or copies it: stop it first") from error
    return file
