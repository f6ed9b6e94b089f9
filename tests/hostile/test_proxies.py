"""Farebox behind each proxy of docs/proxies.md, configured as that page says.

`make proxies` sets FAREBOX_TEST_LONG for silences of 70 seconds.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from farebox.http.exchange import Exchange
from farebox.http.server import serve
from tests.calls.kit import later_row, log_row, set_price, set_provider
from tests.hostile.proxies import PROXIES, Proxy
from tests.hostile.stepwise import CHAT, COMPAT, END, SLUG, Stepwise, requesting, stepwise, words
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

SILENCE_SECONDS = 70.0
BODY_BYTES = 20 * 2**20


@pytest.fixture(scope="module")
def served(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("served"), stream_comment_ms=100) as farebox:
        yield farebox


@pytest.fixture(scope="module")
def provider(served: Farebox) -> Iterator[Stepwise]:
    with stepwise(served) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def customer(served: Farebox) -> Customer:
    return served.funded("500")


@pytest.fixture(scope="module", params=PROXIES, ids=[proxy.title for proxy in PROXIES])
def base(request: pytest.FixtureRequest, served: Farebox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running proxy."""
    proxy: Proxy = request.param
    if proxy.path is None:
        pytest.skip(f"{proxy.title} is not installed ({proxy.source})")
    with proxy.running(served.url, tmp_path_factory.mktemp("proxy")) as url:
        yield url


def test_each_event_arrives_before_the_next_is_sent(base: str, customer: Customer, provider: Stepwise) -> None:
    with requesting(customer, COMPAT, CHAT, base=base) as reading:
        for word in ("one", "two", "three"):
            provider.say(words(word))
            reading.until(word.encode())
        provider.say(*END)
        provider.end()
        assert reading.rest().endswith(END[-1])
    assert log_row(customer, reading.response.headers["cf-aig-log-id"])["tokens_out"] == 2


def test_a_stream_that_breaks_off_ends_with_its_error(base: str, customer: Customer, provider: Stepwise) -> None:
    with requesting(customer, COMPAT, CHAT, base=base) as reading:
        provider.say(words("one"))
        reading.until(b"one")
        provider.break_off()
        assert b"broke off" in reading.rest()


def test_a_disconnect_through_a_proxy_ends_the_call(base: str, customer: Customer, provider: Stepwise) -> None:
    """With the help of comments: some proxies notice a disconnect only when they have something to send."""
    left = provider.left
    with requesting(customer, COMPAT, CHAT, base=base) as reading:
        provider.say(words("one"))
        reading.until(b"one")
    until(lambda: provider.left > left, "the provider's being left")
    assert not later_row(customer, reading.response.headers["cf-aig-log-id"])["success"]


@pytest.mark.slow
def test_a_large_body_arrives(base: str, customer: Customer, provider: Stepwise) -> None:
    body = CHAT | {"stream": False, "model": f"{SLUG}/m", "messages": [{"role": "user", "content": "x" * BODY_BYTES}]}
    provider.headers, events = [("content-type", "application/json")], provider.headers
    provider.say(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}')
    provider.end()
    response = httpx.post(
        f"{base}/v1/{customer.account_id}/default/{COMPAT}", json=body, headers=customer.headers, timeout=60
    )
    provider.headers = events
    assert response.status_code == 200, response.text
    assert len(provider.bodies.pop()) > BODY_BYTES


async def _silent(exchange: Exchange) -> None:
    """A provider that is silent before or within its response, depending on the model's name."""
    when = json.loads(await exchange.body(2**20))["messages"][0]["content"]
    if when == "before":
        await asyncio.sleep(SILENCE_SECONDS)
    stream = exchange.start(200, [("content-type", "text/event-stream")])
    await stream.send(words("one"))
    if when == "within":
        await asyncio.sleep(SILENCE_SECONDS)
    for event in END:
        await stream.send(event)


def _asked_and_answered(customer: Customer, url: str, when: str) -> bytes:
    response = httpx.post(
        f"{url}/v1/{customer.account_id}/default/{COMPAT}",
        json=CHAT | {"messages": [{"role": "user", "content": when}]},
        headers=customer.headers,
        timeout=SILENCE_SECONDS + 60,
    )
    return response.content


@pytest.mark.slow
@pytest.mark.skipif("FAREBOX_TEST_LONG" not in os.environ, reason="takes 70 seconds: run by `make proxies`")
def test_a_long_silence_is_tolerated(tmp_path: Path) -> None:
    """Without comments; all proxies concurrently."""
    with running_farebox(tmp_path / "served", stream_comment_ms=0) as farebox, contextlib.ExitStack() as stack:
        provider = farebox.run(serve(_silent, "127.0.0.1", 0))
        stack.callback(lambda: farebox.run(provider.close()))
        set_provider(farebox, SLUG, base_url=f"http://127.0.0.1:{provider.port}")
        set_price(farebox, SLUG, "m")
        customer = farebox.funded("5")
        urls = {
            proxy.title: stack.enter_context(proxy.running(farebox.url, tmp_path / proxy.title))
            for proxy in PROXIES
            if proxy.path is not None
        }
        threads = stack.enter_context(ThreadPoolExecutor(2 * len(urls)))
        responses = {
            (title, when): threads.submit(_asked_and_answered, customer, url, when)
            for title, url in urls.items()
            for when in ("before", "within")
        }
        ends = {name: response.result() for name, response in responses.items()}
        assert {name: end for name, end in ends.items() if not end.endswith(END[-1])} == {}
