"""What a small request may make the event loop do, where everybody else's requests wait meanwhile."""

import gzip
import json
import os
import threading
from collections.abc import Iterator

import brotli
import httpx
import pytest

from farebox.decoding import codings
from farebox.http import call_body
from farebox.http.credentials import QUERY_FIELDS_MAX
from farebox.http.server.reader import CHUNK_BYTES_MIN, CHUNKS_FREE
from tests.calls.wire import COMPAT, chat_body
from tests.http.serving import Asked, serving
from tests.support import Customer

MIB = 2**20
HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(size: int, number: int) -> bytes:
    return HEAD + b"%x\r\n%b\r\n" % (size, b"a" * size) * number + b"0\r\n\r\n"


async def test_a_body_of_very_small_chunks_is_refused() -> None:
    asked = Asked()
    async with serving(asked.echo) as served:
        for size in (1, CHUNK_BYTES_MIN // 2):
            answer = await served.ask(chunked(size, 3 * CHUNKS_FREE))
            assert answer.status == 400
            assert b"too small" in answer.body
    assert asked.bodies == []


async def test_a_body_of_small_chunks_is_read() -> None:
    async with serving(Asked().echo) as served:
        for size, number in ((1, CHUNKS_FREE), (CHUNK_BYTES_MIN, 4 * CHUNKS_FREE)):
            answer = await served.ask(chunked(size, number))
            assert answer.json()["body"] == "a" * size * number


async def test_pieces_of_any_size_make_the_body() -> None:
    pieces = [b"%d," % size * (size // 3) for size in (3, 5_000, 9, 12, 4_000, 9_000, 6, 300_000, 3)]
    asked = Asked()
    async with serving(asked.echo) as served:
        peer = await served.open(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(b"".join(pieces)))
        for piece in pieces:
            peer.send(piece)
            await peer.writer.drain()
        assert (await peer.answer()).status == 200
    assert asked.bodies == [b"".join(pieces)]


def fields(number: int) -> str:
    return "&".join(["a"] * number)


def test_a_query_has_only_so_many_fields(customer: Customer) -> None:
    url = f"{customer.gateway_url}/{COMPAT}"
    for headers in (customer.headers, {}):
        answer = httpx.post(f"{url}?{fields(QUERY_FIELDS_MAX + 1)}", json={}, headers=headers)
        assert (answer.status_code, answer.json()["error"][0]["code"]) == (400, 2901)
    answer = httpx.post(f"{url}?{fields(QUERY_FIELDS_MAX)}", content=chat_body("Hi"), headers=customer.headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "endpoint", [f"chat/completions?{fields(QUERY_FIELDS_MAX + 1)}", "chat/completions?" + "a" * 16_384]
)
def test_a_step_asks_for_no_more_than_a_request_may(customer: Customer, endpoint: str) -> None:
    steps = [{"provider": "demo", "endpoint": endpoint, "query": json.loads(chat_body("Hi"))}]
    answer = httpx.post(customer.gateway_url.rstrip("/"), json=steps, headers=customer.headers)
    assert (answer.status_code, answer.json()["error"][0]["code"]) == (400, 2901)


def test_a_long_list_of_codings_is_not_looked_through(customer: Customer) -> None:
    headers = customer.headers | {"content-encoding": "," * 1_000}
    answer = httpx.post(f"{customer.gateway_url}/{COMPAT}", content=chat_body("Hi"), headers=headers)
    assert (answer.status_code, answer.json()["error"][0]["code"]) == (415, 2917)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_what_grows_large_is_decoded_beside_the_loop(
    customer: Customer, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[tuple[bool, int]] = []
    more, loops = call_body._more, set[int]()

    def seen(header: str | None) -> list[str]:
        loops.add(threading.get_ident())  # called by whoever serves the request
        return codings(header)

    def noted(coming: Iterator[bytes], most: int) -> bytes:
        piece = more(coming, most)
        came.append((threading.get_ident() not in loops, len(piece)))
        return piece

    monkeypatch.setattr(call_body, "_more", noted)
    monkeypatch.setattr(call_body, "codings", seen)
    body = chat_body("Hi", user=os.urandom(12_000).hex()) + b" " * 2 * MIB
    coded = gzip.compress(body) if coding == "gzip" else brotli.compress(body)
    assert len(coded) < call_body._AT_ONCE
    headers = customer.headers | {"content-encoding": coding}
    answer = httpx.post(f"{customer.gateway_url}/{COMPAT}", content=coded, headers=headers)
    assert answer.status_code == 200, answer.text
    assert sum(size for _, size in came) == len(body)
    on_loop = sum(size for beside, size in came if not beside)
    assert on_loop <= (0 if coding == "br" else MIB + call_body._AT_ONCE)
