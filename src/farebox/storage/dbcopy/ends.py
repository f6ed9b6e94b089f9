"""The two ends of a copy, whatever their engine; and the marks of a copy in progress.

The target keeps one row in COPY_PROGRESS for each table, written in the commit that writes the rows it describes, and
one for the copy as a whole. While that table exists, the database is half copied, and no other command opens it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from farebox.storage.copy_mark import COPY_PROGRESS
from farebox.storage.sql import Connection, row, rows
from farebox.storage.tables import Table, tables

Row: TypeAlias = tuple[Any, ...]

_CREATE = f"CREATE TABLE IF NOT EXISTS {COPY_PROGRESS} (name TEXT PRIMARY KEY, state BYTEA NOT NULL)"
_SEEDED = ("config_version",)
"""Tables that the schema puts a row into. It is unchanged unless a server or a command has changed something."""


class Progress(msgspec.Struct, frozen=True):
    """How much of one table has been copied."""

    rows: int = 0
    after: list[Any] | None = None
    """Key of the last row copied, with the source's bucket."""
    done: bool = False


class CopySource(Protocol):
    """The database that is copied."""

    @property
    def connection(self) -> Connection:
        """A connection for reading it."""
        ...

    def rows_of(self, table: Table, after: Sequence[Any] | None) -> Iterator[Row]:
        """The table's rows, or those above the key `after`, in key order."""
        ...

    def close(self) -> None: ...


class CopyTarget(Protocol):
    """The database that is copied into. Nobody else writes to it."""

    @property
    def connection(self) -> Connection:
        """A connection for reading it, and for the marks of the copy; each statement is its own transaction."""
        ...

    def add(self, table: Table, batch: Sequence[Row], progress: Progress) -> None:
        """Write the rows and the table's progress in one commit."""
        ...

    def tidy(self) -> None:
        """Called when all rows are there: update the query planner's statistics."""
        ...

    def finish(self) -> None:
        """The copy is complete: remove its marks."""
        ...

    def close(self) -> None: ...


def begin(connection: Connection, copy: dict[str, Any]) -> dict[str, Any]:
    """Mark the target as half copied, in one transaction; returns the copy that it belongs to: this one or an earlier
    one.

    The caller compares them. Raises TableHasRows, and marks nothing, if it contains rows that no copy has written.
    """
    connection.execute("BEGIN")
    try:
        begun = _begin(connection, copy)
    except TableHasRows:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return begun


def _begin(connection: Connection, copy: dict[str, Any]) -> dict[str, Any]:
    connection.execute(_CREATE)
    found = row(connection, f"SELECT state FROM {COPY_PROGRESS} WHERE name = ''")
    if found is not None:
        begun: dict[str, Any] = msgspec.json.decode(found[0])
        return begun
    for table in tables():
        if table.name not in _SEEDED and row(connection, f"SELECT 1 FROM {table.name} LIMIT 1") is not None:
            raise TableHasRows(table.name)
    for name in _SEEDED:
        connection.execute(f"DELETE FROM {name}")
    connection.execute(f"INSERT INTO {COPY_PROGRESS} (name, state) VALUES ('', ?)", (msgspec.json.encode(copy),))
    return copy


class TableHasRows(Exception):
    """The table with this name already has rows."""


def progress_of(connection: Connection) -> dict[str, Progress]:
    """The progress of each table; tables not started are missing."""
    found = rows(connection, f"SELECT name, state FROM {COPY_PROGRESS} WHERE name != ''")
    return {name: msgspec.msgpack.decode(state, type=Progress) for name, state in found}


MARK = (
    f"INSERT INTO {COPY_PROGRESS} (name, state) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET state = excluded.state"
)


def mark(table: Table, progress: Progress) -> tuple[str, bytes]:
    """The values of MARK."""
    return table.name, msgspec.msgpack.encode(progress)


def select(table: Table, *, above: bool, value: str = "?") -> str:
    """The statement that reads the table in the order of its key."""
    key = ", ".join(table.key)
    places = ", ".join(value.format(number) for number in range(1, len(table.key) + 1))
    where = f"WHERE ({key}) > ({places}) " if above else ""
    return f"SELECT {', '.join(table.columns)} FROM {table.name} {where}ORDER BY {key}"
