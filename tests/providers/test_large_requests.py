"""Large bodies in files: reading parts, changing single fields, and sending them to a provider."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.memory_files import BLOCK_BYTES, LARGE_BYTES, Body, LargeBody, MemoryFile, Piece, part_of, whole
from farebox.providers.formats import bodies
from farebox.providers.outline import INLINE_BYTES, Outline, apply_edit, outline_of
from farebox.providers.upstream import UpstreamFailed, UpstreamRequest
from tests.hostile.test_helpers import files_in_memory
from tests.providers.http1_kit import OK, Server, authority, pool, serving
from tests.providers.http1_kit import whole as answered
from tests.waiting import SECONDS, eventually

SIZE = 5 * BLOCK_BYTES + 7


def in_file(body: bytes) -> LargeBody:
    return LargeBody(MemoryFile(body), ((0, len(body)),))


SPANS = st.tuples(st.integers(0, 50), st.integers(50, 99))


@given(st.lists(st.binary(max_size=30) | SPANS, max_size=6), st.data())
def test_a_part_of_a_body_file_equals_that_of_the_bytes(pieces: list[Piece], data: st.DataObject) -> None:
    file = MemoryFile(bytes(range(100)))
    body = LargeBody(file, tuple(pieces))
    same = whole(body)
    assert len(body) == len(same)
    assert b"".join(body.blocks()) == same
    start = data.draw(st.integers(0, len(same)))
    end = data.draw(st.integers(start, len(same)))
    part = part_of(body, start, end)
    assert whole(part) == same[start:end]
    assert whole(part_of(part, 1, len(part))) == same[start:end][1:]


@given(st.dictionaries(st.text(max_size=8), st.text() | st.text(max_size=1).map(lambda text: text * 2 * INLINE_BYTES)))
def test_an_edit_of_a_file_is_that_of_its_bytes(fields: dict[str, str]) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    by_bytes: tuple[Body, Outline | None] = body, outline_of(body)
    by_file: tuple[Body, Outline | None] = in_file(body), outline_of(body)
    for new in ({"model": "other"}, {"max_tokens": 7, "model": "third"}):
        change: Callable[[bytes], bytes] = partial(bodies.changed, **new)
        by_bytes, by_file = apply_edit(*by_bytes, change), apply_edit(*by_file, change)
        body = change(body)
        assert isinstance(by_file[0], LargeBody)
        assert whole(by_file[0]) == by_bytes[0] == body
        assert by_file[1] == by_bytes[1]


def test_a_body_that_contains_placeholder_text_is_edited_correctly() -> None:
    """All former placeholders, in every spelling: a field with such a name was once filled with the value that it
    named."""
    large = {"messages": "word " * INLINE_BYTES}
    earlier = re.findall(rb"~[^~]*~", outline_of(json.dumps(large).encode()).small)[0].decode()
    for said in (earlier, "~farebox:0:0~", "~farebox:0:00~", "~farebox:0:99~"):
        for spelt in (said, said.replace("~", "\\u007e")):
            body = b'{"model":"m","%b":1,"nested":{"%b":2},%b' % (*[spelt.encode()] * 2, json.dumps(large).encode()[1:])
            new, _ = apply_edit(in_file(body), outline_of(body), partial(bodies.changed, model="other"))
            assert json.loads(whole(new)) == {"model": "other", said: 1, "nested": {said: 2}, **large}


def test_an_unreferenced_file_is_closed() -> None:
    file = MemoryFile(b"small")
    inode = os.fstat(file.fd).st_ino
    assert inode in files_in_memory()
    del file
    assert inode not in files_in_memory()


def request(server: Server, body: LargeBody) -> UpstreamRequest:
    return UpstreamRequest("POST", server.url + "/v1/chat", [], body)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_body_in_a_file_arrives_whole_again_and_again(secure: bool) -> None:
    content = os.urandom(SIZE)
    file = MemoryFile(content)
    body = LargeBody(file, (b"[", (0, SIZE), b",", (5, LARGE_BYTES), b"]"))
    listens, calls = authority("127.0.0.1") if secure else (None, None)
    async with serving(OK, OK, tls=listens) as server, pool(tls=calls) as upstream:
        for _ in range(2):
            assert await answered(await upstream.send(request(server, body))) == b"ok"
        for sent in server.requests:
            assert sent.partition(b"\r\n\r\n")[2] == b"[" + content + b"," + content[5:LARGE_BYTES] + b"]"
        assert server.connections == 1


async def test_an_idle_connection_keeps_no_body() -> None:
    body = in_file(bytes(SIZE))
    inode = os.fstat(body.file.fd).st_ino
    async with serving(OK) as server, pool() as upstream:
        assert await answered(await upstream.send(request(server, body))) == b"ok"
        del body
        await eventually(lambda: inode not in files_in_memory(), "its file is closed")


async def test_a_response_before_the_body_is_all_sent_ends_the_connection() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await stop.wait()

    stop = asyncio.Event()
    body = in_file(bytes(32 * 2**20))
    async with serving(handler=refuse) as server, pool() as upstream:
        async with asyncio.timeout(SECONDS):
            for _ in range(2):
                assert await answered(await upstream.send(request(server, body))) == b"ok"
        assert server.connections == 2
        stop.set()


async def test_a_partially_sent_body_is_detected() -> None:
    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await stop.wait()

    async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        begun.set()
        await stop.wait()

    begun, stop = asyncio.Event(), asyncio.Event()
    body = in_file(bytes(32 * 2**20))
    for handler, whole_sent in ((never_reads, False), (hears, True)):
        begun.clear()
        async with serving(handler=handler) as server, pool() as upstream:
            requested = request(server, body)
            sending = asyncio.create_task(upstream.send(requested))
            await begun.wait()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, UpstreamFailed):
                await sending
            assert requested.sending.whole is whole_sent
            stop.set()
