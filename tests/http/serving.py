"""The HTTP server alone, with a handler of the test, and a client that sends raw bytes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from farebox.http.exchange import Exchange
from farebox.http.server import Limits, RunningServer, serve
from farebox.http.server.connection import ClientConnection
from farebox.limits.byte_budget import ByteBudget

BODY_LIMIT = 1 << 20
SECONDS = 10.0
"""A limit that only failures reach."""


@dataclass(frozen=True, slots=True)
class Received:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Recorder:
    """Records the exchanges that handlers were given, in order."""

    exchanges: list[Exchange] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def echo(self, exchange: Exchange) -> None:
        """A handler that responds with the request."""
        self.exchanges.append(exchange)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            self.bodies.append(await exchange.body(BODY_LIMIT))
            await asyncio.sleep(0)
        finally:
            self.busy -= 1
        reported = {
            "method": exchange.method,
            "path": exchange.path,
            "query": exchange.query,
            "headers": dict(exchange.headers.items()),
            "body": self.bodies[-1].decode("latin-1"),
        }
        exchange.respond(200, [("content-type", "application/json")], json.dumps(reported).encode())


class Peer:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def response(self, *, to_head: bool = False) -> Received:
        """The next response, unframed. Raises IncompleteReadError if it breaks off."""
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert len(headers) == len(lines), f"a header twice: {lines}"
            status = int(first.split(" ")[1])
            if to_head or status in (100, 204, 304):
                return Received(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                return Received(status, headers, await self._chunks())
            if "content-length" in headers:
                return Received(status, headers, await self.reader.readexactly(int(headers["content-length"])))
            return Received(status, headers, await self.reader.read())

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def end(self) -> bytes:
        """The bytes until the server closes."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()

    async def closed(self) -> bool:
        """Wait until the server has closed the connection in any way; whether nothing arrived before."""
        try:
            return await self.end() == b""
        except ConnectionError:
            return True


@dataclass(slots=True)
class Served:
    server: RunningServer
    peers: list[Peer] = field(default_factory=list)

    async def open(self, *first: bytes) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.server.port, limit=1 << 20))
        peer.send(*first)
        self.peers.append(peer)
        return peer

    def connection(self) -> ClientConnection:
        """The server's side of the only connection."""
        [connection] = self.server._state.connections
        assert isinstance(connection, ClientConnection)
        return connection

    async def ask(self, request: bytes, *, to_head: bool = False) -> Received:
        """The response to a request on a new connection."""
        return await (await self.open(request)).response(to_head=to_head)


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Exchange], Awaitable[None] | None],
    *,
    header_limit: int = 65_536,
    budget: ByteBudget | None = None,
    **limits: Any,
) -> AsyncIterator[Served]:
    server = await serve(handler, "127.0.0.1", 0, header_limit=header_limit, limits=Limits(**limits), budget=budget)
    served = Served(server)
    try:
        yield served
    finally:
        for peer in served.peers:
            peer.writer.close()
        await server.close()
        for peer in served.peers:
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()


async def until(true: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for is the server's inside
            await asyncio.sleep(0.002)


def request(method: str = "GET", path: str = "/", body: bytes = b"", /, **headers: str) -> bytes:
    """A request as bytes; in `headers` an underscore is a dash."""
    lines = [f"{method} {path} HTTP/1.1", "Host: h"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
