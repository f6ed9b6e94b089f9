"""One connection of a client: requests go to the handler one after another, responses out in the same order."""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, Literal, cast

import structlog

from farebox.http.exchange import ClientGone
from farebox.http.server.buffered_bytes import UNCLAIMED_FREE, BufferedBytes
from farebox.http.server.exchange import Http1Exchange
from farebox.http.server.headers import refused
from farebox.http.server.lifecycle import Lifecycle, RequestState
from farebox.http.server.preface import peer_of, read_preface
from farebox.http.server.reader import RequestReader
from farebox.http.server.state import PAUSE_ABOVE, PROGRESS_BYTES, REST_BYTES, ServerState
from farebox.http.server.write_buffer import WRITE_HIGH, WriteBuffer
from farebox.limits.byte_budget import ByteLease

log = structlog.get_logger("farebox.http")


class ClientConnection(asyncio.Protocol):
    """A client's connection. `deadline` is when `expire` is to be called, on the loop's clock; `life` is its state (see
    lifecycle)."""

    __slots__ = (
        "_ahead", "_current", "_kept", "_marked", "_paused", "_preface", "_reader", "_transport", "deadline", "life",
        "peer", "state", "task", "write_buffer",
    )  # fmt: skip

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.life = Lifecycle()
        self.write_buffer = WriteBuffer(state.loop)
        self.deadline = math.inf
        self.task: asyncio.Future[Any] | None = None
        self.peer = ""
        """The address of the peer, or of the client that a trusted proxy connects for; empty if it has none."""
        self._transport = cast(asyncio.Transport, None)
        self._reader = RequestReader(self)
        self._current: Http1Exchange | None = None
        """The exchange that the handler is processing."""
        self._ahead = 0
        """Bytes received that nobody has asked for."""
        self._paused = False
        """Reading is paused, because the client has sent too much ahead."""
        self._preface = b""
        """The part of the PROXY protocol's header that has arrived, until it is complete."""
        self._marked = 0
        """Bytes of the body that had arrived at the last check."""
        self._kept = BufferedBytes(state.budget)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not a subclass
        self.write_buffer.open(self._transport)
        state = self.state
        if state.closing or len(state.connections) >= state.limits.connections:
            self._transport.write(refused(503, "Too many connections.", state.dates))
            self.life.ends("close")
            self._transport.close()
            return
        self.peer = peer_of(transport)
        if state.prefaced is not None and state.prefaced(self.peer):
            self.life.reads("prefaced")
        self._set_deadline(state.limits.head_seconds)
        state.add(self)

    def data_received(self, data: bytes) -> None:
        if len(data) > REST_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()
            self.state.rest(self, len(data))
        life, reader = self.life, self._reader
        if life.response == life.request == "idle" and (exchange := reader.repeated(data)) is not None:
            self._begin(exchange)  # the common case
            return
        if life.request in ("preface", "switched"):
            data = self._before_http(data)
        if not data or life.request == "closed":
            return
        current = self._current
        unrequested = life.response != "idle" if current is None else current.body_state != "awaited"
        before = life.request
        reader.feed(data)
        if unrequested:
            self._ahead += len(data)
            if self._ahead > PAUSE_ABOVE:
                self.pause()
        elif current is None:
            self._go_on(before)
            if reader.waiting:
                self._ahead += len(data)
        if self._ahead or reader.pending or self._kept.counting:
            self._count_unclaimed()

    def _before_http(self, data: bytes) -> bytes:
        """The data that is left for HTTP after another protocol has taken its part."""
        if self.life.request == "preface":
            return self._after_preface(self._preface + data)
        if self._current is not None and self._current.switched is not None:
            self._current.switched.intake.add(data)
        return b""

    def rested(self) -> None:
        """The connection may be read again."""
        if not (self._paused or self._transport.is_closing()):
            self._transport.resume_reading()

    def _after_preface(self, data: bytes) -> bytes:
        """The data after the header of the PROXY protocol. A peer without one is disconnected without a response."""
        try:
            found = read_preface(data)
        except ValueError as error:
            log.warning("connection closed", peer=self.peer, why=str(error))
            self._lose()
            self._transport.abort()
            return b""
        if found is None:
            self._preface = data
            return b""
        self._preface = b""
        self.life.reads("preface_read")
        length, address = found
        self.peer = address or self.peer
        return data[length:]

    def eof_received(self) -> bool:
        """Treat a client that will send nothing more as gone: one that closes its connection looks the same."""
        self._lose()
        self._close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._lose()
        self._kept.close()
        self.state.discard(self)

    def pause_writing(self) -> None:
        self.write_buffer.stalled = True
        self.write_buffer.watch()
        self._set_deadline(self.state.limits.write_seconds)

    def resume_writing(self) -> None:
        self.write_buffer.stalled = False
        self._kept.drop_unsent()
        self.write_buffer.wake()
        if self.life.ending:
            return
        self.deadline = math.inf
        if self._current is None:
            self._next()

    # --- one exchange after another ---

    def _next(self) -> None:
        """The response has been written: begin with the waiting request, or wait for one."""
        self.life.responds("next")
        if self.life.request == "idle" and not (
            self._reader.waiting or self._ahead or self._paused or self.state.closing
        ):
            self.deadline = self.state.loop.time() + self.state.limits.idle_seconds  # the common case
        else:
            self._go_on(None)

    def _go_on(self, before: RequestState | None) -> None:
        """No request is being handled: begin with the waiting one, or wait for one. `before`: the earlier state of
        reading, whose deadline is already set."""
        life, reader = self.life, self._reader
        if reader.waiting:
            exchange = reader.waiting.popleft()
            self._begin(exchange)
            if exchange.body_state == "arrived" and not reader.waiting:
                self.resume()
        elif reader.refusal is not None:
            self._respond(*reader.refusal)
        elif self.state.closing or life.request == "closed":
            self._leave("close")
        else:
            self.resume()
            if life.request != "head":
                self._set_deadline(self.state.limits.idle_seconds)
            elif before != "head":
                self._set_deadline(self.state.limits.head_seconds)

    def _begin(self, exchange: Http1Exchange) -> None:
        self._current = exchange
        self.life.responds("begin")
        self.deadline = math.inf
        left, failed = None, False
        try:
            left = self.state.handler(exchange)
        except Exception:
            log.exception("handler failed", method=exchange.method)
            failed = True
        if left is None:
            self._done(exchange, failed=failed)
        elif isinstance(left, asyncio.Future):
            self.task = left
            left.add_done_callback(lambda _: self._done(exchange, failed=False))
        else:
            self.task = self.state.loop.create_task(self._handle(exchange, left))

    async def _handle(self, exchange: Http1Exchange, left: Awaitable[None]) -> None:
        failed = True
        try:
            await left
            failed = False
        except ClientGone:
            self._break()
        except Exception:
            log.exception("handler failed", method=exchange.method)
        except BaseException:
            self._break()
            raise
        finally:
            self._done(exchange, failed=failed)

    def _break(self) -> None:
        """The response cannot be finished."""
        if self.life.response != "closed":
            self.life.responds("break")

    def _done(self, exchange: Http1Exchange, *, failed: bool) -> None:
        self._current = self.task = None
        life, lease = self.life, exchange.lease
        if life.response == "streaming" and not failed and exchange.end():
            life.responds("end")
        if life.response == "switched" and not failed:
            self._leave("linger")
        elif life.response == "responded" and not failed:
            if not exchange.keep_alive:
                self._leave("close" if exchange.body_state == "arrived" else "linger")
        elif life.response != "closed":
            self._fail(exchange)
        exchange.close()
        if self.write_buffer.stalled:
            self._count_unsent(lease)
        elif lease is not None:
            lease.close()
        if life.response == "responded" and not self.write_buffer.stalled:
            self._next()

    def _fail(self, exchange: Http1Exchange) -> None:
        """The response is missing or incomplete: let the client see that."""
        if self.life.response == "handling":
            self._respond(500, "Internal error.")
        elif self.life.response == "cut" and self._reader.refusal is not None:
            self._respond(*self._reader.refusal)
        elif exchange.framing in ("", "until_close", "switched"):  # a plain end would look like that of a response
            self.reset()
        else:
            self._break()
            exchange.send_head()
            self._leave("close")

    def _count_unsent(self, lease: ByteLease | None) -> None:
        """The exchange is over: of its memory, only the part of the response that the client has not received yet is
        kept. If there is no room for that, it is given up: the client had time to read it."""
        unsent = self.write_buffer.unsent()
        if unsent <= WRITE_HIGH or self.life.response == "closed":
            if lease is not None:
                lease.close()
            return
        if not self._kept.add_unsent(lease, unsent):
            self.reset()

    def _count_unclaimed(self) -> None:
        """Count received data that belongs to no account yet; if there is no room for it, discard it."""
        current = self._current
        size = 0 if self.life.request == "closed" and current is None else self._ahead + self._reader.pending
        if size <= UNCLAIMED_FREE and not self._kept.counting:
            return
        body = current is not None and not current.complete
        if self._kept.set_unclaimed(size, must=body):
            return
        if body:  # the body will be requested, or refused, at once
            self.pause()
        elif self.life.response == "idle":
            self._respond(503, "The server has no memory left for requests: try again in a moment.")
        else:  # further requests while the client waits for a response, or does not read it
            self.reset()

    def _respond(self, status: int, message: str) -> None:
        """A response by the server itself, the last on this connection."""
        self.write_buffer.write(refused(status, message, self.state.dates))
        self._leave("linger")

    # --- for the exchange ---

    def wanted(self, exchange: Http1Exchange) -> None:
        self.resume()
        self._marked = exchange.received
        self._set_deadline(self.state.limits.body_seconds)
        if exchange.expects:
            exchange.expects = False
            self.write_buffer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def arrived(self) -> None:
        if not (self.life.ending or self.write_buffer.stalled):
            self.deadline = math.inf

    def may_switch(self) -> bool:
        reader = self._reader
        return self.life.request == "idle" and not (reader.waiting or reader.unread or self._ahead)

    # --- reading, writing, leaving ---

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self.state.loop.time() + seconds

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        self._ahead = 0
        self._kept.claimed(self._reader.pending)
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _lose(self) -> None:
        """The client has disconnected."""
        if self.life.response == "closed":
            return
        self.life.ends("lose")
        if self._current is not None:
            self._current.lose()
        self._reader.close()
        self.write_buffer.wake()

    def _leave(self, how: Literal["linger", "close"]) -> None:
        """Close once everything is sent. With `linger`, continue receiving for a while: closing a connection with
        unread data resets it, and what the client has not read by then is lost."""
        self.life.ends(how)
        if how == "close" or self._transport.is_closing():
            self._close()
            return
        self._kept.claimed(0)
        self.write_buffer.watch()
        self._set_deadline(self.state.limits.linger_seconds)
        self.resume()
        try:
            self._transport.write_eof()
        except OSError:  # the client has just closed, and the loop has not noticed yet
            self._transport.abort()

    def _close(self) -> None:
        """Close once everything is sent."""
        self._kept.claimed(0)
        if self._transport.is_closing():
            return
        self.write_buffer.watch()
        self._set_deadline(self.state.limits.write_seconds)
        self._transport.close()

    def reset(self) -> None:
        """Close at once, without a proper end of the stream."""
        self._lose()
        self.write_buffer.reset()

    # --- for the server ---

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.write_buffer.stalled or self.life.ending:
            if self.write_buffer.progressed():
                self.deadline = now + self.state.limits.write_seconds
            else:
                self._transport.abort()
        elif self._current is not None:
            self._expect_body(self._current, now)
        elif self.life.request == "head":
            self._respond(408, "The request headers did not arrive in time.")
        else:
            self._leave("close")

    def _expect_body(self, exchange: Http1Exchange, now: float) -> None:
        """A body that is waited for must make progress: a client that hardly sends takes up a place."""
        if exchange.complete or exchange.received >= self._marked + PROGRESS_BYTES:
            self._marked = exchange.received
            self.deadline = now + self.state.limits.body_seconds
        else:
            self.deadline = math.inf
            exchange.late()

    def finish(self) -> None:
        """Close as soon as the exchange in progress has ended."""
        if self.life.ending and not self.write_buffer.unsent():
            self._transport.abort()
        elif self.life.response == "idle":
            self._leave("close")

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()
