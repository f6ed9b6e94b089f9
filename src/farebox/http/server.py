"""Granian's RSGI beneath our exchange: the served program. The only module that knows the server."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import structlog
from granian._granian import RSGIProtocolClosed
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from farebox.clock import SystemClock
from farebox.errors import BODY_TOO_LARGE, Problem
from farebox.http.exchange import ClientGone, Exchange, HeaderList

Handler = Callable[[Exchange], Awaitable[None]]

CLOSE_SECONDS = 2.0

_PATH_SAFE = "/:@!$&'()*+,;=-._~"

log = structlog.get_logger("farebox.http")


class RsgiStream:
    """An answer under way."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    async def send(self, chunk: bytes) -> None:
        try:
            await self._transport.send_bytes(chunk)
        except RSGIProtocolClosed as error:
            raise ClientGone from error


class RsgiExchange:
    """An exchange carried by Granian."""

    __slots__ = ("_protocol", "headers", "method", "path", "query")

    def __init__(self, scope: Any, protocol: Any) -> None:
        self._protocol = protocol
        self.method: str = scope.method
        self.path: str = quote(scope.path, safe=_PATH_SAFE)  # the server has decoded it
        self.query: str = scope.query_string
        self.headers = scope.headers

    async def body(self, limit: int) -> bytes:
        length = self.headers.get("content-length")
        if length is not None and length.isdigit():
            if int(length) > limit:
                raise _too_large(limit)
            return bytes(await self._protocol())
        received = bytearray()
        async for chunk in self._protocol:
            received += chunk
            if len(received) > limit:
                raise _too_large(limit)
        return bytes(received)

    def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._protocol.response_bytes(status, headers, body)

    def start(self, status: int, headers: HeaderList) -> RsgiStream:
        return RsgiStream(self._protocol.response_stream(status, headers))

    async def gone(self) -> None:
        await self._protocol.client_disconnect()


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")


class RunningServer:
    """A server that listens; `await close()` stops it and waits for what is in flight."""

    def __init__(self, server: Any, task: "asyncio.Task[None]", reserved: socket.socket, host: str, port: int) -> None:
        self._server = server
        self._task = task
        self._reserved = reserved
        self.host = host
        self.port = port

    async def close(self) -> None:
        self._server.stop()
        # The server waits for every open answer; a client that never reads its own must not keep the program alive.
        await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._reserved.close()

    async def wait(self) -> None:
        """Until the server ends by itself, which it only does when it fails."""
        await asyncio.shield(self._task)


class AddressInUse(RuntimeError):
    """The port is taken; the message says how to take another."""


async def serve(
    handler: Handler, host: str, port: int = 0, *, reserved: socket.socket | None = None, header_limit: int = 65_536
) -> RunningServer:
    """Listen and hand every exchange to `handler`, on the port that `reserve` reserved or on this one.

    Port 0 takes a free one. Raises AddressInUse.
    """
    reserved = reserved or reserve(host, port)
    port = reserved.getsockname()[1]
    logging.getLogger("_granian").setLevel(logging.ERROR)  # its only warning says that embedding is new

    async def application(scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            protocol.close(403)
            return
        try:
            await handler(RsgiExchange(scope, protocol))
        except Exception:
            log.exception("handler failed", method=scope.method)
            raise

    server = Server(
        application,
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=100_000,
        http1_settings=HTTP1Settings(max_buffer_size=max(header_limit, 8192), header_read_timeout=30_000),
        log_enabled=False,
    )
    task = asyncio.get_running_loop().create_task(server.serve())
    await _until_listening(task, host, port)
    return RunningServer(server, task, reserved, host, port)


async def _until_listening(task: "asyncio.Task[None]", host: str, port: int) -> None:
    """The server opens its socket on a thread of its own, some time after its start."""
    clock = SystemClock()
    while not task.done():
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            await clock.sleep(0.002)
        else:
            writer.close()
            await writer.wait_closed()
            return
    task.result()


def reserve(host: str, port: int) -> socket.socket:
    """Bind the port, without listening on it, for as long as the server runs: finds the number behind port 0 and keeps
    it ours. The server's own socket shares a port with whoever asks to, so that a port which is taken would go unseen:
    hence a first try that shares with nobody. Raises AddressInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            port = alone.getsockname()[1]
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise AddressInUse(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port or FAREBOX_PORT"
        ) from error
    return reserved
