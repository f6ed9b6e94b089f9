"""The bytes of a connection that has switched from HTTP to another protocol, at either of our ends."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

INTAKE_HIGH: Final = 256 * 2**10
"""Bytes that have come and nobody has taken: above, the other side is not read."""


class Channel(Protocol):
    """A connection as a stream of bytes both ways."""

    async def receive(self) -> bytes:
        """What has come since, at least one byte; nothing at the end."""
        ...

    async def send(self, data: bytes) -> None:
        """Waits while the other side is slow to read. Raises errors.ClientGone if it has gone."""
        ...

    def close(self) -> None:
        """Close when all is sent."""
        ...

    def abort(self) -> None:
        """Close at once, and not as if all was said."""
        ...


class Intake:
    """What has come, until somebody takes it."""

    __slots__ = ("_loop", "_pause", "_pieces", "_resume", "_size", "_waiter", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._loop = loop
        self._pause = pause
        self._resume = resume
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """Nothing more will come, and nothing can be sent."""

    async def take(self) -> bytes:
        """All of it; waits until there is some. Nothing at the end."""
        while not (self._pieces or self.ended):
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if not self.ended:
            self._resume()
        return data

    def add(self, data: bytes) -> None:
        """This has come."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > INTAKE_HIGH:
            self._pause()
        self._wake()

    def end(self) -> None:
        """The connection is over."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
