"""Plain functions on an asynchronous driver.

A store's function takes a connection and executes statements one after another; it knows nothing of an event loop, so
that SQLite can run it directly. Here it runs in its own greenlet: `execute` switches to the event loop to await the
driver, and back with the result. So the same function serves both engines.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from asyncpg import exceptions as of
from greenlet import getcurrent, greenlet

from farebox.storage.activity import Notes
from farebox.storage.buckets import KnownBuckets
from farebox.storage.postgres.connecting import Session, node_unavailable
from farebox.storage.postgres.dialect import has_rows, storable, translated
from farebox.storage.queues import fills_queue
from farebox.storage.sql import Connection

T = TypeVar("T")

QUEUED = ("queue", "filled")
"""The note of a job that may have put work into a queue."""


async def run(
    job: Callable[[Connection], T],
    session: Session,
    notes: Notes | None = None,
    buckets: KnownBuckets | None = None,
) -> T:
    """Run `job` on the session; the loop does other things while a statement is in progress. The job's work is noted in
    `notes`; `buckets` are the known buckets of accounts, by default none."""
    inside = greenlet(job)
    response: Any = inside.switch(BridgedConnection(session, notes, KnownBuckets() if buckets is None else buckets))
    while not inside.dead:
        try:
            found = await response
        except BaseException as error:  # noqa: BLE001 - raised in the job, which may expect it
            response = inside.throw(error)
        else:
            response = inside.switch(found)
    result: T = response
    return result


def _await(response: Awaitable[T]) -> T:
    """Suspend the job until the response has arrived."""
    outside = getcurrent().parent
    assert outside is not None, "statements of a bridged connection are executed inside `run`"
    found: T = outside.switch(response)
    return found


class FoundRows:
    """The rows of one statement."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)


NO_ROWS = FoundRows([])


class BridgedConnection:
    """storage.sql.Connection for a job inside `run`."""

    __slots__ = ("_changes", "_session", "buckets", "notes")
    locks_rows = True

    def __init__(self, session: Session, notes: Notes | None, buckets: KnownBuckets) -> None:
        self._session = session
        self.notes = notes
        self.buckets = buckets
        self._changes = 0

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> FoundRows:
        found, changed = _await(execute(self._session, sql, values))
        if changed is not None:
            self._changes = changed
            if changed and self.notes is not None and fills_queue(sql):
                self.notes[QUEUED] = 1
        return found

    def changes(self) -> int:
        return self._changes


async def execute(session: Session, sql: str, values: tuple[Any, ...]) -> tuple[FoundRows, int | None]:
    """Execute a statement of a store; returns its rows, and how many rows it changed (None if it is not a statement
    that changes rows).

    Raises NodeUnavailable, which a job may expect; the caller of the job handles other errors of the driver.
    """
    try:
        return await _execute(session, sql, values)
    except of.PostgresError as error:
        if (unavailable := node_unavailable(error)) is not None:
            raise unavailable from error
        raise


async def _execute(session: Session, sql: str, values: tuple[Any, ...]) -> tuple[FoundRows, int | None]:
    text = translated(sql)
    values = tuple(map(storable, values))
    if has_rows(sql):
        rows = [tuple(record) for record in await session.fetch(text, *values)]
        return FoundRows(rows), len(rows) if " RETURNING " in sql else None
    status = await session.execute(text, *values)
    count = status.rpartition(" ")[2]
    return NO_ROWS, int(count) if count.isdigit() else None
