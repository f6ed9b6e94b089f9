"""The one writer of an SQLite database in this process: group commit.

Jobs that arrive while a batch commits form the next batch. Before it begins, the writer lets the event loop run until a
few iterations have brought no further job. There is no timer. A job's result is returned only after the commit that
contains it is durable. One busy account is as fast as many quiet ones, because everything in a commit shares the
commit's cost.

The jobs' statements run on the event loop: microseconds each, on pages in memory. Waiting, for the disk in a commit or
for another process's write lock, happens on a separate thread. (If the statements ran there too, the two threads would
compete for the GIL at each of them.)

A loop that always has something to do releases the GIL only for microseconds at a time. A thread that wakes up then
finds it taken again, and its wait starts over before it may demand it (CPython's `take_gil`): a commit could take
seconds. So while the thread is at work, the loop occasionally pauses for long enough.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import apsw

from farebox.clock import SystemClock, pause_for_threads
from farebox.jobs import OnFailure
from farebox.storage.activity import Activity
from farebox.storage.batch_wait import IDLE_TURNS_MAX, TURNS_MAX
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import BUSY_TIMEOUT_MS, SqliteConnection, connect
from farebox.storage.sqlite.checkpoints import Checkpoints
from farebox.storage.sqlite.failures import FileIdentity, translated

T = TypeVar("T")
Job: TypeAlias = Callable[[Connection], Any]


class GroupedWork(Protocol):
    """Carries out many items of one kind with fewer statements than one by one."""

    def all_of(self, connection: SqliteConnection, items: Sequence[Any]) -> Sequence[Any]:
        """Carry out the items, in order; returns for each its result, or the exception with which it failed by itself.

        If this raises, everything is rolled back, and each item is passed to `one_of`."""
        ...

    def one_of(self, connection: Connection, item: Any) -> Any:
        """Carry out one item by itself."""
        ...


BATCH_MAX = 256
"""Jobs and items of one commit: a few milliseconds of the event loop at most."""
_PAUSE_AFTER_S = 0.004
"""Nearly all commits take less: with a pause after 1 ms, a call took 2.5% more processor time."""
_PAUSE_AGAIN_S, _PAUSE_AGAIN_MAX_S = 0.001, 0.064
"""A thread needs the GIL about twice for a commit. If it waits for anything else, pauses become rare."""
_PAUSE_S = 0.000_05
_Waiting: TypeAlias = tuple[Any, Any, "asyncio.Future[Any]"]
"""A job and None, or a GroupedWork and an item for it; and the future of either. An item is never None."""
_Batch: TypeAlias = list[_Waiting]
_Results: TypeAlias = Sequence[Any]
"""The results of a batch, in its order; an exception is that of the job or item alone."""


class Writer:
    """Runs jobs in order on one connection, many per commit. Create it inside the running loop.

    Only `close` ends it: any failure in a batch is reported to the callers that wait for it, and the next batch starts.
    """

    def __init__(
        self,
        path: Path,
        activity: Activity | None = None,
        *,
        failed: OnFailure | None = None,
        met: Callable[[DatabaseUnavailable], object] = bool,
    ) -> None:
        """`failed` is called with unexpected failures that ended a batch; `met` with each DatabaseUnavailable that a
        caller gets."""
        self._activity = activity
        self._met = met
        self._monotonic = SystemClock().monotonic
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._failed = failed
        self._identity = FileIdentity(path)
        self._checkpoints = Checkpoints(path)
        self._connection = self._connect()
        self._unusable = False
        """The connection could not roll back: the next batch begins by opening another one."""
        self.awaits_turn = False
        """Whether the writer waits for another process that is writing."""
        self._pending: deque[_Waiting] = deque()
        self._working = False
        self._idle_turns_max = 1
        """IDLE_TURNS_MAX, or 1."""
        self._idle = asyncio.Event()
        self._closed = False
        self._blocking: queue.SimpleQueue[tuple[Callable[[], None], _Batch] | None]
        self._blocking = queue.SimpleQueue()
        self._pausing: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._block, name="farebox-commit", daemon=True)
        self._thread.start()

    def _connect(self) -> SqliteConnection:
        connection = connect(self._path)
        connection.set_busy_timeout(0)  # the loop never waits for another process's lock; the thread does
        self._checkpoints.watch(connection)
        return connection

    async def run(self, job: Callable[[Connection], T]) -> T:
        """Run `job` inside a transaction and return its result once that is durable.

        A job reads and writes only through the connection it is given and may be run twice: if another job of the same
        batch raises, all are rolled back and run again, and only that one fails. Raises what the job raises, or
        DatabaseUnavailable: then it may or may not have been committed.
        """
        return await self._put(job, None)  # type: ignore[no-any-return]

    def put(self, work: GroupedWork, item: object) -> "asyncio.Future[Any]":
        """The same for an item that is carried out together with adjacent items."""
        return self._put(work, item)

    def _put(self, work: Job | GroupedWork, item: object) -> "asyncio.Future[Any]":
        if self._closed:
            closed = DatabaseUnavailable("the database is closed")
            self._met(closed)
            raise closed
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append((work, item, future))
        if not self._working:
            self._working = True
            self._loop.call_soon(self._collect_pending, 0)  # after everything else that is ready now
        return future

    @property
    def waiting(self) -> int:
        """How many jobs wait for the next batch."""
        return len(self._pending)

    async def close(self) -> None:
        """Commit everything that is queued, then stop."""
        if not self._closed:
            self._closed = True
            while self._working:
                self._idle.clear()
                await self._idle.wait()
            self._blocking.put(None)
            await asyncio.to_thread(self._thread.join)
            await asyncio.to_thread(self._checkpoints.close)
            self._connection.close()

    # --- the steps of a batch; those marked so run on the thread ---

    def _collect_pending(self, seen: int, idle: int = 0, waited: int = 0) -> None:
        """Begin once the loop brings no more jobs: those that arrive until then share the commit. `idle`: iterations in
        a row that have brought nothing; `waited`: iterations in all."""
        count = len(self._pending)
        idle = 0 if seen < count else idle + 1
        if count < BATCH_MAX and idle < self._idle_turns_max and waited < TURNS_MAX:
            self._loop.call_soon(self._collect_pending, count, idle, waited + 1)
        else:
            self._begin()

    def _begin(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH_MAX))]
        self._idle_turns_max = IDLE_TURNS_MAX if len(batch) > 1 else 1
        try:
            if self._unusable:
                self._on_thread(partial(self._connect_again, batch), batch)
                return
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self._on_thread(partial(self._await_turn, batch), batch)
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._fail(batch, error)
        else:
            self._guarded(self._run, batch)

    def _connect_again(self, batch: _Batch) -> None:
        """On the thread: the connection is unusable; open another one."""
        self._connection.close(True)
        self._connection = self._connect()
        self._identity.renew_log()
        self._unusable = False
        self._await_turn(batch)

    def _await_turn(self, batch: _Batch) -> None:
        """On the thread: another process is writing."""
        connection = self._connection
        failure: Exception | None = None
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        self.awaits_turn = True
        try:
            connection.execute("BEGIN IMMEDIATE")
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            failure = error
        self.awaits_turn = False
        connection.set_busy_timeout(0)  # before the loop continues: only one thread at a time uses a connection
        if failure is None:
            self._on_loop(self._guarded, self._run, batch)
        else:
            self._on_loop(self._fail, batch, failure)

    def _run(self, batch: _Batch) -> None:
        """Run the jobs. If one raises, all are rolled back and run again, each in a savepoint."""
        connection = self._connection
        connection.notes = {} if self._activity else None
        try:
            try:
                results = _together(batch, connection)
            except Exception:  # noqa: BLE001 - whatever it was, the second run finds out which job raised it
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                connection.notes = {} if self._activity else None
                results = _one_by_one(batch, connection)
            self._identity.check()
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._roll_back()
            self._fail(batch, error)
        else:
            self._on_thread(partial(self._commit, batch, results), batch)

    def _commit(self, batch: _Batch, results: _Results) -> None:
        """On the thread: wait for the disk. A failed commit may still be on disk, so nothing is retried.

        Nothing here but the commit gives up the GIL: taking it back from the loop would cost both threads a wake-up."""
        began = self._monotonic()
        try:
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._roll_back()
            self._on_loop(self._fail, batch, error)
        else:
            self._committed(len(batch), self._monotonic() - began)
            self._on_loop(self._deliver, batch, results)

    def _committed(self, count: int, seconds: float) -> None:
        """On the thread: after a commit. It is durable, and nothing here may report it as failed."""
        try:
            if self._activity is not None:  # nothing else uses the connection while a batch is in progress
                self._activity.batch(count, seconds, self._connection.notes or {})
            self._checkpoints.committed(self._connection)
        except Exception as error:  # noqa: BLE001 - whatever it was, the commit is durable
            if self._failed is not None:
                self._failed("sqlite_writer", error)

    def _deliver(self, batch: _Batch, results: _Results) -> None:
        for (_, _, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was canceled; the commit is durable
                continue
            if isinstance(result, Exception):
                self._set_exception(future, result)
            else:
                future.set_result(result)
        self._go_on()

    def _fail(self, batch: _Batch, error: Exception) -> None:
        """The whole batch has failed: every caller that waits for it gets the error."""
        for _, _, future in batch:
            if not future.done():
                self._set_exception(future, error)
        self._go_on()

    def _set_exception(self, future: "asyncio.Future[Any]", error: Exception) -> None:
        error = _named(error)
        if isinstance(error, DatabaseUnavailable):
            self._met(error)
        future.set_exception(error)

    def _go_on(self) -> None:
        """Continue with the next batch, if there is one."""
        if self._pending:
            self._loop.call_soon(self._collect_pending, 0)
        else:
            self._working = False
            self._idle.set()

    def _roll_back(self) -> None:
        """Roll back; a connection that cannot do that is not used again."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - the waiting callers get the error that came before
            self._unusable = True

    # --- so that no caller waits forever ---

    def _guarded(self, step: Callable[[_Batch], None], batch: _Batch) -> None:
        """On the loop: one step of a batch; if it fails unexpectedly, the callers that wait for the batch get the
        error."""
        try:
            step(batch)
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._lost(batch, error)

    def _lost(self, batch: _Batch, error: BaseException) -> None:
        if self._failed is not None:
            self._failed("sqlite_writer", error)
        self._roll_back()
        self._fail(batch, DatabaseUnavailable(f"the writer failed: {error!r}"))

    def _on_thread(self, wait: Callable[[], None], batch: _Batch) -> None:
        self._blocking.put((wait, batch))
        self._pausing = self._loop.call_later(_PAUSE_AFTER_S, self._pause, _PAUSE_AGAIN_S)

    def _pause(self, again: float) -> None:
        """On the loop: let the thread take the GIL, and do so again after that many seconds."""
        pause_for_threads(_PAUSE_S)
        self._pausing = self._loop.call_later(again, self._pause, min(2 * again, _PAUSE_AGAIN_MAX_S))

    def _on_loop(self, step: Callable[..., None], *arguments: Any) -> None:
        """On the thread: hand back to the loop."""
        self._loop.call_soon_threadsafe(self._back, step, arguments)

    def _back(self, step: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        step(*arguments)

    def _block(self) -> None:
        """The thread: runs the blocking steps, one at a time."""
        while (blocking := self._blocking.get()) is not None:
            wait, batch = blocking
            try:
                wait()
            except BaseException as error:  # noqa: BLE001 - a thread that ended would leave all callers waiting forever
                self._on_loop(self._lost, batch, error)


def by_itself(connection: SqliteConnection, job: Job) -> Any:
    """Run one job in a savepoint; returns its result, or the exception that it raised.

    Raises if SQLite has rolled back the whole transaction.
    """
    notes = None if connection.notes is None else dict(connection.notes)
    connection.execute("SAVEPOINT job")
    try:
        result = job(connection)
    except Exception as error:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO job")
        connection.notes = notes
        result = error
    connection.execute("RELEASE job")
    return result


def _together(batch: _Batch, connection: SqliteConnection) -> _Results:
    """Run the jobs one by one, and adjacent items together."""
    results: list[Any] = []
    place = 0
    while place < len(batch):
        work, item, _ = batch[place]
        first = place
        place += 1
        if item is None:
            results.append(work(connection))
            continue
        while place < len(batch) and batch[place][0] is work:
            place += 1
        results += work.all_of(connection, [each for _, each, _ in batch[first:place]])
    return results


def _one_by_one(batch: _Batch, connection: SqliteConnection) -> _Results:
    return [by_itself(connection, work if item is None else partial(work.one_of, item=item)) for work, item, _ in batch]


def _named(error: Exception) -> Exception:
    """The error as the caller sees it."""
    if isinstance(
        error, StopIteration
    ):  # a future refuses this exception, and then no caller of the batch would get an error
        return RuntimeError(f"a job let StopIteration escape: {error}")
    return translated(error)
