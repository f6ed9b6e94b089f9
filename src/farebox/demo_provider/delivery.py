"""Sends a response as its directives say: late, in pieces, broken off, or not at all."""

import asyncio
from collections.abc import Iterable, Iterator

from farebox.clock import Clock
from farebox.demo_provider.directives import Directives
from farebox.demo_provider.received_calls import ReceivedCall, Stats
from farebox.demo_provider.responding import DemoEvent, Reply
from farebox.http.exchange import ClientGone, Exchange, HeaderList

GARBAGE = b'\x00\xff\xfe{"garbage": \n\ndata: [}\xf0\n\n'

_GARBAGE_AFTER = 2
_FAILURE_AFTER = 3
_ENDLESS = ("content-length", str(10**12))


class DemoDelivery:
    """One response on its way."""

    def __init__(
        self, exchange: Exchange, directives: Directives, clock: Clock, closing: asyncio.Future[None], stats: Stats
    ) -> None:
        self._exchange = exchange
        self._directives = directives
        self._clock = clock
        self._closing = closing
        self._stats = stats
        self._gone: asyncio.Future[None] | None = None

    async def run(self, reply: Reply, received: ReceivedCall) -> None:
        """Wait as directed (forever with `hang`), then send.

        Raises ClientGone, also if the provider is closing and releases waiting requests.
        """
        try:
            if self._directives.hang:
                await self._until_gone(None)
                raise ClientGone
            if self._directives.delay:
                await self._pause(self._directives.delay)
            received.status = reply.status
            self._stats.tokens_in += reply.input_tokens
            if reply.events is not None:
                received.finished = await self._send_events(reply, reply.events)
            else:
                received.finished = await self._send_body(reply)
        finally:
            if self._gone is not None:
                self._gone.cancel()

    async def _send_body(self, reply: Reply) -> bool:
        directives, body = self._directives, GARBAGE if self._directives.garbage else reply.body
        if directives.cut is None and not directives.trickle:
            self._exchange.respond(reply.status, reply.headers, body)
            self._stats.tokens_out += reply.output_tokens
            return True
        stream = self._exchange.start(reply.status, [*reply.headers, ("content-length", str(len(body)))])
        # A body shorter than its content-length makes the server close the connection.
        for piece in self._split(body if directives.cut is None else body[: len(body) // 2]):
            await stream.send(piece)
        if directives.cut is None:
            self._stats.tokens_out += reply.output_tokens
        return directives.cut is None

    async def _send_events(self, reply: Reply, events: Iterable[DemoEvent]) -> bool:
        directives = self._directives
        stream = self._exchange.start(reply.status, self._stream_headers(reply.headers))
        stop = directives.cut if directives.cut is not None else directives.end
        for number, event in enumerate(self._with_faults(reply, events)):
            if number and directives.gap:
                await self._pause(directives.gap)
            if number == stop:
                return False
            for piece in self._split(event.frame):
                await stream.send(piece)
            self._stats.tokens_out += event.tokens
        return directives.cut is None

    def _stream_headers(self, headers: HeaderList) -> HeaderList:
        # The server cannot reset a connection. It closes one whose response is shorter than its content-length, which a
        # client sees as a response that broke off.
        return headers if self._directives.cut is None else [*headers, _ENDLESS]

    def _with_faults(self, reply: Reply, events: Iterable[DemoEvent]) -> Iterator[DemoEvent]:
        for number, event in enumerate(events, 1):
            yield event
            if self._directives.garbage and number == _GARBAGE_AFTER:
                yield DemoEvent(GARBAGE)
            if self._directives.error_event and number == _FAILURE_AFTER:
                yield DemoEvent(reply.failure)
                return

    def _split(self, data: bytes) -> Iterator[bytes]:
        if self._directives.trickle:
            return (data[i : i + 1] for i in range(len(data)))
        return iter((data,))

    async def _pause(self, milliseconds: int) -> None:
        sleep = asyncio.ensure_future(self._clock.sleep(milliseconds / 1000))
        try:
            if not await self._until_gone(sleep):
                raise ClientGone
        finally:
            sleep.cancel()

    async def _until_gone(self, other: asyncio.Future[None] | None) -> bool:
        """Wait until the client is gone, or for another event. Returns whether the other event came first."""
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._exchange.gone())
        waited = {self._gone, self._closing} if other is None else {self._gone, self._closing, other}
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return self._gone not in done and self._closing not in done
