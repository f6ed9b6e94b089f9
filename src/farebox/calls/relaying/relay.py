"""Pass a provider's response on, in one piece or as it arrives; meter it on the way, and settle before its last
byte."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from farebox.calls import envelope, operator_key
from farebox.calls.buffered_response import FREE, BufferedResponse
from farebox.calls.cache import Recording
from farebox.calls.endings import (
    ABANDONED,
    BALANCE_ENDED,
    BLOCKED,
    CLIENT_GONE,
    NO_END,
    SERVER_STOPPED,
    interruption_of,
)
from farebox.calls.model import SinkStream
from farebox.calls.relaying.drain import AFTER_END_MAX, drain_response
from farebox.calls.relaying.headers import hold_headers, passed_headers
from farebox.calls.relaying.reader import reader_of
from farebox.calls.relaying.screened_stream import StreamBlocked, screened_stream
from farebox.calls.relaying.sliced_stream import SlicedStream, sliced_stream
from farebox.calls.relaying.whole import read_document, send_whole, undelivered
from farebox.calls.settle import settle_call
from farebox.calls.slices import BalanceEnded
from farebox.calls.stages import Responded
from farebox.calls.watch import Interrupted
from farebox.decoding import UnknownCoding
from farebox.errors import UPSTREAM_INVALID, ClientGone, Problem
from farebox.providers.decoding import decoded
from farebox.providers.formats.base import Observed, ResponseReader
from farebox.providers.formats.sniffer import Sniffer
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse
from farebox.quoting import quoted
from farebox.storage.sql import DatabaseUnavailable

WHOLE_BODY_MAX = 8 * 2**20
"""A body up to this size is collected, so that a header can state its charge; a larger one is streamed."""
HOLD_SECONDS = 0.1
"""How long an event that may be the last is held back, if only the end of the body shows it."""
DRAIN_SECONDS = 2.0
"""How long a response may be silent after its terminal event before its connection is dropped."""
DRAIN_SECONDS_MAX = 10.0
"""How long the connection may take to close after the terminal event, even if data still arrives."""


def relay_response(stage: Responded) -> Awaitable[None]:
    """Pass the response on to its end and settle the call.

    Raises Problem (UPSTREAM_INVALID) if a whole body broke off: the client has then been sent nothing.
    """
    document = read_document(stage)
    return _relayed(stage) if document is None else send_whole(stage, *document)


async def _relayed(stage: Responded) -> None:
    """The same for a response that is still arriving, or is not a small document."""
    context, response = stage.context, stage.response
    unread = ""
    try:
        response = decoded(response)
    except UnknownCoding as encoding:
        unread = f"the response is encoded as {quoted(str(encoding))}, which cannot be read"
    response = operator_key.without_key(context, response)
    headers, length, content_type = passed_headers(response.headers, own_key=context.call.own_key)
    stage.logged.response_type = content_type
    events = content_type == "text/event-stream"
    relay = _Relay(stage, response, reader_of(stage, unread, events=events), events=events)
    stream_requested = stage.metered is not None and stage.metered.parsed.stream and stage.response.status < 400
    if length is not None and context.call.method == "HEAD":
        headers.append(("content-length", str(length)))  # of the body that a GET would get
    elif length is not None and not events and not stream_requested:
        relay.length = [("content-length", str(length))]  # so that the client notices if the body breaks off
    try:
        too_large = length is not None and length > WHOLE_BODY_MAX and not stream_requested
        if events or (too_large and not relay.judges):
            await relay.streamed(headers)
        else:
            await relay.whole(headers, stream_requested=stream_requested)
    finally:
        await response.close()


class _Relay:
    """Moves one response from the provider to the client."""

    def __init__(
        self, stage: Responded, response: UpstreamResponse, reader: ResponseReader | None, *, events: bool
    ) -> None:
        self._stage = stage
        self._response = response
        self._reader = reader
        self._events = self._declared_events = events
        """Whether it is a stream of events, as far as is known so far."""
        self._misdeclared = False
        """A document declared as events: most likely an error, which is read in one piece."""
        self._collected: list[bytes] = []
        self._collected_bytes = 0
        self._stream_follows = self._stream_requested = self._begun = False
        self._sending = False
        self._sent = b""  # the last chunk: an error event continues its sequence number
        self._kept = BufferedResponse(stage, reader)
        self._recording = None if stage.context.call.cache is None else Recording(stage)
        self._screened = screened_stream(stage)
        self._sliced: SlicedStream | None = sliced_stream(stage)
        self._blocked: Problem | None = None
        """Set if a rule of the gateway blocked the response, which ends with this error."""
        self._silence_seconds = stage.context.services.settings.read_timeout_ms / 1000
        self.length: list[tuple[str, str]] = []
        """The content-length header, if the body's length is known."""
        if reader is not None and not isinstance(reader, Sniffer):
            self._decide(reader)

    def _decide(self, reader: ResponseReader) -> None:
        """The kind of response is known now: this reader reads it."""
        self._reader, self._events = reader, reader.events
        self._misdeclared = self._declared_events and not self._events and not self._stage.context.call.own_key

    @property
    def _is_document(self) -> bool:
        return not (self._events or self._stream_requested) and self._stage.response.status < 300

    @property
    def judges(self) -> bool:
        """Whether the response is screened."""
        return self._screened is not None

    @property
    def _finished(self) -> bool:
        return self._reader is not None and self._reader.finished

    async def whole(self, headers: list[tuple[str, str]], *, stream_requested: bool) -> None:
        """Collect the body, settle, and respond in one piece with the charge in a header. A body that turns out to be
        large, or to be events, is streamed after all. If a stream was requested, so is anything that is not a single
        object; a single object is a response in one piece, and often an error."""
        stage = self._stage
        self._stream_requested = stream_requested
        interruption = await self._read(self._collect)
        if self._stream_follows:
            await self.streamed(headers)
            return
        tail, observed = self._close(interruption)
        body = b"".join((*self._collected, tail))
        self._collected.clear()
        if interruption is None:
            await send_whole(stage, observed, headers, body)
            return
        await self._response.close()  # as in _drain_response, so that its provider stops
        if interruption in ABANDONED:
            stage.attempts.given_up = interruption  # nothing has been sent: as if the response had not begun
        await settle_call(stage, observed, interruption, broken_status=UPSTREAM_INVALID.status, blocked=self._blocked)
        if interruption != CLIENT_GONE:
            raise self._blocked or self._broken(interruption)

    async def streamed(self, headers: list[tuple[str, str]]) -> None:
        """Pass chunks on as they arrive; hold the end back until the charge is durable."""
        stage = self._stage
        self._begun = True
        call = stage.context.call
        enveloped = call.enveloped and self._is_document
        length = [] if self._events or enveloped else self.length
        stream = stage.context.sink.start(stage.response.status, headers + length + hold_headers(stage.held))
        if enveloped:
            self._collected.insert(0, envelope.START)
            self._recording = None
        interruption = await self._read(lambda: self._forward(stream))
        if interruption == BALANCE_ENDED and self._sliced is not None:
            await self._end_at_length(stream, self._sliced)
            return
        if interruption in (CLIENT_GONE, BLOCKED):
            self._recording = None
            interruption = await self._drain_response(interruption)
        if self._finished:
            interruption = None  # the terminal event has arrived: a connection error after it is no interruption
        tail, observed = self._close(interruption)
        if observed.broken_off and interruption is None and self._blocked is None and call.access.custom is None:
            interruption = NO_END
        last = await self._end_judged(self._end(tail, failed=observed.failed), observed, interruption)
        end = [last, envelope.END if enveloped else b""]
        try:
            await settle_call(self._stage, observed, interruption, blocked=self._blocked)
        except DatabaseUnavailable:
            interruption = "the charge could not be recorded"
            end = []
        if self._recording is not None and interruption is None and self._blocked is None:
            self._recording.end(observed, headers, end)
        broken = self._blocked or (None if interruption is None else self._broken(interruption))
        if broken is not None and self._events:
            end.append(stage.context.sink.broken(broken, self._sent + last))
        with contextlib.suppress(ClientGone):  # charged by what was delivered; no client is left
            for chunk in end:
                if chunk:
                    await stream.send(chunk)
        if broken is not None and (stage.context.sink.disconnects or not self._events):
            stage.context.sink.fail(broken)  # no event can report it: the client sees the connection break

    async def _end_at_length(self, stream: SinkStream, sliced: SlicedStream) -> None:
        """End the stream in the way its provider ends one that has reached its output limit, once its charge is
        durable."""
        await self._response.close()  # so that its provider stops
        _, observed = self._close(BALANCE_ENDED)
        try:
            settled = await settle_call(self._stage, sliced.delivered(observed), BALANCE_ENDED)
        except DatabaseUnavailable:
            end = None
        else:
            end = sliced.end(settled.usage)
        if end is None:
            end = self._stage.context.sink.broken(self._broken(BALANCE_ENDED))
        with contextlib.suppress(ClientGone):
            await stream.send(end)

    def _broken(self, interruption: str) -> Problem:
        return Problem(
            UPSTREAM_INVALID, f"The response of {self._stage.context.call.provider} broke off: {interruption}."
        )

    async def _read(self, take: Callable[[], Awaitable[None]]) -> str | None:
        """Read the response by calling `take`; return why it did not reach its end, or None."""
        try:
            with self._stage.context.watch.waiting(self._silence_seconds):
                await take()
        except (Interrupted, ClientGone, UpstreamFailed) as error:
            return interruption_of(error, sending=self._sending)
        except StreamBlocked as blocked:
            self._blocked = blocked.problem
            return BLOCKED
        except BalanceEnded:
            return BALANCE_ENDED
        except asyncio.CancelledError:
            await self._stopped()
            raise
        return None

    async def _stopped(self) -> None:
        _, observed = self._close(SERVER_STOPPED)
        await settle_call(self._stage, observed, SERVER_STOPPED)

    async def _end_judged(self, end: bytes, observed: Observed, interruption: str | None) -> bytes:
        """The end of the stream, including what was held back for screening; empty if screening blocks it."""
        if self._screened is None or self._blocked is not None or interruption == CLIENT_GONE:
            return b"" if self._blocked is not None else end
        try:
            return await self._screened.end(end)
        except StreamBlocked as blocked:
            self._blocked = blocked.problem
            return b""
        except asyncio.CancelledError:
            await settle_call(self._stage, observed, SERVER_STOPPED)
            raise

    async def _drain_response(self, cut: str) -> str | None:
        """Read what may still arrive. Returns why the call is interrupted, or None."""
        try:
            interruption = await drain_response(self._stage, self._response, self._reader, cut)
        except asyncio.CancelledError:
            await self._stopped()
            raise
        await self._response.close()  # so that its provider stops: counting and settling may take a while
        return interruption

    def _arrived(self, chunk: bytes) -> bytes:
        """Process the next bytes. Returns those that are passed on."""
        self._stage.context.watch.progress()
        self._stage.logged.keep(chunk)
        reader = self._reader
        if reader is None:
            return chunk
        passed = reader.feed(chunk)
        if isinstance(reader, Sniffer) and reader.decided is not None:
            self._decide(reader.decided)
        return passed

    async def _collect(self) -> None:
        while (chunk := await self._response.chunk()) is not None:
            passed = self._arrived(chunk)
            self._collected.append(passed)
            self._collected_bytes += len(passed)
            large = self._collected_bytes > WHOLE_BODY_MAX or not self._kept.fits(self._collected_bytes)
            if large or self._events or (self._must_stream and self._screened is None):
                self._check_judged()
                self._stream_follows = True
                return

    def _check_judged(self) -> None:
        """A document is screened in one piece, and this one is too large for that. Raises Blocked if a rule blocks."""
        screening = self._stage.context.screening
        if self._screened is None or self._events or screening is None:
            return
        self._screened = None
        problem = screening.unscreened_response("it is too large")
        if problem is not None:
            raise StreamBlocked(problem)

    @property
    def _must_stream(self) -> bool:
        """Whether a stream was requested and the response, as far as it has arrived, is not a single object. Some
        providers stream objects line by line."""
        if not self._stream_requested:
            return False
        begun = next(filter(None, self._collected), b"")
        return begun[:1] not in (b"", b"{") or b"}\n{" in self._collected[-1]

    async def _forward(self, stream: SinkStream) -> None:
        """Pass on what the reader lets pass."""
        logged, response = self._stage.logged, self._response
        collected, self._collected = self._collected, []
        for earlier in collected:
            await self._send(stream, earlier)
        while not ((reader := self._reader) is not None and reader.finished):
            holding = reader is not None and reader.holding
            chunk = await (self._next(stream, reader) if holding and reader is not None else response.chunk())
            if chunk is None:
                return
            if self._sliced is None:
                passed = self._arrived(chunk)
                if passed:
                    await self._send(stream, passed)
            else:
                await self._send_covered(stream, self._sliced, chunk)
            if logged.size > FREE and not self._kept.fits(0) and self._reader is not None:
                self._reader.stop_collecting()
        await self._drain(reader)

    async def _send_covered(self, stream: SinkStream, sliced: SlicedStream, chunk: bytes) -> None:
        """Pass on what the hold covers, after raising the hold as far as the balance allows. Raises BalanceEnded."""
        for piece in sliced.pieces(chunk):
            passed = self._arrived(piece)
            self._stage = replace(self._stage, held=await sliced.cover(self._reader))
            self._stage.context.watch.progress()
            if passed:
                sliced.follow(passed)
                await self._send(stream, passed)

    async def _next(self, stream: SinkStream, reader: ResponseReader) -> bytes | None:
        """The next chunk while an event is held back; the event is passed on if nothing follows at once."""
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                return await self._response.chunk()
        except TimeoutError:
            await self._send(stream, reader.release())
        return await self._response.chunk()

    async def _drain(self, reader: ResponseReader) -> None:
        """The terminal event has arrived. What follows belongs to the end of the response, and the reader keeps it."""
        loop = asyncio.get_running_loop()
        until, left = loop.time() + DRAIN_SECONDS_MAX, AFTER_END_MAX
        watch = self._stage.context.watch.waiting(DRAIN_SECONDS)
        while left > 0 and loop.time() < until and (chunk := await self._response.chunk()) is not None:
            watch.progress()
            self._stage.logged.keep(chunk)
            reader.feed(chunk)
            left -= len(chunk)

    async def _send(self, stream: SinkStream, chunk: bytes) -> None:
        if self._misdeclared and self._collected_bytes < operator_key.ERROR_MAX:
            self._collected.append(chunk)
            self._collected_bytes += len(chunk)
            return
        if self._events:
            chunk = operator_key.clean_events(self._stage, chunk)
        if self._collected:
            chunk = b"".join((*self._collected, chunk))
            self._collected = []
        if self._screened is not None:
            chunk = await self._screened.feed(chunk)
            self._stage.context.watch.progress()
            if not chunk:
                return
        if self._recording is not None:
            self._recording.keep(chunk)
        self._sending = True
        await stream.send(chunk)
        self._sent, self._sending = chunk, False

    def _end(self, tail: bytes, *, failed: bool) -> bytes:
        """The last bytes, as they may be passed on."""
        body = b"".join((*self._collected, tail))
        if not (self._misdeclared and failed):
            return operator_key.clean_events(self._stage, body) if self._events else body
        found = operator_key.checked_body(self._stage, body)
        return self._stage.context.sink.broken(found) if isinstance(found, Problem) else found

    def _close(self, interruption: str | None) -> tuple[bytes, Observed]:
        if self._reader is None:
            return b"", Observed(complete=True)
        tail, observed = self._reader.close()
        if interruption is not None and observed.complete:
            observed = replace(observed, complete=False)  # every choice had ended, but the stream had not
        if interruption is not None and not self._begun:  # nothing has been sent yet
            observed = undelivered(observed)
        return tail, observed
