"""The pool: connections by origin, made when needed, kept while they are useful, dropped when they are not."""

import asyncio
import re
import ssl
from collections import Counter
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import structs

from farebox.jobs import OnFailure
from farebox.providers.http1.connection import Unread, UpstreamConnection
from farebox.providers.http1.opening import Guard, Opener, Origin, proxy_credentials
from farebox.providers.http1.response import Http1Response
from farebox.providers.upstream import Cause, UpstreamFailed, UpstreamRequest
from farebox.proxies import NO_PROXIES, Proxies

if TYPE_CHECKING:
    from farebox.websocket import ProviderSocket, Room

IDLE_MAX = 512
"""Unused connections kept to one origin."""
ORIGINS_MAX = 4096
SWEEP_SECONDS = 10.0

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_end_of_base = re.compile("[/?#]").search


class PooledUpstream:
    """Calls providers over HTTP/1.1. It sends requests and returns responses unchanged. Create it inside the event
    loop."""

    def __init__(
        self,
        *,
        connect_seconds: float,
        proxies: Proxies = NO_PROXIES,
        tls: ssl.SSLContext | None = None,
        failed: OnFailure | None = None,
        guard: Guard | None = None,
    ) -> None:
        """`failed` is called if the sweeper of idle connections fails; the sweeper continues. `guard` decides which
        addresses may be connected to; without it, all."""
        self._guarded = guard is not None
        self._failed = failed
        self.failures: dict[str, int] = Counter()
        self.resent = 0
        self._loop = asyncio.get_running_loop()
        self._proxies = proxies
        self._open = Opener(self._loop, connect_seconds, tls, guard)
        self._origins: dict[str, Origin] = {}
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> Http1Response:
        """Send, and wait for the head of the response for as long as the caller waits. Raises UpstreamFailed."""
        try:
            kept = request.head
            if not kept.base:
                kept.base, kept.lines = self._lines(request)
            origin = self._origins.get(kept.base) or self._learn(kept.base)
            head, to_head = _head(request, kept.lines), request.method == "HEAD"
            connection = self._take(origin) or await self._connect(origin)
            try:
                response = await connection.exchange(head, request.body, request.sending, to_head=to_head)
            except Unread:  # a new connection cannot fail this way: the request is sent again at most once
                self.resent += 1
                connection = await self._connect(origin)
                response = await connection.exchange(head, request.body, request.sending, to_head=to_head)
            return _passed(response) if origin.absolute else response
        except UpstreamFailed as failure:
            self.count(failure.cause)
            raise

    async def open_socket(
        self, request: UpstreamRequest, subprotocols: tuple[str, ...], message_max: int, room: "Room"
    ) -> "ProviderSocket":
        """Open a WebSocket, by the request's URL and headers. Raises UpstreamFailed, HandshakeRefused."""
        # Imported here: the library is loaded by the first WebSocket.
        from farebox.providers.http1.websocket import Handshake, ProviderChannel

        handshake = Handshake(message_max, subprotocols)
        request = structs.replace(request, headers=[*request.headers, *handshake.headers])
        try:
            base, target = _split(request.url)
            origin = self._origins.get(base) or self._learn(base)
            if origin.absolute:
                words = "a WebSocket without TLS does not go through a proxy"
                raise UpstreamFailed(words, sent=False, cause="proxy_refused")
            head = _head_lines(request, origin, target) + b"\r\n"
            channel = await self._open.connection(origin, lambda: ProviderChannel(self._loop))
            return await handshake.answered(channel, head, room)
        except UpstreamFailed as failure:
            self.count(failure.cause)
            raise

    def count(self, cause: Cause) -> None:
        """Count a failed call. Connections count responses that break off; callers count the waits that they
        abandon."""
        self.failures[cause] += 1

    def _lines(self, request: UpstreamRequest) -> tuple[str, bytes]:
        """The first part of the URL, and the request's head without its end. Raises UpstreamFailed."""
        base, target = _split(request.url)
        return base, _head_lines(request, self._origins.get(base) or self._learn(base), target)

    async def close(self) -> None:
        """Drop the unused connections; those in use end with their responses."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._drop_idle()

    def _drop_idle(self) -> bool:
        """Drop all idle connections; returns whether there were any."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.drop()
        return bool(idle)

    # --- idle connections ---

    def _take(self, origin: Origin) -> UpstreamConnection | None:
        """The most recently used idle connection, so that the others can grow old and be dropped."""
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.usable and self._loop.time() - connection.idle_since < connection.idle_max:
                return connection
            connection.drop()
        return None

    def _release(self, origin: Origin, connection: UpstreamConnection) -> None:
        connections = self._idle.setdefault(origin, [])
        if self._closed or len(connections) >= IDLE_MAX:
            connection.drop()
            return
        connections.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        try:
            self._drop_old()
        except Exception as error:  # noqa: BLE001 - without the timer unused connections would be kept forever
            if self._failed is not None:
                self._failed("upstream_sweeper", error)
        finally:
            if self._idle:
                self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _drop_old(self) -> None:
        now = self._loop.time()
        for origin, connections in list(self._idle.items()):
            kept = []
            for connection in connections:
                if now - connection.idle_since < connection.idle_max and connection.usable:
                    kept.append(connection)
                else:
                    connection.drop()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]

    # --- new connections ---

    async def _connect(self, origin: Origin) -> UpstreamConnection:
        """Raises UpstreamFailed."""

        def make() -> UpstreamConnection:
            return UpstreamConnection(self._loop, partial(self._release, origin), self.count)

        try:
            return await self._open.connection(origin, make)
        except UpstreamFailed as failure:
            if failure.cause != "exhausted" or not self._drop_idle():
                raise
        closed = self._loop.create_future()
        self._loop.call_soon(closed.set_result, None)  # dropped connections are closed in the loop's next iteration
        await closed
        return await self._open.connection(origin, make)

    def _learn(self, base: str) -> Origin:
        """The origin that the first part of a URL stands for. Raises UpstreamFailed if it is invalid."""
        try:
            parts = urlsplit(base)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError as error:
            raise UpstreamFailed("the provider's URL cannot be called", sent=False, cause="unsendable") from error
        if scheme not in ("http", "https") or not host or "@" in base:
            raise UpstreamFailed("the provider's URL cannot be called", sent=False, cause="unsendable")
        usual = 443 if scheme == "https" else 80
        name = f"[{host}]" if ":" in host else host
        header = name if port in (None, usual) else f"{name}:{port}"
        proxy = self._proxies.for_origin(scheme, host, port or usual)
        if self._guarded and scheme == "http":
            proxy = None  # the host is in a network that the operator allows
        origin = Origin(
            scheme=scheme,
            host=host,
            port=port or usual,
            host_header=header.encode("idna" if not header.isascii() else "ascii"),
            proxy=proxy,
            absolute=f"http://{header}".encode() if proxy and scheme == "http" else b"",
        )
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        self._origins[base] = origin
        return origin


def _split(url: str) -> tuple[str, str]:
    """`https://host/path?query` into `https://host` and `/path?query`."""
    found = _end_of_base(url, url.find("://") + 3)
    if found is None:
        return url, "/"
    rest = url[found.start() :].partition("#")[0]
    return url[: found.start()], rest if rest.startswith("/") else "/" + rest


def _passed(response: Http1Response) -> Http1Response:
    """The response that came through a plain proxy, unless it is the proxy's own. Raises UpstreamFailed."""
    if response.status == 407:
        response.drop()
        raise UpstreamFailed("the proxy requires other credentials (407)", sent=False, cause="proxy_auth")
    return response


def _head(request: UpstreamRequest, lines: bytes) -> bytes:
    if request.body or request.method in _BODY_EXPECTED:
        return b"%bcontent-length: %d\r\n\r\n" % (lines, len(request.body))
    return lines + b"\r\n"


def _head_lines(request: UpstreamRequest, origin: Origin, target: str) -> bytes:
    """The request's head without its end. Raises UpstreamFailed if a part of it cannot be sent."""
    if request.method not in _METHODS:
        raise UpstreamFailed(f"{request.method} is not a method that can be sent", sent=False, cause="unsendable")
    lines = [f"{name}: {value}\r\n" for name, value in request.headers if _is_name(name)]
    text = "".join(lines)
    if len(lines) < len(request.headers) or not text.count("\n") == text.count("\r") == len(lines) or "\0" in text:
        raise UpstreamFailed("a header cannot be sent", sent=False, cause="unsendable")
    try:
        headers, where = text.encode("latin-1"), origin.absolute + target.encode("ascii")
    except UnicodeEncodeError as error:
        raise UpstreamFailed("the provider's URL or a header cannot be sent", sent=False, cause="unsendable") from error
    if b" " in where or b"\r" in where or b"\n" in where:
        raise UpstreamFailed("the provider's URL cannot be sent", sent=False, cause="unsendable")
    credentials = proxy_credentials(origin.proxy) if origin.absolute and origin.proxy else b""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b" % (
        request.method.encode(), where, origin.host_header, headers, credentials,
    )  # fmt: skip


@lru_cache(1024)
def _is_name(name: str) -> bool:
    """Whether this is a valid header name (RFC 9110, 5.6.2); servers interpret other names differently."""
    return _is_token(name) is not None
