"""The bytes of a connection that has switched from HTTP to another protocol, at either of our ends."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

INTAKE_HIGH: Final = 256 * 2**10
"""Bytes received but not yet taken, above which reading from the other side is paused."""


class Channel(Protocol):
    """A connection as a stream of bytes in both directions."""

    async def receive(self) -> bytes:
        """The bytes received since the last call, at least one; empty at the end of the connection."""
        ...

    async def send(self, data: bytes) -> None:
        """Send data, waiting while the other side is slow to read. Raises errors.ClientGone if it has gone."""
        ...

    def close(self) -> None:
        """Close once everything is sent."""
        ...

    def abort(self) -> None:
        """Close at once, without a proper end of the stream."""
        ...


class Intake:
    """Buffers received bytes until they are taken."""

    __slots__ = ("_loop", "_pause", "_pieces", "_resume", "_size", "_waiter", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._loop = loop
        self._pause = pause
        self._resume = resume
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """Nothing more will arrive, and nothing can be sent."""

    async def take(self) -> bytes:
        """All buffered bytes; waits until there are some. Empty at the end of the connection."""
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
        """Data has arrived."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > INTAKE_HIGH:
            self._pause()
        self._wake()

    def end(self) -> None:
        """The connection has ended."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
