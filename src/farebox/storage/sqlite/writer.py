"""The one writer of an SQLite database in this process: group commit.

Jobs that arrive while a batch commits form the next batch; there is no timer. A job's result is returned only after the
commit that contains it is durable. One busy account is as fast as many quiet ones, because everything in a commit
shares its cost.

The jobs' statements run on the event loop: microseconds each, on pages in memory. Waiting, for the disk in a commit or
for another process's write lock, happens on a separate thread. (If the statements ran there too, the two threads would
compete for the GIL at each of them.)
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

from farebox.clock import SystemClock
from farebox.jobs import OnFailure
from farebox.storage.activity import Activity
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
_Waiting: TypeAlias = tuple[Any, Any, "asyncio.Future[Any]"]
"""A job and None, or what carries an item out and the item; and its future. An item is never None."""
_Response: TypeAlias = tuple["asyncio.Future[Any]", Any, Exception | None]


class Writer:
    """Runs jobs in order on one connection, many per commit. Create it inside the running loop.

    Only `close` ends it: whatever fails in a batch is reported to those who wait for it, and the next one starts.
    """

    def __init__(self, path: Path, activity: Activity | None = None, *, failed: OnFailure | None = None) -> None:
        """`failed` is called with unexpected failures that ended a batch."""
        self._activity = activity
        self._monotonic = SystemClock().monotonic
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._failed = failed
        self._identity = FileIdentity(path)
        self._checkpoints = Checkpoints(path)
        self._connection = self._connect()
        self._unusable = False
        """The connection could not roll back: the next batch starts with another one."""
        self.awaits_turn = False
        """Whether we wait for another process that is writing."""
        self._pending: deque[_Waiting] = deque()
        self._working = False
        self._idle = asyncio.Event()
        self._closed = False
        self._blocking: queue.SimpleQueue[tuple[Callable[[], None], list[asyncio.Future[Any]]] | None]
        self._blocking = queue.SimpleQueue()
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
        """The same for an item that is carried out together with those next to it."""
        return self._put(work, item)

    def _put(self, work: Job | GroupedWork, item: object) -> "asyncio.Future[Any]":
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append((work, item, future))
        if not self._working:
            self._working = True
            self._loop.call_soon(self._collect_pending, 0)  # after everything else that is ready now
        return future

    @property
    def waiting(self) -> int:
        """Jobs that wait for the next batch."""
        return len(self._pending)

    async def close(self) -> None:
        """Commit what is queued, then stop."""
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

    def _collect_pending(self, seen: int) -> None:
        """Begin once an iteration of the loop has brought nothing more: what arrives until then shares the commit."""
        if seen < len(self._pending) < BATCH_MAX:
            self._loop.call_soon(self._collect_pending, len(self._pending))
        else:
            self._begin()

    def _begin(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH_MAX))]
        try:
            if self._unusable:
                self._on_thread(partial(self._connect_again, batch), batch)
                return
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            self._on_thread(partial(self._await_turn, batch), batch)
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._deliver(_all_failed(batch, error))
        else:
            self._guarded(partial(self._run, batch), _futures(batch))

    def _connect_again(self, batch: list[_Waiting]) -> None:
        """On the thread: the connection is unusable; open another one."""
        self._connection.close(True)
        self._connection = self._connect()
        self._identity.renew_log()
        self._unusable = False
        self._await_turn(batch)

    def _await_turn(self, batch: list[_Waiting]) -> None:
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
            self._loop.call_soon_threadsafe(self._guarded, partial(self._run, batch), _futures(batch))
        else:
            self._loop.call_soon_threadsafe(self._deliver, _all_failed(batch, failure))

    def _run(self, batch: list[_Waiting]) -> None:
        """Run the jobs. If one raises, all are rolled back and run again, each in a savepoint."""
        connection = self._connection
        connection.notes = {} if self._activity else None
        try:
            try:
                responses = _together(batch, connection)
            except Exception:  # noqa: BLE001 - whatever it was, the second run finds out which job raised it
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                connection.notes = {} if self._activity else None
                responses = _one_by_one(batch, connection)
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._roll_back()
            self._deliver(_all_failed(batch, error))
        else:
            self._on_thread(partial(self._commit, responses), batch)

    def _commit(self, responses: list[_Response]) -> None:
        """On the thread: wait for the disk. A failed commit may still be on disk, so nothing is retried."""
        began = self._monotonic()
        try:
            self._identity.check()
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._roll_back()
            responses = [(future, None, _named(error)) for future, _, _ in responses]
        else:
            self._committed(len(responses), self._monotonic() - began)
        self._loop.call_soon_threadsafe(self._deliver, responses)

    def _committed(self, count: int, seconds: float) -> None:
        """On the thread: after a commit. It is durable, and nothing here may report it as failed."""
        try:
            if self._activity is not None:  # nothing else uses it while a batch is in progress
                self._activity.batch(count, seconds, self._connection.notes or {})
            self._checkpoints.committed(self._connection)
        except Exception as error:  # noqa: BLE001 - whatever it was, the commit is durable
            if self._failed is not None:
                self._failed("sqlite_writer", error)

    def _deliver(self, responses: list[_Response]) -> None:
        for future, result, error in responses:
            if future.done():  # its caller was cancelled; the commit is durable
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
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

    def _guarded(self, step: Callable[[], None], futures: "list[asyncio.Future[Any]]") -> None:
        """On the loop: one step of a batch; if it fails unexpectedly, those who wait for the batch get the error."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            self._lost(futures, error)

    def _lost(self, futures: "list[asyncio.Future[Any]]", error: BaseException) -> None:
        if self._failed is not None:
            self._failed("sqlite_writer", error)
        self._roll_back()
        self._deliver([(future, None, DatabaseUnavailable(f"the writer failed: {error!r}")) for future in futures])

    def _on_thread(self, wait: Callable[[], None], batch: list[_Waiting]) -> None:
        self._blocking.put((wait, _futures(batch)))

    def _block(self) -> None:
        """The thread: runs the blocking steps, one at a time."""
        while (blocking := self._blocking.get()) is not None:
            wait, futures = blocking
            try:
                wait()
            except BaseException as error:  # noqa: BLE001 - a thread that ended would leave all callers waiting forever
                self._loop.call_soon_threadsafe(self._lost, futures, error)


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


def _together(batch: list[_Waiting], connection: SqliteConnection) -> list[_Response]:
    """Run the jobs, and the items between them together."""
    responses: list[_Response] = []
    place = 0
    while place < len(batch):
        work, item, future = batch[place]
        first = place
        place += 1
        if item is None:
            responses.append((future, work(connection), None))
            continue
        while place < len(batch) and batch[place][0] is work:
            place += 1
        items = batch[first:place]
        results = work.all_of(connection, [each for _, each, _ in items])
        responses += [_respond(sent, result) for (_, _, sent), result in zip(items, results, strict=True)]
    return responses


def _one_by_one(batch: list[_Waiting], connection: SqliteConnection) -> list[_Response]:
    return [
        _respond(future, by_itself(connection, work if item is None else partial(work.one_of, item=item)))
        for work, item, future in batch
    ]


def _respond(future: "asyncio.Future[Any]", result: Any) -> _Response:
    return (future, None, _named(result)) if isinstance(result, Exception) else (future, result, None)


def _futures(batch: list[_Waiting]) -> "list[asyncio.Future[Any]]":
    return [future for _, _, future in batch]


def _all_failed(batch: list[_Waiting], error: Exception) -> list[_Response]:
    return [(future, None, _named(error)) for future in _futures(batch)]


def _named(error: Exception) -> Exception:
    """The error as the caller sees it."""
    if isinstance(
        error, StopIteration
    ):  # a future refuses to carry it, and then none of the batch's waiters would get an error
        return RuntimeError(f"a job let StopIteration escape: {error}")
    return translated(error)
