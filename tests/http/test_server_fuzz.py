"""However the network splits requests, the responses are the same; and garbage breaks nothing but its own
connection."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.serving import Peer, Recorder, Served, request, serving, until
from tests.http.test_server_requests import REFUSED
from tests.long import times

EXAMPLES = settings(
    max_examples=times(25, 1000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CHUNKS = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;a=1\r\nchun\r\n3\r\nked\r\n0\r\nT: x\r\n\r\n"
)
VALID = [
    request(),
    request("POST", "/a?b", b"body " * 50, content_type="text/plain", cookie="a=1"),
    CHUNKS,
    request("POST", "/up", b"upgrade", Connection="Upgrade", Upgrade="h2c"),
    request("GET", "http://h/abs"),
    request("POST", "/e", b"expected", Expect="100-continue"),
]
LAST = request("GET", "/last", Connection="close")


@pytest.fixture(autouse=True)
def complaints() -> Iterator[list[Any]]:
    """Exceptions reported by the loop or the server's log; checked to be none after each test."""
    found: list[Any] = []

    def keep(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if method != "info":  # jobs of another test's server in the same process may log
            found.append(event)
        return event

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[keep, *before])
    yield found
    structlog.configure(processors=before)
    assert found == []


def listen_for(complaints: list[Any]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))


async def converse(served: Served, pieces: list[bytes], *, pause: bool) -> bytes:
    """Send the pieces, each in its own packet if possible, and return the responses without dates."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    peer = Peer(reader, writer)
    whole = asyncio.ensure_future(peer.end())
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            peer.send(piece)
            if pause:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        answered = await whole
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    lines = [line for line in answered.split(b"\r\n") if not line.startswith(b"date: ")]
    return b"\r\n".join(lines).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


async def test_documents_cut_at_every_position(complaints: list[Any]) -> None:
    listen_for(complaints)
    sent = b"".join(VALID) + LAST
    async with serving(Recorder().echo) as served:
        expected = await converse(served, [sent], pause=False)
        assert expected.count(b"HTTP/1.1 200 OK") == len(VALID) + 1
        for at in range(1, len(sent), 3):
            assert await converse(served, [sent[:at], sent[at:]], pause=True) == expected, at
        assert await converse(served, [bytes([byte]) for byte in sent], pause=True) == expected


@EXAMPLES
@given(
    requests=st.lists(st.sampled_from(VALID), max_size=6),
    bad=st.sampled_from([b"", *(sent for _, sent in REFUSED if len(sent) < 1000)]),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
async def test_requests_cut_at_random_positions(
    requests: list[bytes], bad: bytes, cuts: list[int], complaints: list[Any]
) -> None:
    listen_for(complaints)
    sent = b"".join(requests) + (bad or LAST)
    async with serving(Recorder().echo) as served:
        expected = await converse(served, [sent], pause=False)
        assert expected.count(b"HTTP/1.1 ") == len(requests) + 1
        assert await converse(served, split(sent, cuts), pause=True) == expected


async def _still_serves(served: Served) -> bool:
    return (await served.ask(request())).status == 200


@EXAMPLES
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=5))
async def test_garbage(data: bytes, cuts: list[int], complaints: list[Any]) -> None:
    listen_for(complaints)
    async with serving(Recorder().echo, head_seconds=0.1, idle_seconds=0.1) as served:
        answered = await converse(served, split(data, cuts), pause=True)
        assert answered == b"" or answered.startswith(b"HTTP/1.1 ")
        assert await _still_serves(served)


@pytest.mark.parametrize("seed", range(times(5, 200)))
async def test_requests_with_something_wrong_somewhere(seed: int, complaints: list[Any]) -> None:
    """Valid requests with bytes changed, removed, doubled and swapped."""
    chance = random.Random(seed)
    listen_for(complaints)
    recorder = Recorder()
    async with serving(recorder.echo, head_seconds=0.2, idle_seconds=0.2) as served:
        conversations = []
        for _ in range(20):
            sent = bytearray(b"".join(chance.choices(VALID, k=3)) + LAST)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(sent))
                kind = chance.randrange(4)
                if kind == 0:
                    sent[at] = chance.choice(b"\0\r\n :;,\t\x7f\xff0aZ")
                elif kind == 1:
                    del sent[at : at + chance.randint(1, 9)]
                elif kind == 2:
                    sent[at:at] = sent[at : at + chance.randint(1, 30)]
                else:
                    sent[at:at] = chance.choice(
                        [b"\r\n", b"\n", b"\r\n\r\n", b" ", b"Content-Length: 3\r\n", b"0\r\n\r\n"]
                    )
            pieces = split(bytes(sent), [chance.randrange(5000) for _ in range(chance.randrange(6))])
            conversations.append(converse(served, pieces, pause=True))
        for answered in await asyncio.gather(*conversations):
            assert answered == b"" or answered.startswith(b"HTTP/1.1 ")
        await until(lambda: recorder.busy == 0)
        assert await _still_serves(served)
