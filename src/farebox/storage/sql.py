"""What a store knows of a database, whichever engine it is: statements in, rows out; and what can go wrong.

Statements are written in the subset that SQLite and PostgreSQL share, with `?` for values; storage.postgres.dialect
says what it turns into for PostgreSQL.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

SNAPSHOT = "BEGIN /* postgres: ISOLATION LEVEL REPEATABLE READ */"
"""Begins a read of several statements that all see the same moment, as SQLite's transactions always do."""


class DatabaseUnavailable(RuntimeError):
    """The database cannot be opened or written now: none there, out of reach, disk full, locked, closed."""

    told: ClassVar[str] = "The database cannot be written to at the moment."
    """What a caller is told: nothing of hosts and paths."""


class StandbyMissing(DatabaseUnavailable):
    """No synchronous standby streams from the database, and FAREBOX_STANDBY requires one."""

    told: ClassVar[str] = (
        "The database has no synchronous standby at the moment, and this server is set to take no calls without one."
    )


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


def locks_rows(connection: Connection) -> bool:
    """Whether a job must lock what it goes on from: not where one writer has the database to itself."""
    return getattr(connection, "locks_rows", False)


def row(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    found: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    return found


def rows(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    found: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
    return found
