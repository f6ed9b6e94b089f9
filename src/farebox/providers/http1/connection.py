"""One connection: a request out, a response in, then idle for the next one."""

import asyncio
import fcntl
import os
import re
import select
import struct
import termios
from collections.abc import Callable, Iterator
from typing import cast

import httptools
import structlog

from farebox.memory_files import Body
from farebox.providers.http1.opening import Opened
from farebox.providers.http1.response import PAUSE_ABOVE, Http1Response
from farebox.providers.upstream import Cause, SendProgress, UpstreamFailed

HEAD_MAX = 64 * 2**10
"""Bytes of a response's head, all headers together; also how much is read of a response that is not HTTP at all."""
HEADERS_MAX = 256
SILENT_MAX = 64 * 2**10
"""Bytes after the head that may arrive without any byte of a body: trailers, chunk extensions."""
IDLE_SECONDS = 50.0
"""How long an unused connection is kept: below the 60 s after which many servers and balancers close theirs."""
RACE_SECONDS = 1.0
"""How long after a request a reset is assumed to come from a server that had closed the connection before it read the
request. Such a reset takes one round trip; a provider that works on a request for longer than this has read it."""

_BODILESS = (204, 304)
_FRAMING = ("content-length", "transfer-encoding", "keep-alive")
_NAMES_MAX, _NAME_BYTES_MAX = 1024, 64
_names: dict[bytes, tuple[str, str]] = {}
"""Header names seen in responses: as text and, if one of _FRAMING, in lower case (otherwise empty)."""
_timeout_hint = re.compile(r"(?:^|[\s,;])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE).search

log = structlog.get_logger("farebox.upstream")


class Unread(Exception):
    """The connection ended before the server had read the request, so it may be sent again."""


class UpstreamConnection(Opened):
    """A connection to one origin. `released` is called when it can take another request, `broken` when a response
    breaks off after its head.

    If a callback raises, the waiting caller is woken anyway: the loop would only log the exception.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        released: "Callable[[UpstreamConnection], None]",
        broken: Callable[[Cause], None] = lambda _: None,
    ) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.idle_max = IDLE_SECONDS
        """How long it may stay unused, in seconds; less if the server says so."""
        self._released = released
        self._broken = broken
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[Http1Response] | None = None
        self._response: Http1Response | None = None
        self._used = False
        self._sent_at = 0.0
        self._unread = False
        self._seen = False
        self._head_bytes = 0
        self._silent = 0
        self._to_head = False
        self._framed = False
        self._lost = False
        self._paused = False
        self._blocks: Iterator[bytes] = iter(())
        """The blocks of a large body that are still to be sent."""
        self._to_send = 0
        self._next_block = False
        """Whether the next block is about to be sent."""
        self._full = False
        """Whether the system accepts no more data at the moment."""
        self._until_eof = False
        self._length: int | None = None
        self._chunked = False
        self._fd = -1
        """The socket's descriptor."""
        self._fd_is_ours = False
        self._fd_persistent = True
        """Whether the descriptor still belongs to the socket when the connection is lost."""
        self._poll = select.poll()

    # --- for the pool ---

    @property
    def usable(self) -> bool:
        """Whether it is idle and, as far as known, still open at the other end.

        The loop may not have seen yet that the server closed it: polling the socket shows it.
        """
        if self._lost or self._response is not None or self._fd < 0:
            return False
        return not self._poll.poll(0)  # else closed, or sending unsolicited data

    async def exchange(self, request: bytes, body: Body, sending: SendProgress, *, to_head: bool) -> Http1Response:
        """Send the request and wait for the response's head. Raises UpstreamFailed; Unread on a connection that has
        been used before.

        If the wait is canceled, the connection is dropped, so that the provider notices, and `sending` is filled in.
        """
        transport = self._transport
        if self._lost or transport is None:  # lost since it was opened: nothing would ever wake the wait for the head
            raise UpstreamFailed("the connection was closed at once", sent=False, cause="closed")
        self._response = Http1Response(self)
        self._head = self.loop.create_future()
        self._to_head = to_head
        self._seen = self._framed = False
        self._head_bytes = self._silent = 0
        self._sent_at = self.loop.time()
        try:
            if not isinstance(body, bytes):
                transport.write(request)
                self._blocks, self._to_send = body.blocks(), len(body)
                self._send_on()
            elif not body:
                transport.write(request)
            elif len(body) < PAUSE_ABOVE:
                transport.write(request + body)  # one system call, and one packet if it is small
            else:
                transport.write(request)
                transport.write(body)
            return await self._head
        except (UpstreamFailed, Unread):  # the connection has been dropped
            raise
        except BaseException:
            sending.whole = not (self._to_send or transport.get_write_buffer_size())
            self.drop()
            raise

    def drop(self) -> None:
        """Close at once; anything in transit is lost."""
        self._response = self._head = None
        self._lost = True
        self._blocks = iter(())
        fd, self._fd = self._fd, -1
        if self._fd_is_ours and fd >= 0:
            os.close(fd)
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._lost and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._lost and self._paused:
            self._paused = False
            self._transport.resume_reading()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self._transport = cast(asyncio.Transport, transport)
            self._fd = transport.get_extra_info("socket").fileno()
            self._keep_socket(tls=transport.get_extra_info("sslcontext") is not None)
            self._poll.register(self._fd, select.POLLIN)
        except Exception as error:  # noqa: BLE001 - every waiter is woken
            self._failed(error)

    def data_received(self, data: bytes) -> None:
        try:
            if self._response is None:  # unsolicited: a server that announces its close, or a faulty one
                self.drop()
                return
            if self._framed:
                self._silent += len(data)
            else:
                self._head_bytes += len(data)
            self._parser.feed_data(data)
            if not self._framed and self._head_bytes > HEAD_MAX:
                self._break("the response headers are too large", "protocol")
            elif self._silent > SILENT_MAX and self._response is not None:
                self._break("the response has too much data besides its body", "protocol")
        except Exception as error:  # noqa: BLE001 - every waiter is woken
            self._failed(error)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._send_on()

    def _send_on(self) -> None:
        """Send the rest of a large body block by block, so that other tasks run in between."""
        if self._to_send and not self._next_block and not self._lost:
            self._next_block = True
            self.loop.call_soon(self._send_block)

    def _send_block(self) -> None:
        self._next_block = False
        try:
            if not self._full and not self._lost and self._transport is not None:
                block = next(self._blocks)
                self._to_send -= len(block)
                if not self._to_send:
                    self._blocks = iter(())  # the unfinished generator would keep the body in memory while this is idle
                self._transport.write(block)
                self._send_on()
        except Exception as error:  # noqa: BLE001 - every waiter is woken
            self._failed(error)

    def eof_received(self) -> bool:
        try:
            self._unread = self._not_read()  # later the system may no longer know
        except Exception as error:  # noqa: BLE001 - every waiter is woken
            self._failed(error)
        return False  # close: a server that has stopped sending is done

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - every waiter is woken
            self._failed(error)

    def _keep_socket(self, *, tls: bool) -> None:
        """A transport closes its socket after `connection_lost`, a TLS one before it (uvloop 0.23): there we need our
        own descriptor to query afterwards what had arrived. If no descriptor is free, that remains unknown."""
        if not tls:
            return
        try:
            self._fd = os.dup(self._fd)
            self._fd_is_ours = True
        except OSError:
            self._fd_persistent = False

    def _end(self, error: Exception | None) -> None:
        if self._response is None or self._head is None:
            self.drop()
        elif self._head.done():
            if self._framed and self._until_eof and error is None:
                self._finish(keep=False)
            else:
                self._break("the connection was reset" if error else "the response broke off", "cut")
        elif (
            self._used
            and not self._head_bytes
            and (self._unread or (self._fd_persistent and self._not_read()) or self._raced(error))
        ):
            self._head.set_exception(Unread())
            self.drop()
        elif error:
            self._break("the connection was reset", "reset")
        else:
            self._break("the connection was closed without a response", "closed")

    def _not_read(self) -> bool:
        """Whether a part of the request never arrived at the server's system."""
        if self._transport is None or self._response is None:
            return False
        if self._unsent():
            return True
        try:
            unacknowledged = fcntl.ioctl(self._fd, termios.TIOCOUTQ, b"\0" * 4)
        except OSError:  # only Linux offers this
            return False
        return bool(struct.unpack("i", unacknowledged)[0])

    def _unsent(self) -> int:
        """Bytes of the request that the system has not accepted yet."""
        assert self._transport is not None
        unsent = self._to_send + self._transport.get_write_buffer_size()
        for transport in self.beneath:
            unsent += transport.get_write_buffer_size()
        return unsent

    def _raced(self, error: Exception | None) -> bool:
        """Whether it was reset because the server closed it before the request arrived, or with the request unread.
        After reading all of it, the server would have closed the connection in an orderly way."""
        reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        return reset and not self.tunnelled and self.loop.time() - self._sent_at < RACE_SECONDS

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._response is None or self._framed:
            raise httptools.HttpParserError("an unsolicited response")
        self._seen = True
        self._length = None
        self._chunked = False
        self._response.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._framed or self._response is None:  # headers after the body are trailers
            return
        text, framing = _names.get(name) or _learn(name)
        if framing:
            self._note(framing, value)
        headers = self._response.headers
        if len(headers) < HEADERS_MAX:
            headers.append((text, value.decode("latin-1")))

    def _note(self, name: str, value: bytes) -> None:
        """Note a header about the end of the body or of the connection."""
        if name == "content-length":
            self._length = int(value) if value.isdigit() and len(value) < 19 else -1
        elif name == "transfer-encoding":
            self._chunked = value.lower().strip().endswith(b"chunked")
        else:
            self._apply_hint(value.decode("latin-1"))

    def _apply_hint(self, hint: str) -> None:
        """`timeout=N`: the server closes a connection that was unused for N seconds. No request should cross that
        close."""
        found = _timeout_hint(hint)
        if found:
            seconds = float(found[1])
            self.idle_max = min(IDLE_SECONDS, max(seconds - 1, seconds / 2))

    def on_headers_complete(self) -> None:
        response, status = self._response, self._parser.get_status_code()
        assert response is not None
        if status < 200:
            if status == 101 or status < 100:
                raise httptools.HttpParserError("an unrequested switch of protocols, or no status at all")
            return  # 100, 102, 103: the response itself follows
        response.status = status
        self._framed = True
        self._until_eof = not self._chunked and self._length is None and status not in _BODILESS and not self._to_head
        if self._head is not None and not self._head.done():
            self._head.set_result(response)
        if self._to_head:  # the parser would wait for the body announced by the length
            self._finish(keep=False)

    def on_body(self, data: bytes) -> None:
        self._silent = 0
        if self._response is not None:
            self._response.add(data)

    def on_message_complete(self) -> None:
        if self._framed and not self._lost and self._response is not None:
            self._finish(keep=self._parser.should_keep_alive() and not self._until_eof)

    # --- the end of an exchange ---

    def _finish(self, *, keep: bool) -> None:
        response, self._response, self._head = self._response, None, None
        assert response is not None
        response.end()
        if not keep or self._lost or self._unsent():  # a response before the whole request was sent
            self.drop()
            return
        if self._paused:
            self.resume()
        self._used = True
        self.idle_since = self.loop.time()
        self._released(self)

    def _break(self, words: str, cause: Cause) -> None:
        response, head = self._response, self._head
        self._response = self._head = None
        try:
            if head is not None and not head.done():
                head.set_exception(UpstreamFailed(words, sent=True, cause=cause))
            elif response is not None:
                response.fail(words, cause)
                self._broken(cause)
        finally:
            self.drop()

    def _failed(self, error: Exception) -> None:
        """A callback raised: the response is not HTTP, or the bug is ours. Wake the waiters first, then log, since
        logging may raise too."""
        mistake: BaseException | None = error
        if isinstance(error, httptools.HttpParserCallbackError):  # raised by one of the parser's callbacks
            mistake = error.__context__
        if mistake is None or isinstance(mistake, httptools.HttpParserError | httptools.HttpParserUpgrade):
            self._break("the response is not HTTP", "protocol")
            return
        self._break("an internal error of the gateway", "internal")
        log.error("mistake in the HTTP client", exc_info=mistake)


def _learn(name: bytes) -> tuple[str, str]:
    text = name.decode("latin-1")
    found = text, text.lower() if text.lower() in _FRAMING else ""
    if len(_names) < _NAMES_MAX and len(name) <= _NAME_BYTES_MAX:
        _names[name] = found
    return found
