"""The exchange on other servers: an ASGI application, called by a third-party client and by hand."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest

from farebox.errors import Problem
from farebox.http.asgi import asgi_app
from farebox.http.exchange import ClientGone, Exchange
from tests.http.serving import Recorder


def client(handler: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(asgi_app(handler)), base_url="http://h")


async def test_a_request_and_its_response() -> None:
    async with client(Recorder().echo) as http:
        response = await http.post("/a%20b/%41?x=%41", content=b"body", headers=[("X-A", "1"), ("x-a", "2")])
        reported = response.json()
        assert (reported["method"], reported["path"], reported["query"], reported["body"]) == (
            "POST",
            "/a%20b/A",
            "x=%41",
            "body",
        )
        assert reported["headers"]["x-a"] == "1, 2"
        assert response.headers["content-length"] == str(len(response.content))


async def test_streams_head_and_limits() -> None:
    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.body(10)
        except Problem as problem:
            exchange.respond(problem.kind.status, [], b"no")
            return
        stream = exchange.start(201, [("x-a", "1")])
        for piece in (b"one ", b"", b"two"):
            await stream.send(piece)

    async with client(handler) as http:
        response = await http.get("/")
        assert (response.status_code, response.content, response.headers["x-a"]) == (201, b"one two", "1")
        assert (await http.head("/")).content == b""
        assert (await http.post("/", content=b"x" * 11)).status_code == 413


async def test_handler_mistakes_fail() -> None:
    async def silent(exchange: Exchange) -> None:
        """Does not respond."""

    async def splitting(exchange: Exchange) -> None:
        exchange.respond(200, [("x", "a\r\nevil: 1")], b"")

    async with client(silent) as http:
        assert (await http.get("/")).status_code == 500
    async with client(splitting) as http:
        with pytest.raises(ValueError, match="line break"):
            await http.get("/")


class ByHand:
    """The server's side of ASGI, message by message."""

    def __init__(self, *messages: MutableMapping[str, Any]) -> None:
        self.coming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        for message in messages:
            self.coming.put_nowait(message)
        self.sent: list[MutableMapping[str, Any]] = []
        self.closed = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.closed:
            raise OSError("the client has gone")
        self.sent.append(message)

    async def run(self, handler: Any, kind: str = "http") -> None:
        scope = {"type": kind, "method": "POST", "path": "/", "query_string": b"", "headers": []}
        await asyncio.wait_for(asgi_app(handler)(scope, self.coming.get, self.send), 5)


GONE = {"type": "http.disconnect"}


async def test_a_client_that_disconnects() -> None:
    seen: list[str] = []

    async def handler(exchange: Exchange) -> None:
        gone = asyncio.ensure_future(exchange.gone())
        try:
            assert await exchange.body(100) == b"two parts"
            stream = exchange.start(200, [])
            await stream.send(b"x")
            seen.append("waits")
            by_hand.coming.put_nowait(GONE)
            await gone
            by_hand.closed = True
            await stream.send(b"y")
        except ClientGone:
            seen.append("gone")
            raise
        finally:
            gone.cancel()

    first = {"type": "http.request", "body": b"two ", "more_body": True}
    by_hand = ByHand(first, {"type": "http.request", "body": b"parts"})
    await by_hand.run(handler)
    assert seen == ["waits", "gone"]
    by_hand = ByHand(first, GONE)
    await by_hand.run(handler)
    assert seen == ["waits", "gone", "gone"]
    assert by_hand.sent == []


async def test_asgi_lifespan_and_websocket_scopes() -> None:
    by_hand = ByHand({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await by_hand.run(Recorder().echo, "lifespan")
    assert [message["type"] for message in by_hand.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    by_hand = ByHand()
    await by_hand.run(Recorder().echo, "websocket")
    assert json.dumps(by_hand.sent) == '[{"type": "websocket.close"}]'
