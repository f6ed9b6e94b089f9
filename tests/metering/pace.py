"""Controllable time: an event loop whose clock a test can advance, and a pinned wall clock."""

import asyncio
import time

PAUSE_SECONDS = 2.5
_PASSES = 12
_FIRST_SEPARATE = 0.002


class PacedLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with `advance`, after which timers fire as if that much time had passed."""

    _ahead = 0.0

    def time(self) -> float:
        return super().time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


class Pauses:
    """Pauses of PAUSE_SECONDS that take no real time. The loop is advanced when every run in flight is in a pause, so
    that no commit or read of another run times out."""

    def __init__(self) -> None:
        self._running = 0
        self._paused: list[asyncio.Future[None]] = []
        self._ticking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Count a run as in flight from now on."""
        self._running += 1

    def end(self) -> None:
        """Count a run as finished."""
        self._running -= 1
        self._look()

    async def pause(self) -> None:
        """Wait until the clock has been advanced."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused.append(waiter)
        self._look()
        await waiter

    @property
    def _all_paused(self) -> bool:
        return bool(self._paused) and len(self._paused) >= self._running

    def _look(self) -> None:
        if self._all_paused and self._ticking is None:
            self._ticking = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PacedLoop)
        await asyncio.sleep(_FIRST_SEPARATE)
        await _passes()  # sent bytes have arrived, been read and been relayed
        if self._all_paused:
            paused, self._paused = self._paused, []
            loop.advance(PAUSE_SECONDS)
            await _passes()  # timers for this time have fired
            for waiter in paused:
                if not waiter.done():
                    waiter.set_result(None)
        self._ticking = None
        self._look()


async def _passes() -> None:
    for _ in range(_PASSES):
        await asyncio.sleep(0)


class PinnedClock:
    """The system clock, shifted to a given time, so that prices are those of that time whenever the tests run."""

    def __init__(self, moment_ms: int) -> None:
        self.pin(moment_ms)

    def pin(self, moment_ms: int) -> None:
        """Set the current time."""
        self._offset = moment_ms - time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
