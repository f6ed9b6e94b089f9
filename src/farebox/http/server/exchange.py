"""One request and its response, on a connection of ours. See http.exchange for what a handler may expect."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from farebox.errors import BODY_LATE, BODY_TOO_LARGE, SERVER_BYTES_FULL, Problem
from farebox.http.exchange import ClientGone, HeaderList, RequestHead
from farebox.http.server.headers import header_lines, status_line
from farebox.http.server.incoming import Incoming
from farebox.limits.held import Lease
from farebox.memfile import LARGE_BYTES, Body, whole

if TYPE_CHECKING:
    from farebox.http.server.connection import ClientConnection

JOINED_MAX = 64 * 2**10
"""Bytes of a body that are copied behind its head, to be one piece."""
_BODILESS = (204, 304)
_HEAD_FREE = 4 * 2**10
"""A head up to this size is not counted."""
_STEP = 64 * 2**10
"""Bytes by which a body of unknown length is counted ahead."""

Framing = Literal["", "whole", "none", "length", "chunked", "until_close"]
"""How the end of the response is delimited; empty: it has not begun."""


class Http1Exchange:
    """An exchange carried by a ClientConnection, which reports what arrives and when it is lost."""

    encrypted = False
    keep_alive = True
    """Whether another request may follow on the connection."""
    old = False
    """HTTP/1.0."""
    expects = False
    """The client waits for a word from us before it sends the body."""
    asked = False
    """The handler wants the body."""
    complete = False
    """The body has arrived."""
    lost = False
    """The client has gone, or what it sends cannot be read any further."""
    broken = False
    """The response cannot be finished."""
    head_bytes = 0
    lease: Lease | None = None
    """Counts what is kept of the exchange; see `hold`."""
    _received = 0
    _counted = 0
    """Bytes of the body that the lease has counted."""
    _problem: Problem | None = None
    """Why the body is not read any further."""
    _limit = 0
    _waiter: asyncio.Future[None] | None = None
    _watchers: list[Callable[[], None]] | None = None
    """Called when the client has gone."""
    _framing: Framing = ""
    _head = b""
    """The head of a stream that nothing has been sent of."""
    _left = 0

    def __init__(self, connection: "ClientConnection", head: RequestHead, length: int | None) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.client = connection.peer
        self.length = length
        """Of the body; None where it comes in chunks."""
        self._connection = connection
        self._incoming = Incoming(joins=length is None)

    # --- for the handler ---

    def hold(self, lease: Lease) -> None:
        self.lease = lease
        if self.head_bytes > _HEAD_FREE:
            lease.take(self.head_bytes)

    async def body(self, limit: int) -> bytes:
        return whole(await self.content(limit))

    async def content(self, limit: int) -> Body:
        if (self.length or 0) > limit:
            raise _too_large(limit)
        self._reserve()
        self.asked = True
        self._limit = limit
        try:
            if max(self.length or 0, self._received) > LARGE_BYTES:
                self._incoming.to_file()
        except OSError as error:
            raise _no_memory(error) from error
        if not self.complete and not self.lost:
            await self._arrival(limit)
        if self.lost:
            raise ClientGone
        if self._received > limit:
            raise _too_large(limit)
        if self.lease is not None and self._counted > self._received:
            self.lease.shrink(self.lease.size - self._counted + self._received)
        try:
            return self._incoming.take()
        except OSError as error:
            raise _no_memory(error) from error

    def _reserve(self) -> None:
        """Count the body that is declared, or has come. Raises Problem."""
        if self.lease is not None:
            self._counted = self._received if self.length is None else self.length
            self.lease.take(self._counted)

    async def _arrival(self, limit: int) -> None:
        """Wait until the body is there, or will not be. Raises Problem."""
        connection = self._connection
        connection.wanted(self)
        try:
            while not self.complete and not self.lost and self._received <= limit and self._problem is None:
                self._waiter = connection.state.loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
        finally:
            connection.arrived()
        if self._problem is not None and not self.lost:
            raise self._problem

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self._framing:
            self.broken = True
            raise RuntimeError("the exchange has an answer already")
        if self.lost:
            return
        lines, length, dated = header_lines(headers)
        if self.method == "HEAD" or status in _BODILESS:
            length = length if length is not None else len(body) or None
            size = "" if length is None or status == 204 else f"content-length: {length}\r\n"
            body = b""
        else:
            size = f"content-length: {len(body)}\r\n"
        head = self._compose(status, lines, size, dated=dated)
        self._framing = "whole"
        if len(body) <= JOINED_MAX:
            self._write(head + body)
        else:
            self._write(head, body)

    def start(self, status: int, headers: HeaderList) -> "Http1Exchange":
        if self._framing:
            self.broken = True
            raise RuntimeError("the exchange has an answer already")
        if self.lost:
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
        self._head = self._compose(status, lines, size, dated=dated)
        self._framing = framing
        self._left = length or 0
        self._connection.state.loop.call_soon(self.send_head)  # with the first chunk, where that comes at once
        return self

    async def send(self, chunk: bytes) -> None:
        if self.lost:
            raise ClientGone
        data = self._head + self._framed(chunk)
        self._head = b""
        if data:
            self._write(data)
        if self._connection.stalled:
            await self._connection.drained()
            if self.lost:
                raise ClientGone

    def offer(self, chunk: bytes) -> None:
        if not self.lost and not self._head and not self._connection.stalled:
            self._write(self._framed(chunk))

    def gone(self) -> Awaitable[None]:
        watcher: asyncio.Future[None] = self._connection.state.loop.create_future()
        self.when_gone(lambda: None if watcher.done() else watcher.set_result(None))
        return watcher

    def when_gone(self, callback: Callable[[], None]) -> None:
        if self.lost:
            callback()
        elif self._watchers is None:
            self._watchers = [callback]
        else:
            self._watchers.append(callback)

    # --- for the connection ---

    @property
    def answered(self) -> bool:
        """The response has begun."""
        return self._framing != ""

    @property
    def endless(self) -> bool:
        """Only the end of the connection shows the end of the response."""
        return self._framing == "until_close"

    def add(self, data: bytes) -> None:
        """A piece of the body. Above the limit nothing is kept."""
        self._received += len(data)
        if self.asked and (self._received > self._limit or not self._room()):
            self._incoming.clear()
            self._wake()
            return
        try:
            if self.asked and self._received > LARGE_BYTES:
                self._incoming.to_file()
            self._incoming.add(data)
        except OSError as error:
            self._problem = _no_memory(error)
            self._incoming.clear()
            self._wake()

    def _room(self) -> bool:
        """Whether what has come may be kept."""
        if self._problem is not None:
            return False
        if self.lease is None or self._received <= self._counted:
            return True
        more = max(_STEP, self._received - self._counted)
        try:
            self.lease.take(more)
        except Problem as problem:
            self._problem = problem
            return False
        self._counted += more
        return True

    @property
    def received(self) -> int:
        """Bytes of the body that have come."""
        return self._received

    def late(self) -> None:
        """The client hardly sends: its body is not waited for any longer."""
        self._problem = Problem(
            BODY_LATE, "The request body arrived too slowly: send it faster, or in smaller requests."
        )
        self._incoming.clear()
        self._wake()

    def forget(self) -> None:
        """It has ended: nothing that arrived is kept."""
        self._incoming.clear()

    def completed(self) -> None:
        """The body has arrived."""
        self.complete = True
        self._wake()

    def lose(self) -> None:
        """The client has disconnected, or cannot be understood any longer."""
        self.lost = True
        self._incoming.clear()
        self._wake()
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher()

    def end(self) -> bool:
        """The handler has returned: finish the response. Whether it is whole."""
        if self.broken or (self._framing == "length" and self._left):
            return False
        if self._framing == "chunked":
            self._write(self._head + b"0\r\n\r\n")
            self._head = b""
        self.send_head()
        return True

    def send_head(self) -> None:
        """The head of a stream that has sent nothing yet."""
        head, self._head = self._head, b""
        if head:
            self._write(head)

    # --- inside ---

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _compose(self, status: int, lines: str, size: str, *, dated: bool) -> bytes:
        """The head. A body that has not arrived is not waited for: the connection ends with the response."""
        state = self._connection.state
        if not self.keep_alive or not self.complete or state.closing:
            self.keep_alive = False
            size += "connection: close\r\n"
        elif self.old:
            size += "connection: keep-alive\r\n"
        if status == 426:
            size += "upgrade: HTTP/1.1\r\nconnection: upgrade\r\n"  # what it asks for has to be said
        date = "" if dated else state.dates.line()
        return f"{status_line(status)}{lines}{date}{size}\r\n".encode("latin-1")

    def _framed(self, chunk: bytes) -> bytes:
        if self._framing == "chunked":
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""  # an empty one would be the end
        if self._framing == "length":
            self._left -= len(chunk)
            if self._left < 0:
                self.broken = True
                raise ValueError("the answer is longer than its content-length")
        return b"" if self._framing == "none" else chunk

    def _write(self, *data: bytes) -> None:
        if not self.lost:
            self._connection.write(*data)


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")


def _no_memory(error: OSError) -> Problem:
    """The file in memory that a large body is kept in takes no more."""
    return Problem(SERVER_BYTES_FULL, f"The server has no memory left for the request's body ({error.strerror}).")
