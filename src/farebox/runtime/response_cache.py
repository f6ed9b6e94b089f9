"""The response cache as a process sees it: responses in its memory, responses waiting to be stored, and the store.

No call waits for a write: a response to be stored is kept in memory until a task has stored it, or dropped if that
memory is full. Responses waiting to be stored can already be found. A response that was found is served from memory for
a second, as another process may store a different response in its place.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Final, Protocol

import msgspec

from farebox.clock import Clock
from farebox.limits.fair_memory import FairMemory
from farebox.providers.reading import ParsedBody
from farebox.runtime.observers import best_effort
from farebox.runtime.tasks import Tasks
from farebox.settings import Settings
from farebox.storage.account_keys import by_bucket
from farebox.storage.cached_responses import (
    CacheBounds,
    CachedResponse,
    accounts_above,
    find_response,
    forget_leftovers,
    keep_responses,
    shrink,
)
from farebox.storage.database import Database
from farebox.storage.sql import NodeUnavailable

PENDING_BYTES_MAX: Final = 8 * 2**20
BATCH_BYTES: Final = 2**20
BATCH_MAX: Final = 32
COLLECT_SECONDS: Final = 0.05
"""How long a batch that is not full waits for more responses: a transaction costs much more than one more response in
it."""
HOT_MS: Final = 1_000
HOT_BYTES: Final = 16 * 2**20
ACCOUNT_HOT_BYTES: Final = 4 * 2**20
REQUEST_BYTES: Final = 8 * 2**20
ACCOUNT_REQUEST_BYTES: Final = 2 * 2**20
TASK: Final = "cached responses"


class ResponseStore(Protocol):
    """Where responses are stored for all processes."""

    async def find(self, account_id: str, gateway_id: str, key: str, at: int) -> CachedResponse | None:
        """The response with this key, if it has not expired. Raises DatabaseUnavailable."""
        ...

    async def keep(self, responses: Sequence[CachedResponse], bounds: CacheBounds) -> None:
        """Store responses within the bounds. Raises DatabaseUnavailable."""
        ...


class DatabaseStore:
    """A store in the tables of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account_id: str, gateway_id: str, key: str, at: int) -> CachedResponse | None:
        wanted = partial(find_response, account_id=account_id, gateway_id=gateway_id, key=key, at=at)
        return await self._database.get(wanted)

    async def keep(self, responses: Sequence[CachedResponse], bounds: CacheBounds) -> None:
        """Store the responses in one transaction per bucket, after making room. Responses are not stored if their
        bucket's node is unavailable, or if there is no room."""
        room = max(bounds.all - sum(response.size for response in responses), 0)
        above, share = await self._database.scan(partial(accounts_above, most=room))
        for account_ids in above.values():
            await self._database.write(partial(shrink, account_ids=account_ids, most=share))
        of_account = partial(by_bucket, items=responses, account_of=attrgetter("account_id"))
        for bucket, some in (await self._database.get(of_account)).items():
            with suppress(NodeUnavailable):
                await self._database.write(partial(keep_responses, bucket=bucket, responses=some, most=bounds.account))


class RecalledRequest(msgspec.Struct, frozen=True):
    """What is remembered of a request that was answered from the cache, for requests with exactly the same bytes."""

    read: ParsedBody
    key: str


class _HotResponse(msgspec.Struct, frozen=True):
    response: CachedResponse
    until: int


class ResponseCache:
    """Finds responses, and stores new ones in the background."""

    def __init__(
        self, database: Database, tasks: Tasks, settings: Settings, clock: Clock, shared: ResponseStore | None
    ) -> None:
        """`shared`: a store to use instead of the database's tables."""
        self._database = database
        self._clock = clock
        self._store: ResponseStore = shared or DatabaseStore(database)
        self._tasks = tasks
        self._bounds = CacheBounds(settings.account_cache_bytes_max, settings.cache_bytes_max)
        self._pending: dict[str, CachedResponse] = {}
        self._pending_bytes = 0
        self._left: set[tuple[str, str]] = set()
        """Account and gateway of caches that were emptied."""
        self._hot: FairMemory[str, _HotResponse] = FairMemory(HOT_BYTES, ACCOUNT_HOT_BYTES)
        self._requests: FairMemory[tuple[bytes, bytes], RecalledRequest] = FairMemory(
            REQUEST_BYTES, ACCOUNT_REQUEST_BYTES
        )
        """Scope of the request's head (calls.model.CacheUse.scope) and body → what is remembered."""
        self.flights: dict[str, asyncio.Future[CachedResponse | None]] = {}
        """Key → the response of a call under way that others wait for; None once it is known that it has no response
        for them."""

    def in_memory(self, account_id: str, key: str, at: int) -> CachedResponse | None:
        """The response, if it is in memory."""
        hot = self._hot.get(account_id, key)
        if hot is not None and at < hot.until:
            return hot.response
        pending = self._pending.get(key)
        return pending if pending is not None and at < pending.expires_at else None

    async def find(self, account_id: str, gateway_id: str, key: str, at: int) -> CachedResponse | None:
        """The response, if it is in the store. Raises DatabaseUnavailable."""
        found = await self._store.find(account_id, gateway_id, key, at)
        if found is not None and key not in self._pending:
            self._keep_hot(found, at)
        return found

    def _keep_hot(self, response: CachedResponse, at: int) -> None:
        hot = _HotResponse(response, min(response.expires_at, at + HOT_MS))
        self._hot.put(response.account_id, response.key, hot, len(response.body))

    def recall(self, account_id: str, scope: bytes, body: bytes) -> RecalledRequest | None:
        return self._requests.get(account_id, (scope, body))

    def learn(self, account_id: str, scope: bytes, body: bytes, recalled: RecalledRequest) -> None:
        """Remember a request with this body, which was answered from the cache."""
        self._requests.put(account_id, (scope, body), recalled, len(body))

    def add(self, response: CachedResponse, at: int) -> None:
        """Give the response to the calls that wait for it, and store it soon; not if too much is waiting to be stored,
        or if it exceeds a bound."""
        flight = self.flights.get(response.key)
        self._hot.drop(response.account_id, response.key)
        self._drop(response.key)
        if flight is not None:  # other calls may be about to wait for it
            self._keep_hot(response, at)
            if not flight.done():
                flight.set_result(response)
        size = response.size
        if self._pending_bytes + size > PENDING_BYTES_MAX or size > min(self._bounds.account, self._bounds.all):
            return
        self._pending[response.key] = response
        self._pending_bytes += size
        self._tasks.begin(TASK, self._work)

    def left(self, account_id: str, gateway_id: str) -> None:
        """The gateway's cache may have been emptied: delete what is left of it."""
        self._left.add((account_id, gateway_id))
        self._tasks.begin(TASK, self._work)

    def _drop(self, key: str) -> None:
        dropped = self._pending.pop(key, None)
        if dropped is not None:
            self._pending_bytes -= dropped.size

    async def _work(self) -> None:
        while self._pending or self._left:
            if self._pending:
                if len(self._pending) < BATCH_MAX and self._pending_bytes < BATCH_BYTES:
                    await self._clock.sleep(COLLECT_SECONDS)
                await self._keep(self._batch())
            if self._left:
                await self._remove_some(*next(iter(self._left)))

    async def _keep(self, batch: list[CachedResponse]) -> None:
        with best_effort("the cache"):
            await self._store.keep(batch, self._bounds)
        for stored in batch:
            if self._pending.get(stored.key) is stored:
                self._drop(stored.key)

    async def _remove_some(self, account_id: str, gateway_id: str) -> None:
        more = False
        with best_effort("the cache"):  # if it fails, the job in periodic_jobs.py does the rest
            remove = partial(forget_leftovers, account_id=account_id, gateway_id=gateway_id)
            more = await self._database.write(remove)
        if not more:
            self._left.discard((account_id, gateway_id))

    def _batch(self) -> list[CachedResponse]:
        """The next batch, small enough for a short transaction."""
        batch: list[CachedResponse] = []
        size = 0
        for response in islice(self._pending.values(), BATCH_MAX):
            if batch and size + response.size > BATCH_BYTES:
                break
            batch.append(response)
            size += response.size
        return batch
