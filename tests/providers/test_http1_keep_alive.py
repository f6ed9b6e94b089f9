"""Connections that end while a request is in transit: an unread request is sent again, once; all else is an error."""

import asyncio
import errno
import random
import socket
import struct
from collections.abc import Callable

import pytest

from farebox.providers.http1 import connection as http1
from farebox.providers.http1.connection import UpstreamConnection
from farebox.providers.http1.pool import PooledUpstream
from farebox.providers.upstream import UpstreamFailed
from farebox.proxies import Proxies
from tests.providers.closing_upstream import ANSWER_BODY, ClosingUpstream, closing
from tests.providers.http1_kit import OK, authority, pool, post, serving, whole
from tests.waiting import eventually

LARGE = b"x" * (12 * 2**20)
"""More than the systems at both ends buffer."""


def once(end: str) -> Callable[[int, int], str]:
    """The first connection ends in this way after its first response."""
    return lambda connection, _: end if connection == 0 else "keep"


async def call(upstream: PooledUpstream, server: ClosingUpstream, body: bytes) -> None:
    assert await whole(await upstream.send(post(server.url, body))) == ANSWER_BODY


@pytest.mark.parametrize(
    ("end", "body"),
    [("close", b"two"), ("unread", b"two"), ("unread", LARGE), ("head", LARGE), ("head", b"x" * 1000)],
    ids=["close", "unread", "unread-large", "head-large", "head"],
)
async def test_a_request_that_was_not_read_is_sent_again(end: str, body: bytes) -> None:
    with closing(once(end)) as server:
        async with pool() as upstream:
            await call(upstream, server, b"one")
            await call(upstream, server, body)
            await call(upstream, server, b"three")
            assert server.read == [b"one", body, b"three"]
            assert server.connections == 2
            assert upstream.resent == 1 or end == "close"  # if the end is noticed in time, nothing has to be sent again
            assert not upstream.failures


async def test_unsolicited_data_is_detected_before_a_connection_is_reused() -> None:
    """Even if the loop has not read it yet: it would be taken for the next response."""
    with closing(once("more")) as server:
        async with pool() as upstream:
            await call(upstream, server, b"one")
            server.reported.set()
            server.closed.acquire(timeout=30)  # the loop is blocked meanwhile
            await call(upstream, server, b"two")
            assert (server.connections, upstream.resent) == (2, 0)


@pytest.mark.parametrize("way", ["plain", "tls", "tls-without-descriptors"])
async def test_a_request_that_crosses_the_end_of_its_connection_is_sent_again(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has closed, which has not been noticed when the request is sent."""
    tls = way != "plain"
    if way == "tls-without-descriptors":
        if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
            pytest.skip("the loop does not report the end of a TLS stream, only the loss of the connection")
        monkeypatch.setattr("farebox.providers.http1.connection.os.dup", _none_left)
    served, trusting = authority("127.0.0.1") if tls else (None, None)
    monkeypatch.setattr(UpstreamConnection, "usable", property(lambda connection: not connection._lost))
    with closing(once("close"), served) as server:
        async with pool(tls=trusting) as upstream:
            response = await upstream.send(post(server.url, b"one"))
            server.closed.acquire(timeout=30)  # the loop is blocked meanwhile
            assert await whole(response) == ANSWER_BODY
            await call(upstream, server, b"two")
            assert server.read == [b"one", b"two"]
            assert upstream.resent == 1


def _none_left(_: int) -> int:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_request_that_was_read_is_not_sent_again(tls: bool) -> None:
    """A provider that closes after it has read a request may have worked on it and bill the operator."""
    served, trusting = authority("127.0.0.1") if tls else (None, None)
    with closing(once("read"), served) as server:
        async with pool(tls=trusting) as upstream:
            await call(upstream, server, b"one")
            with pytest.raises(UpstreamFailed) as raised:
                await call(upstream, server, b"two")
            assert (raised.value.cause, raised.value.sent) == ("closed", True)
            assert server.read == [b"one", b"two"]
            assert upstream.failures == {"closed": 1}
            assert upstream.resent == 0


async def test_a_late_reset_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "RACE_SECONDS", 0.0)
    with closing(once("reset")) as server:
        async with pool() as upstream:
            await call(upstream, server, b"one")
            with pytest.raises(UpstreamFailed) as raised:
                await call(upstream, server, b"two")
            assert raised.value.cause == "reset"
            assert server.read == [b"one", b"two"]


async def test_nothing_is_resent_after_a_response_has_begun() -> None:
    """Also where the connection is reset then."""
    reset = asyncio.Event()

    async def begins(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(OK)
        await server.request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reset.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with serving(handler=begins) as server, pool() as upstream:
        await whole(await upstream.send(post(server.url, b"one")))
        (kept,) = next(iter(upstream._idle.values()))
        second = asyncio.ensure_future(upstream.send(post(server.url, b"two")))
        await eventually(lambda: kept._head_bytes or second.done(), "100 Continue")
        reset.set()
        with pytest.raises(UpstreamFailed) as raised:
            await second
        assert raised.value.cause == "reset"
        assert len(server.requests) == 2


async def test_a_new_connection_that_ends_is_an_error() -> None:
    """Otherwise a server that always closes would be called forever."""

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    async with serving(handler=resets) as server, pool() as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post(server.url, LARGE))
        assert raised.value.cause == "reset"
        assert server.connections == 1


async def test_an_unread_request_is_sent_again_once() -> None:
    """Every connection but the first ends unread at once, so that the second try fails for good."""
    ends = iter(["keep", "unread"])

    def end(connection: int, responses: int) -> str:
        return next(ends, "unread")

    with closing(end) as server:
        async with pool() as upstream:
            await call(upstream, server, b"one")
            await call(upstream, server, b"two")
            await call(upstream, server, b"three")
            assert upstream.resent == 1
            assert server.read == [b"one", b"two", b"three"]


async def test_an_unread_request_is_sent_again_on_a_new_connection() -> None:
    """However many idle connections there are: all may have ended."""
    with closing(lambda connection, _: "unread" if connection < 3 else "keep") as server:
        async with pool() as upstream:
            await asyncio.gather(*(call(upstream, server, b"%d" % number) for number in range(3)))
            assert sum(map(len, upstream._idle.values())) == 3
            await call(upstream, server, b"more")
            assert upstream.resent == 1


async def test_a_thousand_calls_to_a_server_that_closes_as_it_likes() -> None:
    """No call fails, and each is read once, whatever the order of requests and connection ends."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with closing(lambda *_: chance.choice(["keep"] * 5 + ["close", "close", "unread", "head"])) as server:
        async with pool() as upstream:

            async def caller(name: int) -> None:
                for number in range(125):
                    body = b"%d-%d-" % (name, number)
                    await call(upstream, server, body + b"x" * chance.choice([100, 100, 100, 300_000]))

            await asyncio.gather(*(caller(name) for name in range(8)))
            assert not upstream.failures, seed
            assert len(server.read) == len({body[:12] for body in server.read}) == 1000, seed


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        ("timeout=5", 4.0),
        ("timeout=5, max=99", 4.0),
        ("max=99, timeout=10", 9.0),
        ("Timeout = 1", 0.5),
        ("timeout=0", 0.0),
        ("timeout=86400", http1.IDLE_SECONDS),
        ("max=3", http1.IDLE_SECONDS),
        ("timeout=-3", http1.IDLE_SECONDS),
        ("timeout=" + "9" * 5000, http1.IDLE_SECONDS),
        ("notimeout=3", http1.IDLE_SECONDS),
    ],
)
async def test_a_server_says_how_long_it_keeps_a_connection(hint: str, seconds: float) -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: %b\r\n\r\nok" % hint.encode()
    async with serving(response, response) as server, pool() as upstream:
        await whole(await upstream.send(post(server.url)))
        (kept,) = next(iter(upstream._idle.values()))
        assert kept.idle_max == seconds
        kept.idle_since -= seconds  # the time has passed
        await whole(await upstream.send(post(server.url)))
        assert server.connections == 2


async def test_a_reset_by_a_proxy_does_not_count_against_the_provider() -> None:
    """The proxy has read the request, and may have passed it on."""
    with closing(once("reset")) as server:
        async with pool(proxies=Proxies({"http": server.url})) as upstream:
            assert await whole(await upstream.send(post("http://api.test", b"one"))) == ANSWER_BODY
            with pytest.raises(UpstreamFailed) as raised:
                await upstream.send(post("http://api.test", b"two"))
            assert raised.value.cause == "reset"
            assert server.read == [b"one", b"two"]
