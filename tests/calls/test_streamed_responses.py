"""What reaches the client and when, and its cost: the end of a response, its encoding, its size, and hanging up."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from farebox.calls.relaying import drain, relay
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import RunningServer, serve
from tests.calls.kit import log_rows, price_of, set_price, set_provider, within
from tests.calls.wire import Wire, WireResponse, chat_body, post, start
from tests.support import Customer, Farebox
from tests.waiting import eventually

CHAT = "cerebras/chat/completions"
GOOGLE = "google-ai-studio/v1beta/models/raw-1:streamGenerateContent?alt=sse"
EVENTS = [("content-type", "text/event-stream")]
JSON = [("content-type", "application/json")]
USAGE = {"prompt_tokens": 3, "completion_tokens": 900, "total_tokens": 903}
Handler = Callable[["Provider", Exchange], Coroutine[Any, Any, None]]


class Provider:
    """A provider that runs the test's handler, in the server's loop."""

    def __init__(self) -> None:
        self.signal = asyncio.Event()
        """Set by the test to let the handler continue."""
        self.gone = False
        """The gateway went away before the handler was done."""


@contextlib.contextmanager
def provider(farebox: Farebox, handle: Handler) -> Iterator[Callable[[], None]]:
    """Stands in for Cerebras, Google and Groq. Yields a function that lets the handler continue."""

    async def begin() -> tuple[Provider, RunningServer]:
        made = Provider()

        async def one(exchange: Exchange) -> None:
            await exchange.body(1 << 20)
            try:
                await handle(made, exchange)
            except ClientGone:
                made.gone = True

        return made, await serve(one, "127.0.0.1", 0)

    made, server = farebox.run(begin())
    for slug in ("cerebras", "google-ai-studio", "groq"):
        set_provider(farebox, slug, base_url=f"http://{server.host}:{server.port}")
        set_price(farebox, slug, "raw-1")

    async def tell() -> None:
        made.signal.set()

    try:
        yield lambda: farebox.run(tell())
    finally:
        farebox.run(tell())
        farebox.run(server.close())


def event(data: Any) -> bytes:
    return b"data: " + (data.encode() if isinstance(data, str) else json.dumps(data).encode()) + b"\n\n"


def said(text: str, finish: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more})


def google(text: str) -> bytes:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5}
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    return event({"candidates": [candidate], "usageMetadata": usage})


def streamed() -> bytes:
    return chat_body(stream=True, stream_options={"include_usage": True}).replace(b"demo/demo-1", b"raw-1")


def whole() -> bytes:
    return chat_body().replace(b"demo/demo-1", b"raw-1")


def google_body() -> bytes:
    return json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()


def paid(customer: Customer) -> int:
    return 5 * 10**9 - customer.balance.posted


async def call(customer: Customer, body: bytes, path: str = CHAT) -> WireResponse:
    response: WireResponse = await within(post(customer, body, path))
    return response


# Hanging up


async def left(customer: Customer, marker: bytes, tell: Callable[[], None]) -> dict[str, Any]:
    """The row of a call whose client leaves as soon as these bytes have arrived."""
    wire: Wire = await start(customer, streamed(), CHAT)
    await within(wire.until(marker))
    wire.hang_up()
    tell()
    await eventually(lambda: log_rows(customer), "the log row")
    [row] = log_rows(customer)
    assert customer.balance.held == 0
    return row


async def test_a_disconnect_after_the_finish_reason_pays_the_reported_usage(customer: Customer) -> None:
    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(said("So it is.", "stop"))
        await self.signal.wait()
        await asyncio.sleep(0.05)  # the gateway has noticed the disconnect
        await stream.send(event({"choices": [], "usage": USAGE}))
        await stream.send(event("[DONE]"))

    with provider(customer.farebox, handle) as tell:
        row = await left(customer, b"So it is.", tell)
    assert row["farebox"]["charge_nanos"] == paid(customer) == price_of(3, 900)
    assert customer.receipt(row["id"])["usage_source"] == "provider"


async def test_an_earlier_disconnect_pays_by_the_policy_and_ends_the_provider_call(customer: Customer) -> None:
    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(said("So it"))
        await self.signal.wait()
        while True:
            await stream.send(said(" is."))
            await asyncio.sleep(0.01)

    with provider(customer.farebox, handle) as tell:
        row = await left(customer, b"So it", tell)
    assert 0 < paid(customer) < price_of(100, 100)
    assert "the client disconnected" in customer.receipt(row["id"])["policy"]


@pytest.mark.parametrize("says", ["nothing", "everything"])
async def test_missing_usage_is_awaited_only_briefly(
    customer: Customer, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.2 if says == "nothing" else 60)
    monkeypatch.setattr(drain, "AFTER_END_MAX", 1000)

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(said("So it is.", "stop"))
        await self.signal.wait()
        while says == "everything":
            await stream.send(said(" " * 90))
            await asyncio.sleep(0.01)
        await exchange.gone()

    with provider(customer.farebox, handle) as tell:
        row = await left(customer, b"So it is.", tell)
    assert "the client disconnected" in customer.receipt(row["id"])["policy"]


# The last event


async def test_the_last_event_comes_after_the_charge(customer: Customer) -> None:
    """Google's streams have no terminal event: they end with the body."""

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(google("one"))
        await stream.send(google("two"))

    with provider(customer.farebox, handle):
        wire = await start(customer, google_body(), GOOGLE)
        await within(wire.head())
        await within(wire.until(b"two"))
        assert paid(customer) == price_of(3, 5)
        assert len((await wire.response()).events) == 2


async def test_a_possibly_last_event_is_held_back_only_briefly(customer: Customer) -> None:
    """The provider continues when the client has received what was sent."""

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(google("one"))
        await self.signal.wait()
        await stream.send(google("two"))

    with provider(customer.farebox, handle) as tell:
        wire = await start(customer, google_body(), GOOGLE)
        await within(wire.head())
        await within(wire.until(b"one"))
        tell()
        response = await within(wire.response())
    assert response.body == google("one") + google("two")
    assert paid(customer) == price_of(3, 5)


async def test_a_provider_that_never_closes_does_not_delay_the_end(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "DRAIN_SECONDS_MAX", 0.1)

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, EVENTS)
        await stream.send(said("So it is.", "stop") + event({"choices": [], "usage": USAGE}) + event("[DONE]"))
        while True:
            await stream.send(b": still here\n\n")
            await asyncio.sleep(0.01)

    with provider(customer.farebox, handle):
        response = await call(customer, streamed())
    assert response.whole
    assert b"[DONE]" in response.body
    assert paid(customer) == price_of(3, 900)


async def test_unrequested_events_are_held_back_only_briefly(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "DRAIN_SECONDS", 0.1)

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, JSON)
        await stream.send(said("So it is.", "stop") + event({"choices": [], "usage": USAGE}) + event("[DONE]"))
        await exchange.gone()

    with provider(customer.farebox, handle):
        response = await call(customer, whole())
    assert response.whole
    assert b"[DONE]" in response.body
    assert paid(customer) == price_of(3, 900)


async def test_json_lines_are_relayed_as_they_arrive(customer: Customer) -> None:
    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, JSON)
        for number in (b"1", b"2"):
            await stream.send(b'{"line": ' + number + b"}\n")
            await asyncio.sleep(0.01)
        await self.signal.wait()

    with provider(customer.farebox, handle) as tell:
        wire = await start(customer, streamed(), CHAT)
        await within(wire.head())
        await within(wire.until(b'{"line": 1'))
        tell()
        assert (await within(wire.response())).body == b'{"line": 1}\n{"line": 2}\n'


async def test_audio_that_was_not_delivered_is_free(customer: Customer) -> None:
    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, [("content-type", "audio/pcm")])
        await stream.send(bytes(96_000))
        raise ConnectionError

    with provider(customer.farebox, handle):
        set_price(customer.farebox, "groq", "gpt-4o-mini-tts")  # charged by its duration
        request = json.dumps({"model": "gpt-4o-mini-tts", "input": "Good evening", "response_format": "pcm"}).encode()
        response = await call(customer, request, "groq/audio/speech")
    assert (response.status, paid(customer), customer.balance.held) == (502, 0, 0)


async def test_an_interrupted_list_is_interrupted_for_the_client(customer: Customer) -> None:
    """No event could report the interruption."""
    entry = google("one").removeprefix(b"data: ").strip()

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, JSON)
        await stream.send(b"[" + entry)
        raise ConnectionError

    with provider(customer.farebox, handle):
        response = await call(customer, google_body(), GOOGLE.removesuffix("?alt=sse"))
    assert (response.body, response.whole) == (b"[" + entry, False)
    assert paid(customer) == price_of(3, 5)


# Encodings


async def test_an_unknown_encoding_passes_unread_with_a_note(customer: Customer) -> None:
    secret = bytes(range(256)) * 4

    async def handle(self: Provider, exchange: Exchange) -> None:
        exchange.respond(200, [*JSON, ("content-encoding", "snappy")], secret)

    with provider(customer.farebox, handle):
        response = await call(customer, whole())
    assert (response.body, response.headers["content-encoding"]) == (secret, "snappy")
    receipt = customer.receipt(response.log_id)
    assert receipt["usage_source"] == "counted"
    assert "encoded as “snappy”" in receipt["notes"][0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_plain_text_under_an_unknown_encoding_is_read(customer: Customer, stream: bool) -> None:
    document = {"choices": [{"message": {"content": "So it is."}, "finish_reason": "stop"}], "usage": USAGE}
    body = event({"choices": [], "usage": USAGE}) + event("[DONE]") if stream else json.dumps(document).encode()

    async def handle(self: Provider, exchange: Exchange) -> None:
        exchange.respond(200, [*(EVENTS if stream else JSON), ("content-encoding", "utf-8")], body)

    with provider(customer.farebox, handle):
        response = await call(customer, streamed() if stream else whole())
    assert response.body == body
    assert paid(customer) == price_of(3, 900)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_decompression_bomb_is_an_interrupted_response(customer: Customer, stream: bool) -> None:
    bomb = gzip.compress(bytes(40 * 2**20))

    async def handle(self: Provider, exchange: Exchange) -> None:
        exchange.respond(200, [*(EVENTS if stream else JSON), ("content-encoding", "gzip")], bomb)

    with provider(customer.farebox, handle):
        response = await within(post(customer, streamed() if stream else whole(), CHAT))
    if stream or response.status == 200:  # larger than what is buffered, so part of it has been passed on
        assert len(response.body) < 30 * 2**20
    else:
        assert response.status == 502
    assert customer.balance.held == 0


# Size


async def test_a_large_body_of_unknown_length_is_relayed_as_it_arrives_and_read(customer: Customer) -> None:
    picture = "QUJD" * (3 * 2**20)
    message = {
        "role": "assistant",
        "content": "see",
        "images": [{"image_url": {"url": f"data:image/png;base64,{picture}"}}],
    }
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 2**16):
            yield body[at : at + 2**16]

    async def handle(self: Provider, exchange: Exchange) -> None:
        stream = exchange.start(200, JSON)
        async for piece in pieces():
            await stream.send(piece)

    with provider(customer.farebox, handle):
        response = await within(post(customer, whole(), CHAT))
    assert response.body == body
    assert paid(customer) == price_of(3, 900)
