"""One connection of a client: requests go to the handler one after another, answers out in the same order."""

import asyncio
import math
import socket
import struct
from typing import cast

import structlog

from farebox.http.exchange import ClientGone
from farebox.http.server.exchange import Http1Exchange
from farebox.http.server.headers import refused
from farebox.http.server.kept import UNCLAIMED_FREE, Kept
from farebox.http.server.preface import peer_of, read_preface
from farebox.http.server.reader import RequestReader
from farebox.http.server.state import PAUSE_ABOVE, PROGRESS_BYTES, REST_BYTES, ServerState
from farebox.limits.held import Lease

WRITE_HIGH, WRITE_LOW = 64 * 2**10, 16 * 2**10
"""Bytes of waiting responses: above the one a stream pauses, below the other it continues."""

log = structlog.get_logger("farebox.http")


class ClientConnection(asyncio.Protocol):
    """A client's connection. `deadline` is when `expire` is to be called, on the loop's clock."""

    __slots__ = (
        "_ahead",
        "_current",
        "_in_head",
        "_kept",
        "_leaving",
        "_lost",
        "_marked",
        "_paused",
        "_preface",
        "_reader",
        "_transport",
        "_unsent",
        "_waiters",
        "deadline",
        "peer",
        "stalled",
        "state",
        "task",
    )

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.deadline = math.inf
        self.stalled = False
        """The client does not read its response."""
        self.task: asyncio.Task[None] | None = None
        """The handler's."""
        self.peer = ""
        """The address of the peer, or of the client that a trusted proxy connected for; empty if it has none."""
        self._transport = cast(asyncio.Transport, None)
        self._reader = RequestReader(self)
        self._current: Http1Exchange | None = None
        """The exchange that the handler has."""
        self._in_head = False
        """The deadline is that of a request head which has begun."""
        self._ahead = 0
        """Bytes that arrived without anyone asking for them."""
        self._paused = False
        self._preface: bytes | None = None
        """What has come of the PROXY protocol's header, while it is not there in full."""
        self._leaving = False
        """No further response is sent."""
        self._lost = False
        """The client has disconnected."""
        self._unsent = 0
        """Bytes waiting to be sent at the last check."""
        self._marked = 0
        """Bytes of the body received at the last check."""
        self._kept = Kept(state.budget)
        self._waiters: list[asyncio.Future[None]] = []

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        state = self.state
        if state.closing or len(state.connections) >= state.limits.connections:
            self._reader.reading_closed = True
            self._transport.write(refused(503, "Too many connections.", state.dates))
            self._transport.close()
            return
        self.peer = peer_of(transport)
        if state.prefaced is not None and state.prefaced(self.peer):
            self._preface = b""
        self.deadline = state.loop.time() + state.limits.head_seconds
        state.add(self)

    def data_received(self, data: bytes) -> None:
        if len(data) > REST_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()
            self.state.rest(self, len(data))
        if self._preface is not None:
            data = self._after_preface(self._preface + data)
            if not data:
                return
        if self._reader.reading_closed:
            return
        current = self._current
        unasked = self.stalled if current is None else current.complete or not current.asked
        self._reader.feed(data)
        if unasked:
            self._ahead += len(data)
            if self._ahead > PAUSE_ABOVE and not self._paused:
                self._paused = True
                self._transport.pause_reading()
        elif current is None:
            self._advance()
            if self._reader.waiting:
                self._ahead += len(data)
        if self._kept.counting or self._ahead + self._reader.pending > UNCLAIMED_FREE:
            self._count_unclaimed()

    def rested(self) -> None:
        """It may be read again."""
        if not (self._paused or self._transport.is_closing()):
            self._transport.resume_reading()

    def _after_preface(self, data: bytes) -> bytes:
        """What follows the header of the PROXY protocol. A peer without one is disconnected without a response."""
        try:
            found = read_preface(data)
        except ValueError as error:
            log.warning("connection closed", peer=self.peer, why=str(error))
            self._reader.reading_closed = True
            self._transport.abort()
            return b""
        if found is None:
            self._preface = data
            return b""
        self._preface = None
        length, address = found
        self.peer = address or self.peer
        return data[length:]

    def eof_received(self) -> bool:
        """A client that is done sending is gone: so does one look that closes its connection."""
        self._lose()
        self._leave(linger=False)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._lose()
        self._leaving = True
        self._kept.close()
        self.state.discard(self)

    def pause_writing(self) -> None:
        self.stalled = True
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self.state.loop.time() + self.state.limits.write_seconds

    def resume_writing(self) -> None:
        self.stalled = False
        self._kept.taken()
        self._wake()
        if self._leaving:
            return
        self.deadline = math.inf
        if self._current is None:
            self._advance()

    # --- one exchange after another ---

    def _advance(self) -> None:
        """Nothing is being handled: begin with what waits, or wait for the client."""
        state, reader = self.state, self._reader
        if reader.waiting:
            exchange = self._current = reader.waiting.popleft()
            self._in_head = False
            self.deadline = math.inf
            self.task = state.loop.create_task(self._handle(exchange))
            if exchange.complete and not reader.waiting:
                self._read_on()
        elif reader.refusal is not None:
            self._respond(*reader.refusal)
        elif state.closing or reader.reading_closed:
            self._leave(linger=False)
        else:
            self._read_on()
            self._await_request()

    def _await_request(self) -> None:
        now, limits = self.state.loop.time(), self.state.limits
        if not self._reader.unread:
            self._in_head = False
            self.deadline = now + limits.idle_seconds
        elif not self._in_head:
            self._in_head = True
            self.deadline = now + limits.head_seconds

    async def _handle(self, exchange: Http1Exchange) -> None:
        failed = True
        try:
            await self.state.handler(exchange)
            failed = False
        except ClientGone:
            exchange.broken = True
        except Exception:
            log.exception("handler failed", method=exchange.method)
        except BaseException:
            exchange.broken = True
            raise
        finally:
            self._done(exchange, failed=failed)

    def _done(self, exchange: Http1Exchange, *, failed: bool) -> None:
        self._current = self.task = None
        exchange.forget()
        if self._lost or self._leaving:
            if exchange.lease is not None:
                exchange.lease.close()
            return
        self._end(exchange, failed=failed)
        self._count_untaken(exchange.lease)

    def _end(self, exchange: Http1Exchange, *, failed: bool) -> None:
        if not exchange.answered:
            refusal = self._reader.refusal
            if exchange.lost and refusal is not None:  # its body could not be read
                self._respond(*refusal)
            elif exchange.broken:
                self._reset()
            else:
                self._respond(500, "Internal error.")
        elif failed or not exchange.end():
            self._break(exchange)
        elif not exchange.keep_alive:
            self._leave(linger=not exchange.complete)
        elif not self.stalled:
            self._advance()

    def _break(self, exchange: Http1Exchange) -> None:
        """Let the client see that the response broke off."""
        if exchange.endless:
            self._reset()
        else:
            exchange.send_head()
            self._leave(linger=False)

    def _count_untaken(self, lease: Lease | None) -> None:
        """The exchange is over: of what it kept, only that part of its response is left which the client has not taken.
        Where there is no room for that, it is given up; it has had its time."""
        unsent = self._transport.get_write_buffer_size()
        if unsent <= WRITE_HIGH or self._lost:
            if lease is not None:
                lease.close()
            return
        if not self._kept.untaken(lease, unsent):
            self._reset()

    def _count_unclaimed(self) -> None:
        """Count what arrived and belongs to no account yet; if there is no room for it, discard it."""
        current = self._current
        size = 0 if self._reader.reading_closed and current is None else self._ahead + self._reader.pending
        body = current is not None and not current.complete
        if self._kept.unclaimed(size, must=body):
            return
        if body:  # it will be asked for, or refused, at once
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        elif current is None and not self.stalled:
            self._respond(503, "The server has no memory left for requests: try again in a moment.")
        else:  # further requests of a client that waits for a response, or does not read it
            self._reset()

    def _respond(self, status: int, message: str) -> None:
        """The server's own word, and its last on this connection."""
        self.write(refused(status, message, self.state.dates))
        self._leave(linger=True)

    # --- for the exchange ---

    def wanted(self, exchange: Http1Exchange) -> None:
        """The handler wants the body."""
        self._read_on()
        self._marked = exchange.received
        self.deadline = self.state.loop.time() + self.state.limits.body_seconds
        if exchange.expects:
            exchange.expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def arrived(self) -> None:
        """The body is no longer waited for."""
        if not (self._leaving or self.stalled):
            self.deadline = math.inf

    def write(self, *data: bytes) -> None:
        if self._transport.is_closing():
            return
        if len(data) == 1:
            self._transport.write(data[0])
        else:
            self._transport.writelines(data)

    async def drained(self) -> None:
        """Wait until the client has read, or has disconnected."""
        waiter: asyncio.Future[None] = self.state.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # --- reading, writing, leaving ---

    def _read_on(self) -> None:
        self._ahead = 0
        self._kept.claimed(self._reader.pending)
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lose(self) -> None:
        """The client has disconnected."""
        if self._lost:
            return
        self._lost = True
        if self._current is not None:
            self._current.lose()
        self._reader.close()
        self._wake()

    def _leave(self, *, linger: bool) -> None:
        """Close when all is sent; with `linger` go on receiving for a while, since a connection that is closed with
        something unread is reset, and what the client has not read by then is lost."""
        self._leaving = self._reader.reading_closed = True
        self._kept.claimed(0)
        if self._transport.is_closing():
            return
        limits = self.state.limits
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self.state.loop.time() + (limits.linger_seconds if linger else limits.write_seconds)
        if not linger:
            self._transport.close()
            return
        self._read_on()
        try:
            self._transport.write_eof()
        except OSError:  # the client has closed meanwhile, and the loop has not seen it yet
            self._transport.abort()

    def _reset(self) -> None:
        """Close at once, and not as if all was said."""
        self._leaving = True
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # --- for the server ---

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.stalled or self._leaving:
            unsent = self._transport.get_write_buffer_size()
            if 0 < unsent <= self._unsent - PROGRESS_BYTES:
                self._unsent = unsent
                self.deadline = now + self.state.limits.write_seconds
            else:
                self._transport.abort()
        elif self._current is not None:
            self._expect_body(self._current, now)
        elif self._reader.unread:
            self._respond(408, "The request headers did not arrive in time.")
        else:
            self._leave(linger=False)

    def _expect_body(self, exchange: Http1Exchange, now: float) -> None:
        """A body that is waited for must come on: a client that hardly sends keeps a place that others need."""
        if exchange.complete or exchange.received >= self._marked + PROGRESS_BYTES:
            self._marked = exchange.received
            self.deadline = now + self.state.limits.body_seconds
        else:
            self.deadline = math.inf
            exchange.late()

    def finish(self) -> None:
        """Close as soon as the exchange in progress has ended."""
        if self._leaving and not self._transport.get_write_buffer_size():
            self._transport.abort()
        elif self._current is None and not self._leaving and not self.stalled:
            self._leave(linger=False)

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()
