"""SQLite's failures, translated to the errors that the rest of the program knows; and a file that lost its name."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from farebox.storage.sql import (
    Connection,
    DatabaseDamaged,
    DatabaseFailing,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseReplaced,
    DatabaseUnavailable,
)

_LOG_HEAD = struct.Struct(">8I")
_LOG_MAGIC = 0x377F0682
"""1 is added if its checksums use big-endian words."""

_NAMES: tuple[tuple[type[apsw.Error], type[DatabaseUnavailable]], ...] = (
    (apsw.FullError, DatabaseFull),
    (apsw.CorruptError, DatabaseDamaged),
    (apsw.NotADBError, DatabaseDamaged),
    (apsw.ReadOnlyError, DatabaseReadOnly),
    (apsw.PermissionsError, DatabaseReadOnly),
    (apsw.BusyError, DatabaseLocked),
    (apsw.LockedError, DatabaseLocked),
    (apsw.IOError, DatabaseFailing),
    (apsw.CantOpenError, DatabaseFailing),
    (apsw.NoLFSError, DatabaseFailing),
    (apsw.ProtocolError, DatabaseFailing),
)


def translated(error: Exception) -> Exception:
    """The error as the caller sees it: errors of a wrong statement stay as they are, those of the file and the disk
    become DatabaseUnavailable."""
    for theirs, ours in _NAMES:
        if isinstance(error, theirs):
            unavailable = ours(f"the database cannot be used: {error}")
            unavailable.__cause__ = error
            return unavailable
    return error


@contextmanager
def translate_errors() -> Iterator[None]:
    """A block whose errors are `translated`."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error) from error.__cause__


class FileIdentity:
    """Checks whether the open files are still those at their paths.

    SQLite continues to write to files that were deleted or replaced, and all that it writes there is lost when the
    process ends.
    """

    def __init__(self, path: Path) -> None:
        self._paths = (str(path), f"{path}-wal")
        self._known: list[tuple[int, int] | None] = [None, None]

    def renew_log(self) -> None:
        """Call it after the connection was reopened: SQLite may have started another write-ahead log for the same
        database."""
        self._known[1] = None

    def check(self) -> None:
        """Call it inside a transaction, when both files exist. Raises DatabaseReplaced."""
        for at, path in enumerate(self._paths):
            known, found = self._known[at], _identity(path)
            if known is None:
                self._known[at] = found
            elif known != found:
                what = "is gone" if found is None else "is another file now"
                raise DatabaseReplaced(f"{path} {what}: whatever is written would be lost")


class LogHead:
    """The header of the write-ahead log (https://sqlite.org/fileformat2.html#walformat). SQLite reads it again only
    when it opens the file, and would ignore the whole log if the header were damaged."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}-wal"
        self._seen_whole = False
        """Until then, the next commit repairs what a crash has left."""

    def check(self) -> None:
        """Call it inside a transaction that has written nothing yet, so that nothing is being written to the file.
        Closing the file here releases no lock of SQLite, because SQLite holds none on it. Raises DatabaseDamaged if it
        was overwritten."""
        try:
            with open(self._path, "rb") as file:
                head = file.read(_LOG_HEAD.size)
        except OSError:
            return  # Names reports a missing file
        if _is_log_head(head):
            self._seen_whole = True
        elif self._seen_whole and head:
            raise DatabaseDamaged(f"{self._path} has been overwritten: it does not begin as it did")


def _is_log_head(head: bytes) -> bool:
    if len(head) < _LOG_HEAD.size:
        return False
    magic, *_, first, second = _LOG_HEAD.unpack(head)
    return magic in (_LOG_MAGIC, _LOG_MAGIC + 1) and _log_sums(head[:24], magic) == (first, second)


def _log_sums(data: bytes, magic: int) -> tuple[int, int]:
    """SQLite's two checksums of the header of a log."""
    first = second = 0
    for one, other in struct.iter_unpack(">II" if magic & 1 else "<II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def _identity(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


class Failures:
    """The failures of an open database."""

    def __init__(self) -> None:
        self.damage: DatabaseDamaged | None = None
        """Damage found, until a check of the whole file finds none."""
        self.checked_at = float("-inf")
        """When the file was last checked, by the event loop's clock."""
        self.count = 0
        self.latest: dict[str, DatabaseUnavailable] = {}
        """State → latest failure since the last call of `take_failures`."""

    def record(self, error: Exception) -> Exception:
        """Remember the failure; returns the error as the caller sees it."""
        found = translated(error)
        if isinstance(found, DatabaseUnavailable):
            self.count += 1
            self.latest[found.state] = found
        if isinstance(found, DatabaseDamaged):
            self.damage = found
        return found


def damages(connection: Connection, at_most: int = 100) -> list[str]:
    """What SQLite finds wrong with the file, in its words; empty if it is intact. Reads the whole file."""
    try:
        found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({at_most})")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return [str(error)]
    return [] if found == ["ok"] else found
