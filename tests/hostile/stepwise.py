"""A provider that sends chunks on the test's command."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx

from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import RunningServer, serve
from tests.calls.kit import set_price, set_provider
from tests.support import Customer, Farebox

BODY_MAX = 2**26
SLUG = "cerebras"
"""A provider that it can replace. Its tokenizer is unknown, so the estimate is by bytes alone."""
CHAT = {"model": f"{SLUG}/m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
COMPAT = "compat/chat/completions"


class Stepwise:
    """Runs in the server's loop; the test uses it from its own thread. Answers one request after another, each with the
    chunks given to `say` until `end`."""

    def __init__(self, farebox: Farebox) -> None:
        self._farebox = farebox
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._server: RunningServer = farebox.run(serve(self._handle, "127.0.0.1", 0))
        self.url = f"http://{self._server.host}:{self._server.port}"
        self.headers = [("content-type", "text/event-stream")]
        """Headers of the responses."""
        self.bodies: list[bytes] = []
        """What came."""
        self.left = 0
        """The number of requests abandoned before the end of their response."""

    def say(self, *pieces: bytes) -> None:
        """Send each of these as a separate chunk."""
        self._farebox.run(self._put(*pieces))

    def end(self) -> None:
        """End the response."""
        self._farebox.run(self._put(None))

    def break_off(self) -> None:
        """Break the response off."""
        self._farebox.run(self._put(b""))

    def close(self) -> None:
        self._farebox.run(self._server.close())

    async def _put(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self._queue.put_nowait(piece)

    async def _handle(self, exchange: Exchange) -> None:
        self.bodies.append(await exchange.body(BODY_MAX))
        stream = exchange.start(200, self.headers)
        gone = asyncio.ensure_future(exchange.gone())
        try:
            while True:
                piece = asyncio.ensure_future(self._queue.get())
                await asyncio.wait((piece, gone), return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    self.left += 1
                    return
                said = piece.result()
                if said is None:
                    return
                if not said:
                    raise ConnectionAbortedError
                with contextlib.suppress(ClientGone):
                    await stream.send(said)
        finally:
            gone.cancel()


@contextlib.contextmanager
def stepwise(farebox: Farebox, slug: str = SLUG) -> Iterator[Stepwise]:
    """Stand in for this provider, with a price for its model `m`."""
    upstream = Stepwise(farebox)
    try:
        set_provider(farebox, slug, base_url=upstream.url)
        set_price(farebox, slug, "m")
        yield upstream
    finally:
        upstream.close()


class Reading:
    """A response that is read as it arrives."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.iter_raw()
        self.got = b""

    def until(self, marker: bytes, times: int = 1) -> None:
        """Read on until these bytes have arrived `times` times."""
        while self.got.count(marker) < times:
            piece = next(self._pieces, None)
            assert piece is not None, f"the answer ended before {marker!r}: {self.got!r}"
            self.got += piece

    def until_bytes(self, size: int) -> None:
        """Read on until this many bytes have arrived."""
        while len(self.got) < size:
            piece = next(self._pieces, None)
            assert piece is not None, f"the answer ended with {len(self.got)} bytes of {size}"
            self.got += piece

    def rest(self) -> bytes:
        """The whole response. Raises httpx.RemoteProtocolError if it broke off."""
        for piece in self._pieces:
            self.got += piece
        return self.got


@contextlib.contextmanager
def requesting(
    customer: Customer, path: str, body: dict[str, Any], *, base: str = "", **headers: str
) -> Iterator[Reading]:
    """A call whose response the test reads; leaving the block hangs up. `base` is the URL of a proxy in front of the
    server."""
    url = f"{base or customer.farebox.url}/v1/{customer.account_id}/default/{path}"
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", url, content=json.dumps(body), headers=customer.headers | headers) as response,
    ):
        yield Reading(response)


def chat_event(**fields: Any) -> bytes:
    """An event of a chat completion."""
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "model": "m", **fields}).encode() + b"\n\n"


def words(text: str) -> bytes:
    """An event with generated text."""
    return chat_event(choices=[{"index": 0, "delta": {"content": text}}])


END = (
    chat_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    chat_event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
    b"data: [DONE]\n\n",
)
"""The end of a chat completion stream."""
