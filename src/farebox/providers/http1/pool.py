"""The pool: connections by origin, made when needed, kept while they are useful, dropped when they are not."""

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast
from urllib.parse import unquote, urlsplit

import certifi

from farebox.providers.http1.connection import Answer, Connection
from farebox.providers.upstream import UpstreamFailed, UpstreamRequest

IDLE_SECONDS = 50.0
"""How long an unused connection is kept: below the 60 s after which many servers and balancers close theirs."""
IDLE_MAX = 512
"""Unused connections kept to one origin."""
ORIGINS_MAX = 4096
SWEEP_SECONDS = 10.0
PROXY_HEAD_MAX = 16 * 2**10

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_end_of_base = re.compile("[/?#]").search


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy leads where, as the environment's usual variables say."""

    by_scheme: Mapping[str, str]
    """`http`, `https` → the proxy's URL."""
    exempt: tuple[str, ...] = ()
    """Host names reached without it: exact, or as the end of a name; `*`: all."""

    def for_origin(self, scheme: str, host: str) -> str | None:
        proxy = self.by_scheme.get(scheme)
        if proxy is None:
            return None
        for name in self.exempt:
            plain = name.lstrip("*.") if name != "*" else name
            if plain == "*" or host == plain or host.endswith("." + plain):
                return None
        return proxy


NO_PROXIES = Proxies({})


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where connections of one kind lead. `host_header` has the port only where it is not the scheme's own."""

    scheme: str
    host: str
    port: int
    host_header: bytes
    proxy: str | None
    absolute: bytes
    """What a plain proxy wants before the path; empty elsewhere."""


class PooledUpstream:
    """Calls providers over HTTP/1.1. It sends what it is given and returns what comes. Make it inside the loop."""

    def __init__(
        self, *, connect_seconds: float, proxies: Proxies = NO_PROXIES, tls: ssl.SSLContext | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_seconds = connect_seconds
        self._proxies = proxies
        self._tls = tls or _trusting_the_usual()
        self._origins: dict[str, _Origin] = {}
        self._idle: dict[_Origin, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> Answer:
        """Send, and wait for the head of the answer: for as long as the caller does. Raises UpstreamFailed."""
        base, target = _split(request.url)
        origin = self._origins.get(base) or self._learn(base)
        head = _head(request, origin, target)
        connection = self._take(origin) or await self._connect(origin)
        return await connection.exchange(head, request.body, to_head=request.method == "HEAD")

    async def close(self) -> None:
        """Drop the unused connections; those in use end with their answers."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.drop()
        self._idle.clear()

    # --- idle connections ---

    def _take(self, origin: _Origin) -> Connection | None:
        """The connection that was used last: the others may then grow old and go."""
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.usable and self._loop.time() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.drop()
        return None

    def _release(self, origin: _Origin, connection: Connection) -> None:
        connections = self._idle.setdefault(origin, [])
        if self._closed or len(connections) >= IDLE_MAX:
            connection.drop()
            return
        connections.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = self._loop.time() - IDLE_SECONDS
        for origin, connections in list(self._idle.items()):
            kept = []
            for connection in connections:
                if connection.idle_since > oldest and connection.usable:
                    kept.append(connection)
                else:
                    connection.drop()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    # --- new connections ---

    async def _connect(self, origin: _Origin) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await self._open(origin)
        except TimeoutError as error:
            raise UpstreamFailed("no connection in time", sent=False, timeout=True) from error
        except ssl.SSLError as error:
            raise UpstreamFailed("no TLS connection", sent=False) from error
        except (OSError, UnicodeError) as error:
            raise UpstreamFailed("no connection", sent=False) from error

    async def _open(self, origin: _Origin) -> Connection:
        loop = self._loop

        def make() -> Connection:
            return Connection(loop, lambda connection: self._release(origin, connection))

        context = self._tls if origin.scheme == "https" else None
        if origin.proxy is None:
            _, connection = await loop.create_connection(
                make, origin.host, origin.port, ssl=context, server_hostname=origin.host if context else None
            )
            return connection
        proxy = urlsplit(origin.proxy)
        proxy_host = proxy.hostname or ""
        through = self._tls if proxy.scheme == "https" else None
        port = proxy.port or (443 if through else 80)
        if context is None:
            _, connection = await loop.create_connection(make, proxy_host, port, ssl=through)
            return connection
        transport, tunnel = await loop.create_connection(lambda: _Tunnel(loop), proxy_host, port, ssl=through)
        try:
            await tunnel.ask(origin.host, origin.port, _proxy_credentials(origin.proxy))
            connection = make()
            upgraded = await loop.start_tls(transport, connection, self._tls, server_hostname=origin.host)
        except BaseException:
            transport.abort()
            raise
        assert upgraded is not None
        connection.connection_made(upgraded)
        return connection

    def _learn(self, base: str) -> _Origin:
        """What the first part of a URL means. Raises UpstreamFailed where it means nothing."""
        try:
            parts = urlsplit(base)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError as error:
            raise UpstreamFailed("the provider's URL cannot be called", sent=False) from error
        if scheme not in ("http", "https") or not host or "@" in base:
            raise UpstreamFailed("the provider's URL cannot be called", sent=False)
        usual = 443 if scheme == "https" else 80
        name = f"[{host}]" if ":" in host else host
        header = name if port in (None, usual) else f"{name}:{port}"
        proxy = self._proxies.for_origin(scheme, host)
        origin = _Origin(
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


@cache  # loading them takes some 20 ms
def _trusting_the_usual() -> ssl.SSLContext:
    """Certificates are checked against the system's authorities and, as small systems have none, against certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way through to a host."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._received = b""
        self._answered: asyncio.Future[bytes] = loop.create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._answered.done() and (b"\r\n\r\n" in self._received or len(self._received) > PROXY_HEAD_MAX):
            self._answered.set_result(self._received)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(ConnectionResetError("the proxy closed the connection"))

    async def ask(self, host: str, port: int, credentials: bytes) -> None:
        """Raises OSError where the proxy does not open the way."""
        assert self._transport is not None
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._transport.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n".encode() + credentials + b"\r\n")
        status = (await self._answered).split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
            raise ConnectionRefusedError("the proxy refused")


def _proxy_credentials(proxy: str) -> bytes:
    parts = urlsplit(proxy)
    if not parts.username:
        return b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return b"Proxy-Authorization: Basic " + base64.b64encode(pair.encode()) + b"\r\n"


def _split(url: str) -> tuple[str, str]:
    """`https://host/path?query` into `https://host` and `/path?query`."""
    found = _end_of_base(url, url.find("://") + 3)
    if found is None:
        return url, "/"
    rest = url[found.start() :].partition("#")[0]
    return url[: found.start()], rest if rest.startswith("/") else "/" + rest


def _head(request: UpstreamRequest, origin: _Origin, target: str) -> bytes:
    """The request's head. Raises UpstreamFailed where a part of it cannot be sent."""
    if request.method not in _METHODS:
        raise UpstreamFailed(f"{request.method} is no method that can be sent", sent=False)
    lines = [f"{name}: {value}\r\n" for name, value in request.headers if _is_name(name)]
    text = "".join(lines)
    if len(lines) < len(request.headers) or not text.count("\n") == text.count("\r") == len(lines) or "\0" in text:
        raise UpstreamFailed("a header cannot be sent", sent=False)
    if request.body or request.method in _BODY_EXPECTED:
        text += f"content-length: {len(request.body)}\r\n"
    try:
        headers, where = text.encode("latin-1"), origin.absolute + target.encode("ascii")
    except UnicodeEncodeError as error:
        raise UpstreamFailed("the provider's URL or a header cannot be sent", sent=False) from error
    if b" " in where or b"\r" in where or b"\n" in where:
        raise UpstreamFailed("the provider's URL cannot be sent", sent=False)
    credentials = _proxy_credentials(origin.proxy) if origin.absolute and origin.proxy else b""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b\r\n" % (
        request.method.encode(), where, origin.host_header, headers, credentials,
    )  # fmt: skip


@lru_cache(1024)
def _is_name(name: str) -> bool:
    """Whether a header may be called so (RFC 9110, 5.6.2); other names are not understood alike by all servers."""
    return _is_token(name) is not None
