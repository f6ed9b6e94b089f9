"""Servers for tests of the HTTP client of the gateway."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import trustme

from farebox.providers.http1.pool import PooledUpstream
from farebox.providers.upstream import UpstreamRequest, UpstreamResponse

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Handles each connection with the test's handler; keeps the received requests."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()
        """Set when a client has disconnected."""
        self.url = ""
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            self.closed.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request, head and body."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        whole = head + await reader.readexactly(length)
        self.requests.append(whole)
        return whole


@contextlib.asynccontextmanager
async def serving(
    *responses: bytes, close: bool = False, tls: ssl.SSLContext | None = None, handler: Handler | None = None
) -> AsyncIterator[Server]:
    """A server that gives these responses in turn on any number of connections, and closes them if `close`."""
    rest = iter([*responses, *[b""] * 8])

    async def answer_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(next(rest))
            await writer.drain()
            if close:
                return

    server = Server(handler or answer_each, tls)
    listening = await server.start()
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


async def until_gone(reader: asyncio.StreamReader) -> None:
    """Wait for the client to close. Raises IncompleteReadError, as the other reads do."""
    await reader.readexactly(1)


@contextlib.asynccontextmanager
async def pool(**more: object) -> AsyncIterator[PooledUpstream]:
    upstream = PooledUpstream(**{"connect_seconds": 10.0, **more})  # type: ignore[arg-type]
    try:
        yield upstream
    finally:
        await upstream.close()


def post(url: str, body: bytes = b"{}", path: str = "/v1/chat?x=1") -> UpstreamRequest:
    return UpstreamRequest("POST", url + path, [("authorization", "Bearer k")], body)


async def whole(response: UpstreamResponse) -> bytes:
    received = []
    while (chunk := await response.chunk()) is not None:
        received.append(chunk)
    await response.close()
    return b"".join(received)


def authority(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server with a certificate for these names, and of a client that trusts it."""
    made = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.issue_cert(*names).configure_cert(server)
    client = ssl.create_default_context()
    made.configure_trust(client)
    return server, client
