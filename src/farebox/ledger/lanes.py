"""Lanes: how calls' holds and charges reach PostgreSQL, many in one statement.

Each bucket has one lane. Commands that arrive while a batch is in progress, or a few turns of the event loop later,
form the next one. The database function `ledger_batch` handles the common cases; what it answers with `slow` is done as
a job by ledger.posting, after the batch.

Order. Ends go before holds within a batch, and jobs are slower than batches, so concurrent commands may be carried out
in a different order than they were sent in. A command that is sent after another's verdict is always carried out after
it. A command that does not find what an earlier one should have left there (a release whose hold is in the same batch,
or has become a job) is slow too, and jobs keep their order, so it comes after the other.

Fence. A batch may wait in the database after its sender is gone, and be carried out later. So each batch names its
process and the epoch of its connection; if that is not the registered epoch, no hold is created (`fenced`). A process
that finds itself fenced, because it was declared dead, reconnects and sends those holds again.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from farebox.clock import SystemClock
from farebox.ledger.buckets import Buckets
from farebox.ledger.commands import CallWritten, Command, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.job_ledger import JobLedger
from farebox.ledger.lane_values import (
    FENCED,
    Item,
    Values,
    arguments_of,
    charged_by,
    deliver,
    single_row_values,
    sort_batch,
    unknown_in,
    values_of,
)
from farebox.ledger.posting import apply_left
from farebox.storage.account_keys import NO_BUCKET
from farebox.storage.batch_wait import wait_for_more
from farebox.storage.instances import fence
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.lanes import Lane as Sender
from farebox.storage.sql import Connection, DatabaseUnavailable, NodeUnavailable

BATCH_MAX = 256
BATCH_BYTES = 4 * 2**20
"""Bytes of bodies after which a batch takes no further call. A few hundred large calls in one statement would reach its
timeout, and all other calls of the batch with them."""

NODE_UNAVAILABLE_SECONDS = 1.0
"""How long a lane refuses at once when the node of its bucket is unavailable, before it tries again."""

log = structlog.get_logger("farebox.ledger")


class LaneLedger:
    """The ledger that serves calls on PostgreSQL, for the process `instance`; no other ledger may have the same name.
    Create it inside the running loop."""

    def __init__(self, database: PostgresDatabase, instance: str) -> None:
        self.instance = instance
        self._loop = asyncio.get_running_loop()
        self._database = database
        self._jobs = JobLedger(database)
        self._lanes: dict[int, _Lane] = {}
        self._buckets = Buckets(database)
        self._closed = False
        self._slow: set[asyncio.Task[Verdict]] = set()

    async def do(self, command: Command) -> Verdict:
        values = values_of(command)
        if values is None:
            return await self._jobs.do(command)
        assert isinstance(command, Hold | Settle | Release)
        return await self._send(command.account_id, command.hold_id, command, None, values)

    def check(self, account_id: str) -> None:
        lane = self._lanes.get(self._buckets.known.get(account_id, NO_BUCKET))
        if lane is not None:
            lane.check()

    async def record(self, account_id: str, record: CallWritten) -> None:
        values = single_row_values(account_id, record)
        if values is None:
            await self._jobs.record(account_id, record)
        else:
            await self._send(account_id, values[1], None, record, values)

    async def record_all(self, records: Sequence[tuple[str, CallWritten]]) -> None:
        sent = []
        for account_id, record in records:
            values = single_row_values(account_id, record)
            if values is None:
                await self._jobs.record(account_id, record)
            else:
                sent.append(await self._put(account_id, values[1], None, record, values))
        await asyncio.gather(*(verdict for verdict in sent if isinstance(verdict, asyncio.Future)))

    async def _send(
        self,
        account_id: str,
        key: str,
        command: Hold | Settle | Release | None,
        record: CallWritten | None,
        values: Values,
    ) -> Verdict:
        verdict = await self._put(account_id, key, command, record, values)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def _put(
        self,
        account_id: str,
        key: str,
        command: Hold | Settle | Release | None,
        record: CallWritten | None,
        values: Values,
    ) -> "asyncio.Future[Verdict] | Verdict":
        """A future for the verdict; the verdict itself if there is no such account."""
        self._database.check()
        bucket = self._buckets.known.get(account_id)
        if bucket is None:
            bucket = await self._buckets.find(account_id)
            if bucket is None:
                return Verdict(Outcome.UNKNOWN)
        if self._closed:
            raise DatabaseUnavailable("the ledger is closed")
        lane = self._lanes.get(bucket)
        if lane is None:
            lane = self._lanes[bucket] = _Lane(self, bucket, self._database)
        lane.check()
        item = Item(account_id, key, command, record, values, self._loop.create_future())
        lane.put(item)
        return item.future

    def forget(self, account_ids: list[str]) -> None:
        """Forget the buckets of these accounts: they are no longer there."""
        if account_ids:
            self._buckets.known.forget(account_ids)

    def do_slowly(self, item: Item) -> None:
        """Carry the item out as a job; its sender gets the result."""
        task = self._loop.create_task(self._do_slowly(item))
        self._slow.add(task)
        task.add_done_callback(partial(self._done_slowly, item))

    async def _do_slowly(self, item: Item) -> Verdict:
        if item.command is not None:
            return await self._database.write(partial(_apply_left, item.command))
        assert item.record is not None
        await self._jobs.record(item.account_id, item.record)
        return Verdict(Outcome.DONE)

    def _done_slowly(self, item: Item, task: "asyncio.Task[Verdict]") -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        self._slow.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            _fail([item], error)
        elif not item.future.done():
            item.future.set_result(task.result())

    @property
    def waiting(self) -> int:
        """How many items wait for the next batch of their lane."""
        return sum(len(lane._pending) for lane in self._lanes.values())

    async def close(self) -> None:
        """Finish what was sent; nothing more can be sent afterwards. The database stays open."""
        self._closed = True
        for lane in self._lanes.values():
            await lane.close()
        while self._slow:
            await asyncio.wait(self._slow)
        if self._lanes:
            try:
                await self._database.write(partial(fence, instance_id=self.instance))
            except DatabaseUnavailable as error:  # other processes will find that this one is gone
                log.warning("database unavailable", why=str(error))


def _apply_left(command: Command, connection: Connection) -> Verdict:
    return apply_left(connection, command)


class _Lane:
    """The items on their way to one bucket."""

    def __init__(self, ledger: LaneLedger, bucket: int, database: PostgresDatabase) -> None:
        self._ledger = ledger
        self._bucket = bucket
        self._database = database
        self._sender = Sender(database.url, instance=ledger.instance, bucket=bucket, timeout=database.timeout)
        self._monotonic = SystemClock().monotonic
        self._unavailable: NodeUnavailable | None = None
        self._again_at = 0.0  # nothing is sent before: the node of the bucket was unavailable a moment ago
        self._pending: deque[Item] = deque()
        self._last_size = 0
        self._work: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises NodeUnavailable if the node of the bucket was unavailable a moment ago, so that no other call waits
        for it."""
        if self._unavailable is not None and self._monotonic() < self._again_at:
            raise NodeUnavailable(str(self._unavailable), self._unavailable.node)

    def put(self, item: Item) -> None:
        self._pending.append(item)
        if self._work is None:
            self._start()

    def _start(self) -> None:
        self._work = asyncio.create_task(self._run())  # starts after everything else that is ready now
        self._work.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._pending:
            await wait_for_more(self._pending, after=self._last_size, enough=BATCH_MAX)
            await self._do(self._next_batch())
            self._database.note_queued()  # calls may wait to be pushed, metered or classified

    def _ended(self, work: asyncio.Task[None]) -> None:
        """A callback, because a task that is canceled before it starts never runs."""
        self._work = None
        if work.cancelled():
            _fail(self._pending, asyncio.CancelledError())
            self._pending.clear()
        elif self._pending:  # put between the task's last look and now
            self._start()

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        while self._pending and len(batch) < BATCH_MAX and size < BATCH_BYTES:
            item = self._pending.popleft()
            batch.append(item)
            if not isinstance(item.command, Hold):
                size += sum(len(body) for body in item.values[-2:] if body is not None)
        self._last_size = len(batch)
        return batch

    async def _do(self, batch: list[Item]) -> None:
        try:
            self._database.check()  # it may be unavailable by now: these were not sent, and need not wait for it
            self.check()
            ends, holds, slow = sort_batch(batch)
            began = self._monotonic()
            response = await self._sender.send(arguments_of(ends, holds)) if ends or holds else []
            if response and self._database.activity is not None:
                charged = {("money", "charge"): charged_by(ends, response)}
                self._database.activity.batch(len(ends) + len(holds), self._monotonic() - began, charged)
            left = set(batch) if response is None else {*slow, *self._deliver(ends, holds, response)}
            if response is not None and FENCED in response[4 * len(ends) : 4 * len(ends) + 1]:
                again = left.union(holds)  # an end that found no hold must come after it
                left.clear()
                self._send_again([item for item in batch if item in again])
        except BaseException as error:
            if isinstance(error, DatabaseUnavailable):
                self._database.report_failure(error)
            if isinstance(error, NodeUnavailable):
                self._unavailable, self._again_at = error, self._monotonic() + NODE_UNAVAILABLE_SECONDS
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for item in batch:
                if item in left:
                    self._ledger.do_slowly(item)

    def _deliver(self, ends: list[Item], holds: list[Item], response: list[int]) -> list[Item]:
        """Deliver answers; returns the items that are left to jobs. Jobs find an account that was moved to another
        bucket, and later items then go there."""
        items = (*ends, *holds)
        left = deliver(items, len(ends), response)
        if left:
            self._ledger.forget(unknown_in(items, response))
        return left

    def _send_again(self, items: list[Item]) -> None:
        """Send items again under a new epoch, ahead of all others. Raises DatabaseUnavailable if one of them was fenced
        before."""
        log.warning("lane fenced", bucket=self._bucket, items=len(items))
        self._sender.close()  # it registers again when it connects
        if any(item.fenced for item in items):
            raise DatabaseUnavailable("another process takes this one for dead, again and again")
        for item in reversed(items):
            item.fenced = True
            self._pending.appendleft(item)

    async def close(self) -> None:
        while self._work is not None:
            await asyncio.wait([self._work])
        self._sender.close()


def _fail(items: Iterable[Item], error: BaseException) -> None:
    """Their senders get the error."""
    if isinstance(error, asyncio.CancelledError):
        error = DatabaseUnavailable("the ledger was stopped")
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)
