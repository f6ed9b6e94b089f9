"""Sending to a client, and noticing whether it reads."""

import asyncio
import socket
import struct
from typing import cast

from farebox.http.server.state import PROGRESS_BYTES

WRITE_HIGH, WRITE_LOW = 64 * 2**10, 16 * 2**10
"""Bytes waiting to be sent: above the first, a stream pauses; below the second, it continues."""


class WriteBuffer:
    """The sending side of one connection."""

    __slots__ = ("_loop", "_transport", "_unsent", "_waiters", "stalled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport = cast(asyncio.Transport, None)
        self._unsent = 0
        """Bytes waiting to be sent at the last check."""
        self._waiters: list[asyncio.Future[None]] = []
        self.stalled = False
        """The client does not read its response."""

    def open(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)

    def write(self, data: bytes) -> None:
        """Send data; if the connection is closing, the data is dropped."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has read, or has disconnected."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        """Let everything that waits in `drained` continue."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def unsent(self) -> int:
        """Bytes that are waiting to be sent."""
        return self._transport.get_write_buffer_size()

    def watch(self) -> None:
        """From now on the client has to make progress with reading."""
        self._unsent = self.unsent()

    def progressed(self) -> bool:
        """Whether the client has read a fair part since the last check, and has more to read."""
        unsent = self.unsent()
        if 0 < unsent <= self._unsent - PROGRESS_BYTES:
            self._unsent = unsent
            return True
        return False

    def reset(self) -> None:
        """Close at once, without a proper end of the stream."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
