"""A connection for one CLI command: its statements are executed synchronously, as with SQLite.

The driver needs an event loop. It gets one on its own thread, because the command may itself run in a loop, which
cannot wait for another on the same thread.
"""

import asyncio
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from farebox.storage.buckets import KnownBuckets
from farebox.storage.postgres.bridge import FoundRows, execute
from farebox.storage.postgres.connecting import connect, translate_errors
from farebox.storage.postgres.distributing import Distribution
from farebox.storage.postgres.migrations import TURN, migrate, place
from farebox.storage.postgres.pooler import require_sessions

T = TypeVar("T")

SECONDS = 600.0


class CommandConnection:
    """storage.sql.Connection, with `begin` and `commit` for those that write."""

    locks_rows = True

    def __init__(self, url: str, buckets: int, *, may_change: bool = False) -> None:
        """Connect, and bring the schema up to date. `buckets` must be the stored number; with `may_change` it replaces
        the stored number. Raises DatabaseUnavailable, SchemaMismatch."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="farebox-postgres", daemon=True)
        self._thread.start()
        self._changes = 0
        self.buckets = KnownBuckets()
        try:
            self._session = self._run(connect(url, timeout=SECONDS, name="farebox command"))
            try:
                self._run(require_sessions(self._session, partial(connect, url, timeout=SECONDS)))
                self.applied = self._run(migrate(self._session, buckets=buckets, may_change=may_change))
            except BaseException:
                self._loop.call_soon_threadsafe(self._session.terminate)
                raise
        except BaseException:
            self._stop()
            raise

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with translate_errors():
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        # The socket is closed in the loop's next iteration.
        self._loop.call_soon_threadsafe(self._loop.call_soon, self._loop.stop)
        self._thread.join()
        self._loop.close()

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> FoundRows:
        found, changed = self._run(execute(self._session, sql, values))
        if changed is not None:
            self._changes = changed
        return found

    def changes(self) -> int:
        return self._changes

    def begin(self) -> None:
        """Wait for this transaction's turn among all writers (storage.postgres.database)."""
        self.buckets.forget_all()
        self._run(self._session.execute(f"BEGIN; SELECT pg_advisory_xact_lock({TURN})"))

    def distribute(self, buckets: int) -> Distribution:
        """Distribute the tables over the nodes of Citus (storage.postgres.distributing)."""
        return self._run(place(self._session, buckets))

    def close(self) -> None:
        """Roll back anything that was not committed, and close the connection."""
        self._loop.call_soon_threadsafe(self._session.terminate)
        self._stop()
