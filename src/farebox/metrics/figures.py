"""The database's figures, queried at most every few seconds however often somebody scrapes."""

import asyncio

import structlog

from farebox.clock import Clock
from farebox.storage.database import Database
from farebox.storage.figures import Figures, read_figures

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""Longest wait for the database; a scrape then reports that it is unavailable."""

log = structlog.get_logger("farebox.metrics")


class KeptFigures:
    """The latest figures that one process has read."""

    def __init__(self) -> None:
        self._found: Figures | None = None
        self._until = float("-inf")
        self._asking: asyncio.Task[Figures | None] | None = None

    async def now(self, database: Database, clock: Clock) -> Figures | None:
        """Figures that are at most FRESH_SECONDS old; None where the database does not answer."""
        if clock.monotonic() < self._until:
            return self._found
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(database, clock))
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    async def _ask(self, database: Database, clock: Clock) -> Figures | None:
        found = None
        try:
            database.check()
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await database.scan(read_figures)
        except Exception as error:  # noqa: BLE001 - whatever it is: what else there is to see shall be seen
            log.info("no figures of the database", why=str(error) or type(error).__name__)
        self._found, self._until = found, clock.monotonic() + FRESH_SECONDS
        return found

    def _asked(self, task: "asyncio.Task[Figures | None]") -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen
