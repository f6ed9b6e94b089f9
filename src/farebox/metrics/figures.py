"""The database's figures, queried at most every few seconds, however often they are scraped."""

import asyncio

import structlog

from farebox.clock import Clock
from farebox.storage.database import Database
from farebox.storage.figures import DatabaseFigures, read_figures

FRESH_SECONDS = 10.0
QUERY_SECONDS = 2.0
"""Longest wait for the database; a scrape then reports that it is unavailable."""

log = structlog.get_logger("farebox.metrics")


class KeptFigures:
    """The latest figures that a process has read."""

    def __init__(self) -> None:
        self._found: DatabaseFigures | None = None
        self._until = float("-inf")
        self._query: asyncio.Task[DatabaseFigures | None] | None = None

    async def now(self, database: Database, clock: Clock) -> DatabaseFigures | None:
        """Figures that are at most FRESH_SECONDS old; None if the database does not answer."""
        if clock.monotonic() < self._until:
            return self._found
        if self._query is None:
            self._query = asyncio.ensure_future(self._start_query(database, clock))
            self._query.add_done_callback(self._finished)
        return await asyncio.shield(self._query)

    async def _start_query(self, database: Database, clock: Clock) -> DatabaseFigures | None:
        found = None
        try:
            database.check()
            async with asyncio.timeout(QUERY_SECONDS):
                found = await database.scan(read_figures)
        except Exception as error:  # noqa: BLE001 - any failure: the other metrics must stay available
            log.info("no database metrics", why=str(error) or type(error).__name__)
        self._found, self._until = found, clock.monotonic() + FRESH_SECONDS
        return found

    def _finished(self, task: "asyncio.Task[DatabaseFigures | None]") -> None:
        self._query = None
        if not task.cancelled():
            task.exception()  # seen
