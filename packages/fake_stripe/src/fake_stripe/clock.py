"""Time and chance: the only module that uses either, so that a test can supply the time."""

import asyncio
import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """The fake's source of time, and how it waits."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the Unix epoch."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def random_bytes(count: int) -> bytes:
    """Random bytes for ids and secrets."""
    return secrets.token_bytes(count)
