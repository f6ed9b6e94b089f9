"""A provider in OpenAI's format that takes every request and completes no response until the test opens its gate."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import RunningServer, serve
from tests.calls.kit import set_price, set_provider
from tests.support import Farebox

SLUG = "cerebras"
"""The provider that it replaces. Its tokenizer is unknown, so the estimate is by bytes alone."""
MODEL = "gate-1"
INPUT_TOKENS, OUTPUT_TOKENS = 10, 20


class Gate:
    """Runs in the server's loop; the test uses it from its own."""

    def __init__(self, farebox: Farebox, used: tuple[int, int] = (INPUT_TOKENS, OUTPUT_TOKENS)) -> None:
        """`used`: the usage that each response reports, in tokens."""
        read, written = used
        self._usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        self._farebox = farebox
        self._opened = farebox.run(self._event())
        self._server: RunningServer = farebox.run(serve(self._handle, "127.0.0.1", 0))
        self.url = f"http://{self._server.host}:{self._server.port}"
        self.waiting = 0
        """Requests that have arrived and are not answered yet."""
        self.seen = 0

    def open(self) -> None:
        """Answer all requests from now on."""
        self._farebox.run(self._set(opened=True))

    def shut(self) -> None:
        self._farebox.run(self._set(opened=False))

    def close(self) -> None:
        self.open()
        self._farebox.run(self._server.close())

    async def _event(self) -> asyncio.Event:
        return asyncio.Event()

    async def _set(self, *, opened: bool) -> None:
        if opened:
            self._opened.set()
        else:
            self._opened.clear()

    async def _handle(self, exchange: Exchange) -> None:
        body = json.loads(await exchange.body(1 << 20))
        self.seen += 1
        self.waiting += 1
        with contextlib.suppress(ClientGone):
            try:
                await (self._stream(exchange) if body.get("stream") else self._whole(exchange))
            finally:
                self.waiting -= 1

    async def _whole(self, exchange: Exchange) -> None:
        await self._until_open(exchange)
        choice = {"index": 0, "message": {"role": "assistant", "content": "through"}, "finish_reason": "stop"}
        exchange.respond(
            200,
            [("content-type", "application/json")],
            json.dumps(
                {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": self._usage}
            ).encode(),
        )

    async def _stream(self, exchange: Exchange) -> None:
        stream = exchange.start(200, [("content-type", "text/event-stream")])
        await stream.send(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "th"}}]}))
        await self._until_open(exchange)
        await stream.send(_event({"choices": [{"index": 0, "delta": {"content": "rough"}, "finish_reason": "stop"}]}))
        await stream.send(_event({"choices": [], "usage": self._usage}))
        await stream.send(b"data: [DONE]\n\n")

    async def _until_open(self, exchange: Exchange) -> None:
        opened = asyncio.ensure_future(self._opened.wait())
        gone = asyncio.ensure_future(exchange.gone())
        await asyncio.wait((opened, gone), return_when=asyncio.FIRST_COMPLETED)
        went_away = gone.done() and not opened.done()
        for waited in (opened, gone):
            waited.cancel()
        if went_away:
            raise ClientGone


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "model": MODEL, **data}).encode() + b"\n\n"


@contextlib.contextmanager
def gated(farebox: Farebox) -> Iterator[Gate]:
    """A shut gate behind the server, as the provider SLUG, with a price for MODEL."""
    gate = Gate(farebox)
    try:
        set_provider(farebox, SLUG, base_url=gate.url)
        set_price(farebox, SLUG, MODEL)
        yield gate
    finally:
        gate.close()


@contextlib.contextmanager
def gated_as(farebox: Farebox, slug: str, used: tuple[int, int]) -> Iterator[Gate]:
    """A gate as another provider, at the price of the price list."""
    gate = Gate(farebox, used)
    try:
        set_provider(farebox, slug, base_url=gate.url)
        yield gate
    finally:
        gate.close()
