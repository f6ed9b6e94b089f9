"""The work that a small request can cause on the event loop, which delays all other requests."""

import asyncio
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import brotli
import httpx
import pytest

from farebox.helper_processes import HelperDied
from farebox.helper_processes.decode import decode_into
from farebox.http import call_body
from farebox.http.credentials import QUERY_FIELDS_MAX
from farebox.http.server.reader import CHUNK_BYTES_MIN, CHUNKS_FREE
from tests.calls.wire import COMPAT, Wire, chat_body
from tests.http.serving import Recorder, serving
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import eventually, until

MIB = 2**20
HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(size: int, number: int) -> bytes:
    return HEAD + b"%x\r\n%b\r\n" % (size, b"a" * size) * number + b"0\r\n\r\n"


async def test_a_body_of_very_small_chunks_is_refused() -> None:
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        for size in (1, CHUNK_BYTES_MIN // 2):
            response = await served.ask(chunked(size, 3 * CHUNKS_FREE))
            assert response.status == 400
            assert b"too small" in response.body
    assert recorder.bodies == []


async def test_a_body_of_small_chunks_is_read() -> None:
    async with serving(Recorder().echo) as served:
        for size, number in ((1, CHUNKS_FREE), (CHUNK_BYTES_MIN, 4 * CHUNKS_FREE)):
            response = await served.ask(chunked(size, number))
            assert response.json()["body"] == "a" * size * number


async def test_a_body_can_arrive_in_pieces_of_any_size() -> None:
    pieces = [b"%d," % size * (size // 3) for size in (3, 5_000, 9, 12, 4_000, 9_000, 6, 300_000, 3)]
    recorder = Recorder()
    async with serving(recorder.echo) as served:
        peer = await served.open(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(b"".join(pieces)))
        for piece in pieces:
            peer.send(piece)
            await peer.writer.drain()
        assert (await peer.response()).status == 200
    assert recorder.bodies == [b"".join(pieces)]


def fields(number: int) -> str:
    return "&".join(["a"] * number)


def test_the_number_of_query_fields_is_limited(customer: Customer) -> None:
    url = f"{customer.gateway_url}/{COMPAT}"
    for headers in (customer.headers, {}):
        response = httpx.post(f"{url}?{fields(QUERY_FIELDS_MAX + 1)}", json={}, headers=headers)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 2901)
    response = httpx.post(f"{url}?{fields(QUERY_FIELDS_MAX)}", content=chat_body("Hi"), headers=customer.headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "endpoint", [f"chat/completions?{fields(QUERY_FIELDS_MAX + 1)}", "chat/completions?" + "a" * 16_384]
)
def test_a_step_has_the_limits_of_a_request(customer: Customer, endpoint: str) -> None:
    steps = [{"provider": "demo", "endpoint": endpoint, "query": json.loads(chat_body("Hi"))}]
    response = httpx.post(customer.gateway_url.rstrip("/"), json=steps, headers=customer.headers)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 2901)


def test_a_long_list_of_codings_is_not_searched(customer: Customer) -> None:
    headers = customer.headers | {"content-encoding": "," * 1_000}
    response = httpx.post(f"{customer.gateway_url}/{COMPAT}", content=chat_body("Hi"), headers=headers)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (415, 2917)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_body_that_decodes_large_is_decoded_by_a_helper(
    customer: Customer, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[int] = []
    in_helpers: list[Callable[..., Any]] = []
    more, helpers = call_body._more, customer.farebox.services.helpers
    run = helpers.run

    def noted(coming: Iterator[bytes], most: int) -> bytes:
        piece = more(coming, most)
        on_loop.append(len(piece))
        return piece

    async def seen(account_id: str, function: Callable[..., Any], *rest: Any, **more: Any) -> Any:
        assert account_id == customer.account_id
        in_helpers.append(function)
        return await run(account_id, function, *rest, **more)

    monkeypatch.setattr(call_body, "_more", noted)
    monkeypatch.setattr(helpers, "run", seen)
    body = chat_body("Hi", user=os.urandom(12_000).hex()) + b" " * 2 * MIB
    coded = gzip.compress(body) if coding == "gzip" else brotli.compress(body)
    assert len(coded) < call_body._AT_ONCE
    headers = customer.headers | {"content-encoding": coding}
    response = httpx.post(f"{customer.gateway_url}/{COMPAT}", content=coded, headers=headers)
    assert response.status_code == 200, response.text
    assert decode_into in in_helpers
    assert sum(on_loop) <= (0 if coding == "br" else MIB + call_body._AT_ONCE)


async def test_the_body_of_a_disconnected_client_is_not_read(farebox: Farebox, customer: Customer) -> None:
    """The body waits for a helper while the account's only one is busy."""
    helpers, held = farebox.services.helpers, farebox.services.held

    busy = await asyncio.to_thread(farebox.run, occupied(customer))
    for coded in (False, True):
        body = chat_body("Hi " * MIB)
        headers = dict(customer.headers)
        if coded:
            body = gzip.compress(os.urandom(MIB))
            headers["content-encoding"] = "gzip"
        wire = await Wire.open(farebox.url)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v1/{customer.account_id}/default/{COMPAT} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n"
        wire._writer.write(f"{head}{lines}\r\n".encode() + body)
        await eventually(lambda: helpers.waiting == 1, "a body that waits to be read")
        assert held.by_account[customer.account_id] >= len(body)
        wire.hang_up()
        await eventually(lambda: helpers.waiting == 0, "its end")
        await eventually(lambda: customer.account_id not in held.by_account, "its memory")

    async def free() -> None:
        busy.cancel()
        await asyncio.sleep(0)
        for helper in helpers.alive:
            helper.break_off()

    await asyncio.to_thread(farebox.run, free())


async def occupied(customer: Customer) -> "asyncio.Future[Any]":
    """Keep the account's helper busy for the longest possible time."""
    never = customer.farebox.services.helpers.run(customer.account_id, re.match, b"(a+)+$", b"a" * 60 + b"b")
    return asyncio.ensure_future(never)


def test_a_stop_does_not_wait_for_unread_bodies(tmp_path: Path) -> None:
    with running_farebox(tmp_path) as farebox, ThreadPoolExecutor(1) as background:
        customer = farebox.funded()
        busy = farebox.run(occupied(customer))
        recorder = background.submit(customer.chat, "word " * MIB)
        until(lambda: farebox.services.helpers.waiting == 1, "a body that waits to be read")
        farebox.stop()
        response = recorder.result()
        assert (response.status_code, response.json()["errors"][0]["code"]) == (503, 2912)
        assert isinstance(busy.exception(), HelperDied)
