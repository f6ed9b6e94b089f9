"""A WebSocket at a provider: its handshake, under the same rules as any request, and then its bytes."""

import asyncio
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.protocol import CONNECTING
from websockets.uri import WebSocketURI

from farebox.channels import Intake
from farebox.errors import ClientGone
from farebox.providers.http1.opening import Opened
from farebox.providers.upstream import HandshakeRefused, UpstreamFailed
from farebox.websocket import SILENT, ProviderSocket, Room

WRITE_HIGH, WRITE_LOW = 64 * 2**10, 16 * 2**10
_HOP: Final = frozenset({"connection", "upgrade", "transfer-encoding", "content-length", "keep-alive"})


class ProviderChannel(Opened):
    """The connection (farebox.channels.Channel)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._intake = Intake(loop, self._pause, self._resume)
        self._paused = False
        self._writable: asyncio.Future[None] | None = None

    # --- farebox.channels.Channel ---

    async def receive(self) -> bytes:
        return await self._intake.take()

    async def send(self, data: bytes) -> None:
        if self._intake.ended or self._transport is None:
            raise ClientGone
        self._transport.write(data)
        if self._writable is not None:
            await asyncio.shield(self._writable)
            if self._is_ended():
                raise ClientGone

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)

    def data_received(self, data: bytes) -> None:
        self._intake.add(data)

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- inside ---

    def _is_ended(self) -> bool:
        return self._intake.ended

    def _end(self) -> None:
        self._intake.end()
        self.resume_writing()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


class Handshake:
    """The handshake of one WebSocket; `headers` are those of its request in addition to the caller's."""

    def __init__(self, message_max: int, subprotocols: tuple[str, ...]) -> None:
        # The library generates the key and checks the response; the request is written like any of ours.
        self._protocol = ClientProtocol(
            WebSocketURI(secure=True, host="", port=443, path="/", query=""),
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]  # its own kind of str
            max_size=message_max,
            logger=SILENT,
        )
        made = self._protocol.connect().headers.raw_items()
        self.headers = [(name.lower(), value) for name, value in made if name.lower() != "host"]

    async def answered(self, channel: ProviderChannel, head: bytes, room: Room) -> ProviderSocket:
        """Send the request, and wait for its response. Raises UpstreamFailed or HandshakeRefused after ending the
        connection."""
        try:
            return await self._answered(channel, head, room)
        except BaseException:
            channel.abort()
            raise

    async def _answered(self, channel: ProviderChannel, head: bytes, room: Room) -> ProviderSocket:
        protocol = self._protocol
        try:
            await channel.send(head)
        except ClientGone as gone:
            raise UpstreamFailed("the connection was closed at once", sent=False, cause="closed") from gone
        while protocol.state is CONNECTING and protocol.handshake_exc is None:
            data = await channel.receive()
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
        refused = protocol.handshake_exc
        if isinstance(refused, InvalidStatus):
            raise _refused(refused.response)
        if refused is not None:
            raise UpstreamFailed("the answer is not a WebSocket's", sent=True, cause="protocol") from refused
        return ProviderSocket("provider", protocol, channel, room)


def _refused(response: Response) -> HandshakeRefused:
    headers = [(name, value) for name, value in response.headers.raw_items() if name.lower() not in _HOP]
    return HandshakeRefused(response.status_code, headers, bytes(response.body))
