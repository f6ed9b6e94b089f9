"""One request and its response, on a connection of this server. http.exchange describes what a handler may expect."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from farebox.errors import BODY_LATE, BODY_TOO_LARGE, SERVER_BYTES_FULL, Problem
from farebox.http.exchange import ClientGone, HeaderList, RequestHead
from farebox.http.server.headers import header_lines, status_line
from farebox.http.server.incoming import Incoming
from farebox.http.server.lifecycle import BODY, BodyState, Lifecycle
from farebox.http.server.upgraded import UpgradedConnection, UpgradedWire
from farebox.limits.byte_budget import ByteLease
from farebox.memory_files import LARGE_BYTES, Body, whole

JOINED_MAX = 64 * 2**10
"""Maximum bytes of a body that are copied behind its head, to be sent as one piece."""
_BODILESS = (204, 304)
_FREE = 4 * 2**10
"""Heads, and bodies that arrive with them, are not counted up to these sizes: the number of requests is bounded."""
_STEP = 64 * 2**10
"""Bytes by which a body of unknown length is counted ahead."""

Framing = Literal["", "whole", "none", "length", "chunked", "until_close", "switched"]
"""How the end of the response is marked; empty: it has not begun."""


class Wire(UpgradedWire, Protocol):
    """The connection that carries an exchange."""

    life: Lifecycle
    peer: str
    """The address of the client; empty if it has none."""

    def wanted(self, exchange: "Http1Exchange") -> None:
        """The handler is waiting for the body."""
        ...

    def arrived(self) -> None:
        """The handler no longer waits for the body."""
        ...

    def may_switch(self) -> bool:
        """Whether nothing has been received after the request, as the client must wait for the response to its
        upgrade."""
        ...


class Http1Exchange:
    """An exchange carried by a connection, which reports what arrives and when it is lost."""

    encrypted = False
    keep_alive = True
    """Whether another request may follow on the connection."""
    old = False
    """HTTP/1.0."""
    expects = False
    """The client expects `100 Continue` before it sends the body."""
    body_state: BodyState = "expected"
    received = 0
    """Bytes of the body that have arrived."""
    framing: Framing = ""
    switched: UpgradedConnection | None = None
    """Carries another protocol once the connection has switched to it."""
    lease: ByteLease | None = None
    """Counts what is kept of the exchange; see `hold`."""
    _small: bytes | None = None
    """A body that arrived together with its head, until it is taken."""
    _incoming: Incoming | None = None
    """Collects any other body."""
    _counted = 0
    """Bytes of the body that the lease has counted."""
    _problem: Problem | None = None
    """Why the body is not read any further."""
    _limit = 0
    _waiter: asyncio.Future[None] | None = None
    _watchers: list[Callable[[], None]] | None = None
    """Called when the client has gone."""
    _head = b""
    """The head of a stream of which nothing has been sent yet."""
    _left = 0

    def __init__(
        self, wire: Wire, head: RequestHead, length: int | None, head_bytes: int, body: bytes | None = None
    ) -> None:
        """`length`: that of the body; None if it is chunked. `body`: set if it arrived together with the head."""
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.client = wire.peer
        self.length = length
        self.head_bytes = head_bytes
        self._wire = wire
        if body is not None:
            self._small = body
            self.received = len(body)
            self.body_state = "arrived"

    # --- for the handler ---

    @property
    def complete(self) -> bool:
        return self.body_state == "arrived"

    def hold(self, lease: ByteLease) -> None:
        self.lease = lease
        if self.head_bytes > _FREE:
            lease.take(self.head_bytes)

    async def body(self, limit: int) -> bytes:
        return whole(await self.content(limit))

    def received_body(self, limit: int) -> bytes | None:
        small = self._small
        if small is None or len(small) > limit:
            return None
        if self.lease is not None and len(small) > _FREE:
            self.lease.take(len(small))
        self._small = None
        return small

    def peek(self) -> bytes | None:
        return self._small

    async def content(self, limit: int) -> Body:
        small = self.received_body(limit)
        if small is not None:
            return small
        if (self.length or 0) > limit:
            raise _too_large(limit)
        self._reserve()
        self._limit = limit
        self.body_state = BODY[self.body_state]["ask"]
        if max(self.length or 0, self.received) > LARGE_BYTES:
            self._to_file()
        if self.body_state == "awaited":
            await self._arrival(limit)
        if self.body_state == "lost":
            raise ClientGone
        if self.received > limit:
            raise _too_large(limit)
        if self.lease is not None and self._counted > self.received:
            self.lease.shrink(self.lease.size - self._counted + self.received)
        try:
            return self._incoming.take() if self._incoming is not None else b""
        except OSError as error:
            raise _no_memory(error) from error

    def _reserve(self) -> None:
        """Count the body that is declared, or has arrived. Raises Problem."""
        if self.lease is not None:
            self._counted = self.received if self.length is None else self.length
            self.lease.take(self._counted)

    def _to_file(self) -> None:
        """Keep the body in a file. Raises Problem."""
        try:
            self._pieces().to_file()
        except OSError as error:
            raise _no_memory(error) from error

    async def _arrival(self, limit: int) -> None:
        """Wait until the body has arrived, or will not arrive. Raises Problem."""
        wire = self._wire
        wire.wanted(self)
        try:
            while self.body_state == "awaited" and self.received <= limit and self._problem is None:
                self._waiter = wire.state.loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
        finally:
            wire.arrived()
        if self._problem is not None and self.body_state != "lost":
            raise self._problem

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.framing:
            self._refuse_second_response()
        if self.body_state == "lost":
            return
        lines, length, dated = header_lines(headers)
        if status in _BODILESS or self.method == "HEAD":
            length = length if length is not None else len(body) or None
            size = "" if length is None or status == 204 else f"content-length: {length}\r\n"
            body = b""
        else:
            size = f"content-length: {len(body)}\r\n"
        head = self._compose(status, lines, size, dated)
        self.framing = "whole"
        wire = self._wire
        wire.life.responds("respond")
        if len(body) > JOINED_MAX:
            wire.write_buffer.write(head)  # separately, as joining them would copy the body
            head = b""
        wire.write_buffer.write(head + body)

    def start(self, status: int, headers: HeaderList) -> "Http1Exchange":
        if self.framing:
            self._refuse_second_response()
        if self.body_state == "lost":
            return self
        lines, length, dated = header_lines(headers)
        framing: Framing = "chunked"
        size = "transfer-encoding: chunked\r\n"
        if length is not None:
            framing, size = "length", f"content-length: {length}\r\n"
        elif self.old:
            framing, size = "until_close", ""
            self.keep_alive = False
        if self.method == "HEAD" or status in _BODILESS:
            framing, size = "none", size if status != 204 else ""
        self._head = self._compose(status, lines, size, dated)
        self.framing = framing
        self._left = length or 0
        wire = self._wire
        wire.life.responds("start")
        wire.state.loop.call_soon(self.send_head)  # together with the first chunk, if that follows at once
        return self

    async def send(self, chunk: bytes) -> None:
        if self.body_state == "lost":
            raise ClientGone
        data = self._head + self._framed(chunk)
        self._head = b""
        if data:
            self._wire.write_buffer.write(data)
        if self._wire.write_buffer.stalled:
            await self._wire.write_buffer.drained()
            if self._is_lost():
                raise ClientGone

    def offer(self, chunk: bytes) -> None:
        if self.body_state != "lost" and not self._head and not self._wire.write_buffer.stalled:
            self._wire.write_buffer.write(self._framed(chunk))

    def switch(self, headers: HeaderList) -> UpgradedConnection:
        wire = self._wire
        if self.framing or self.body_state != "arrived" or not wire.may_switch():
            raise ClientGone
        lines, _, _ = header_lines(headers)
        head = f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n{lines}\r\n"
        wire.life.switches()
        self.framing = "switched"
        self.keep_alive = False
        self.switched = UpgradedConnection(wire)
        wire.write_buffer.write(head.encode("latin-1"))
        return self.switched

    def gone(self) -> Awaitable[None]:
        watcher: asyncio.Future[None] = self._wire.state.loop.create_future()
        self.when_gone(lambda: None if watcher.done() else watcher.set_result(None))
        return watcher

    def when_gone(self, callback: Callable[[], None]) -> None:
        if self.body_state == "lost":
            callback()
        elif self._watchers is None:
            self._watchers = [callback]
        else:
            self._watchers.append(callback)

    # --- for the connection ---

    def add(self, data: bytes) -> None:
        """Add a piece of the body. Nothing is kept above the limit."""
        self.received += len(data)
        asked = self.body_state == "awaited"
        if asked and (self.received > self._limit or not self._room()):
            self._clear()
            self._wake()
            return
        try:
            if asked and self.received > LARGE_BYTES:
                self._pieces().to_file()
            self._pieces().add(data)
        except OSError as error:
            self._problem = _no_memory(error)
            self._clear()
            self._wake()

    def _pieces(self) -> Incoming:
        if self._incoming is None:
            self._incoming = Incoming(joins=self.length is None)
        return self._incoming

    def _room(self) -> bool:
        """Whether there is room to keep what has arrived."""
        if self._problem is not None:
            return False
        if self.lease is None or self.received <= self._counted:
            return True
        more = max(_STEP, self.received - self._counted)
        try:
            self.lease.take(more)
        except Problem as problem:
            self._problem = problem
            return False
        self._counted += more
        return True

    def late(self) -> None:
        """The client hardly sends: stop waiting for its body."""
        self._problem = Problem(
            BODY_LATE, "The request body arrived too slowly: send it faster, or in smaller requests."
        )
        self._clear()
        self._wake()

    def completed(self) -> None:
        """The body has arrived."""
        self.body_state = BODY[self.body_state]["arrive"]
        self._wake()

    def lose(self) -> None:
        """The client has disconnected, or its data can no longer be parsed."""
        self.close()
        if self.switched is not None:
            self.switched.intake.end()
        self._wake()
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher()

    def close(self) -> None:
        """The exchange is over: keep nothing that arrived, and send nothing more."""
        self.body_state = BODY[self.body_state]["lose"]
        self._small = None
        if self._incoming is not None:
            self._incoming.clear()

    def end(self) -> bool:
        """The handler has returned: finish the stream. Returns whether it is complete."""
        if self.framing == "length" and self._left:
            return False
        if self.framing == "chunked":
            self._wire.write_buffer.write(self._head + b"0\r\n\r\n")
            self._head = b""
        self.send_head()
        return True

    def send_head(self) -> None:
        """Send the head of a stream that has sent nothing yet."""
        head, self._head = self._head, b""
        if head and self.body_state != "lost":
            self._wire.write_buffer.write(head)

    # --- inside ---

    def _is_lost(self) -> bool:
        return self.body_state == "lost"

    def _clear(self) -> None:
        if self._incoming is not None:
            self._incoming.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _refuse_second_response(self) -> None:
        """Raises RuntimeError if there is already a response. The client sees that it broke off."""
        if self.body_state != "lost":
            self._wire.life.responds("break")
        raise RuntimeError("the exchange has a response already")

    def _compose(self, status: int, lines: str, size: str, dated: bool) -> bytes:
        """The response's head. If the request's body has not arrived, the connection ends with the response."""
        state = self._wire.state
        if not self.keep_alive or self.body_state != "arrived" or state.closing:
            self.keep_alive = False
            size += "connection: close\r\n"
        elif self.old:
            size += "connection: keep-alive\r\n"
        if status == 426:
            size += "upgrade: HTTP/1.1\r\nconnection: upgrade\r\n"  # a 426 must name the protocol that it requires
        date = "" if dated else state.dates.line()
        return f"{status_line(status)}{lines}{date}{size}\r\n".encode("latin-1")

    def _framed(self, chunk: bytes) -> bytes:
        if self.framing == "chunked":
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""  # an empty chunk would be the end
        if self.framing == "length":
            self._left -= len(chunk)
            if self._left < 0:
                self._wire.life.responds("break")
                raise ValueError("the response is longer than its content-length")
        return b"" if self.framing == "none" else chunk


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")


def _no_memory(error: OSError) -> Problem:
    """The memory file for a large body cannot grow."""
    return Problem(SERVER_BYTES_FULL, f"The server has no memory left for the request's body ({error.strerror}).")
