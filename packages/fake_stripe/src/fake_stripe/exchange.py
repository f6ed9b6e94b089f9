"""One HTTP exchange over ASGI: a request's head and body in; status, headers and body out, or a response cut short."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

HeaderList: TypeAlias = list[tuple[str, str]]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_ENDLESS = ("content-length", str(10**12))


class BodyTooLarge(Exception):
    """The request body is longer than the limit."""


class ClientGone(Exception):
    """The client closed its connection; what is sent after that is lost."""


class Exchange:
    """One ASGI call. Respond at most once, by `respond` or `break_off`."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        """Percent-decoded."""
        self.query: str = scope["query_string"].decode("latin-1")
        """As received, without the question mark."""
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        """Names are in lower case; of a repeated header, the last value."""
        self._receive = receive
        self._send = send

    async def body(self, limit: int) -> bytes:
        """The whole request body. Raises BodyTooLarge above `limit` bytes, immediately if the head declares more;
        ClientGone."""
        if int(self.headers.get("content-length", 0)) > limit:
            raise BodyTooLarge
        body, more = b"", True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge
            more = message.get("more_body", False)
        return body

    async def gone(self) -> None:
        """Wait until the client has closed the connection; after `body`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a response; does nothing if the client is gone."""
        await self._start(status, [*headers, ("content-length", str(len(body)))])
        await self._send({"type": "http.response.body", "body": body})

    async def break_off(self) -> None:
        """Begin a response that ends after its first byte: ASGI cannot reset a connection, but the server closes one
        whose response is shorter than its content-length."""
        await self._start(200, [("content-type", "application/json"), _ENDLESS])
        await self._send({"type": "http.response.body", "body": b"{", "more_body": True})

    async def _start(self, status: int, headers: HeaderList) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
