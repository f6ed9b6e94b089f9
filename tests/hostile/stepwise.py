"""A provider that sends what the test says, when the test says it."""

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
"""A provider in whose place it may stand: its tokenizer is not known, so that the estimate is by bytes alone."""
CHAT = {"model": f"{SLUG}/m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
COMPAT = "compat/chat/completions"


class Stepwise:
    """Runs in the server's loop, used from the test's thread. Answers one request after another, each with what `say`
    was given for it until `end`."""

    def __init__(self, farebox: Farebox) -> None:
        self._farebox = farebox
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._server: RunningServer = farebox.run(serve(self._handle, "127.0.0.1", 0))
        self.url = f"http://{self._server.host}:{self._server.port}"
        self.headers = [("content-type", "text/event-stream")]
        """Of the responses."""
        self.bodies: list[bytes] = []
        """What came."""
        self.left = 0
        """Requests that were given up before their response's end."""

    def say(self, *pieces: bytes) -> None:
        """Send these, each as a chunk of its own."""
        self._farebox.run(self._put(*pieces))

    def end(self) -> None:
        """The response is whole."""
        self._farebox.run(self._put(None))

    def break_off(self) -> None:
        """The response ends before it is whole."""
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
    """In the place of this provider, with a price for its model `m`."""
    upstream = Stepwise(farebox)
    try:
        set_provider(farebox, slug, base_url=upstream.url)
        set_price(farebox, slug, "m")
        yield upstream
    finally:
        upstream.close()


class Reading:
    """A response that is read as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.iter_raw()
        self.got = b""

    def until(self, marker: bytes, times: int = 1) -> None:
        """Read on until these bytes have come so often."""
        while self.got.count(marker) < times:
            piece = next(self._pieces, None)
            assert piece is not None, f"the answer ended before {marker!r}: {self.got!r}"
            self.got += piece

    def until_bytes(self, size: int) -> None:
        """Read on until there are so many."""
        while len(self.got) < size:
            piece = next(self._pieces, None)
            assert piece is not None, f"the answer ended with {len(self.got)} bytes of {size}"
            self.got += piece

    def rest(self) -> bytes:
        """All of it. Raises httpx.RemoteProtocolError where it broke off."""
        for piece in self._pieces:
            self.got += piece
        return self.got


@contextlib.contextmanager
def requesting(
    customer: Customer, path: str, body: dict[str, Any], *, base: str = "", **headers: str
) -> Iterator[Reading]:
    """A call whose response is read by the test; leaving the block hangs up. `base` is a proxy before the server."""
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
"""What ends a stream of a chat completion."""
