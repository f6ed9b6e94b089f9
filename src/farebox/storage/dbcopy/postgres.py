"""A PostgreSQL database as one end of a copy."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from farebox.storage.buckets import KnownBuckets
from farebox.storage.copy_mark import COPY_PROGRESS
from farebox.storage.dbcopy.ends import MARK, Progress, Row, mark, select
from farebox.storage.postgres.bridge import FoundRows, execute
from farebox.storage.postgres.connecting import Session, connect, translate_errors
from farebox.storage.postgres.dialect import translated
from farebox.storage.postgres.health import WATCH
from farebox.storage.postgres.migrations import TURN, migrate
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.tables import Table, tables

T = TypeVar("T")

STATEMENT_SECONDS = 86_400.0
"""Longest statement: sums over a large table take long."""
FETCHED = 100
"""Rows that are fetched at once. In the worst case each has two bodies of ten megabytes."""
_COPYING_LOCK = TURN + 1
"""Advisory lock held by a process that copies into the database."""


class _Connected:
    """A storage.sql.Connection with its own PostgreSQL connection and event loop."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._changes = 0
        try:
            self.session: Session = self.run(connect(url, timeout=STATEMENT_SECONDS, name="farebox copy"))
            self.buckets = KnownBuckets()
            # The source's transaction is idle while the target writes.
            self.run(self.session.execute("SET idle_in_transaction_session_timeout = 0"))
        except BaseException:
            self._loop.close()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with translate_errors():
            return self._loop.run_until_complete(work)

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> FoundRows:
        found, changed = self.run(execute(self.session, sql, values))
        if changed is not None:
            self._changes = changed
        return found

    def changes(self) -> int:
        return self._changes

    def close(self) -> None:
        self.session.terminate()
        self._loop.call_soon(self._loop.stop)  # the socket is closed in the loop's next iteration
        self._loop.run_forever()
        self._loop.close()


class PostgresSource:
    """No job writes to it until it is closed: this holds the lock of all jobs (storage.postgres.database)."""

    def __init__(self, url: str) -> None:
        self._guard = _Connected(url)
        try:
            self._guard.run(migrate(self._guard.session))
            self._guard.execute(f"SELECT pg_advisory_lock({TURN})")
            self._refuse_served()
            self._connected = _Connected(url)
        except BaseException:
            self._guard.close()
            raise

    def _refuse_served(self) -> None:
        """Refuse if a server is connected, recognized by its watch: calls take no turns, so the lock proves nothing."""
        served = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND strpos(application_name, ?) = 1"
        )
        ((count,),) = self._guard.execute(served, (WATCH,)).fetchall()
        if count:
            raise DatabaseUnavailable(f"{count} processes that serve the source are connected to it: stop them first")

    @property
    def connection(self) -> Connection:
        return self._connected

    def rows_of(self, table: Table, after: Sequence[Any] | None) -> Iterator[Row]:
        run, session = self._connected.run, self._connected.session
        transaction = session.transaction(readonly=True)
        run(transaction.start())
        try:
            sql = select(table, above=after is not None, value="${}")
            cursor = run(_opened(session, sql, after or ()))
            while batch := run(cursor.fetch(FETCHED)):
                yield from map(tuple, batch)
        finally:
            run(transaction.rollback())

    def close(self) -> None:
        self._connected.close()
        self._guard.close()


async def _opened(session: Session, sql: str, values: Sequence[Any]) -> Any:
    return await session.cursor(sql, *values)


class PostgresTarget:
    """A database that no other copy uses until it is closed."""

    def __init__(self, url: str, buckets: int) -> None:
        self._connected = _Connected(url)
        try:
            ((alone,),) = self._connected.execute(f"SELECT pg_try_advisory_lock({_COPYING_LOCK})").fetchall()
            if not alone:
                raise DatabaseUnavailable("another `farebox copy` is at work on the target: stop it first")
            self._connected.run(
                migrate(self._connected.session, copy_incomplete=True, buckets=buckets, may_change=True)
            )
        except BaseException:
            self._connected.close()
            raise

    @property
    def connection(self) -> Connection:
        return self._connected

    def add(self, table: Table, batch: Sequence[Row], progress: Progress) -> None:
        self._connected.run(_add(self._connected.session, table, batch, progress))

    def tidy(self) -> None:
        # Without this, statements are planned for empty tables, and take hours.
        self._connected.execute(f"VACUUM (ANALYZE) {', '.join(table.name for table in tables())}")

    def finish(self) -> None:
        self._connected.execute(f"DROP TABLE {COPY_PROGRESS}")

    def close(self) -> None:
        self._connected.close()


async def _add(session: Session, table: Table, batch: Sequence[Row], progress: Progress) -> None:
    async with session.transaction():
        if batch:
            await session.copy_records_to_table(table.name, records=batch, columns=table.columns)
        await session.execute(translated(MARK), *mark(table, progress))
