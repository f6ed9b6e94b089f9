"""One end of a WebSocket: messages in, messages out, over a channel of bytes.

The protocol is implemented by the library `websockets`, without its I/O (docs/adr/0027-websockets.md). No extension is
negotiated, so that a message is never larger than its bytes on the wire. Pings are answered here, and fragments are
joined.
"""

import logging
from collections import deque
from typing import Final, Literal

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from farebox.channels import Channel
from farebox.errors import ClientGone

NO_CODE: Final = 1005
"""Closed without a code."""
VANISHED: Final = 1006
"""The connection ended without a close frame."""
GOING_AWAY: Final = 1001
BAD_GATEWAY: Final = 1014
"""The other side's connection failed."""
TOO_BIG: Final = 1009
TRY_AGAIN: Final = 1013
_NOT_SENT: Final = (NO_CODE, VANISHED, 1015)
_FREE: Final = 64 * 2**10
"""Bytes of an unfinished message up to which nothing is counted."""
_FRAGMENT: Final = 8
"""Bytes counted for each fragment in addition to its content."""
_REASON_MAX: Final = 120
"""Maximum bytes of a reason in a close frame."""

SILENT: Final = logging.getLogger("farebox.websocket.silent")
SILENT.disabled = True
SILENT.setLevel(logging.CRITICAL + 1)


Side = Literal["client", "provider"]


class Message(msgspec.Struct, frozen=True, gc=False):
    data: bytes
    text: bool = True


class Closed(Exception):
    """The WebSocket with the client or the provider (`side`) has ended. `code` and `reason` are those that this side
    sent, or ours if it violated the protocol."""

    def __init__(self, side: Side, code: int, reason: str, *, broken_rule: bool = False) -> None:
        super().__init__(f"closed with {code}")
        self.side: Side = side
        self.code = code
        self.reason = reason
        self.broken_rule = broken_rule


class Room:
    """Counts the bytes of unfinished messages; this implementation has room for any number."""

    def room_for(self, more: int) -> bool:
        """Count this many more if there is room; returns whether there was."""
        return True

    def shrink_by(self, less: int) -> None:
        """Count this many fewer."""


class Socket:
    """One end of a WebSocket. Only one task may receive; any may send."""

    def __init__(self, side: Side, protocol: Protocol, channel: Channel, room: Room) -> None:
        self._side: Side = side
        self._protocol = protocol
        self._channel = channel
        self._room = room
        self._fragments: list[bytes] = []
        self._text = True
        self._ready: deque[Message] = deque()
        self._failed = False
        """The other side violated a rule, so this end has failed the connection."""
        self._kept = self._counted = 0
        self.heard = 0
        """Number of times that data arrived from the other side, of any kind."""
        self.listening = False
        """Whether a task is waiting for data."""
        self._take_events()  # frames that arrived right after the handshake

    async def receive(self) -> Message:
        """The next message. Raises Closed."""
        while not self._ready:
            self._uncount()
            if self._over():
                raise self._closed()
            self.listening = True
            try:
                data = await self._channel.receive()
            finally:
                self.listening = False
            self.heard += 1
            self._take(data)
            await self._flush()
        return self._ready.popleft()

    async def send(self, message: Message) -> None:
        """Send a message, waiting while the other side is slow. Raises Closed."""
        if self._protocol.state is not OPEN:
            raise self._closed()
        (self._protocol.send_text if message.text else self._protocol.send_binary)(message.data)
        await self._flush()
        if self._over() and not self._ready:
            raise self._closed()

    async def ping(self) -> None:
        """Ask whether the other side is still there; its answer increments `heard`."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            await self._flush()

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame unless one was sent. Raises nothing."""
        if self._protocol.state is OPEN:
            if code in _NOT_SENT:
                self._protocol.send_close()
            else:
                self._protocol.send_close(code, _short(reason))
            await self._flush()

    async def drain(self) -> None:
        """Read until the other side has closed too. Closing a connection with unread data resets it, and what was sent
        last is lost. (A server's end closes first, and lingers.) Raises nothing."""
        protocol = self._protocol
        while protocol.close_rcvd is None and not protocol.reader.eof and (protocol.side is CLIENT or not self._over()):
            self._take(await self._channel.receive())
            self._ready.clear()
            await self._flush()

    def end(self) -> None:
        """Close the connection."""
        self._ready.clear()
        self._room.shrink_by(self._counted)
        self._counted = 0
        self._channel.close()

    # --- inside ---

    def _take(self, data: bytes) -> None:
        protocol = self._protocol
        if not data:
            protocol.receive_eof()
            return
        protocol.receive_data(data)
        self._take_events()
        if not self._count():
            self._fail(TRY_AGAIN, "no memory for the message")

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._add(event)

    def _add(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        self._kept += len(frame.data) + _FRAGMENT
        if not frame.fin:
            return
        data = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
        self._fragments.clear()
        self._kept = 0
        if self._text and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "a text is not UTF-8")
                return
        self._ready.append(Message(data, self._text))

    def _fail(self, code: int, why: str) -> None:
        if self._protocol.state is OPEN:
            self._failed = True
            self._protocol.fail(code, why)

    def _count(self) -> bool:
        more = self._kept + sum(len(one.data) for one in self._ready) + len(self._protocol.reader.buffer)
        more -= _FREE + self._counted
        if more <= 0:
            return True
        if not self._room.room_for(more):
            return False
        self._counted += more
        return True

    def _uncount(self) -> None:
        """The messages have been passed on: stop counting their bytes."""
        less = self._counted - max(0, self._kept + len(self._protocol.reader.buffer) - _FREE)
        if less > 0:
            self._room.shrink_by(less)
            self._counted -= less

    async def _flush(self) -> None:
        """Send what the protocol has to send."""
        for data in self._protocol.data_to_send():
            if data:
                try:
                    await self._channel.send(data)
                except ClientGone:
                    return

    def _over(self) -> bool:
        """Whether no message can follow."""
        protocol = self._protocol
        failed = protocol.close_sent is not None and protocol.close_rcvd is None and self._failed
        return protocol.close_rcvd is not None or protocol.parser_exc is not None or protocol.reader.eof or failed

    def _closed(self) -> Closed:
        protocol = self._protocol
        if protocol.close_rcvd is not None:
            return Closed(self._side, protocol.close_rcvd.code, protocol.close_rcvd.reason)
        if protocol.close_sent is not None:
            too_big = isinstance(protocol.parser_exc, PayloadTooBig)
            reason = "the message is too large" if too_big else protocol.close_sent.reason
            return Closed(self._side, protocol.close_sent.code, reason, broken_rule=True)
        return Closed(self._side, VANISHED, "")


class ProviderSocket(Socket):
    """The provider's end."""

    @property
    def subprotocol(self) -> str:
        """The offered subprotocol that the provider has chosen; empty if none."""
        return self._protocol.subprotocol or ""


def server_socket(channel: Channel, message_max: int, room: Room) -> Socket:
    """Our end of a client's WebSocket whose handshake is complete."""
    return Socket("client", Protocol(SERVER, max_size=message_max, logger=SILENT), channel, room)


def accept_headers(path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the response to a client's handshake, in addition to those of any upgrade. Raises ValueError,
    which says what is wrong with the handshake."""
    protocol = ServerProtocol(logger=SILENT)
    given = Headers()
    for name, value in headers:
        if name in ("upgrade", "connection", "sec-websocket-key", "sec-websocket-version"):
            given[name] = value
    try:
        accept, _, _ = protocol.process_request(Request(path, given))
    except InvalidHandshake as error:
        raise ValueError(str(error)) from error
    return [("sec-websocket-accept", accept)]


def _short(reason: str) -> str:
    return reason.encode()[:_REASON_MAX].decode(errors="ignore")
