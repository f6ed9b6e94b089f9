"""The HTTP client of the gateway with all kinds of servers: framings, endings, garbage."""

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from farebox.providers.http1.connection import HEAD_MAX, UpstreamConnection
from farebox.providers.http1.response import PAUSE_ABOVE
from farebox.providers.upstream import SendProgress, UpstreamFailed, UpstreamRequest
from tests.providers.http1_kit import OK, authority, pool, post, serving, until_gone, whole

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


async def test_a_request_is_sent_as_it_is_and_its_response_read() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello"
    async with serving(response) as server, pool() as upstream:
        got = await upstream.send(post(server.url, b"body"))
        assert got.status == 200
        assert got.headers == [("Content-Length", "5"), ("X-A", "1"), ("X-A", "2")]
        assert await whole(got) == b"hello"
        host = server.url.removeprefix("http://").encode()
        assert server.requests == [
            b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: " + host + b"\r\n"
            b"authorization: Bearer k\r\ncontent-length: 4\r\n\r\nbody"
        ]


@pytest.mark.parametrize(
    ("response", "close", "body"),
    [
        (CHUNKED + b"2\r\nab\r\n1;ext=1\r\nc\r\n0\r\nTrail: x\r\n\r\n", False, b"abc"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", True, b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", True, b"old"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", True, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", False, b""),
        (EARLY + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nz", False, b"z"),
        (b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", False, b""),
    ],
)  # fmt: skip
async def test_every_framing(response: bytes, close: bool, body: bytes) -> None:
    async with serving(response, close=close) as server, pool() as upstream:
        got = await upstream.send(post(server.url))
        assert await whole(got) == body
        assert ("Link", "x") not in got.headers
        assert ("Trail", "x") not in got.headers


async def test_a_connection_is_used_again_and_answers_do_not_mix() -> None:
    responses = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(5)]
    async with serving(*responses) as server, pool() as upstream:
        for number in range(5):
            assert await whole(await upstream.send(post(server.url))) == b"%d" % number
        assert server.connections == 1


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    async with serving(response, response, response, close=True) as server, pool() as upstream:
        for _ in range(3):
            assert await whole(await upstream.send(post(server.url))) == b"x"
        assert server.connections == 3


async def test_unsolicited_data_on_an_idle_connection_closes_it() -> None:
    poisoned = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    clean = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny"
    async with serving(poisoned, clean) as server, pool() as upstream:
        assert await whole(await upstream.send(post(server.url))) == b"x"
        assert await whole(await upstream.send(post(server.url))) == b"y"
        assert server.connections == 2


async def test_head_has_no_body() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") as server, pool() as upstream:
        got = await upstream.send(UpstreamRequest("HEAD", server.url + "/", [], b""))
        assert await whole(got) == b""


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (HEAD_MAX + 10),
        b"",
    ],
)
async def test_an_invalid_response_fails_the_call(response: bytes) -> None:
    async with serving(response, close=True) as server, pool() as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await whole(await upstream.send(post(server.url)))
        assert raised.value.sent


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nZZ\r\n",
    ],
)
async def test_a_cut_response_fails_after_the_received_part(response: bytes) -> None:
    async with serving(response, close=True) as server, pool() as upstream:
        got = await upstream.send(post(server.url))
        assert await got.chunk() == b"half"
        with pytest.raises(UpstreamFailed):
            await got.chunk()


async def test_a_connection_that_is_closed_before_anything_is_sent() -> None:
    async def goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept, and close."""

    gone = asyncio.Event()

    class Noticing(UpstreamConnection):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            gone.set()

    loop = asyncio.get_running_loop()
    async with serving(handler=goodbye) as server:
        port = int(server.url.rsplit(":", 1)[1])
        _, connection = await loop.create_connection(lambda: Noticing(loop, lambda _: None), "127.0.0.1", port)
        await asyncio.wait_for(gone.wait(), 5)
        with pytest.raises(UpstreamFailed) as raised:
            await asyncio.wait_for(
                connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", SendProgress(), to_head=False), 5
            )
        assert not raised.value.sent


async def test_connection_refused() -> None:
    async with pool() as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(post("http://127.0.0.1:9"))
        assert not raised.value.sent


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:1", [("x", "a\r\nevil: 1")]),
        ("http://127.0.0.1:1", [("x\r\n", "a")]),
        ("http://127.0.0.1:1/a b", []),
        ("http://127.0.0.1:1/a\r\nevil: 1", []),
        ("ftp://127.0.0.1:1", []),
        ("http://user:word@127.0.0.1:1", []),
        ("http://[::1", []),
        ("http://127.0.0.1:99999999", []),
        ("http://", []),
    ],
)
async def test_nothing_is_smuggled_into_a_request(url: str, headers: list[tuple[str, str]]) -> None:
    async with pool() as upstream:
        with pytest.raises(UpstreamFailed) as raised:
            await upstream.send(UpstreamRequest("POST", url, headers, b""))
        assert not raised.value.sent


async def test_a_wait_that_is_canceled_drops_the_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        requested.set()
        await until_gone(reader)

    requested = asyncio.Event()

    async with serving(handler=silent) as server, pool() as upstream:
        task = asyncio.ensure_future(upstream.send(post(server.url)))
        await requested.wait()
        task.cancel()
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_an_abandoned_response_drops_the_connection() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await until_gone(reader)

    async with serving(handler=endless) as server, pool() as upstream:
        got = await upstream.send(post(server.url))
        assert await got.chunk() == b"a"
        await got.close()
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_slow_reader_is_waited_for() -> None:
    """Unread data stays with the sender: the connection is not read beyond its high-water mark."""
    size, sent = 32 * 2**20, 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 2**16)
            sent += 2**16
            await writer.drain()

    async with serving(handler=flood) as server, pool() as upstream:
        got = await upstream.send(post(server.url))
        before = -1
        while sent != before:  # until the sender is blocked
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
        assert sent < 24 * 2**20
        first = await got.chunk()
        assert first is not None
        assert len(first) < PAUSE_ABOVE + 2**20
        assert len(first) + len(await whole(got)) == size


async def test_a_large_body_goes_out_and_an_early_answer_ends_its_connection() -> None:
    body = b"x" * (8 * 2**20)

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        while await reader.read(2**16):
            pass

    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as server, pool() as upstream:
        assert await whole(await upstream.send(post(server.url, body))) == b"ok"
        assert server.requests[0].endswith(body)
    async with serving(handler=answer_early) as server, pool() as upstream:
        got = await upstream.send(post(server.url, body * 4))
        assert got.status == 413
        assert await whole(got) == b"no"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_connection_whose_request_was_not_all_sent_is_not_used_again(tls: bool) -> None:
    """Otherwise the rest of the body would be taken for the next caller's request."""
    served, trusting = authority("127.0.0.1") if tls else (None, None)
    released = asyncio.Event()

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if server.connections == 1:
            await released.wait()  # without reading and without hanging up
            return
        await until_gone(reader)

    async with serving(handler=answer_early, tls=served) as server, pool(tls=trusting) as upstream:
        for _ in range(2):
            response = await asyncio.wait_for(upstream.send(post(server.url, b"x" * (16 * 2**20))), 20)
            assert await whole(response) == b"no"
        assert server.connections == 2
        assert upstream.resent == 0
        released.set()


@pytest.mark.parametrize("second", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"x"])
@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
async def test_data_after_a_response_is_discarded(second: bytes, together: bool) -> None:
    """It belongs neither to this response nor to the next; the connection is closed at once."""
    signal = asyncio.Event()

    async def says_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(OK + (second if together else b""))
        if not together:
            await signal.wait()
            writer.write(second)
        await until_gone(reader)

    async with serving(handler=says_more) as server, pool() as upstream:
        with capture_logs() as lines:
            assert await whole(await upstream.send(post(server.url))) == b"ok"
            signal.set()
            await asyncio.wait_for(server.closed.wait(), 20)
        assert await whole(await upstream.send(post(server.url))) == b"ok"
        assert server.connections == 2
    assert not lines, "it is the server's fault"


async def test_a_response_of_http_1_0_ends_its_connection_unless_it_says_otherwise() -> None:
    closes = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    keeps = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    async with serving(closes, keeps, keeps, OK) as server, pool() as upstream:
        for connections in (1, 2, 2, 2):
            assert await whole(await upstream.send(post(server.url))) == b"ok"
            assert server.connections == connections


async def test_connection_close_is_honored() -> None:
    closes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving(closes, OK) as server, pool() as upstream:
        for _ in range(2):
            assert await whole(await upstream.send(post(server.url))) == b"ok"
        assert server.connections == 2


async def test_trailers_change_nothing() -> None:
    trailing = CHUNKED + b"2\r\nok\r\n0\r\nX-Cost: 1\r\nKeep-Alive: timeout=0\r\n\r\n"
    async with serving(trailing, OK) as server, pool() as upstream:
        response = await upstream.send(post(server.url))
        assert await whole(response) == b"ok"
        assert response.headers == [("Transfer-Encoding", "chunked")]
        assert await whole(await upstream.send(post(server.url))) == b"ok"
        assert server.connections == 1


async def test_tls_is_verified() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
    served, trusting = authority("127.0.0.1")
    async with serving(response, response, tls=served) as server:
        async with pool(tls=trusting) as upstream:
            assert await whole(await upstream.send(post(server.url))) == b"secret"
            assert await whole(await upstream.send(post(server.url))) == b"secret"
            assert server.connections == 1
        async with pool() as untrusting:
            with pytest.raises(UpstreamFailed, match="TLS") as raised:
                await untrusting.send(post(server.url))
            assert not raised.value.sent
    served, trusting = authority("elsewhere.example")
    async with serving(response, tls=served) as server, pool(tls=trusting) as upstream:
        with pytest.raises(UpstreamFailed, match="TLS"):
            await upstream.send(post(server.url))


_RESPONSES = st.sampled_from(
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", b"hello world"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            b"hello world",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ]
)


@given(response=_RESPONSES, cuts=st.lists(st.integers(1, 80), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_response_may_be_cut_anywhere(response: tuple[bytes, bytes], cuts: list[int]) -> None:
    raw, body = response

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        last = 0
        for cut in [*sorted(set(cuts)), len(raw)]:
            writer.write(raw[last:cut])
            last = max(last, cut)
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(handler=in_pieces) as server, pool() as upstream:
        assert await whole(await upstream.send(post(server.url))) == body


@given(
    garbage=st.binary(max_size=400),
    start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))  # fmt: skip
async def test_garbage_gives_an_error_or_a_response(garbage: bytes, start: bytes) -> None:
    async with serving(start + garbage, close=True) as server, pool() as upstream:
        with contextlib.suppress(UpstreamFailed):
            await asyncio.wait_for(whole(await asyncio.wait_for(upstream.send(post(server.url)), 5)), 5)
