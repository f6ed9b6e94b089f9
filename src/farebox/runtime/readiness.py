"""Whether this process can serve calls: the database accepts a write, with enough disk space, and the journal accepts a
line.

Load balancers ask this, and anyone else can; it is checked at most once a second.
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
"""Maximum age of a result; `ok` is checked again if a read or write has failed since."""
WAIT_SECONDS = 2.0
"""Maximum duration of a check."""

JournalState = Literal["empty", "waiting", "unwritable"]


@dataclass(frozen=True, slots=True)
class ReadinessResult:
    """The result of a check."""

    failure: DatabaseUnavailable | None
    journal: JournalState


class Readiness:
    """Checks, and caches the result for a moment. Create it inside a running event loop."""

    def __init__(self, database: Database, journal: Journal | None) -> None:
        self._database = database
        self._journal = journal
        self._check_task: asyncio.Task[None] | None = None
        self._checked_at = float("-inf")
        self._failures_seen = 0
        self._failure: DatabaseUnavailable | None = None

    async def check(self) -> ReadinessResult:
        """The current state, or that of a moment ago. Raises nothing."""
        try:
            self._database.check()  # already known: no need to check
        except DatabaseUnavailable as error:
            return ReadinessResult(error, self._journal_state())
        age = asyncio.get_running_loop().time() - self._checked_at
        fails_since = self._failure is None and self._database.failure_count != self._failures_seen
        if self._check_task is None and (fails_since or age >= FRESH_SECONDS):
            self._check_task = asyncio.ensure_future(self._run_check())
        if self._check_task is not None:
            done, _ = await asyncio.wait([self._check_task], timeout=WAIT_SECONDS)
            if not done:
                # The last result is valid until the next check has another one.
                failure = self._database.blocked_by or self._failure
                slow = DatabaseSlow("the database does not respond in time")
                return ReadinessResult(failure or slow, self._journal_state())
        return ReadinessResult(self._failure, self._journal_state())

    async def _run_check(self) -> None:
        try:
            self._failure = await self._check_writable()
            if self._journal is not None:
                with contextlib.suppress(JournalUnwritable):  # the journal remembers it
                    await self._journal.check_writable()
            self._checked_at = asyncio.get_running_loop().time()
            self._failures_seen = self._database.failure_count
        finally:
            self._check_task = None

    async def _check_writable(self) -> DatabaseUnavailable | None:
        try:
            await self._database.check_writable()
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
