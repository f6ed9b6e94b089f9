"""Time and randomness: the only module that uses either, so that tests can replace both."""

import asyncio
import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """The program's source of time, and how it waits."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for durations only."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """The function itself, without a wrapper: a call asks for the time half a dozen times."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Ids(Protocol):
    """Where new identifiers come from."""

    def log_id(self) -> str: ...

    def account_id(self) -> str: ...

    def secret(self) -> str: ...

    def chance(self) -> float:
        """A number from 0 up to, but not including, 1."""
        ...


_POOLED = 128
_CHANCE_BYTES = 10
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The hexadecimal digit with the variant of RFC 9562: two random bits from the given digit."""


class RandomIds:
    """Identifiers from the system's random source."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pool: list[str] = []
        self._last_ms = 0
        self._moment = ""
        """`_ms` as the first characters of an ID."""
        self._within_ms = 0

    def log_id(self) -> str:
        """A UUIDv7 in lower case: the newest log has the largest ID (RFC 9562, 5.7).

        Within a millisecond, the IDs of one process count up from a random start (RFC 9562, 6.2, method 1), so that the
        attempts of one call are listed in order.
        """
        if not self._pool:  # one system call for many IDs
            self._pool = secrets.token_bytes(_POOLED * _CHANCE_BYTES).hex(" ", _CHANCE_BYTES).split()
        text, now = self._pool.pop(), self._clock.now_ms()
        if now != self._last_ms:
            moment = f"{now:012x}"
            self._last_ms, self._moment, self._within_ms = now, f"{moment[:8]}-{moment[8:]}", int(text[:2], 16)
        elif self._within_ms < 0xFFF:  # 3,840 IDs per millisecond are more than a process needs
            self._within_ms += 1
        return f"{self._moment}-7{self._within_ms:03x}-{_VARIANTS[text[3]]}{text[4:7]}-{text[8:]}"

    def account_id(self) -> str:
        """32 hexadecimal characters, the form of a Cloudflare account ID."""
        return secrets.token_hex(16)

    def chance(self) -> float:
        """A uniformly distributed random number."""
        return secrets.randbelow(2**53) / 2**53

    def secret(self) -> str:
        """32 random bytes in URL-safe base64: the secret part of an access token."""
        return secrets.token_urlsafe(32)


def pause_for_threads(seconds: float) -> None:
    """Give other threads this long to take the GIL."""
    time.sleep(seconds)


def random_bytes(count: int) -> bytes:
    """Random bytes for keys and nonces."""
    return secrets.token_bytes(count)


def random_below(count: int) -> int:
    """A random number from 0 up to, but not including, `count`."""
    return secrets.randbelow(count)
