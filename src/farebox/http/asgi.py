"""Our exchange on any ASGI server, or in a test without a server: `asgi_app(handler)`.

A response in one piece is sent when the handler has returned, the chunks of a stream at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import quote

from farebox.channels import Channel
from farebox.errors import BODY_TOO_LARGE, Problem
from farebox.http.exchange import ClientGone, HeaderList, RequestHead
from farebox.http.server.headers import PATH_SAFE, add_header, header_lines
from farebox.http.server.state import Handler
from farebox.limits.byte_budget import ByteLease
from farebox.memory_files import Body

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class AsgiExchange:
    """An exchange carried by an ASGI server."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path = quote(scope["path"], safe=PATH_SAFE)  # the server has decoded it
        self.client: str = (scope.get("client") or ("",))[0]
        self.encrypted = scope.get("scheme") == "https"
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            add_header(self.headers, name.decode("latin-1").lower(), value.decode("latin-1"))
        self.head = RequestHead(self.method, self.path, self.query, self.headers)
        self._receive = receive
        self._send = send
        self._head: Message | None = None
        self._body = b""
        self._begun = self._broken = False
        self._received = asyncio.Event()
        self.complete = False
        self.listener: asyncio.Task[None] | None = None
        self.lease: ByteLease | None = None
        length = self.headers.get("content-length", "0" if "transfer-encoding" not in self.headers else "")
        self.length = int(length) if length.isdecimal() else None

    def hold(self, lease: ByteLease) -> None:
        self.lease = lease

    def received_body(self, limit: int) -> bytes | None:
        return None

    def peek(self) -> bytes | None:
        return None

    async def content(self, limit: int) -> Body:
        return await self.body(limit)

    async def body(self, limit: int) -> bytes:
        counted = self.length or 0
        if counted > limit:
            raise _too_large(limit)
        if self.lease is not None:
            self.lease.take(counted)
        body, more = bytearray(), not self._received.is_set()
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            if self.lease is not None and len(body) > counted:
                self.lease.take(len(body) - counted)
                counted = len(body)
            more = message.get("more_body", False)
        self._received.set()
        return bytes(body)

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.method == "HEAD" or status in (204, 304):
            self.start(status, headers)
            return
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        self.start(status, [*kept, ("content-length", str(len(body)))])
        self._body = body

    def start(self, status: int, headers: HeaderList) -> "AsgiExchange":
        if self._head is not None:
            self._broken = True
            raise RuntimeError("the exchange has a response already")
        header_lines(headers)  # raises if one cannot be sent
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": status, "headers": raw}
        return self

    def switch(self, headers: HeaderList) -> Channel:
        raise ClientGone  # WebSockets of ASGI are separate, and not supported

    async def send(self, chunk: bytes) -> None:
        await self._pass(chunk if self.method != "HEAD" else b"", more=True)

    def offer(self, chunk: bytes) -> None:
        """Does nothing: sending to an ASGI server always waits."""

    async def gone(self) -> None:
        await asyncio.shield(self._listening())

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._listening().add_done_callback(lambda listener: None if listener.cancelled() else callback())

    def _listening(self) -> "asyncio.Task[None]":
        self.listener = self.listener or asyncio.ensure_future(self._listen())
        return self.listener

    async def end(self) -> None:
        if self._head is None:
            self.respond(500, [("content-type", "text/plain")], b"Internal error.")
        if self._broken:
            raise RuntimeError("the answer broke off")
        await self._pass(self._body, more=False)

    async def _listen(self) -> None:
        await self._received.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pass(self, data: bytes, *, more: bool) -> None:
        try:
            if not self._begun and self._head is not None:
                self._begun = True
                await self._send(self._head)
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except OSError as error:
            raise ClientGone from error


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")


def asgi_app(handler: Handler) -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """The handler as an ASGI application. Exceptions of the handler, except ClientGone, are left to the server."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            exchange = AsgiExchange(scope, receive, send)
            try:
                left = handler(exchange)
                if left is not None:
                    await left
                await exchange.end()
            except ClientGone:
                pass  # the client has gone
            finally:
                if exchange.listener is not None:
                    exchange.listener.cancel()
                if exchange.lease is not None:
                    exchange.lease.close()

    return app
