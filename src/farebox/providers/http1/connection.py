"""One connection: a request out, an answer in, then idle for the next one."""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import cast

import httptools

from farebox.providers.upstream import UpstreamFailed

HEAD_MAX = 64 * 2**10
"""Bytes of an answer's head, all headers together; so many are also read of what is no HTTP at all."""
HEADERS_MAX = 256
PAUSE_ABOVE = 256 * 2**10
"""Bytes of a body that wait to be taken before the connection is no longer read."""

_BODILESS = (204, 304)


class Answer:
    """An answer whose head has come. See providers.upstream.UpstreamAnswer."""

    __slots__ = ("_buffered", "_chunks", "_connection", "_ended", "_failure", "_waiter", "headers", "status")

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self._connection = connection
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._ended = False
        self._failure = ""
        """Why it broke off. Not the exception: with its traceback it would keep the caller's frames alive."""
        self._waiter: asyncio.Future[None] | None = None

    async def chunk(self) -> bytes | None:
        """Everything that has arrived since the last time; waits where that is nothing; None at the end.

        Raises UpstreamFailed where the answer broke off.
        """
        while not self._chunks:
            if self._ended:
                return None
            if self._failure:
                raise UpstreamFailed(self._failure, sent=True)
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunks, self._chunks = self._chunks, []
        if self._buffered > PAUSE_ABOVE and not self._ended:
            self._connection.resume()
        self._buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def close(self) -> None:
        """Let go of the answer. One that has not ended takes its connection with it, so that the provider notices."""
        if not self._ended:
            self._connection.drop()

    # --- told by the connection ---

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > PAUSE_ABOVE:
            self._connection.pause()
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, words: str) -> None:
        self._failure = words
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """A connection to one origin. `released` is called when it can take another request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, released: "Callable[[Connection], None]") -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._released = released
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._seen = False
        self._head_bytes = 0
        self._to_head = False
        self._framed = False
        self._lost = False
        self._paused = False
        self._until_eof = False
        self._length: int | None = None
        self._chunked = False
        self._peek: socket.socket | None = None
        self._news = select.poll()

    # --- for the pool ---

    @property
    def usable(self) -> bool:
        """Whether it is idle and, as far as one can know, still open at the other end.

        The loop may not have seen yet that the server closed it: a look at the socket tells.
        """
        if self._lost or self._answer is not None or self._peek is None:
            return False
        return not self._news.poll(0)  # else closed, or saying something that nobody asked for

    async def exchange(self, request: bytes, body: bytes, *, to_head: bool) -> Answer:
        """Send the request and wait for the answer's head. Raises UpstreamFailed.

        Where the wait is cancelled the connection is dropped, so that the provider notices.
        """
        assert self._transport is not None
        if self._lost:  # between its making and now: nothing would ever wake the wait for the head
            raise UpstreamFailed("the connection was closed at once", sent=False)
        self._answer = Answer(self)
        self._head = self.loop.create_future()
        self._to_head = to_head
        self._seen = self._framed = False
        self._head_bytes = 0
        if not body:
            self._transport.write(request)
        elif len(body) < PAUSE_ABOVE:
            self._transport.write(request + body)  # one system call, one packet for what is small
        else:
            self._transport.write(request)
            self._transport.write(body)
        try:
            return await self._head
        except asyncio.CancelledError:
            self.drop()
            raise

    def drop(self) -> None:
        """Close at once; whatever was on its way is lost."""
        self._answer = self._head = None
        self._forget()
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

    def _forget(self) -> None:
        """It takes no further request."""
        self._lost = True
        if self._peek is not None:
            self._peek.close()
            self._peek = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peek = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._news.register(self._peek, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked: a server that closes in these words, or one that is confused
            self.drop()
            return
        if not self._framed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("the request was not answered in HTTP")
            return
        if not self._framed and self._head_bytes > HEAD_MAX:
            self._break("the answer's head is too large")

    def eof_received(self) -> bool:
        return False  # close: a server that is done sending is done

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        if self._answer is None:
            return
        if self._framed and self._until_eof and error is None:
            self._finish(keep=False)
        else:
            self._break("the connection was reset" if error or not self._seen else "the answer broke off")

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._answer is None or self._framed:
            raise httptools.HttpParserError("an answer that nobody asked for")
        self._seen = True
        self._length = None
        self._chunked = False
        self._answer.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._answer is not None
        headers = self._answer.headers
        lower = name.lower()
        if lower == b"content-length":
            self._length = int(value) if value.isdigit() else -1
        elif lower == b"transfer-encoding":
            self._chunked = value.lower().strip().endswith(b"chunked")
        if not self._framed and len(headers) < HEADERS_MAX:  # what comes after the body are trailers
            headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        assert answer is not None
        if status < 200:
            if status == 101:
                raise httptools.HttpParserError("a switch of protocols that nobody asked for")
            return  # 100, 102, 103: the answer itself follows
        answer.status = status
        self._framed = True
        self._until_eof = not self._chunked and self._length is None and status not in _BODILESS and not self._to_head
        if self._head is not None and not self._head.done():
            self._head.set_result(answer)
        if self._to_head:  # the parser would wait for the body that the length speaks of
            self._finish(keep=False)

    def on_body(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.add(data)

    def on_message_complete(self) -> None:
        if self._framed and not self._lost and self._answer is not None:
            self._finish(keep=self._parser.should_keep_alive() and not self._until_eof)

    # --- the end of an exchange ---

    def _finish(self, *, keep: bool) -> None:
        answer, self._answer, self._head = self._answer, None, None
        assert answer is not None
        answer.end()
        transport = self._transport
        assert transport is not None
        if not keep or self._lost or transport.get_write_buffer_size():  # an answer before the request was all sent
            self._forget()
            transport.abort()
            return
        self.resume()
        self.idle_since = self.loop.time()
        self._released(self)

    def _break(self, words: str) -> None:
        answer, head = self._answer, self._head
        self.drop()
        if head is not None and not head.done():
            head.set_exception(UpstreamFailed(words, sent=True))
        elif answer is not None:
            answer.fail(words)
