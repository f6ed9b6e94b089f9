"""A response as its caller sees it while it arrives."""

import asyncio
from typing import Protocol

from farebox.providers.upstream import Cause, UpstreamFailed

PAUSE_ABOVE = 256 * 2**10
"""Bytes of a body that may wait to be taken before reading from the connection pauses."""


class Sender(Protocol):
    """The connection that a response comes from."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def pause(self) -> None:
        """Read no more for now."""
        ...

    def resume(self) -> None: ...

    def drop(self) -> None:
        """Close the connection, with the rest of the response."""
        ...


class Http1Response:
    """A response whose head has arrived. See providers.upstream.UpstreamResponse."""

    __slots__ = ("_buffered", "_chunks", "_connection", "_ended", "_failure", "_taken", "_waiter", "headers", "status")

    def __init__(self, connection: Sender) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self._connection = connection
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._ended = self._taken = False
        self._failure: tuple[str, Cause] | None = None
        """Why it broke off. Not the exception: with its traceback it would keep the caller's frames alive."""
        self._waiter: asyncio.Future[None] | None = None

    def whole(self) -> bytes | None:
        """The whole body, if all of it has arrived and none of it has been taken; otherwise None."""
        if not self._ended or self._taken:
            return None
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def chunk(self) -> bytes | None:
        """Everything that has arrived since the last call; waits if that is nothing; None at the end.

        Raises UpstreamFailed if the response broke off.
        """
        while not self._chunks:
            if self._ended:
                return None
            if self._failure is not None:
                words, cause = self._failure
                raise UpstreamFailed(words, sent=True, cause=cause)
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._taken = True
        chunks, self._chunks = self._chunks, []
        if self._buffered > PAUSE_ABOVE and not self._ended:
            self._connection.resume()
        self._buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def close(self) -> None:
        """Release the response. If it has not ended, its connection is dropped, so that the provider notices."""
        self.drop()

    def drop(self) -> None:
        if not self._ended:
            self._connection.drop()

    # --- called by the connection ---

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > PAUSE_ABOVE:
            self._connection.pause()
        if self._waiter is not None:
            self._wake()

    def end(self) -> None:
        self._ended = True
        if self._waiter is not None:
            self._wake()

    def fail(self, words: str, cause: Cause) -> None:
        self._failure = words, cause
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
