"""A connection for one command of the command line, which has no event loop: it gets one of its own."""

import asyncio
from typing import Any

from farebox.storage.postgres.bridge import FoundRows, execute
from farebox.storage.postgres.connecting import connect, named
from farebox.storage.postgres.migrations import TURN, migrate

SECONDS = 600.0


class CommandConnection:
    """storage.sql.Connection, with `begin` and `commit` for those that write."""

    def __init__(self, url: str) -> None:
        """Connect, and bring the schema up to date. Raises DatabaseUnavailable, SchemaMismatch."""
        self._loop = asyncio.new_event_loop()
        self._changes = 0
        try:
            self._session = self._loop.run_until_complete(connect(url, timeout=SECONDS, name="farebox command"))
            with named():
                self.applied = self._loop.run_until_complete(migrate(self._session))
        except BaseException:
            self._loop.close()
            raise

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> FoundRows:
        with named():
            found, self._changes = self._loop.run_until_complete(execute(self._session, sql, values))
        return found

    def changes(self) -> int:
        return self._changes

    def begin(self) -> None:
        """Take a turn among everything that writes (storage.postgres.database)."""
        with named():
            self._loop.run_until_complete(self._session.execute(f"BEGIN; SELECT pg_advisory_xact_lock({TURN})"))

    def close(self) -> None:
        """What was not committed is undone."""
        self._session.terminate()
        self._loop.close()
