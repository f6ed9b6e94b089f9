"""The cache of responses as a process sees it: what the database has, and what is on its way there.

Nothing waits for a write: what is to be stored is kept in memory until a task has stored it, and dropped where that is
full. What is on its way is found already.
"""

from functools import partial
from itertools import islice
from typing import Final

from farebox.runtime.observers import best_effort
from farebox.runtime.tasks import Tasks
from farebox.settings import Settings
from farebox.storage.cached_responses import CacheBounds, CachedResponse, find_response, keep_responses
from farebox.storage.database import Database

PENDING_BYTES_MAX: Final = 8 * 2**20
BATCH_BYTES: Final = 2**20
BATCH_MAX: Final = 32


class ResponseCache:
    """Finds responses, and stores new ones in the background."""

    def __init__(self, database: Database, tasks: Tasks, settings: Settings) -> None:
        self._database = database
        self._tasks = tasks
        self._bounds = CacheBounds(settings.account_cache_bytes_max, settings.cache_bytes_max)
        self._pending: dict[tuple[str, str, str], CachedResponse] = {}
        self._pending_bytes = 0

    async def find(self, account_id: str, gateway_id: str, key: str, at: int) -> tuple[str, bytes] | None:
        """Content type and body. Raises DatabaseUnavailable."""
        pending = self._pending.get((account_id, gateway_id, key))
        if pending is not None and pending.expires_at > at:
            return pending.content_type, pending.body
        wanted = partial(find_response, account_id=account_id, gateway_id=gateway_id, key=key, at=at)
        return await self._database.get(wanted)

    def add(self, response: CachedResponse) -> None:
        """Store it soon; not at all where too much waits for that, or where it fits no bound."""
        size = response.size
        if self._pending_bytes + size > PENDING_BYTES_MAX or size > min(self._bounds.account, self._bounds.all):
            return
        self._drop(response.account_id, response.gateway_id, response.key)
        self._pending[response.account_id, response.gateway_id, response.key] = response
        self._pending_bytes += size
        self._tasks.begin("cached responses", self._store)

    def forget(self, account_id: str, gateway_id: str) -> None:
        """The gateway's have been removed from the database."""
        for name in [name for name in self._pending if name[:2] == (account_id, gateway_id)]:
            self._drop(*name)

    def _drop(self, account_id: str, gateway_id: str, key: str) -> None:
        dropped = self._pending.pop((account_id, gateway_id, key), None)
        if dropped is not None:
            self._pending_bytes -= dropped.size

    async def _store(self) -> None:
        while self._pending:
            batch = self._batch()
            with best_effort("the cache"):
                await self._database.write(partial(keep_responses, responses=batch, bounds=self._bounds))
            for stored in batch:
                name = stored.account_id, stored.gateway_id, stored.key
                if self._pending.get(name) is stored:
                    self._drop(*name)

    def _batch(self) -> list[CachedResponse]:
        """The next few, so that their transaction is short."""
        batch: list[CachedResponse] = []
        size = 0
        for response in islice(self._pending.values(), BATCH_MAX):
            if batch and size + response.size > BATCH_BYTES:
                break
            batch.append(response)
            size += response.size
        return batch
