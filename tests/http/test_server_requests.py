"""How the server handles requests, valid and invalid ones."""

import asyncio
import hashlib
import itertools
import os
import socket
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from farebox.errors import Problem
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server.exchange import Http1Exchange
from farebox.http.server.reader import PIPELINED_MAX
from farebox.http.server.state import PAUSE_ABOVE
from farebox.memory_files import LARGE_BYTES, LargeBody, whole
from tests.http.serving import Peer, Recorder, request, serving, until

GET = request()
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_request_is_answered_and_the_connection_stays_open() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        for number in range(3):
            peer.send(request("POST", f"/a/{number}?b=c%20d&e", b"body", X_One="1", content_type="text/plain"))
            response = await peer.response()
            assert response.status == 200
            assert response.json() == {
                "method": "POST",
                "path": f"/a/{number}",
                "query": "b=c%20d&e",
                "headers": {"host": "h", "x-one": "1", "content-type": "text/plain", "content-length": "4"},
                "body": "body",
            }
            assert "connection" not in response.headers
            assert "server" not in response.headers


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        requests = [request("POST", f"/{number}", b"x" * number) for number in range(1, 21)]
        peer = await served.open(b"".join(requests))
        for number in range(1, 21):
            reported = (await peer.response()).json()
            assert (reported["path"], reported["body"]) == (f"/{number}", "x" * number)
        assert recorder.most_busy == 1


async def test_the_number_of_pipelined_requests_is_limited() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open(GET * (PIPELINED_MAX + 50))
        for _ in range(PIPELINED_MAX):
            assert (await peer.response()).status == 200
        assert (await peer.response()).status == 503
        assert await peer.closed()


@pytest.mark.parametrize(
    ("sent", "closes", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", True, "close"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive, Close\r\n\r\n", True, "close"),
        (b"GET / HTTP/1.0\r\n\r\n", True, "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, "keep-alive"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", False, None),
    ],
)
async def test_which_side_closes_the_connection(sent: bytes, closes: bool, said: str | None) -> None:
    async with serving(Recorder().echo) as served:
        peer = await served.open(sent)
        response = await peer.response()
        assert (response.status, response.headers.get("connection")) == (200, said)
        peer.send(sent)
        if closes:
            assert await peer.closed()
        else:
            assert (await peer.response()).status == 200


@pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20])
async def test_bodies_by_length_and_by_chunks(size: int) -> None:
    recorder = Recorder()
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    async with serving(recorder.echo) as served:
        assert (await served.ask(request("POST", "/", body))).status == 200
        pieces = [body[at : at + 30_000] for at in range(0, size, 30_000)]
        chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        peer = await served.open(CHUNKED, chunks, b"0\r\nTrailer: x\r\nHost: evil\r\n\r\n", GET)
        reported = await peer.response()
        assert reported.status == 200
        assert reported.json()["headers"] == {"host": "h", "transfer-encoding": "chunked"}
        assert (await peer.response()).status == 200
        assert recorder.bodies == [body, body, b""]


@pytest.mark.parametrize("step", [1000, 65_536, 10**9])
async def test_a_request_after_a_large_body_is_read(step: int) -> None:
    """Because the parser does not see all of such a body."""
    recorder = Recorder()
    body = bytes(range(256)) * 3000
    offers = request("POST", "/", body[::-1], upgrade="h2c", connection="Upgrade")
    sent = request("POST", "/", body) + offers + GET + request("POST", "/", b"last")
    async with serving(recorder.echo) as served:
        peer = await served.open()
        for at in range(0, len(sent), step):
            peer.send(sent[at : at + step])
            await peer.writer.drain()
        for _ in range(4):
            assert (await peer.response()).status == 200
        assert recorder.bodies == [body, body[::-1], b"", b"last"]
        last = request("POST", "/", body, connection="close")
        peer.send(last + GET)
        assert (await peer.response()).status == 200
        assert await peer.closed()
        assert recorder.bodies[-1] == body


async def test_a_large_body_is_in_a_file_and_a_small_one_is_bytes() -> None:
    kinds = []

    async def handler(exchange: Exchange) -> None:
        content = await exchange.content(1 << 24)
        kinds.append(type(content))
        exchange.respond(200, [], hashlib.sha256(whole(content)).hexdigest().encode())

    small, large = os.urandom(LARGE_BYTES), os.urandom(4 * LARGE_BYTES)
    async with serving(handler) as served:
        for body in (small, large):
            expected = hashlib.sha256(body).hexdigest().encode()
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in pieces(body))
            for sent in (request("POST", "/", body), CHUNKED + chunks + b"0\r\n\r\n"):
                assert (await served.ask(sent)).body == expected
    assert kinds == [bytes, bytes, LargeBody, LargeBody]


def pieces(body: bytes) -> Iterator[bytes]:
    """The body in pieces of very different sizes."""
    at, sizes = 0, itertools.cycle([100, 70_000, 64, 200, 3_000])
    while at < len(body):
        size = next(sizes)
        yield body[at : at + size]
        at += size


async def test_the_smallest_chunks_do_not_take_many_times_their_bytes() -> None:
    count, kept = 16_000, []  # smaller ones are refused: tests/hostile/test_work_on_the_loop.py

    async def handler(exchange: Exchange) -> None:
        tracemalloc.start()
        assert await exchange.body(1 << 20) == b"xy" * 32 * count
        kept.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        peer = await served.open(CHUNKED)
        peer.send(b"40\r\n%b\r\n" % (b"xy" * 32) * count + b"0\r\n\r\n")
        assert (await peer.response()).status == 200
        assert kept[0] < 4 * 64 * count, "bytes, including those of the client's own writes"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_above_the_limit(chunked: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.body(1000)
        except Problem as problem:
            exchange.respond(problem.kind.status, [], b"no")

    body = b"x" * (8 << 20)
    sent = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else request("POST", "/", body)
    async with serving(handler) as served:
        peer = await served.open(sent)
        response = await peer.response()
        assert (response.status, response.body, response.headers["connection"]) == (413, b"no", "close")
        assert await peer.closed()


async def test_a_body_that_is_too_large_is_not_waited_for() -> None:
    begun = []

    async def handler(exchange: Exchange) -> None:
        begun.append(exchange)
        try:
            await exchange.body(1000)
        except Problem as problem:
            exchange.respond(problem.kind.status, [], b"no")

    async with serving(handler) as served:
        assert (await served.ask(request("POST", "/", Content_Length="10000000000"))).status == 413
        peer = await served.open(CHUNKED)
        await until(lambda: len(begun) == 2)
        peer.send(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
        assert (await peer.response()).status == 413


async def test_a_body_is_read_only_on_demand() -> None:
    go, size = asyncio.Event(), 64 << 20
    got = []

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        got.append(await exchange.body(1 << 30))
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        peer = await served.open(f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode())
        sent, piece = 0, b"x" * (1 << 16)

        async def flood() -> None:
            nonlocal sent
            while sent < size:
                peer.send(piece)
                sent += len(piece)
                await peer.writer.drain()

        flooding = asyncio.ensure_future(flood())
        before = -1
        while sent != before:  # until the sender is blocked
            before = sent
            await asyncio.sleep(0.05)
        assert sent < size / 2
        go.set()
        await flooding
        assert (await peer.response()).status == 200
        assert len(got[0]) == size


async def test_an_unread_body_closes_the_connection_after_the_response() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(401, [], b"who are you?")

    body = b"x" * (16 << 20)

    def stubborn(port: int) -> bytes:
        """Reads nothing until it has sent everything, and is not interrupted."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request("POST", "/", body))
            return sock.recv(1 << 16)

    async with serving(handler) as served:
        assert b"401 Unauthorized" in await asyncio.to_thread(stubborn, served.server.port)
        small = await served.open(request("POST", "/", b"small"), GET)
        responses = [await small.response(), await small.response()]
        assert [response.headers.get("connection") for response in responses] == [None, None], "the body had arrived"
        peer = await served.open(request("POST", "/", body), GET)
        response = await peer.response()
        assert (response.status, response.body, response.headers["connection"]) == (401, b"who are you?", "close")
        assert await peer.closed()


async def test_100_continue_is_sent_only_if_the_body_is_read() -> None:
    begun = []

    async def handler(exchange: Exchange) -> None:
        begun.append(exchange)
        if exchange.path == "/wanted":
            assert await exchange.body(100) == b"body"
        exchange.respond(200, [], b"done")

    expecting = {"Expect": "100-continue", "Content_Length": "4"}
    async with serving(handler) as served:
        peer = await served.open(request("POST", "/wanted", **expecting))
        assert (await peer.response()).status == 100
        peer.send(b"body")
        assert (await peer.response()).body == b"done"
        peer.send(request("POST", "/wanted", **expecting), b"body")  # the client did not wait
        first = await peer.response()
        assert first.status == 200 or (first.status, (await peer.response()).body) == (100, b"done")
        peer = await served.open(request("POST", "/", **expecting))
        response = await peer.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        peer.send(b"GET /")  # later bytes could be the body or the next request
        assert await peer.closed()
        assert (await served.ask(request("POST", "/wanted", Expect="miracles"))).status == 417
        old = await served.open(b"POST /wanted HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        await until(lambda: begun[-1].path == "/wanted" and exchange_of(begun).old)
        await until(lambda: exchange_of(begun).body_state == "awaited")
        old.send(b"body")
        assert (await old.response()).status == 200, "HTTP/1.0 does not have this expectation"


def exchange_of(begun: list[Exchange]) -> Http1Exchange:
    exchange = begun[-1]
    assert isinstance(exchange, Http1Exchange)
    return exchange


async def test_the_error_reports_two_host_headers() -> None:
    async with serving(Recorder().echo) as served:
        response = await served.ask(b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n")
        assert response.json() == {"error": {"message": "The request has more than one header host."}}


REFUSED = [
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\nHost: h\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\n\tfolded: x\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\n Host: h\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\nA\0: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n"),
    (400, b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET a HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET ftp://h/a HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET http://me@h/a HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n"),
    (400, b"GET / http/1.1\r\nHost: h\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1 1\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\na"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\na"),
    (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    (400, CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    (400, CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    (400, CHUNKED + b"10000000000000000\r\nabc\r\n0\r\n\r\n"),
    (501, b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
    (501, b"NOSUCH / HTTP/1.1\r\nHost: h\r\n\r\n"),
    (501, b"get / HTTP/1.1\r\nHost: h\r\n\r\n"),
    (501, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    (505, b"GET /\r\n\r\n"),
    (505, b"GET / HTTP/0.9\r\n\r\n"),
    (505, b"GET / HTTP/1.2\r\nHost: h\r\n\r\n"),
    (505, b"GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
    (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (414, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 70_000 + b"\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 200_000),
    (431, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: a\r\n" * 100 + b"\r\n"),
    (431, b"\r\n" * 400_000),
    (431, CHUNKED + b"1\r\na\r\n0\r\nA: " + b"a" * 400_000),
    (431, CHUNKED + b"1;" + b"a" * 400_000),
]


@pytest.mark.parametrize(("status", "sent"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
@pytest.mark.parametrize("before", [b"", GET], ids=["alone", "after"])
async def test_an_invalid_request_is_refused(status: int, sent: bytes, before: bytes) -> None:
    """Once, with a short error, and the connection is closed: nothing after it is read."""
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open(before + sent, GET)
        if before:
            assert (await peer.response()).status == 200
        response = await peer.response()
        assert response.status == status, response.body
        assert response.headers["connection"] == "close"
        assert response.json()["error"]["message"]
        assert len(response.body) < 200
        assert await peer.end() == b""
        assert len(recorder.bodies) == bool(before), "no handler got it"
        if len(sent) < 1000:
            assert len(recorder.exchanges) == bool(before), "nor any part of it"


async def test_the_maximum_number_of_headers_is_accepted() -> None:
    recorder = Recorder()
    async with serving(recorder.echo, headers=10, header_limit=1000) as served:
        headers = {f"a_{number}": "x" for number in range(9)}
        assert (await served.ask(request(**headers))).status == 200
        assert (await served.ask(request(**headers, b="x"))).status == 431
        assert (await served.ask(request(a="x" * 900))).status == 200
        assert (await served.ask(request(a="x" * 1000))).status == 431


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b;p?x=1?y", "/a/b;p", "x=1?y"),
        ("http://other.example:81/a?x", "/a", "x"),
        ("HTTPS://other.example", "/", ""),
        ("http://other.example?x=1", "/", "x=1"),
        ("/%61%3A%2f%2E%2e", "/a:/..", ""),
        ("/a%20b%c3%a4%00", "/a%20b%C3%A4%00", ""),
        ("/%ff", "/%FF", ""),
        ("/%zz%2", "/%25zz%252", ""),
        ("/%252F", "/%252F", ""),
        ('/{"a"|b}', "/%7B%22a%22%7Cb%7D", ""),
        ("//a//b/../c", "//a//b/../c", ""),
        ("/?%41={b}", "/", "%41={b}"),
    ],
)
async def test_request_targets(target: str, path: str, query: str) -> None:
    """All spellings of a path are the same path; the query is passed unchanged."""
    async with serving(Recorder().echo) as served:
        reported = (await served.ask(request("GET", target))).json()
        assert (reported["path"], reported["query"]) == (path, query)


async def test_the_host_of_a_target_replaces_the_header() -> None:
    async with serving(Recorder().echo) as served:
        for target, host in (
            ("http://Other.example:81/a", "Other.example:81"),
            ("/a", "h"),
            ("https://[::1]", "[::1]"),
        ):
            sent = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            assert (await served.ask(sent)).json()["headers"]["host"] == host
        assert (await served.ask(b"GET http://a,b[/ HTTP/1.1\r\nHost: h\r\n\r\n")).status == 400


async def test_the_target_of_the_server_itself() -> None:
    async with serving(Recorder().echo) as served:
        assert (await served.ask(request("OPTIONS", "*"))).json()["path"] == "*"


async def test_repeated_headers_are_combined() -> None:
    async with serving(Recorder().echo) as served:
        sent = b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1 \r\nCookie: a=1\r\nx-a:\t2\t\r\nCookie: b=2\r\nX-L: \xe4\r\n\r\n"
        reported = (await served.ask(sent)).json()["headers"]
        assert reported == {"host": "h", "x-a": "1, 2", "cookie": "a=1; b=2", "x-l": "ä"}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_handlers_decide_about_methods(method: str) -> None:
    async with serving(Recorder().echo) as served:
        assert (await served.ask(request(method))).json()["method"] == method


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
async def test_an_upgrade_offer_is_ignored_and_hides_nothing(split: bool) -> None:
    """The body remains a body: it is neither data of the other protocol nor another request."""
    recorder = Recorder()
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABk"}
    hidden = request("POST", "/hidden", b"x")
    sent = [
        request("POST", "/a", hidden, **offer),
        request("GET", "/b", **offer),
        request("POST", "/c", Transfer_Encoding="chunked", **offer) + b"3\r\nabc\r\n0\r\nT: x\r\n\r\n",
        request("GET", "/d", Connection="Upgrade", Upgrade="websocket"),
        request("POST", "/e", b"x", Connection="Upgrade, close", Upgrade="h2c"),
    ]
    async with serving(recorder.echo) as served:
        peer = await served.open()
        pieces = [bytes([byte]) for byte in b"".join(sent)] if split else [b"".join(sent)]
        for piece in pieces:
            peer.send(piece)
            await asyncio.sleep(0)
        reported = [(await peer.response()).json() for _ in sent]
        assert [one["path"] for one in reported] == ["/a", "/b", "/c", "/d", "/e"]
        assert [one["body"] for one in reported] == [hidden.decode(), "", "abc", "", "x"]
        assert await peer.closed()
        refused = await served.ask(
            request("GET", "/", Connection="Upgrade", Upgrade="h2c") + b"\0\0\0 not HTTP\r\n\r\n"
        )
        assert refused.status == 200


async def test_bytes_after_an_upgrade_offer_are_read_as_http() -> None:
    async with serving(Recorder().echo) as served:
        peer = await served.open(request("GET", "/", Connection="Upgrade", Upgrade="h2c"), b"\0\0\0 not HTTP\r\n\r\n")
        assert [(await peer.response()).status for _ in range(2)] == [200, 501]
        assert await peer.closed()


# --- going away -------------------------------------------------------------------------------------------------------


def reset(peer: Peer) -> None:
    sock: socket.socket = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


def close(peer: Peer) -> None:
    peer.writer.close()


def half_close(peer: Peer) -> None:
    peer.writer.write_eof()


@pytest.mark.parametrize("leave", [reset, close, half_close])
async def test_a_disconnect_is_noticed(leave: object) -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        first, second = exchange.gone(), exchange.gone()
        asyncio.ensure_future(first).cancel()
        seen.append("waits")
        await second
        await exchange.gone()
        exchange.respond(200, [], b"nobody reads this")
        with pytest.raises(ClientGone):
            await exchange.start(200, []).send(b"x")
        seen.append("gone")

    async with serving(handler) as served:
        peer = await served.open(request("POST", "/", b"body"))
        await until(lambda: seen == ["waits"])
        assert callable(leave)
        leave(peer)
        await until(lambda: seen == ["waits", "gone"])


@pytest.mark.parametrize("leave", [reset, close, half_close])
async def test_a_disconnect_within_the_body(leave: object) -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        seen.append("waits")
        try:
            await exchange.body(100)
        except ClientGone:
            seen.append("gone")
            raise

    async with serving(handler) as served:
        peer = await served.open(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf")
        await until(lambda: seen == ["waits"])
        assert callable(leave)
        leave(peer)
        await until(lambda: seen == ["waits", "gone"])


async def test_pipelined_requests_of_a_disconnected_client_are_not_started() -> None:
    recorder, go = Recorder(), asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        recorder.exchanges.append(exchange)
        await go.wait()
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        peer = await served.open(GET * 3)
        await until(lambda: recorder.exchanges)
        reset(peer)
        await recorder.exchanges[0].gone()
        go.set()
        await until(lambda: not served.server._state.connections)
        assert len(recorder.exchanges) == 1


async def test_a_client_that_disconnects_while_reading_is_paused() -> None:
    go, seen = asyncio.Event(), list[str]()

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange.path)
        await (exchange.gone() if exchange.path == "/last" else go.wait())
        seen.append("done")
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        peer = await served.open(GET)
        await until(lambda: seen == ["/"])
        last = request("GET", "/last")
        big = request("POST", "/big", b"x" * (PAUSE_ABOVE - 200))  # the last packet exceeds the high-water mark
        peer.send(big + b"\r\n" * ((PAUSE_ABOVE - len(big) + 2) // 2) + last)
        connection = served.connection()
        await until(lambda: connection._paused)
        go.set()
        await until(lambda: seen[-1] == "/last")
        close(peer)
        await until(lambda: seen[-1] == "done")


async def test_requests_beyond_the_pipeline_limit_are_not_read() -> None:
    """The client continues to send while its first request is being served."""
    go, size = asyncio.Event(), 0

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        piece = request("POST", "/", b"x" * 60_000)
        peer = await served.open(GET)

        async def flood() -> None:
            nonlocal size
            while size < 100 * PAUSE_ABOVE:
                peer.send(piece)
                size += len(piece)
                await peer.writer.drain()

        flooding = asyncio.ensure_future(flood())
        before = -1
        while size != before:
            before = size
            await asyncio.sleep(0.05)
        assert size < 80 * PAUSE_ABOVE
        flooding.cancel()
        go.set()
        assert (await peer.response()).status == 200
        assert (await peer.response()).status == 200
