"""The database as a store sees it, whatever the engine: statements in, rows out, and the errors.

Statements are written in the subset that SQLite and PostgreSQL share, with `?` for values; storage.postgres.dialect
translates them for PostgreSQL.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from farebox.storage.buckets import KnownBuckets

SNAPSHOT = "BEGIN /* postgres: ISOLATION LEVEL REPEATABLE READ */"
"""Begins a read of several statements that all see the same snapshot, as SQLite's transactions always do."""


class RowMissing(LookupError):
    """A row that another row refers to is not there, although such rows are never deleted: the database is damaged."""


class DatabaseUnavailable(RuntimeError):
    """The database cannot be opened or written now: missing, unreachable, locked, closed; or one of the subclasses
    below."""

    public_message: ClassVar[str] = "The database cannot be written to at the moment."
    """The message for callers: it says nothing about hosts and paths."""
    state: ClassVar[str] = "unreachable"
    """Its name in `GET /readyz`; docs/operating.md has a row for each."""
    remedy: ClassVar[str] = "check that the database is running and reachable from here"


class NodeUnavailable(DatabaseUnavailable):
    """A node of Citus that the statement needed is unavailable: for accounts in its buckets, or to change a table that
    is replicated to every node. The database as a whole is available."""

    def __init__(self, why: str, node: str = "") -> None:
        super().__init__(why)
        self.node = node
        """Host and port."""

    public_message: ClassVar[str] = (
        "A node of the database is unavailable at the moment: the accounts that are on it, and changes of what is kept "
        "on every node (accounts, tokens, prices and other settings, purchases), have to wait for it."
    )
    state: ClassVar[str] = "node_away"
    remedy: ClassVar[str] = (
        'start the node, or put its standby in its place (docs/citus.md, "When a node is unavailable")'
    )


class StandbyMissing(DatabaseUnavailable):
    """No synchronous standby streams from the database, and FAREBOX_STANDBY requires one."""

    public_message: ClassVar[str] = (
        "The database has no synchronous standby at the moment, and this server is configured to accept no calls "
        "without one."
    )
    state: ClassVar[str] = "no_standby"
    remedy: ClassVar[str] = "start the standby, and check that it is streaming"


class DatabaseFull(DatabaseUnavailable):
    """There is no space for what is to be written."""

    state: ClassVar[str] = "full"
    remedy: ClassVar[str] = "make room on the database's disk: calls are accepted again at once, without a restart"


class DatabaseDiskFull(DatabaseFull):
    """The server has ended because there was no space: PostgreSQL shuts down if it cannot write its log."""

    remedy: ClassVar[str] = (
        "make room on the disks of the database, which were full before it went away, and start it where it has ended"
    )


class DatabaseReadOnly(DatabaseUnavailable):
    """The file, its folder or its file system is read-only."""

    state: ClassVar[str] = "read_only"
    remedy: ClassVar[str] = "let Farebox's user write to the data folder and everything in it, and mount it read-write"


class DatabaseLocked(DatabaseUnavailable):
    """Another process holds the write lock."""

    state: ClassVar[str] = "locked"
    remedy: ClassVar[str] = "end the process that has the database locked: a command, a backup, a database browser"


class DatabaseSlow(DatabaseUnavailable):
    """It has not responded in time."""

    state: ClassVar[str] = "slow"
    remedy: ClassVar[str] = "look at what keeps the database, its disk or this machine busy"


class DatabaseFailing(DatabaseUnavailable):
    """The disk, or the system, returns an error."""

    state: ClassVar[str] = "failing"
    remedy: ClassVar[str] = "check the system log for disk errors, and the quota of Farebox's user"


class DatabaseDamaged(DatabaseUnavailable):
    """The stored data is corrupt."""

    state: ClassVar[str] = "damaged"
    remedy: ClassVar[str] = (
        "stop the server, copy the database away, run `farebox check`, and restore a backup or recover what can be "
        'read (docs/operating.md, "A damaged database")'
    )


class DatabaseReplaced(DatabaseUnavailable):
    """The open file was moved or deleted: what is written to it would be lost."""

    state: ClassVar[str] = "replaced"
    remedy: ClassVar[str] = (
        "move (do not copy) farebox.db and farebox.db-wal back; if they are gone, stop the server and restore a backup"
    )


class SchemaMismatch(RuntimeError):
    """The schema was written by a release that is too new or too old, or is not Farebox's; the message says what to
    do."""


class Rows(Protocol):
    """What a statement found."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One connection; inside a transaction if anything is written."""

    @property
    def buckets(self) -> KnownBuckets:
        """The known buckets of accounts: storage.account_keys fills and reads them."""
        ...

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Rows: ...

    def changes(self) -> int:
        """How many rows the latest INSERT, UPDATE or DELETE changed."""
        ...


@contextlib.contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A block of reads that all see the same snapshot; the connection is outside a transaction before and after."""
    connection.execute(SNAPSHOT)
    try:
        yield
    finally:
        connection.execute("COMMIT")


def locks_rows(connection: Connection) -> bool:
    """Whether a job must lock the rows it depends on; not if the database has a single writer."""
    return getattr(connection, "locks_rows", False)


def contains(column: str) -> str:
    """SQL condition: the column matches a pattern of `containing`, in any case. PostgreSQL's ILIKE takes half as long
    again. Both sides are changed to lower case by the same collation, that of the columns."""
    lowered = f'lower({column}) LIKE lower(CAST(? AS TEXT) COLLATE "C")'
    return f"/* sqlite: */ {column} LIKE ? /* postgres: {lowered} */ ESCAPE '!'"


def containing(text: str) -> str:
    """A pattern of texts that contain this one."""
    return "%" + "".join(f"!{sign}" if sign in "!%_" else sign for sign in text) + "%"


def row(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    found: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    return found


def rows(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    found: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
    return found
