"""Opening a connection: directly to the provider, or through a proxy; with TLS, verified for the provider's name.

If an account chooses the provider, a guard resolves the name, and connections go to the addresses that it has checked:
the name is not resolved again.
"""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import certifi

from farebox.addresses import Network, Resolver, is_in, is_public, resolve
from farebox.providers.http1.causes import AddressForbidden, ProxyFailed, not_connected

P = TypeVar("P", bound=asyncio.Protocol)
C = TypeVar("C", bound="Opened")

PROXY_HEAD_MAX = 16 * 2**10


class Opened(asyncio.Protocol):
    """The protocol that a connection is opened for."""

    tunnelled = False
    """Whether it goes through a proxy: then the system's information is about the proxy."""
    beneath: tuple[asyncio.Transport, ...] = ()
    """The transports beneath a TLS transport."""


@dataclass(frozen=True, slots=True, eq=False)  # by identity: the pool keeps one of each
class Origin:
    """Where connections of one kind lead. `host_header` has the port only if it is not the scheme's default."""

    scheme: str
    host: str
    port: int
    host_header: bytes
    proxy: str | None
    absolute: bytes
    """What a plain HTTP proxy needs before the path; otherwise empty."""


_Transports = list[asyncio.Transport]
"""A stack of transports, the system's own first."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Which addresses may be connected to: public ones with TLS, and those in networks that the operator allows."""

    networks: tuple[Network, ...] = ()
    resolver: Resolver = resolve

    async def addresses(self, origin: Origin) -> list[str]:
        """The checked addresses of the origin's host. Raises AddressForbidden, OSError."""
        try:
            found = await self.resolver(origin.host, origin.port)
        except socket.gaierror:
            found = []  # the failure is not shown: it would tell an account about names in the operator's network
        secure = origin.scheme == "https"
        allowed = [address for address in found if is_in(address, self.networks) or (secure and is_public(address))]
        if not allowed:
            raise AddressForbidden(f"{origin.host} has no address that may be called")
        return [str(address) for address in allowed]


class Opener:
    """Opens connections. `tls`: trusted authorities, if not the usual ones."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        tls: ssl.SSLContext | None,
        guard: Guard | None = None,
    ) -> None:
        self._loop = loop
        self._guard = guard
        self._seconds = seconds
        self._tls = tls or _default_tls()

    async def connection(self, origin: Origin, make: Callable[[], C]) -> C:
        """Open a connection. Raises UpstreamFailed."""
        state = _ConnectState()
        try:
            async with asyncio.timeout(self._seconds):
                if origin.proxy is None:
                    return await self._direct(origin, make)
                return await self._by_proxy(origin, urlsplit(origin.proxy), make, state)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise not_connected(error, to_proxy=state.to_proxy) from error

    async def _direct(self, origin: Origin, make: Callable[[], C]) -> C:
        if origin.scheme == "https":
            transport, _ = await self._to_origin(origin, asyncio.Protocol)
            return await self._secured([transport], make, origin.host)
        _, connection = await self._to_origin(origin, make)
        return connection

    async def _to_origin(self, origin: Origin, make: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """A connection to the first address that accepts one. Each has its share of the time: one may not answer at
        all."""
        if self._guard is None:
            found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            addresses = [str(place[0]) for *_, place in found]
        else:
            addresses = await self._guard.addresses(origin)
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(self._seconds / len(addresses)):
                    return await self._loop.create_connection(make, address, origin.port)
        return await self._loop.create_connection(make, addresses[-1], origin.port)

    async def _by_proxy(self, origin: Origin, proxy: SplitResult, make: Callable[[], C], state: "_ConnectState") -> C:
        host, secure = proxy.hostname or "", proxy.scheme == "https"
        target = origin.host if self._guard is None else (await self._guard.addresses(origin))[0]
        port = proxy.port or (443 if secure else 80)
        state.to_proxy = True
        if origin.absolute and not secure:
            _, connection = await self._loop.create_connection(make, host, port)
        elif origin.absolute:
            connection = await self._secured([await self._plain(host, port)], make, host)
        else:
            connection = await self._tunnelled(origin, target, [await self._plain(host, port)], proxy, make, state)
        connection.tunnelled = True
        return connection

    async def _tunnelled(
        self,
        origin: Origin,
        host: str,
        beneath: _Transports,
        proxy: SplitResult,
        make: Callable[[], C],
        state: "_ConnectState",
    ) -> C:
        """A connection through a tunnel; `host` is what the proxy is asked for."""
        tunnel = _Tunnel(self._loop)
        try:
            if proxy.scheme == "https":
                beneath.append(await self._tls_over(beneath[-1], tunnel, proxy.hostname or ""))
            else:
                beneath[-1].set_protocol(tunnel)
            await tunnel.ask(beneath[-1], host, origin.port, proxy_credentials(proxy.geturl()))
        except BaseException:
            beneath[0].abort()
            raise
        state.to_proxy = False
        return await self._secured(beneath, make, origin.host)

    async def _plain(self, host: str, port: int) -> asyncio.Transport:
        transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
        return transport

    async def _secured(self, beneath: _Transports, make: Callable[[], C], name: str) -> C:
        """TLS over the last of the transports, verified for the name. A separate step, because data that a TLS
        transport has passed to the transport beneath is no longer in its own buffer, whether or not it was sent."""
        connection = make()
        try:
            transport = await self._tls_over(beneath[-1], connection, name)
        except BaseException:
            beneath[0].abort()
            raise
        connection.beneath = tuple(beneath)
        connection.connection_made(transport)
        return connection

    async def _tls_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol, name: str) -> asyncio.Transport:
        upgraded = await self._loop.start_tls(transport, protocol, self._tls, server_hostname=name)
        if upgraded is None:  # the connection ended meanwhile
            raise ConnectionResetError("the connection was closed")
        return upgraded


@dataclass(slots=True)
class _ConnectState:
    """How far a connection had come when it failed."""

    to_proxy: bool = False


@cache  # loading them takes some 20 ms
def _default_tls() -> ssl.SSLContext:
    """A context that checks certificates against the system's authorities and, because small systems have none, against
    certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel to a host."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._received = b""
        self._answered: asyncio.Future[bytes] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        if not self._answered.done():
            self._received += data
            if b"\r\n\r\n" in self._received or len(self._received) > PROXY_HEAD_MAX:
                self._answered.set_result(self._received)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_result(b"")

    async def ask(self, transport: asyncio.Transport, host: str, port: int, credentials: bytes) -> None:
        """Ask for a tunnel. Raises ProxyFailed if the proxy does not open it."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        transport.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n".encode() + credentials + b"\r\n")
        response = await self._answered
        if not response:
            raise ProxyFailed("the proxy closed the connection instead of opening a tunnel", "proxy_refused")
        if b"\r\n\r\n" not in response:
            raise ProxyFailed("the proxy's response is too large", "proxy_refused")
        status = response.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].isdigit():
            raise ProxyFailed("the proxy's response is not HTTP", "proxy_refused")
        if status[1] == b"407":
            raise ProxyFailed("the proxy requires other credentials (407)", "proxy_auth")
        if not status[1].startswith(b"2"):
            raise ProxyFailed(f"the proxy refused to open a tunnel ({int(status[1][:3])})", "proxy_refused")


def proxy_credentials(proxy: str) -> bytes:
    """The header for the user name and password in the proxy's URL; empty if it has none."""
    parts = urlsplit(proxy)
    if not parts.username:
        return b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return b"Proxy-Authorization: Basic " + base64.b64encode(pair.encode()) + b"\r\n"
