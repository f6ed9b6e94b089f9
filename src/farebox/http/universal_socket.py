"""Cloudflare's universal WebSocket: each message is a request of the universal endpoint, each response one or several
messages. A message is served like such a request, by the same code: it is a call of its own."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farebox.errors import ACCOUNT_BYTES_FULL, INVALID_REQUEST, ClientGone, Problem
from farebox.http.exchange import Exchange, HeaderList
from farebox.http.inner_exchange import InnerExchange
from farebox.http.subprotocols import OfferedProtocols
from farebox.providers.sse import LineCutter
from farebox.runtime.services import Services

if TYPE_CHECKING:
    from farebox.websocket import Socket

AT_ONCE: Final = 16
"""Maximum messages of one session that are served at a time; no more are read meanwhile."""
_OF_HANDSHAKE: Final = frozenset({"upgrade", "connection", "content-length", "content-type", "cf-aig-event-id"})
_METADATA: Final = {
    "cacheStatus": "cf-aig-cache-status",
    "eventId": "cf-aig-event-id",
    "logId": "cf-aig-log-id",
    "step": "cf-aig-step",
    "contentType": "content-type",
}
_CLOSE_SECONDS: Final = 3.0
EVENT_MAX: Final = 8 * 2**20
"""Maximum bytes of one event of a stream; the pieces of a longer one are sent as text."""

Handle = Callable[[Exchange], Awaitable[None]]


class _Step(msgspec.Struct):
    """The request in a message."""

    provider: str
    endpoint: str
    headers: msgspec.Raw = msgspec.Raw(b"{}")
    query: msgspec.Raw = msgspec.Raw(b"{}")
    config: msgspec.Raw = msgspec.Raw(b"{}")
    event_id: str = msgspec.field(name="eventId", default="")


class _Create(msgspec.Struct):
    type: str
    request: _Step


_CREATE: Final = msgspec.json.Decoder(_Create)


class UniversalSession:
    """One WebSocket of the universal endpoint."""

    def __init__(
        self, services: Services, exchange: Exchange, offer: OfferedProtocols, socket: "Socket", handle: Handle
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._socket = socket
        self._handle = handle
        self._headers = {
            name: value
            for name, value in offer.headers.items()
            if name not in _OF_HANDSHAKE and not name.startswith("sec-websocket-")
        }
        self._open: set[asyncio.Task[None]] = set()
        self._answers: set[_MessageExchange] = set()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """The server is stopping: finish the calls under way, then end the session."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until the session has ended."""
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._stopping.wait())
        idle = self._services.settings.websocket_idle_ms / 1000
        code, reason = 1001, "the server stops"
        try:
            while True:
                heard = self._socket.heard
                done, _ = await asyncio.wait([reading, stopping], timeout=idle, return_when=asyncio.FIRST_COMPLETED)
                if done or (heard == self._socket.heard and not self._open):
                    break
            if reading in done:
                code, reason = 1000, ""
            elif not done:
                code, reason = 4408, "no message for too long"
        finally:
            stopping.cancel()
            reading.cancel()
            if reading.done():
                for answer in tuple(self._answers):
                    answer.lose()
            if self._open:
                await asyncio.wait(tuple(self._open))
            await self._close(code, reason)

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.close(code, reason)
                await self._socket.drain()
        except TimeoutError:
            pass
        finally:
            self._socket.end()

    async def _read(self) -> None:
        """Start serving each message that arrives. Raises nothing; returns when the client has closed."""
        from farebox.websocket import Closed

        places = asyncio.Semaphore(AT_ONCE)
        while True:
            await places.acquire()
            try:
                message = await self._socket.receive()
            except Closed:
                return
            task = asyncio.create_task(self._answer(message.data))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            task.add_done_callback(lambda _: places.release())

    async def _answer(self, data: bytes) -> None:
        try:
            found = _CREATE.decode(data)
        except (ValueError, RecursionError) as wrong:
            problem = Problem(INVALID_REQUEST, f"The message is not a `universal.create`: {wrong}.")
            with contextlib.suppress(ClientGone):
                await self.send({"type": "error", "error": {"code": problem.kind.code, "message": problem.message}})
            return
        step = found.request
        asked = {name: getattr(step, name) for name in ("provider", "endpoint", "headers", "query", "config")}
        body = msgspec.json.encode([asked])
        headers = {**self._headers, "content-type": "application/json", "content-length": str(len(body))}
        if step.event_id.isascii() and step.event_id.isprintable():
            headers["cf-aig-event-id"] = step.event_id[:256]
        inner = _MessageExchange(self._exchange, headers, body, self, step.event_id)
        self._answers.add(inner)
        try:
            await self._handle(inner)
            await inner.finish()
        except ClientGone:
            pass  # the call has been settled
        finally:
            self._answers.discard(inner)
            if inner.lease is not None:
                inner.lease.close()

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises ClientGone."""
        from farebox.websocket import Closed, Message

        try:
            await self._socket.send(Message(msgspec.json.encode(message)))
        except Closed as closed:
            raise ClientGone from closed


class _MessageExchange(InnerExchange):
    """A message as an exchange."""

    def __init__(
        self, outer: Exchange, headers: dict[str, str], body: bytes, session: UniversalSession, event_id: str
    ) -> None:
        super().__init__(outer.path, headers, body, outer.client, encrypted=outer.encrypted)
        self._no_room = False
        """The response was given up because the account has as much in memory as it may."""
        self._session = session
        self._event_id = event_id
        self._metadata: dict[str, Any] = {}
        self._whole: bytearray | None = None
        self._streams = self._gone = False
        self._lines = LineCutter(EVENT_MAX)
        self._watchers: list[Callable[[], None]] = []

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self._metadata:
            raise RuntimeError("the exchange has a response already")
        self._note(status, headers)
        self._whole = bytearray(body)

    def start(self, status: int, headers: HeaderList) -> "_MessageExchange":
        self.respond(status, headers, b"")
        self._streams = "text/event-stream" in str(self._metadata.get("contentType", ""))
        return self

    async def send(self, chunk: bytes) -> None:
        if self._gone:
            raise ClientGone
        if not self._streams:
            self._keep(chunk)
            return
        if self._whole is not None:
            self._whole = None
            await self._session.send({"type": "universal.created", "metadata": self._metadata})
        _, lines = self._lines.push(chunk)
        await self._pass(lines)

    def _keep(self, chunk: bytes) -> None:
        """Collect a response that is sent as one message. Raises ClientGone if the account has no room for it."""
        if self.lease is not None and not self.lease.room_for(len(chunk)):
            self._no_room = self._gone = True
            self._whole = None
            raise ClientGone
        if self._whole is None:
            self._whole = bytearray()
        self._whole += chunk

    async def _pass(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b"data:"):
                message = {"type": "universal.stream", "metadata": {"eventId": self._metadata["eventId"]}}
                await self._session.send({**message, "response": _shown(line[5:].strip())})

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    # --- for the session ---

    async def finish(self) -> None:
        """The call has ended: send what is left."""
        if self._no_room:
            words = "The response is larger than what the account may have in memory now: ask for a stream."
            error = {"code": ACCOUNT_BYTES_FULL.code, "message": words}
            await self._session.send({"type": "error", "metadata": self._metadata, "error": error})
        if self._gone or not self._metadata:
            return
        if self._whole is not None:
            created = {"type": "universal.created", "metadata": self._metadata, "response": _shown(bytes(self._whole))}
            await self._session.send(created)
        else:
            await self._pass([self._lines.rest()])
            await self._session.send({"type": "universal.done", "metadata": self._metadata})

    def lose(self) -> None:
        """The client has disconnected."""
        self._gone = True
        for watcher in self._watchers:
            watcher()

    def _note(self, status: int, headers: HeaderList) -> None:
        found = {name.lower(): value for name, value in headers}
        self._metadata = {name: found[header] for name, header in _METADATA.items() if header in found}
        self._metadata["eventId"] = self._event_id or self._metadata.get("eventId", "")
        self._metadata["status"] = status


def _shown(data: bytes) -> Any:
    """The data as JSON if possible, otherwise as text."""
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
    return msgspec.Raw(data)
