"""Connections to providers that accounts choose: to checked addresses only, whatever a name resolves to later."""

import asyncio
import contextlib
import socket
from ipaddress import ip_address

import pytest

from farebox.addresses import Address, networks
from farebox.providers.http1.opening import Guard
from farebox.providers.upstream import Cause, UpstreamFailed
from farebox.proxies import Proxies
from tests.providers.http1_kit import OK, authority, pool, post, serving, whole
from tests.providers.test_http1_proxies import PROVIDER, port_of, tunnelling

LOOPBACK = networks("127.0.0.0/8")


class Names:
    """Resolves every name to the next of these lists of addresses, and then always to the last."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(text) for text in found]


async def refusal(url: str, guard: Guard, **more: object) -> Cause:
    async with pool(guard=guard, **more) as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(url))
    assert raised.value.sent is False
    return raised.value.cause


async def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    """The name exists only for the guard's resolver; the next lookup would return a different address."""
    tls, trusting = authority("models.test")
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with serving(OK, OK, tls=tls) as server, pool(guard=Guard(LOOPBACK, names), tls=trusting) as upstream:
        url = f"https://models.test:{port_of(server)}"
        assert await whole(await upstream.send(post(url))) == b"ok"
        assert await whole(await upstream.send(post(url))) == b"ok", "on the same connection"
        assert (server.connections, names.asked) == (1, ["models.test"])
        host = f"host: models.test:{port_of(server)}\r\n".encode()
        assert all(host in request for request in server.requests)
    assert await refusal(url, Guard(LOOPBACK, names)) == "address_refused"


async def test_forbidden_addresses_are_left_out() -> None:
    names = Names(["10.0.0.1", "169.254.169.254", "::1", "127.0.0.1"])
    async with serving(OK) as server, pool(guard=Guard(LOOPBACK, names)) as upstream:
        got = await upstream.send(post(f"http://models.test:{port_of(server)}"))
        assert await whole(got) == b"ok"


async def test_the_next_address_is_called_if_one_does_not_answer() -> None:
    async with serving(OK) as server:
        port = port_of(server)
        names = Names(["127.0.0.9", "127.0.0.1"])  # nothing listens at the first
        async with pool(guard=Guard(LOOPBACK, names)) as upstream:
            assert await whole(await upstream.send(post(f"http://models.test:{port}"))) == b"ok"


async def test_an_address_that_is_silent_does_not_take_all_the_time() -> None:
    async with serving(OK) as server:
        with contextlib.ExitStack() as held:
            silent = held.enter_context(socket.socket())
            silent.bind(("127.0.0.9", port_of(server)))
            silent.listen(0)
            for _ in range(2):  # its queue is full
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.9", port_of(server)))
            names = Names(["127.0.0.9", "127.0.0.1"])
            async with pool(guard=Guard(LOOPBACK, names), connect_seconds=2.0) as upstream:
                url = f"http://models.test:{port_of(server)}"
                assert await whole(await upstream.send(post(url))) == b"ok"


@pytest.mark.parametrize(
    ("scheme", "addresses"),
    [
        ("https", ["127.0.0.1"]),
        ("https", ["10.1.2.3"]),
        ("https", ["169.254.169.254"]),
        ("https", ["100.100.100.200"]),
        ("https", ["168.63.129.16"]),
        ("https", ["0.0.0.0"]),
        ("https", ["::1"]),
        ("https", ["fd00:ec2::254"]),
        ("https", ["fe80::1"]),
        ("https", ["::ffff:127.0.0.1"]),
        ("https", ["64:ff9b::7f00:1"]),
        ("https", ["2002:7f00:1::"]),
        ("http", ["93.184.215.14"]),
        ("https", []),
    ],
)
async def test_addresses_that_are_not_called(scheme: str, addresses: list[str]) -> None:
    assert await refusal(f"{scheme}://models.test", Guard(resolver=Names(addresses))) == "address_refused"


async def test_unknown_and_forbidden_names_get_the_same_error() -> None:
    async def unknown(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert await refusal("https://models.test", Guard(resolver=unknown)) == "address_refused"


async def test_the_certificate_is_checked_for_the_name() -> None:
    tls, trusting = authority("127.0.0.1")
    async with serving(OK, tls=tls) as server:
        url = f"https://models.test:{port_of(server)}"
        assert await refusal(url, Guard(LOOPBACK, Names(["127.0.0.1"])), tls=trusting) == "tls_name"


async def test_a_proxy_gets_the_checked_address() -> None:
    async with tunnelling() as (provider, server, proxy, trusting):
        through = Proxies({"https": server.url, "http": server.url})
        guard = Guard(networks("10.0.0.0/8"), Names(["127.0.0.1", "10.9.8.7"]))
        async with pool(tls=trusting, proxies=through, guard=guard) as upstream:
            assert await whole(await upstream.send(post(PROVIDER))) == b"ok"
        assert proxy.heads == [b"CONNECT 10.9.8.7:443 HTTP/1.1\r\nHost: 10.9.8.7:443\r\n\r\n"]
        assert b"host: provider.test\r\n" in provider.requests[0]
        assert await refusal(PROVIDER, Guard(resolver=Names(["10.9.8.7"])), proxies=through) == "address_refused"
        assert len(proxy.heads) == 1, "the proxy is not used"


async def test_an_allowed_network_is_reached_without_a_proxy_where_there_is_no_tls() -> None:
    async with serving(OK) as server:
        through, names = Proxies({"http": "http://127.0.0.1:9"}), Names(["127.0.0.1"])
        async with pool(guard=Guard(LOOPBACK, names), proxies=through) as upstream:
            assert await whole(await upstream.send(post(f"http://models.test:{port_of(server)}"))) == b"ok"


async def test_a_slow_name_server_keeps_no_call_waiting_for_long() -> None:
    async def slow(host: str, port: int) -> list[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    assert await refusal("https://models.test", Guard(resolver=slow), connect_seconds=0.05) == "timeout_connect"
