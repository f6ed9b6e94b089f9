"""Lanes: how calls' holds and charges reach PostgreSQL, many with one statement.

There is one lane a bucket. What arrives while a batch is under way forms the next one; there is no timer. The
function `ledger_batch` of the database does what is common; what it answers `slow` is done as a job by ledger.posting,
after the batch.

Order. Ends go before holds within a batch, and jobs are slower than batches, so that commands sent side by side may be
carried out in another order than they were sent in. One that is sent after another's verdict always comes after it. A
command that does not find what an earlier one should have left there (a release whose hold is in the same batch, or is
a job by now) is slow too, and jobs keep their order: so it comes after the other.

Fence. A batch may wait in the database after its sender has gone, and be carried out later. So each names its process
and the epoch of its connection; under another epoch than the one that is registered no hold is made (`fenced`). A
process that finds itself fenced, as it was taken for dead, connects anew and sends those holds again.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import structlog

from farebox.clock import SystemClock
from farebox.ledger.buckets import Buckets
from farebox.ledger.commands import CallWritten, Command, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.job_ledger import JobLedger
from farebox.ledger.posting import apply_left
from farebox.storage.account_keys import NO_BUCKET
from farebox.storage.calls import UNRECORDED, CallRow, encode_detail
from farebox.storage.instances import fence
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.dialect import storable
from farebox.storage.postgres.lanes import Lane as Sender
from farebox.storage.sql import Connection, DatabaseUnavailable, NodeAway

BATCH_MAX = 256
BATCH_BYTES = 4 * 2**20
"""Of bodies in a batch, and then one call's more. A few hundred large calls in one statement would run into its
time-out, with everybody's calls beside them."""

NODE_AWAY_SECONDS = 1.0
"""How long a lane refuses at once when the node of its bucket is away, before it tries again."""

_SETTLE, _RELEASE, _ALONE = 1, 2, 3
_FENCED = 6
_OUTCOMES = (None, Outcome.DONE, Outcome.REFUSED, Outcome.HELD_ELSEWHERE, Outcome.LIMITED, Outcome.UNKNOWN, None)
_END_COLUMNS, _HOLD_COLUMNS = 21, 7
_NO_ROW = (None, UNRECORDED, "", *(None,) * 11)
"""Stands for the row of a call where none is written; what is charged is counted under a provider and a model."""

Values: TypeAlias = tuple[Any, ...]

log = structlog.get_logger("farebox.ledger")


class _Item:
    """A command on its way, or the row of a call for which nothing was held."""

    __slots__ = ("account_id", "command", "fenced", "future", "key", "record", "values")

    def __init__(
        self,
        account_id: str,
        key: str,
        command: Hold | Settle | Release | None,
        record: CallWritten | None,
        values: Values,
        future: "asyncio.Future[Verdict]",
    ) -> None:
        self.account_id = account_id
        self.key = key
        """The hold's id, which is the call's."""
        self.command = command
        self.record = record
        """If there is no command."""
        self.values = values
        """For the function, but for the place of the account."""
        self.future = future
        self.fenced = False
        """Whether it was sent before, and fenced."""


class LaneLedger:
    """The ledger that serves calls on PostgreSQL, for the process of this name; no other ledger may have the same. Make
    it inside the running loop."""

    def __init__(self, database: PostgresDatabase, instance: str) -> None:
        self.instance = instance
        self._loop = asyncio.get_running_loop()
        self._database = database
        self._jobs = JobLedger(database)
        self._lanes: dict[int, _Lane] = {}
        self._buckets = Buckets(database)
        self._closed = False
        self._slow: set[asyncio.Task[None]] = set()
        self.slow = 0
        """Items that the function left to a job."""

    async def do(self, command: Command) -> Verdict:
        values = _values(command)
        if values is None:
            return await self._jobs.do(command)
        assert isinstance(command, Hold | Settle | Release)
        return await self._send(command.account_id, command.hold_id, command, None, values)

    def check(self, account_id: str) -> None:
        lane = self._lanes.get(self._buckets.known.get(account_id, NO_BUCKET))
        if lane is not None:
            lane.check()

    async def record(self, account_id: str, record: CallWritten) -> None:
        row = record.row(Verdict(Outcome.UNKNOWN))
        if row.charge or row.account_id != account_id or row.created_at != record.at:
            await self._jobs.record(account_id, record)
            return
        values = (_ALONE, row.log_id, 0, 0, row.created_at, None, *_written(row))
        await self._send(account_id, row.log_id, None, record, values)

    async def _send(
        self,
        account_id: str,
        key: str,
        command: Hold | Settle | Release | None,
        record: CallWritten | None,
        values: Values,
    ) -> Verdict:
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
        item = _Item(account_id, key, command, record, values, self._loop.create_future())
        lane.put(item)
        return await item.future

    def do_slowly(self, item: _Item) -> None:
        """Carry the item out as a job; its sender gets the result."""
        self.slow += 1
        task = self._loop.create_task(self._do_slowly(item))
        self._slow.add(task)
        task.add_done_callback(self._slow.discard)

    async def _do_slowly(self, item: _Item) -> None:
        try:
            if item.command is not None:
                verdict = await self._database.write(partial(_apply_left, item.command))
            else:
                assert item.record is not None
                await self._jobs.record(item.account_id, item.record)
                verdict = Verdict(Outcome.DONE)
        except Exception as error:  # noqa: BLE001 - it is the sender's
            if not item.future.done():
                item.future.set_exception(error)
        else:
            if not item.future.done():
                item.future.set_result(verdict)

    @property
    def waiting(self) -> int:
        """Items that wait for the next batch of their lane."""
        return sum(len(lane._pending) for lane in self._lanes.values())

    async def close(self) -> None:
        """Finish what was sent; then nothing more may be. The database stays open."""
        self._closed = True
        for lane in self._lanes.values():
            await lane.close()
        while self._slow:
            await asyncio.wait(self._slow)
        if self._lanes:
            try:
                await self._database.write(partial(fence, instance_id=self.instance))
            except DatabaseUnavailable as error:  # then others find that it has gone
                log.warning("database unavailable", why=str(error))


def _apply_left(command: Command, connection: Connection) -> Verdict:
    return apply_left(connection, command)


class _Lane:
    """What is on its way to one bucket."""

    def __init__(self, ledger: LaneLedger, bucket: int, database: PostgresDatabase) -> None:
        self._ledger = ledger
        self._bucket = bucket
        self._database = database
        self._sender = Sender(database.url, instance=ledger.instance, bucket=bucket, timeout=database.timeout)
        self._monotonic = SystemClock().monotonic
        self._away: NodeAway | None = None
        self._again_at = 0.0  # until then nothing is sent: the node of the bucket was away a moment ago
        self._pending: deque[_Item] = deque()
        self._work: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises NodeAway where the node of the bucket was away a moment ago: nobody else need wait for it."""
        if self._away is not None and self._monotonic() < self._again_at:
            raise NodeAway(str(self._away), self._away.node)

    def put(self, item: _Item) -> None:
        self._pending.append(item)
        if self._work is None:
            self._work = asyncio.create_task(self._run())  # starts after everybody else who is ready now

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._collect_pending()
                await self._do(self._next_batch())
        finally:
            self._work = None

    async def _collect_pending(self) -> None:
        """Wait until a turn of the loop has brought nothing more: what comes while many are ready shares one batch."""
        seen = 0
        while seen < len(self._pending) < BATCH_MAX:
            seen = len(self._pending)
            await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop, no time

    def _next_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._pending and len(batch) < BATCH_MAX and size < BATCH_BYTES:
            item = self._pending.popleft()
            batch.append(item)
            if not isinstance(item.command, Hold):
                size += sum(len(body) for body in item.values[-2:] if body is not None)
        return batch

    async def _do(self, batch: list[_Item]) -> None:
        try:
            self._database.check()  # it may have gone while these waited: they were not sent, and need not wait for it
            self.check()
            ends, holds, slow = _sorted(batch)
            began = self._monotonic()
            response = await self._sender.send(_arguments(ends, holds)) if ends or holds else []
            if response and self._database.activity is not None:
                charged = {("money", "charge"): _charged(ends, response)}
                self._database.activity.batch(len(ends) + len(holds), self._monotonic() - began, charged)
            left = set(batch) if response is None else {*slow, *_deliver((*ends, *holds), len(ends), response)}
            if response is not None and _FENCED in response[4 * len(ends) : 4 * len(ends) + 1]:
                again = left.union(holds)  # an end that found no hold is to come after it
                left.clear()
                self._send_again([item for item in batch if item in again])
        except BaseException as error:
            if isinstance(error, DatabaseUnavailable):
                self._database.report_failure(error)
            if isinstance(error, NodeAway):
                self._away, self._again_at = error, self._monotonic() + NODE_AWAY_SECONDS
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(_named(error))
            if not isinstance(error, Exception):
                raise
        else:
            for item in batch:
                if item in left:
                    self._ledger.do_slowly(item)

    def _send_again(self, items: list[_Item]) -> None:
        """Under a new epoch, ahead of all others. Raises DatabaseUnavailable where one was fenced before."""
        log.warning("lane fenced", bucket=self._bucket, items=len(items))
        self._sender.close()  # it registers when it connects
        if any(item.fenced for item in items):
            raise DatabaseUnavailable("another process takes this one for dead, again and again")
        for item in reversed(items):
            item.fenced = True
            self._pending.appendleft(item)

    async def close(self) -> None:
        while self._work is not None:
            await asyncio.wait([self._work])
        self._sender.close()


def _named(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return DatabaseUnavailable("the ledger was stopped")
    return error


# --- into the function, and out of it ---------------------------------------------------------------------------------


def _values(command: Command) -> Values | None:
    """What the function is told about the command; None if it is a job from the start."""
    if isinstance(command, Hold):
        if command.amount < 0 or "/" in command.hold_id:
            return None  # and fails there
        counted = command.counted_at or command.at
        return (command.hold_id, command.amount, command.at, counted, command.expires_at, command.owner)
    if isinstance(command, Settle):
        return None if command.amount < 0 else _end(_SETTLE, command, command.amount, command.note or None)
    if isinstance(command, Release):
        return _end(_RELEASE, command, 0, None)
    return None


def _end(kind: int, command: Settle | Release, charge: int, note: str | None) -> Values | None:
    if command.record is None:
        return (kind, command.hold_id, charge, command.at, command.at, note, *_NO_ROW)
    if not isinstance(command.record, CallWritten):
        return None
    call = command.record.row(Verdict(Outcome.DONE, amount=charge))
    same = (call.account_id, call.log_id, call.charge) == (command.account_id, command.hold_id, charge)
    if not same or call.created_at != command.record.at:
        return None
    return (kind, command.hold_id, charge, command.at, call.created_at, note, *_written(call))


def _written(row: CallRow) -> Values:
    return (
        row.gateway_id,
        row.provider,
        storable(row.model),  # a caller's own words
        int(row.success),
        row.status_code,
        row.duration,
        row.tokens_in,
        row.tokens_out,
        row.cost,
        encode_detail(row.detail),
        None if row.receipt is None else row.receipt.decode(),
        int(row.logged),
        row.request_body,
        row.response_body,
    )


def _sorted(batch: Iterable[_Item]) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """Ends, holds, and those that meet another of the same id there: they are for jobs, which come after it."""
    ends: list[_Item] = []
    holds: list[_Item] = []
    slow: list[_Item] = []
    seen: set[tuple[bool, str, str]] = set()
    for item in batch:
        is_hold = isinstance(item.command, Hold)
        same = (is_hold, item.account_id, item.key)
        if same in seen:
            slow.append(item)
        else:
            seen.add(same)
            (holds if is_hold else ends).append(item)
    return ends, holds, slow


def _arguments(ends: Sequence[_Item], holds: Sequence[_Item]) -> list[Sequence[Any] | None]:
    """From p_accounts on."""
    accounts = sorted({item.account_id for item in (*ends, *holds)})  # by code point: the order of COLLATE "C"
    places = {account_id: place for place, account_id in enumerate(accounts, 1)}
    return [
        accounts,
        *_columns(ends, places, _END_COLUMNS),
        *_columns(holds, places, _HOLD_COLUMNS),
    ]


def _columns(items: Sequence[_Item], places: dict[str, int], width: int) -> list[Sequence[Any] | None]:
    if not items:
        return [None] * width
    columns = zip(*(item.values for item in items), strict=True)
    return [[places[item.account_id] for item in items], *(_some(column) for column in columns)]


def _some(column: Values) -> Values | None:
    """None where it has no value at all: an array of nulls costs both sides as much as any other."""
    return None if column.count(None) == len(column) else column


def _charged(ends: Sequence[_Item], response: list[int]) -> int:
    """What the function has charged; it writes nothing off, which is slow."""
    done = (item.command for place, item in enumerate(ends) if _OUTCOMES[response[4 * place]] is Outcome.DONE)
    return sum(command.amount for command in done if isinstance(command, Settle))


def _deliver(items: Sequence[_Item], ends: int, response: list[int]) -> list[_Item]:
    """Give the function's answers to those who wait; return the items that are slow."""
    slow = []
    tail = iter(response[4 * len(items) :])
    limits = {ends + number: (limit, spent) for number, limit, spent in zip(tail, tail, tail, strict=True)}
    for place, item in enumerate(items):
        code, posted, held, owed = response[4 * place : 4 * place + 4]
        outcome = _OUTCOMES[code]
        if outcome is None:
            slow.append(item)
        elif not item.future.done():  # else its sender was cancelled; what was done stands
            amount = item.command.amount if outcome is Outcome.DONE and isinstance(item.command, Hold | Settle) else 0
            limit, spent = limits.get(place + 1, (None, 0))
            item.future.set_result(Verdict(outcome, posted, held, amount, 0, False, owed, limit, spent))
    return slow
