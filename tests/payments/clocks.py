"""Clocks that a test can move."""

import asyncio


class SettableClock:
    """A clock that only moves when somebody sleeps or moves it."""

    def __init__(self, at: int, *, pause: float = 0.0) -> None:
        self.at = at
        self._pause = pause
        """Real duration of any sleep, in seconds."""

    def now_ms(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1000

    async def sleep(self, seconds: float) -> None:
        self.at += round(seconds * 1000)
        await asyncio.sleep(self._pause)

    def advance(self, ms: int) -> None:
        self.at += ms


class FakesClock:
    """The same time for the fake Stripe, which sleeps by the real clock."""

    def __init__(self, clock: SettableClock) -> None:
        self._clock = clock

    def now_ms(self) -> int:
        return self._clock.at

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
