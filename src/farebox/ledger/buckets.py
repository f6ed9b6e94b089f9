"""The buckets of the accounts that call, as far as this process knows them."""

import asyncio
from functools import partial

from farebox.storage.accounts import find_buckets
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import DatabaseUnavailable


class Buckets:
    """Make it inside the running loop."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self.known = database.buckets
        self._lookups: dict[str, asyncio.Future[int | None]] = {}
        self._queued: list[str] = []
        self._reading: asyncio.Task[None] | None = None

    async def find(self, account_id: str) -> int | None:
        """The account's bucket; None if there is no such account. Raises DatabaseUnavailable.

        Asked once for all who wait for it, who then go on in the order in which they came; and with one query for all
        accounts that are asked for meanwhile.
        """
        lookup = self._lookups.get(account_id)
        if lookup is None:
            lookup = self._lookups[account_id] = self._loop.create_future()
            self._queued.append(account_id)
            if self._reading is None:
                self._reading = self._loop.create_task(self._read())
        return await asyncio.shield(lookup)

    async def _read(self) -> None:
        try:
            while self._queued:
                account_ids, self._queued = self._queued, []
                await self._read_of(account_ids)
        finally:
            self._reading = None

    async def _read_of(self, account_ids: list[str]) -> None:
        read_at = self.known.forgotten
        try:
            found = await self._database.get(partial(find_buckets, account_ids=account_ids))
        except BaseException as error:
            for account_id in account_ids:
                lookup = self._lookups.pop(account_id)
                lookup.set_exception(error if isinstance(error, Exception) else DatabaseUnavailable("stopped"))
                lookup.exception()  # its waiters may have gone
            if not isinstance(error, Exception):
                raise
            return
        self.known.remember(found, read_at=read_at)
        for account_id in account_ids:
            self._lookups.pop(account_id).set_result(found.get(account_id))
