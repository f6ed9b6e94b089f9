"""A client repeats the head of its requests on a connection: the server's cache of it never changes the meaning."""

import asyncio

import pytest

from farebox.http.server.cached_head import KEPT_BYTES_MAX
from tests.http.serving import Peer, Received, Recorder, request, serving, until


async def echoed(peer: Peer, sent: bytes) -> dict[str, object]:
    peer.send(sent)
    response: Received = await peer.response()
    assert response.status == 200
    found: dict[str, object] = response.json()
    return found


def post(body: bytes, path: str = "/v1/a?b=c", **headers: str) -> bytes:
    return request("POST", path, body, authorization="Bearer one", **headers)


async def test_each_request_has_its_own_body_and_length() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        for body in (b"first", b"second", b"x" * 5000, b"second", b"1"):
            found = await echoed(peer, post(body))
            assert found["body"] == body.decode()
            assert found["headers"] == {"host": "h", "authorization": "Bearer one", "content-length": str(len(body))}
    memos = {id(exchange.head) for exchange in recorder.exchanges[1:3]}
    assert len(memos) == 2, "the length is part of the head"


async def test_a_handlers_memo_is_kept_for_the_same_head() -> None:
    seen: list[object] = []

    async def handler(exchange: object) -> None:
        seen.append(exchange.head.memo)  # type: ignore[attr-defined]
        exchange.head.memo = exchange.head.memo or len(seen)  # type: ignore[attr-defined]
        exchange.respond(204, [], b"")  # type: ignore[attr-defined]

    async with serving(handler) as served:
        peer = await served.open()
        for sent in (post(b"one"), post(b"three"), post(b"one"), post(b"one", path="/v1/other"), post(b"one")):
            peer.send(sent)
            assert (await peer.response()).status == 204
        other = await served.open()
        other.send(post(b"one"))
        assert (await other.response()).status == 204
    assert seen == [None, 1, 1, None, None, None], "another head, and the same on another connection, are new"


async def test_heads_of_requests_without_a_body_are_cached_too() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        sent = request("GET", "/balance?a=b", authorization="Bearer one")
        found = [await echoed(peer, sent) for _ in range(3)]
        assert found[0] == found[1] == found[2]
        assert (found[0]["query"], found[0]["body"]) == ("a=b", "")
        heads = {id(exchange.head) for exchange in recorder.exchanges}
        assert len(heads) == 1, "it is parsed once"
        assert (await echoed(peer, request("GET", "/balance?a=c", authorization="Bearer one")))["query"] == "a=c"
        changed = await echoed(peer, sent.replace(b"GET /balance?a=b", b"PUT /balance?a=b"))
        assert changed["method"] == "PUT"
        assert (await echoed(peer, request("POST", "/balance?a=b", b"body", authorization="Bearer one")))[
            "body"
        ] == "body"
        peer.send(sent + sent)
        assert [(await peer.response()).json() for _ in range(2)] == found[:2]


async def test_another_head_is_another_request() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        await echoed(peer, post(b"body"))
        changed = await echoed(peer, post(b"body", path="/v1/a?b=d"))
        assert changed["query"] == "b=d"
        changed = await echoed(peer, post(b"body").replace(b"Bearer one", b"Bearer two"))
        assert changed["headers"]["authorization"] == "Bearer two"  # type: ignore[index]
        longer = await echoed(peer, post(b"body", x_more="1"))
        assert longer["headers"]["x-more"] == "1"  # type: ignore[index]


@pytest.mark.parametrize("at", [1, 20, 90, -1])
async def test_a_repeated_head_may_come_in_pieces(at: int) -> None:
    async with serving(Recorder().echo) as served:
        peer = await served.open()
        await echoed(peer, post(b"body"))
        sent = post(b"another body")
        peer.send(sent[:at])
        await peer.writer.drain()
        assert (await echoed(peer, sent[at:]))["body"] == "another body"
        assert (await echoed(peer, post(b"body")))["body"] == "body"


async def test_a_body_may_follow_its_head_in_pieces_of_its_own() -> None:
    """As from clients that write head and body separately, including the first request, from which the head is
    cached."""
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        for body in (b"first body", b"another body", b"x" * 3000):
            sent = post(body)
            end = sent.index(b"\r\n\r\n") + 4
            for piece in (sent[:end], sent[end : end + 3], sent[end + 3 :]):
                peer.send(piece)
                await peer.writer.drain()
                await asyncio.sleep(0.01)
            assert (await peer.response()).json()["body"] == body.decode()
        assert served.server._state.cached_heads == 1
        sent = post(b"third") + post(b"fourth")
        cut = sent.index(b"third") + 2
        peer.send(sent[:cut])
        await peer.writer.drain()
        await asyncio.sleep(0.01)
        peer.send(sent[cut:])
        assert [(await peer.response()).json()["body"] for _ in range(2)] == ["third", "fourth"]


async def test_a_disconnect_in_the_body_after_a_cached_head() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        await echoed(peer, post(b"body"))
        peer.send(post(b"another body")[:-4])
        await until(lambda: len(recorder.exchanges) == 2)
        peer.writer.close()
        await until(lambda: not served.server._state.connections)
        assert (len(recorder.bodies), recorder.busy) == (1, 0)


async def test_repeated_heads_may_be_pipelined() -> None:
    async with serving(Recorder().echo) as served:
        peer = await served.open()
        await echoed(peer, post(b"body"))
        peer.send(post(b"one") + post(b"three") + post(b"seven"))
        assert [(await peer.response()).json()["body"] for _ in range(3)] == ["one", "three", "seven"]


@pytest.mark.parametrize("length", [b"+4", b"-4", b"4 ", b" 4", b"04", b"0x4", b"4,4", b"4\n", b"4_0", b"", b"1" * 30])
async def test_a_length_is_read_as_strictly_as_the_first_time(length: bytes) -> None:
    """On a new connection, and if everything but the length of the head is cached."""
    sent = post(b"body").replace(b"Content-Length: 4", b"Content-Length: " + length)
    async with serving(Recorder().echo) as served:
        fresh = await served.open(sent)
        first = await fresh.response()
        peer = await served.open()
        await echoed(peer, post(b"body"))
        peer.send(sent)
        assert (await peer.response()).status == first.status
        if first.status != 200:
            assert await peer.closed()


async def test_bytes_after_a_body_are_the_next_request() -> None:
    """A body that looks like a request is a body; bytes beyond the length are the next request."""
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open()
        inner = post(b"inner")
        await echoed(peer, post(inner))
        assert (await echoed(peer, post(inner)))["body"] == inner.decode()
        peer.send(post(b"body") + b"GET /after HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await peer.response()).json()["body"] == "body"
        assert (await peer.response()).json()["path"] == "/after"
        peer.send(post(b"body") + b"nonsense\r\n\r\n")
        assert (await peer.response()).json()["body"] == "body"
        assert (await peer.response()).status in (400, 501)
        assert await peer.closed()


async def test_heads_that_end_or_change_a_connection_are_not_cached() -> None:
    async with serving(Recorder().echo) as served:
        last = await served.open(post(b"body", connection="close"))
        assert (await last.response()).headers["connection"] == "close"
        assert await last.closed()
        long = await served.open()
        for body in (b"one", b"three"):
            assert (await echoed(long, post(body, x_long="x" * KEPT_BYTES_MAX)))["body"] == body.decode()
        waiting = await served.open()
        for body in (b"one", b"three"):
            waiting.send(post(body, expect="100-continue"))
            assert (await waiting.response()).json()["body"] == body.decode()
        assert served.server._state.cached_heads == 0


async def test_the_server_remembers_for_a_limited_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.http.server.reader.CACHED_HEADS_MAX", 2)
    async with serving(Recorder().echo) as served:
        peers = [await served.open() for _ in range(4)]
        for body in (b"one", b"three"):
            for peer in peers:
                assert (await echoed(peer, post(body)))["body"] == body.decode()
        state = served.server._state
        assert state.cached_heads == 2
        for peer in peers:
            peer.writer.close()
            await peer.writer.wait_closed()
        peer = await served.open()
        await echoed(peer, post(b"body"))
        assert state.cached_heads == 1
