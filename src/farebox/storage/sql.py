"""What a store knows of a database, whichever engine it is: statements in, rows out; and what can go wrong.

Statements are written in the subset that SQLite and PostgreSQL share, with `?` for values; storage.postgres.dialect
says what it turns into for PostgreSQL.
"""

from collections.abc import Iterator
from typing import Any, Protocol


class DatabaseUnavailable(RuntimeError):
    """The database cannot be opened or written now: none there, out of reach, disk full, locked, closed."""


class SchemaMismatch(RuntimeError):
    """The database was written by a newer release, or has not been migrated; the message says what to run."""


class Rows(Protocol):
    """What a statement found."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One connection, inside a transaction where something is written."""

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Rows: ...

    def changes(self) -> int:
        """How many rows the latest INSERT, UPDATE or DELETE changed."""
        ...


def row(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    found: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    return found


def rows(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    found: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
    return found
