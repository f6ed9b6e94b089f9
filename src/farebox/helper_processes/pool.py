"""The gateway's side: who is served next, by which helper, and what happens to a helper that does not answer."""

import asyncio
import contextlib
import pickle
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from weakref import WeakValueDictionary

import structlog

from farebox.helper_processes.process import OVERRAN, HelperProcess, HelperSilent
from farebox.memory_files import Body, LargeBody, MemoryFile

MEMORY_BYTES: Final = 2**30
"""Address space of a helper, in addition to eight times the largest body."""
CPU_SECONDS: Final = 5
"""Processor time of one piece of work."""
IDLE_SECONDS: Final = 60.0
"""Time after which a helper without work ends."""
WAITING_MAX: Final = 256
"""Most pieces of work that wait in all, and for one account."""
WAITING_OF_ACCOUNT_MAX: Final = 64
TURNS_OF_ACCOUNT: Final = WAITING_OF_ACCOUNT_MAX // 4

CLOSE_SECONDS: Final = 5.0
"""How long closing waits for the helpers to end."""
STOPPING: Final = "the server is stopping"

T = TypeVar("T")
BeginHelper = Callable[[int, int], HelperProcess]
"""Starts a helper limited to this much address space (bytes) and processor time (seconds). Raises OSError."""

log = structlog.get_logger("farebox.helper_processes")


class PoolBusy(Exception):
    """Too much work is waiting already."""


class TooMuchWork(Exception):
    """The work took more time or memory than allowed; the message says which."""


class HelperDied(Exception):
    """The helper died for another reason, or failed; the work was not done."""


class PoolStopping(HelperDied):
    """The server is stopping, and the work had not begun."""


@dataclass(slots=True, eq=False)
class _Work:
    account_id: str
    head: bytes
    body: Body
    files: tuple[MemoryFile, ...]
    early: bool
    future: "asyncio.Future[Any]"


class Pool:
    """A few helpers. Accounts are served in turn, and one account never has all of the helpers.

    All methods run on the event loop, and copy nothing large; helpers are started and ended on a thread.
    """

    def __init__(
        self,
        size: int = 2,
        *,
        body_bytes: int = 2**25,
        cpu_seconds: int = CPU_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        begin: BeginHelper = HelperProcess,
    ) -> None:
        """`body_bytes`: size of the largest body that is sent to a helper."""
        self._size = size
        self._begin = begin
        self._memory = MEMORY_BYTES + 8 * body_bytes
        self._cpu_seconds = cpu_seconds
        self._idle_seconds = idle_seconds
        self._waiting: OrderedDict[str, deque[_Work]] = OrderedDict()
        """Waiting work by account; the first account is next."""
        self._waiting_count = 0
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._running: Counter[str] = Counter()
        """Work in progress, by account."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._helpers: set[HelperProcess] = set()
        self._idle: list[HelperProcess] = []
        self._idle_timer: asyncio.TimerHandle | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._refuses_early = False
        self._closed = False

    @property
    def alive(self) -> frozenset[HelperProcess]:
        """How many helpers are running."""
        return frozenset(self._helpers)

    @property
    def waiting(self) -> int:
        """How many pieces of work have not begun."""
        return self._waiting_count

    async def run(
        self,
        account_id: str,
        function: Callable[..., T],
        body: Body,
        *args: object,
        into: MemoryFile | None = None,
        raises: tuple[type[Exception], ...] = (),
        must: bool = False,
        early: bool = False,
    ) -> T:
        """Call `function(body, *args)`, a module-level function that gets the body as bytes, in a helper. `into`: a
        file to write to, passed as its last argument. `raises`: exceptions of the function that are raised here again;
        `must`: accept the work however much is waiting; `early`: refuse it after `refuse_early`. If the wait is
        canceled before the work has begun, it is not done.

        Raises Busy, TooMuch, Died.
        """
        if self._closed or (early and self._refuses_early):
            raise PoolStopping(STOPPING)
        if not must and self._is_full(account_id):
            raise PoolBusy
        pieces = body.pieces if isinstance(body, LargeBody) else ((0, len(body)),)
        head = pickle.dumps((function, raises, args, pieces), pickle.HIGHEST_PROTOCOL)
        files = () if into is None else (into,)
        work = _Work(account_id, head, body, files, early, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(account_id, deque()).append(work)
        self._waiting_count += 1
        self._serve()
        try:
            return cast(T, await work.future)
        except asyncio.CancelledError:
            self._forget(work)
            raise
        finally:
            del work  # an exception in the future refers to this frame: the body must not wait for garbage collection

    def turn(self, account_id: str) -> asyncio.Semaphore:
        """`async with pool.turn(account_id)` waits for a turn, for an account with many small pieces of work that would
        otherwise be refused as too many."""
        turn = self._turns.get(account_id)
        if turn is None:
            turn = self._turns[account_id] = asyncio.Semaphore(TURNS_OF_ACCOUNT)
        return turn

    def refuse_early(self) -> None:
        """The server is about to stop: refuse work with `early`, which only begins a call, unless it has begun."""
        self._refuses_early = True
        for work in [work for queue in self._waiting.values() for work in queue if work.early]:
            self._forget(work)
            _fail(work, PoolStopping(STOPPING))

    async def close(self) -> None:
        """End all helpers. Work in progress is aborted, and waiting work is refused."""
        self._closed = True
        for queue in self._waiting.values():
            for work in queue:
                _fail(work, PoolStopping(STOPPING))
        self._waiting.clear()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for helper in self._helpers:
            helper.break_off()
        self._spawn(self._end(self._idle))
        with contextlib.suppress(
            TimeoutError
        ):  # a helper that is still being started ends by itself: no work waits for it
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._tasks:
                    await asyncio.wait(tuple(self._tasks))
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_full(self, account_id: str) -> bool:
        """Whether no further work of the account may wait: it may have at most half of the places that others leave, so
        that there is always a place for another account."""
        own = len(self._waiting.get(account_id, ()))
        left = WAITING_MAX - (self._waiting_count - own)
        return own >= min(WAITING_OF_ACCOUNT_MAX, left // 2)

    def _serve(self) -> None:
        """Start what can be started."""
        while self._running.total() < self._size and (work := self._next()) is not None:
            self._running[work.account_id] += 1
            self._spawn(self._do(work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next(self) -> _Work | None:
        """The oldest work of the account whose turn it is."""
        most = max(1, self._size - 1)
        for account_id, queue in self._waiting.items():
            if self._running[account_id] < most:
                self._waiting.move_to_end(account_id)
                self._forget(work := queue[0])
                return work
        return None

    def _forget(self, work: _Work) -> None:
        """Remove the work from those that wait."""
        queue = self._waiting.get(work.account_id, ())
        if queue and work in queue:
            queue.remove(work)
            self._waiting_count -= 1
            if not queue:
                del self._waiting[work.account_id]

    async def _do(self, work: _Work) -> None:
        try:
            if not await self._try(work) and not work.future.done():
                await self._try(work, last=True)
        finally:
            _fail(work, HelperDied("an error"))
            self._done(work)

    async def _try(self, work: _Work, *, last: bool = False) -> bool:
        """Let a helper do the work; with `last`, a new one. Returns whether the work has ended: if its helper died,
        which the work need not have caused, it has not."""
        helper: HelperProcess | None = None
        try:
            helper = self._idle.pop() if self._idle and not last else await self._begun()
            file = work.body.file if isinstance(work.body, LargeBody) else MemoryFile(work.body)
            outcome, value, spent = await helper.do(work.head, (file, *work.files))
            if not spent:
                self._idle.append(helper)
                helper = None
            _finish(work, outcome, value)
        except HelperSilent as silent:
            assert helper is not None
            why = await self._ended(helper)
            helper = None
            if why == OVERRAN:
                _fail(work, TooMuchWork(why))
                return True
            if not self._closed:
                log.warning("helper ended", why=f"{silent}, {why}")
                if not last and not silent.late:
                    return False
            _fail(work, HelperDied(f"{silent}, {why}"))
        except OSError as error:  # no process, or no file, is available
            log.warning("helper failed to start", why=str(error))
            _fail(work, HelperDied(str(error)))
        finally:
            if helper is not None:
                self._spawn(self._end([helper]))
        return True

    def _done(self, work: _Work) -> None:
        self._running[work.account_id] -= 1
        if not self._running[work.account_id]:
            del self._running[work.account_id]
        if not self._closed:
            self._serve()
            self._expire_later()

    async def _begun(self) -> HelperProcess:
        helper = await self._in_thread(self._begin, self._memory, self._cpu_seconds)
        self._helpers.add(helper)
        if self._closed:
            helper.break_off()
        return helper

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2 * self._size, "farebox-helper")
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _end(self, helpers: list[HelperProcess]) -> None:
        ending, helpers[:] = list(helpers), []
        for helper in ending:
            await self._ended(helper)

    async def _ended(self, helper: HelperProcess) -> str:
        """Wait until the helper has ended; returns why it did."""
        why = await self._in_thread(helper.end)
        self._helpers.discard(helper)
        return why

    def _expire_later(self) -> None:
        """End the helpers when there has been no work for a while."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire)

    def _expire(self) -> None:
        if not self._running and self._idle:
            self._spawn(self._end(self._idle))


def _finish(work: _Work, outcome: str, value: Any) -> None:
    if outcome == "memory":
        _fail(work, TooMuchWork("memory"))
    elif outcome == "raised":
        _fail(work, value)
    elif outcome == "failed":
        log.error("helper failed", traceback=value)
        _fail(work, HelperDied("the work failed"))
    elif not work.future.done():
        work.future.set_result(value)


def _fail(work: _Work, error: Exception) -> None:
    if not work.future.done():
        work.future.set_exception(error)
