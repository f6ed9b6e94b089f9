"""What a store knows of a database, whichever engine it is: statements in, rows out; and what can go wrong.

Statements are written in the subset that SQLite and PostgreSQL share, with `?` for values; storage.postgres.dialect
translates them for PostgreSQL.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

SNAPSHOT = "BEGIN /* postgres: ISOLATION LEVEL REPEATABLE READ */"
"""Begins a read of several statements that all see the same moment, as SQLite's transactions always do."""


class DatabaseUnavailable(RuntimeError):
    """The database cannot be opened or written now: none there, out of reach, locked, closed; or one of those below."""

    told: ClassVar[str] = "The database cannot be written to at the moment."
    """What a caller is told: nothing about hosts and paths."""
    state: ClassVar[str] = "unreachable"
    """What `GET /readyz` calls it; docs/operating.md has a row for each."""
    remedy: ClassVar[str] = "check that the database is running and reachable from here"


class NodeAway(DatabaseUnavailable):
    """A node of Citus is away, and the statement needed it: for the accounts of its buckets, or as what is kept on
    every node was to be changed. The database as a whole is there."""

    def __init__(self, why: str, node: str = "") -> None:
        super().__init__(why)
        self.node = node
        """Host and port."""

    told: ClassVar[str] = (
        "A node of the database is away at the moment: the accounts that are on it, and changes of what is kept on "
        "every node (accounts, tokens, prices and other settings, purchases), have to wait for it."
    )
    state: ClassVar[str] = "node_away"
    remedy: ClassVar[str] = 'start the node, or put its standby in its place (docs/citus.md, "When a node is away")'


class StandbyMissing(DatabaseUnavailable):
    """No synchronous standby streams from the database, and FAREBOX_STANDBY requires one."""

    told: ClassVar[str] = (
        "The database has no synchronous standby at the moment, and this server is configured to accept no calls "
        "without one."
    )
    state: ClassVar[str] = "no_standby"
    remedy: ClassVar[str] = "start the standby, and check that it is streaming"


class DatabaseFull(DatabaseUnavailable):
    """There is no room for what is to be written."""

    state: ClassVar[str] = "full"
    remedy: ClassVar[str] = "make room on the database's disk: calls are accepted again at once, without a restart"


class DatabaseGoneFull(DatabaseFull):
    """It has gone since there was no room for what was to be written: PostgreSQL ends itself where it cannot write its
    log."""

    remedy: ClassVar[str] = (
        "make room on the disks of the database, which were full before it went away, and start it where it has ended"
    )


class DatabaseReadOnly(DatabaseUnavailable):
    """The file, its folder or its file system takes no writes."""

    state: ClassVar[str] = "read_only"
    remedy: ClassVar[str] = "let Farebox's user write to the data folder and everything in it, and mount it read-write"


class DatabaseLocked(DatabaseUnavailable):
    """Another process has the turn, and keeps it."""

    state: ClassVar[str] = "locked"
    remedy: ClassVar[str] = "end the process that has the database locked: a command, a backup, a database browser"


class DatabaseSlow(DatabaseUnavailable):
    """It has not answered in time."""

    state: ClassVar[str] = "slow"
    remedy: ClassVar[str] = "look at what keeps the database, its disk or this machine busy"


class DatabaseFailing(DatabaseUnavailable):
    """The disk, or the system, returns an error."""

    state: ClassVar[str] = "failing"
    remedy: ClassVar[str] = "check the system log for disk errors, and the quota of Farebox's user"


class DatabaseDamaged(DatabaseUnavailable):
    """What is stored cannot be read as what was written."""

    state: ClassVar[str] = "damaged"
    remedy: ClassVar[str] = (
        "stop the server, copy the database away, run `farebox check`, and restore a backup or recover what can be "
        'read (docs/operating.md, "A damaged database")'
    )


class DatabaseReplaced(DatabaseUnavailable):
    """The open file no longer has its name: nobody would find what is written."""

    state: ClassVar[str] = "replaced"
    remedy: ClassVar[str] = (
        "move (do not copy) farebox.db and farebox.db-wal back; if they are gone, stop the server and restore a backup"
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

    @property
    def buckets(self) -> dict[str, int]:
        """The buckets of accounts, as far as they are known: storage.account_keys fills and reads them."""
        ...

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Rows: ...

    def changes(self) -> int:
        """How many rows the latest INSERT, UPDATE or DELETE changed."""
        ...


@contextlib.contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """Reads that all see the same moment; the connection is outside a transaction before and after."""
    connection.execute(SNAPSHOT)
    try:
        yield
    finally:
        connection.execute("COMMIT")


def locks_rows(connection: Connection) -> bool:
    """Whether a job must lock what it depends on: not if one writer has the database to itself."""
    return getattr(connection, "locks_rows", False)


def row(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    found: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    return found


def rows(connection: Connection, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    found: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
    return found
