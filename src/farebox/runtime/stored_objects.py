"""The owners of IDs that providers hand out under the operator's keys: read one by one, written together."""

import asyncio
from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from farebox.storage.account_keys import by_bucket
from farebox.storage.database import Database
from farebox.storage.stored_objects import StoredObject, find_object, keep_objects


class StoredObjects:
    """Objects that arrive for a bucket during a write are written together in the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes: dict[int, _Lane] = {}

    async def find(
        self, account_id: str, gateway_id: str, provider: str, kind: str, object_id: str, at: int
    ) -> StoredObject | None:
        """The object; None if it does not belong to this gateway. Raises storage.sql.DatabaseUnavailable."""
        return await self._database.get(
            partial(
                find_object,
                account_id=account_id,
                gateway_id=gateway_id,
                provider=provider,
                kind=kind,
                object_id=object_id,
                at=at,
            )
        )

    async def keep(self, objects: Sequence[StoredObject]) -> None:
        """Record the owners of these objects, durably when this returns. Raises storage.sql.DatabaseUnavailable."""
        divided = await self._database.get(partial(by_bucket, items=objects, account_of=attrgetter("account_id")))
        for bucket, some in divided.items():  # all of them belong to one account
            if bucket not in self._lanes:
                self._lanes[bucket] = _Lane(self._database)
            await self._lanes[bucket].keep(some)


class _Lane:
    """The writes for one bucket, so that each concerns one Citus node and does not fail because of another."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._batch: list[StoredObject] = []
        self._next: asyncio.Task[None] | None = None

    async def keep(self, objects: Sequence[StoredObject]) -> None:
        """Raises storage.sql.DatabaseUnavailable."""
        self._batch.extend(objects)
        if self._next is None:
            self._next = asyncio.create_task(self._write())
            self._next.add_done_callback(self._ended)
        await asyncio.shield(self._next)

    def _ended(self, write: "asyncio.Task[None]") -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        if self._next is write:
            self._next = None

    async def _write(self) -> None:
        async with self._turn:
            batch, self._batch, self._next = self._batch, [], None
            await self._database.write(partial(keep_objects, objects=batch))
