"""The buckets of accounts that make calls, as known to this process."""

import asyncio
from functools import partial

from farebox.storage.accounts import find_buckets
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import DatabaseUnavailable


class Buckets:
    """Known buckets. Create it inside the running loop."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self.known = database.buckets
        self._lookups: dict[str, asyncio.Future[int | None]] = {}
        self._queued: list[str] = []
        self._reading: asyncio.Task[None] | None = None

    async def find(self, account_id: str) -> int | None:
        """The account's bucket; None if there is no such account. Raises DatabaseUnavailable.

        Looked up once for all callers that wait for it, which then continue in the order in which they came; accounts
        that are asked for during a query share the next one.
        """
        lookup = self._lookups.get(account_id)
        if lookup is None:
            lookup = self._lookups[account_id] = self._loop.create_future()
            self._queued.append(account_id)
            if self._reading is None:
                self._start()
        return await asyncio.shield(lookup)

    def _start(self) -> None:
        self._reading = self._loop.create_task(self._read())
        self._reading.add_done_callback(self._ended)

    async def _read(self) -> None:
        while self._queued:
            account_ids, self._queued = self._queued, []
            await self._read_of(account_ids)

    def _ended(self, reading: "asyncio.Task[None]") -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        self._reading = None
        if reading.cancelled():
            account_ids, self._queued = self._queued, []
            self._fail(account_ids, DatabaseUnavailable("the ledger was stopped"))
        elif self._queued:  # since the task's last look
            self._start()

    async def _read_of(self, account_ids: list[str]) -> None:
        read_at = self.known.forgotten
        try:
            found = await self._database.get(partial(find_buckets, account_ids=account_ids))
        except asyncio.CancelledError:
            self._fail(account_ids, DatabaseUnavailable("the ledger was stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - it is the callers'
            self._fail(account_ids, error)
            return
        self.known.remember(found, read_at=read_at)
        for account_id in account_ids:
            self._lookups.pop(account_id).set_result(found.get(account_id))

    def _fail(self, account_ids: list[str], error: Exception) -> None:
        for account_id in account_ids:
            lookup = self._lookups.pop(account_id)
            lookup.set_exception(error)
            lookup.exception()  # its callers may be gone
