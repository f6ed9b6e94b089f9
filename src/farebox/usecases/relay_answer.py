"""Pass a provider's answer on: whole, or as it comes; metered on the way, settled before its last byte."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from farebox.errors import UPSTREAM_INVALID, Problem
from farebox.ledger.commands import Verdict
from farebox.money import format_usd
from farebox.providers.formats.base import AnswerReader, Observed
from farebox.providers.upstream import UpstreamAnswer, UpstreamFailed
from farebox.storage.sql import DatabaseUnavailable
from farebox.usecases.call import Gone, SinkStream
from farebox.usecases.end_call import settle_call
from farebox.usecases.ride import CLIENT_GONE, REASONS, Ride
from farebox.usecases.watch import Interrupted

WHOLE_BODY_MAX = 8 * 2**20
"""A body up to this size is collected, so that its charge can be told in a header; a larger one streams."""
COLLECTED_MAX = 64 * 2**20
"""What a body that does not tell its length may grow to."""
DRAIN_SECONDS = 2.0
"""How long an answer whose terminal event has come may take to close."""

_NOT_PASSED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
    }
)
"""Answer headers that speak of the provider's connection, or of its host, rather than of the answer."""


async def relay_answer(ride: Ride, answer: UpstreamAnswer) -> None:
    """Pass the answer on to its end and settle the call.

    Raises Problem (UPSTREAM_INVALID) where a whole body broke off: the client has then been sent nothing.
    """
    headers, length = _passed(answer.headers)
    ride.answer_type = next((value for name, value in headers if name == "content-type"), "").split(";")[0].strip()
    events = ride.answer_type == "text/event-stream"
    relay = _Relay(ride, answer, _reader(ride, events=events), events=events)
    streamed = events or (ride.call.parsed is not None and ride.call.parsed.stream and ride.status < 400)
    if not streamed and (length is None or length <= WHOLE_BODY_MAX):
        await relay.whole(headers)
    else:
        if length is not None and not events:
            headers.append(("content-length", str(length)))  # so that a client notices a body that breaks off
        await relay.as_it_comes(headers)


def _passed(headers: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], int | None]:
    passed, length = [], None
    for name, value in headers:
        name = name.lower()
        if name == "content-length" and value.isdigit():
            length = int(value)
        if name not in _NOT_PASSED:
            passed.append((name, value))
    return passed, length


def _reader(ride: Ride, *, events: bool) -> AnswerReader | None:
    call = ride.call
    if call.format is None or call.parsed is None or ride.status >= 400:
        return None
    return call.format.reader(call.parsed, streaming=events, hide_usage=not call.parsed.asked_usage)


class _Relay:
    """Moves one answer from the provider to the client."""

    def __init__(self, ride: Ride, answer: UpstreamAnswer, reader: AnswerReader | None, *, events: bool) -> None:
        self._ride = ride
        self._answer = answer
        self._reader = reader
        self._events = events
        self._withheld: list[bytes] = []
        self._sending = False
        self._silence_seconds = ride.services.settings.read_timeout_ms / 1000

    @property
    def _finished(self) -> bool:
        return self._reader is not None and self._reader.finished

    async def whole(self, headers: list[tuple[str, str]]) -> None:
        """Collect the body, settle, and answer in one piece with the charge in a header."""
        ride = self._ride
        cut = await self._read(self._collect)
        tail, observed = self._close()
        if cut is not None:
            observed = replace(observed, delivered_bytes=0)  # nobody has been given any of it
        verdict = await settle_call(ride, observed, cut, broken_status=UPSTREAM_INVALID.status)
        if cut == CLIENT_GONE:
            return
        if cut is not None:
            raise Problem(UPSTREAM_INVALID, f"The answer of {ride.call.provider} broke off: {cut}.")
        ride.sink.answer(ride.status, headers + _money(ride, verdict), b"".join((*self._withheld, tail)))

    async def as_it_comes(self, headers: list[tuple[str, str]]) -> None:
        """Pass chunks on as they arrive; keep the end back until the charge is durable."""
        ride = self._ride
        stream = ride.sink.start(ride.status, headers + _money(ride, None))
        cut = await self._read(lambda: self._forward(stream))
        tail, observed = self._close()
        if self._finished and cut != CLIENT_GONE:
            cut = None  # the terminal event has come: a connection that then closes badly has cut nothing
        end = [*self._withheld, tail]
        try:
            await settle_call(ride, observed, cut)
        except DatabaseUnavailable:
            cut = "the charge could not be written"
            end = []
        if cut is not None and self._events:
            end.append(ride.sink.broken(f"The answer of {ride.call.provider} broke off: {cut}."))
        with contextlib.suppress(Gone):  # it was charged by what was delivered: nobody is left to tell
            for chunk in end:
                if chunk:
                    await stream.send(chunk)

    async def _read(self, take: Callable[[], Awaitable[None]]) -> str | None:
        """Read the answer through `take`; return why it did not get to its end, or None."""
        try:
            with self._ride.watch.waiting(self._silence_seconds):
                await take()
        except Interrupted as interrupted:
            if self._sending and interrupted.reason == "silence":
                return CLIENT_GONE  # it has stopped reading: the provider was not even asked for more
            return REASONS[interrupted.reason]
        except Gone:
            return CLIENT_GONE
        except UpstreamFailed as failure:
            return f"the provider's connection failed ({failure})"
        except asyncio.CancelledError:
            _, observed = self._close()
            await settle_call(self._ride, observed, "the server stopped")
            raise
        finally:
            await self._answer.close()
        return None

    async def _collect(self) -> None:
        while (chunk := await self._answer.chunk()) is not None:
            self._ride.watch.progress()
            self._ride.keep(chunk)
            if self._ride.size > COLLECTED_MAX:
                raise UpstreamFailed(f"the answer is larger than {COLLECTED_MAX} bytes", sent=True)
            self._withheld.append(chunk if self._reader is None else self._reader.feed(chunk))

    async def _forward(self, stream: SinkStream) -> None:
        """Events pass at once until the terminal one; other bodies one chunk late, as any chunk may be the last."""
        reader, progress, keep = self._reader, self._ride.watch.progress, self._ride.keep
        while (chunk := await self._answer.chunk()) is not None:
            progress()
            keep(chunk)
            passed = chunk if reader is None else reader.feed(chunk)
            if not (self._events and reader is not None):
                for earlier in self._withheld:
                    await self._send(stream, earlier)
                self._withheld = [passed] if passed else []
            elif reader.finished:
                if not self._withheld:
                    self._ride.watch.waiting(DRAIN_SECONDS)
                self._withheld.append(passed)
            elif passed:
                await self._send(stream, passed)

    async def _send(self, stream: SinkStream, chunk: bytes) -> None:
        self._sending = True
        await stream.send(chunk)
        self._sending = False

    def _close(self) -> tuple[bytes, Observed]:
        return (b"", Observed(complete=True)) if self._reader is None else self._reader.close()


def _money(ride: Ride, verdict: Verdict | None) -> list[tuple[str, str]]:
    """Our headers: the charge where it is known by now, else the hold; and what is left."""
    if ride.held is None:
        return []
    if verdict is None:
        headers = [
            ("farebox-hold-usd", format_usd(ride.held.estimate.amount)),
            ("farebox-balance-usd", format_usd(ride.held.verdict.available)),
        ]
    else:
        headers = [
            ("farebox-charge-usd", format_usd(verdict.amount)),
            ("farebox-balance-usd", format_usd(verdict.available)),
        ]
    if ride.held.output_limit is not None:
        headers.append(("farebox-output-limit", str(ride.held.output_limit)))
    return headers
