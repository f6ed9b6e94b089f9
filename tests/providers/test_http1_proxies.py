"""Proxies and their failures: real proxies in this process that connect every name to a server on loopback."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from farebox.providers.http1.opening import PROXY_HEAD_MAX
from farebox.providers.upstream import Cause, UpstreamFailed
from farebox.proxies import Proxies
from tests.providers.http1_kit import OK, Server, authority, pool, post, serving, until_gone, whole

PROVIDER = "https://provider.test"
OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Proxy:
    """Answers CONNECT with `says`, and connects to `port`."""

    def __init__(self, port: int, says: bytes = OPEN) -> None:
        self.port = port
        self.says = says
        self.heads: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.says)
        if not self.says.startswith(b"HTTP/1.1 2"):
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()
            with contextlib.suppress(ConnectionError):
                await far_writer.wait_closed()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
    sink.close()


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


@contextlib.asynccontextmanager
async def tunnelling(
    *names: str, proxy_tls: ssl.SSLContext | None = None, says: bytes = OPEN
) -> AsyncIterator[tuple[Server, Server, Proxy, ssl.SSLContext]]:
    """A provider with a certificate for these names, a proxy in front of it, and the client's trust."""
    served, trusting = authority(*(names or ("provider.test",)))
    async with serving(OK, OK, OK, tls=served) as provider:
        proxy = Proxy(port_of(provider), says)
        async with serving(handler=proxy.handle, tls=proxy_tls) as server:
            yield provider, server, proxy, trusting


async def test_a_request_through_a_tunnel() -> None:
    async with tunnelling() as (provider, server, proxy, trusting):
        through = Proxies({"https": server.url.replace("//", "//me:w%40rd@")})
        async with pool(tls=trusting, proxies=through) as upstream:
            assert await whole(await upstream.send(post(PROVIDER))) == b"ok"
            assert await whole(await upstream.send(post(PROVIDER))) == b"ok"
        assert proxy.heads == [
            b"CONNECT provider.test:443 HTTP/1.1\r\nHost: provider.test:443\r\n"
            b"Proxy-Authorization: Basic bWU6d0ByZA==\r\n\r\n"
        ]
        assert provider.requests[0].startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: provider.test\r\n")
        assert b"Proxy" not in provider.requests[0]


async def test_a_tunnel_to_an_address_of_ipv6() -> None:
    async with tunnelling("2001:db8::1") as (_, server, proxy, trusting):
        async with pool(tls=trusting, proxies=Proxies({"https": server.url})) as upstream:
            assert await whole(await upstream.send(post("https://[2001:db8::1]:8443"))) == b"ok"
        assert proxy.heads[0].startswith(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n")


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.test"])
async def test_the_certificate_is_checked_for_the_provider_and_not_for_the_proxy(name: str) -> None:
    """The proxy is at 127.0.0.1: a certificate for that address is not valid for the provider."""
    async with tunnelling(name) as (provider, server, _, trusting):
        async with pool(tls=trusting, proxies=Proxies({"https": server.url})) as upstream:
            with pytest.raises(UpstreamFailed) as raised:
                await upstream.send(post(PROVIDER))
        assert (raised.value.cause, raised.value.sent) == ("tls_name", False)
        assert not provider.requests


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize(("name", "cause"), [("127.0.0.1", None), ("elsewhere.test", "proxy_unreachable")])
async def test_tls_to_the_proxy(scheme: str, name: str, cause: Cause | None) -> None:
    at_proxy, trusting_proxy = authority(name)
    async with tunnelling(proxy_tls=at_proxy) as (_, server, _proxy, trusting), serving(OK, tls=at_proxy) as plain:
        both = ssl.create_default_context()
        for context in (trusting, trusting_proxy):
            both.load_verify_locations(
                cadata="".join(ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True))
            )
        proxies = Proxies({"https": server.url, "http": plain.url})
        async with pool(tls=both, proxies=proxies) as upstream:
            if cause is None:
                assert await whole(await upstream.send(post(f"{scheme}://provider.test"))) == b"ok"
                return
            with pytest.raises(UpstreamFailed, match="another name") as raised:
                await upstream.send(post(f"{scheme}://provider.test"))
            assert raised.value.cause == cause


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", "proxy_auth"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "proxy_refused"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "proxy_refused"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.example\r\n\r\n", "proxy_refused"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "proxy_refused"),
        (b"\x05\xff\r\n\r\n", "proxy_refused"),
        (b"", "proxy_refused"),
        (b"HTTP/1.1 403 " + b"x" * PROXY_HEAD_MAX, "proxy_refused"),
    ],
)
async def test_a_proxy_that_refuses_the_tunnel(says: bytes, cause: Cause) -> None:
    async with tunnelling(says=says) as (provider, server, _, trusting):
        async with pool(tls=trusting, proxies=Proxies({"https": server.url})) as upstream:
            with pytest.raises(UpstreamFailed, match="proxy") as raised:
                await upstream.send(post(PROVIDER))
            assert (raised.value.cause, raised.value.sent) == (cause, False)
            assert upstream.failures == {cause: 1}
        assert not provider.connections


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://proxy.invalid:3128", "http://[::1]:9"])
async def test_a_proxy_that_cannot_be_reached(scheme: str, proxy: str) -> None:
    async with pool(proxies=Proxies({scheme: proxy})) as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(f"{scheme}://provider.test"))
        assert (raised.value.cause, raised.value.sent) == ("proxy_unreachable", False)


async def test_a_silent_proxy_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await until_gone(reader)

    async with (
        serving(handler=silent) as server,
        pool(proxies=Proxies({"https": server.url}), connect_seconds=0.1) as upstream,
    ):
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(PROVIDER))
        assert raised.value.cause == "timeout_connect"
        await asyncio.wait_for(server.closed.wait(), 10)


async def test_a_proxy_that_does_not_stop_talking_is_given_up() -> None:
    async def talks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * PROXY_HEAD_MAX)
        await until_gone(reader)

    async with serving(handler=talks) as server, pool(proxies=Proxies({"https": server.url})) as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(PROVIDER))
        assert raised.value.cause == "proxy_refused"
        await asyncio.wait_for(server.closed.wait(), 20)


async def test_a_tunnel_that_is_closed_at_once() -> None:
    async def opens_and_closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPEN)

    async with serving(handler=opens_and_closes) as server, pool(proxies=Proxies({"https": server.url})) as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(PROVIDER))
        assert (raised.value.cause, raised.value.sent) == ("reset", False)


async def test_a_request_through_a_plain_proxy() -> None:
    async with serving(OK) as proxy:
        proxies = Proxies({"http": proxy.url.replace("//", "//me:word@")})
        async with pool(proxies=proxies) as upstream:
            assert await whole(await upstream.send(post("http://api.test:81"))) == b"ok"
        assert proxy.requests[0].startswith(
            b"POST http://api.test:81/v1/chat?x=1 HTTP/1.1\r\nhost: api.test:81\r\nauthorization: Bearer k\r\n"
        )
        assert b"\r\nProxy-Authorization: Basic bWU6d29yZA==\r\n" in proxy.requests[0]


async def test_a_proxy_authentication_error_is_not_a_provider_response() -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno"
    async with serving(refusal) as proxy, pool(proxies=Proxies({"http": proxy.url})) as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post("http://api.test"))
        assert (raised.value.cause, raised.value.sent) == ("proxy_auth", False)
    async with serving(refusal) as provider, pool() as upstream:
        assert (await upstream.send(post(provider.url))).status == 407


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machine_is_reached_without_a_proxy(host: str) -> None:
    async with serving(OK) as server, pool(proxies=Proxies({"http": "http://proxy.invalid"})) as upstream:
        assert await whole(await upstream.send(post(server.url.replace("127.0.0.1", host)))) == b"ok"
