"""SQLite: connections and schema of the embedded engine.

WAL with `synchronous=FULL`: a commit that returned survives a power cut. Any number of processes may read and write the
file (the command line next to a running server); they take turns by `BEGIN IMMEDIATE`.
"""

import errno
import os
from pathlib import Path
from typing import Any

import apsw

from farebox.storage.buckets import KnownBuckets
from farebox.storage.copy_mark import COPY_INCOMPLETE, COPY_PROGRESS
from farebox.storage.schema import missing
from farebox.storage.sql import DatabaseFull, DatabaseReadOnly, DatabaseUnavailable, SchemaMismatch
from farebox.storage.sqlite.failures import translate_errors, translated


class SqliteConnection(apsw.Connection):
    """A connection that may take notes of what its transactions do, and caches the buckets of accounts."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.buckets = KnownBuckets()

    notes: dict[tuple[str, str], int] | None = None
    """storage.activity.Notes; None: not counted."""


PAGE_BYTES = 1024
"""A commit writes each page that it has changed to the log as a whole, and a call changes many pages for two kilobytes
of data: with SQLite's default of 4096 bytes it would write twice as much. Smaller pages could not hold the ledger's
rows."""
LOG_PAGES = 8_000
"""The log is copied into the file when it has this many pages: a page that many commits have written is then copied
only once."""
BUSY_TIMEOUT_MS = 10_000
_KINDS = {
    errno.ENOSPC: DatabaseFull,
    errno.EDQUOT: DatabaseFull,
    errno.EROFS: DatabaseReadOnly,
    errno.EACCES: DatabaseReadOnly,
    errno.EPERM: DatabaseReadOnly,
}


def connect(path: Path, *, readonly: bool = False) -> SqliteConnection:
    """Open the database file, creating it unless `readonly`. Raises DatabaseUnavailable."""
    if not readonly:
        make_private(path)
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    try:
        connection = SqliteConnection(str(path), flags=flags)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Without this SQLite plans a statement again whenever different values are bound, which takes a third of a
        # command's time.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        if not readonly:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # has no effect on a file that has pages already
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            connection.execute("PRAGMA synchronous = FULL")
    except apsw.Error as error:
        found = translated(error)
        kind = type(found) if isinstance(found, DatabaseUnavailable) else DatabaseUnavailable
        raise kind(f"{path} cannot be opened as a database: {error}") from error
    return connection


def make_private(path: Path) -> None:
    """Create the file if missing, readable by its owner alone: SQLite would make it readable to everyone, and gives the
    files next to it the same mode.

    Raises DatabaseUnavailable. An existing one is not opened: closing it would release the locks that SQLite holds on
    it in this process.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, DatabaseUnavailable)
        raise kind(f"{path} cannot be opened as a database: {error.strerror}") from error


def open_file(path: Path) -> SqliteConnection:
    """A connection to a file whose schema has been brought up to date. Raises DatabaseUnavailable, SchemaMismatch."""
    connection = connect(path)
    with translate_errors():
        migrate(connection)
    return connection


def schema_version(connection: SqliteConnection) -> int:
    """Version of the file's schema (storage.schema); 0 for an empty file."""
    (version,) = next(iter(connection.execute("PRAGMA user_version")))
    return int(version)


def migrate(connection: SqliteConnection, *, copy_incomplete: bool = False) -> list[int]:
    """Bring the schema to this release's version, in one transaction; return the versions that were applied.

    Raises SchemaMismatch if the file was written by a newer release or one too old to upgrade from, or is unexpectedly
    half copied.
    """
    if (
        not copy_incomplete
        and connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (COPY_PROGRESS,)).fetchone()
    ):
        raise SchemaMismatch(COPY_INCOMPLETE)
    if not missing(schema_version(connection)):
        return []
    applied = []
    connection.execute("BEGIN IMMEDIATE")  # another process may be migrating: look again once it is our turn
    for number, text in missing(schema_version(connection)):
        connection.execute(text.replace("/* clustered */", "WITHOUT ROWID"))
        connection.execute(f"PRAGMA user_version = {number}")
        applied.append(number)
    connection.execute("COMMIT")
    return applied
