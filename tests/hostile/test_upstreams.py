"""Providers that hang up and connections that fail, as seen by callers, owners and the operator."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from structlog.testing import capture_logs

from farebox.money import parse_usd
from tests.calls.kit import differences, log_row, price_of, set_price, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.providers.closing_upstream import closing
from tests.support import Customer, Farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

CALLS, CALLERS = 120, 6


def call(customer: Customer, path: str, body: dict[str, object], client: httpx.Client | None = None) -> httpx.Response:
    post = (client or httpx).post
    return post(f"{customer.gateway_url}/{path}", json=body, headers=customer.headers)


def messages(model: str, text: str = "Hello") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 20}


def test_a_provider_that_hangs_up_randomly_loses_no_call(farebox: Farebox, customer: Customer) -> None:
    """Every call is answered and charged once, and reaches the provider once."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with closing(lambda *_: chance.choice(["keep"] * 3 + ["close", "unread", "head"])) as upstream:
        set_provider(farebox, "cerebras", base_url=upstream.url)
        set_price(farebox, "cerebras", "raw-1")

        def caller(name: int) -> list[int]:
            with httpx.Client() as client:
                return [
                    call(
                        customer, "cerebras/chat/completions", messages("raw-1", f"{name}-{number}"), client
                    ).status_code
                    for number in range(CALLS // CALLERS)
                ]

        before, failures = customer.balance, dict(farebox.services.upstream.failures)
        with ThreadPoolExecutor(CALLERS) as callers:
            statuses = [status for some in callers.map(caller, range(CALLERS)) for status in some]
        assert statuses == [200] * CALLS, seed
        assert len(upstream.read) == len(set(upstream.read)) == CALLS, seed
        assert farebox.services.upstream.failures == failures
        assert farebox.services.upstream.resent > 0, seed
        after = customer.balance
    assert (before.posted - after.posted, after.held) == (CALLS * price_of(3, 2), 0)
    assert not differences(farebox)


@contextmanager
def way(kind: str) -> Iterator[str]:
    """A base URL whose calls fail in this way."""
    if kind == "dns":
        yield "http://provider.invalid"
    elif kind == "refused":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    else:
        with closing(lambda *_: "keep", response=b"" if kind == "closed" else b"SSH-2.0-x\r\n") as upstream:
            yield upstream.url


PATHS: dict[str, tuple[str, dict[str, object]]] = {
    "cloudflare": ("compat/chat/completions", messages("cerebras/raw-1")),
    "native": ("cerebras/chat/completions", messages("raw-1")),
    "anthropic": ("anthropic/v1/messages", messages("raw-1")),
    "google": (
        "google-ai-studio/v1beta/models/raw-1:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
    ),
}


@pytest.mark.parametrize("form", PATHS)
@pytest.mark.parametrize("cause", ["dns", "refused", "closed", "protocol"])
def test_a_failed_connection_reports_its_cause(farebox: Farebox, customer: Customer, cause: str, form: str) -> None:
    path, body = PATHS[form]
    slug = path.split("/")[0].replace("compat", "cerebras")
    before = farebox.services.upstream.failures.get(cause, 0)
    with way(cause) as url, capture_logs() as lines:
        set_provider(farebox, slug, base_url=url)
        set_price(farebox, slug, "raw-1")
        response = call(customer, path, body)
    assert response.status_code == 502
    reported = response.json()
    error = reported["errors"][0] if isinstance(reported["error"], list) else reported["error"]
    assert f"({cause})" in error["message"]
    assert "Nothing was charged" in error["message"]
    assert "127.0.0.1" not in response.text
    assert ".invalid" not in response.text
    log_id = response.headers["cf-aig-log-id"]
    assert log_row(customer, log_id)["farebox"]["error"] == f"upstream_unreachable ({cause})"
    (line,) = [line for line in lines if line["event"] == "upstream failed"]
    assert (line["cause"], line["provider"], line["log_id"]) == (cause, slug, log_id)
    assert farebox.services.upstream.failures[cause] > before
    assert customer.balance.held == 0


# --- a client that does not read --------------------------------------------------------------------------------------

EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (
    b"x" * 32_000
)
LAST = (
    b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
)
EVENTS = 800


@contextmanager
def flood() -> Iterator[tuple[str, list[int]]]:
    """A provider that streams as fast as it is read; the list grows with each sent event."""
    taken: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(30)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
                % (EVENTS * len(EVENT) + len(LAST))
            )
            for number in range(EVENTS):
                connection.sendall(EVENT)
                taken.append(number)
            connection.sendall(LAST)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    finally:
        listener.close()
        thread.join()


def test_a_slow_reader_pauses_the_provider(farebox: Farebox, customer: Customer) -> None:
    body = messages("raw-1") | {"stream": True}
    with flood() as (url, taken):
        set_provider(farebox, "cerebras", base_url=url)
        set_price(farebox, "cerebras", "raw-1")
        where = f"{customer.gateway_url}/cerebras/chat/completions"
        with httpx.stream("POST", where, json=body, headers=customer.headers, timeout=30) as response:
            before = -1
            while len(taken) != before:  # until the provider is blocked
                before = len(taken)
                time.sleep(0.2)
            assert before < EVENTS * 3 // 4, "everything is buffered here"
            received = sum(len(chunk) for chunk in response.iter_raw())
        assert len(taken) == EVENTS
        assert received >= EVENTS * len(EVENT)
    until(lambda: customer.balance.held == 0, "the charge")
    assert parse_usd("5") - customer.balance.posted == price_of(3, 2)
