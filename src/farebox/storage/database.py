"""The database as the rest of the program sees it, whatever the engine; and how it is opened."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from farebox.settings import Settings
from farebox.storage.activity import Activity
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import SqliteConnection, connect, migrate, open_file, schema_version
from farebox.storage.sqlite.failures import damages, translate_errors

if TYPE_CHECKING:
    from farebox.jobs import OnFailure
    from farebox.storage.postgres.distributing import Distribution

T = TypeVar("T")


class Database(Protocol):
    """An open database. Each of its methods raises DatabaseUnavailable."""

    @property
    def engine(self) -> str:
        """`sqlite` or `postgres`."""
        ...

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn to be written."""
        ...

    async def get(self, read: Callable[[Connection], T]) -> T:
        """Read a few rows by key."""
        ...

    def get_shared(self, read: Callable[[Connection, str], T], account_id: str) -> "asyncio.Future[T]":
        """Read a few rows of an account that many callers may need at once. `read` is a module-level function. Callers
        that need the same rows share a query that is sent after they asked, so its result is never older than their
        request. The future is done already if nothing had to be waited for."""
        ...

    async def scan(self, read: Callable[[Connection], T]) -> T:
        """Run a read that may take long: lists, reports."""
        ...

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Run `job` in a transaction and return its result once that is durable.

        Jobs run one at a time, across all processes, and may be run more than once. Raises what the job raises.
        """
        ...

    def take_queued(self) -> bool:
        """Whether this process may have put work into a queue (storage.queues) since this was last asked. Always True
        if no other process serves the database."""
        ...

    def forget_buckets(self, account_ids: Collection[str] | None) -> None:
        """Forget the buckets of these accounts, which may have been moved; None: of all."""
        ...

    def check(self) -> None:
        """Raises DatabaseUnavailable if a write is already known to fail; does not wait."""
        ...

    async def check_writable(self) -> None:
        """Commit something to see whether commits work. If damage was found before, check whether it is still there."""
        ...

    @property
    def blocked_by(self) -> DatabaseUnavailable | None:
        """The reason why writes are waiting right now, if known; they have not failed yet."""
        ...

    @property
    def failure_count(self) -> int:
        """How many reads and writes have failed since the start."""
        ...

    def take_failures(self) -> list[DatabaseUnavailable]:
        """The errors of reads and writes since the last call, the latest of each state."""
        ...

    def report_failure(self, error: DatabaseUnavailable) -> None:
        """Report that a write outside this object failed with `error`: what `check` knows may be out of date."""
        ...

    async def close(self) -> None: ...


async def open_database(
    settings: Settings, activity: Activity | None = None, *, failed: "OnFailure | None" = None
) -> Database:
    """Open the database that the settings name, and bring its schema up to date. Its work is counted in `activity`;
    `failed` is called when a part of the database object ended unexpectedly and was restarted.

    Raises DatabaseUnavailable, or SchemaMismatch if this release cannot use it.
    """
    if settings.engine == "sqlite":  # imported here: most commands need only one engine, or neither
        from farebox.storage.sqlite.database import SqliteDatabase

        return SqliteDatabase(settings.database_path, activity, failed=failed)
    from farebox.storage.postgres.database import PostgresDatabase

    return await PostgresDatabase.open(
        settings.database_url,
        timeout=settings.database_timeout_ms / 1000,
        standby=settings.standby,
        activity=activity,
        buckets=settings.buckets,
    )


@contextmanager
def opened_for_command(settings: Settings, *, writing: bool = False) -> Iterator[Connection]:
    """A connection for one CLI command, after bringing the schema up to date; with `writing`, inside one transaction
    that is committed at the end.

    Raises DatabaseUnavailable, SchemaMismatch.
    """
    if settings.engine == "sqlite":
        connection = open_file(settings.database_path)
        try:
            with translate_errors():
                if writing:
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                if writing:
                    connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed
        return
    from farebox.storage.postgres.command import CommandConnection

    command = CommandConnection(settings.database_url, settings.buckets)
    try:
        if writing:
            command.begin()
        yield command
        if writing:
            command.execute("COMMIT")
    finally:
        command.close()


def damages_of(connection: Connection) -> list[str]:
    """What is wrong with the database file of a command's connection; empty if it is intact. PostgreSQL offers no such
    check: reading a damaged page raises DatabaseDamaged."""
    return damages(connection) if isinstance(connection, SqliteConnection) else []


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What `migrate_now` did."""

    applied: list[int]
    """The schema versions that were applied, in order."""
    version: int
    """The schema's version now."""
    distribution: "Distribution | None" = None
    """On Citus, the tables that were distributed over its nodes."""


def migrate_now(settings: Settings, *, citus: bool = False) -> MigrationResult:
    """Bring the schema up to date. With `citus`, distribute its tables over the nodes of a cluster. The settings'
    number of buckets is stored in the database if that does no harm (storage.postgres.numbering).

    Raises DatabaseUnavailable, SchemaMismatch.
    """
    if settings.engine == "sqlite":
        connection = connect(settings.database_path)
        try:
            return MigrationResult(migrate(connection), schema_version(connection))
        finally:
            connection.close()
    from farebox.storage.postgres.command import CommandConnection

    command = CommandConnection(settings.database_url, settings.buckets, may_change=True)
    try:
        distribution = command.distribute(settings.buckets) if citus else None
        (version,) = command.execute("SELECT version FROM schema_version").fetchall()[0]
        return MigrationResult(command.applied, version, distribution)
    finally:
        command.close()
