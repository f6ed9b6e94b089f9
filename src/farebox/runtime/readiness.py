"""Whether this process can serve calls: the database accepts a write for which there is room, and the journal a line.

Load balancers ask, and so can anyone else; it is checked at most once a second.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Literal

from farebox.runtime.journal import Journal
from farebox.storage.database import Database
from farebox.storage.journal_files import JournalUnwritable
from farebox.storage.sql import DatabaseSlow, DatabaseUnavailable

FRESH_SECONDS = 1.0
"""How old a result may be; `ok` is checked again if a read or write has failed since."""
WAIT_SECONDS = 2.0
"""Longest duration of a check."""

JournalState = Literal["empty", "waiting", "unwritable"]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a check."""

    trouble: DatabaseUnavailable | None
    journal: JournalState


class Readiness:
    """Checks, and caches the result for a moment. Create it inside a running event loop."""

    def __init__(self, database: Database, journal: Journal | None) -> None:
        self._database = database
        self._journal = journal
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._troubles_met = 0
        self._trouble: DatabaseUnavailable | None = None

    async def look(self) -> Found:
        """The state now, or a moment ago. Raises nothing."""
        try:
            self._database.check()  # already known: no need to check
        except DatabaseUnavailable as error:
            return Found(error, self._journal_state())
        age = asyncio.get_running_loop().time() - self._looked_at
        fails_since = self._trouble is None and self._database.troubles_met != self._troubles_met
        if self._looking is None and (fails_since or age >= FRESH_SECONDS):
            self._looking = asyncio.ensure_future(self._look())
        if self._looking is not None:
            done, _ = await asyncio.wait([self._looking], timeout=WAIT_SECONDS)
            if not done:
                # The last result is valid until the next check has another one.
                trouble = self._database.held_up or self._trouble
                slow = DatabaseSlow("the database does not respond in time")
                return Found(trouble or slow, self._journal_state())
        return Found(self._trouble, self._journal_state())

    async def _look(self) -> None:
        try:
            self._trouble = await self._proved()
            if self._journal is not None:
                with contextlib.suppress(JournalUnwritable):  # the journal remembers it
                    await self._journal.prove()
            self._looked_at = asyncio.get_running_loop().time()
            self._troubles_met = self._database.troubles_met
        finally:
            self._looking = None

    async def _proved(self) -> DatabaseUnavailable | None:
        try:
            await self._database.prove()
        except DatabaseUnavailable as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever the reason, a write has failed
            return DatabaseUnavailable(f"{type(error).__name__}: {error}")
        return None

    def _journal_state(self) -> JournalState:
        journal = self._journal
        if journal is None:
            return "empty"
        if journal.unwritable is not None:
            return "unwritable"
        return "empty" if journal.empty else "waiting"
