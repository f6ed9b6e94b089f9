"""Concurrent identical calls: one is sent and paid for, the others get its response; and what happens if it fails."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from tests.calls.gate import MODEL, SLUG, Gate, gated
from tests.calls.kit import differences, log_rows, price_of, set_gateway
from tests.calls.test_cache import status
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS, http
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello there"}]}
STREAM = CHAT | {"stream": True}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("coalescing")) as served:
        yield served


@pytest.fixture(scope="module")
def gate(farebox: Farebox) -> Iterator[Gate]:
    with gated(farebox) as shut:
        yield shut


@pytest.fixture
def customer(farebox: Farebox, gate: Gate) -> Customer:
    gate.shut()
    gate.seen = 0
    made = farebox.funded("5")
    set_gateway(made, cache_ttl=600, cache_coalesce=True)
    return made


def post(customer: Customer, body: dict[str, Any] = CHAT, gateway: str = "default") -> httpx.Response:
    url = f"{customer.farebox.url}/v1/{customer.account_id}/{gateway}/{SLUG}/chat/completions"
    return httpx.post(url, json=body, headers=customer.headers, timeout=60)


def begin(customer: Customer, body: dict[str, Any] = CHAT) -> socket.socket:
    """A call whose client can hang up."""
    content = msgspec.json.encode(body)
    head = (
        f"POST /v1/{customer.account_id}/default/{SLUG}/chat/completions HTTP/1.1\r\nhost: farebox\r\n"
        f"authorization: Bearer {customer.token}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", customer.farebox.port))
    connection.sendall(head.encode() + content)
    return connection


def under_way(customer: Customer) -> int:
    return customer.farebox.services.calls.by_account.get(customer.account_id, 0)


def others_wait(customer: Customer, number: int) -> bool:
    """Whether exactly this many calls wait for the one that was sent. (A call is in flight before it waits, because the
    store is queried first.)"""
    flights = list(customer.farebox.services.response_cache.flights.values())
    return len(flights) == 1 and len(flights[0]._callbacks or ()) == number and under_way(customer) == number + 1


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_one_call_is_sent_and_paid_and_the_others_get_its_response(
    farebox: Farebox, gate: Gate, customer: Customer, body: dict[str, Any]
) -> None:
    before = customer.balance.posted
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, customer, body)
        until(lambda: gate.waiting == 1)
        others = [pool.submit(post, customer, body) for _ in range(3)]
        impatient = begin(customer, body)
        until(lambda: others_wait(customer, 4))
        impatient.close()
        until(lambda: others_wait(customer, 3))
        assert gate.seen == 1
        gate.open()
        assert first.result().status_code == 200
        assert status(first.result()) == "MISS"
        for other in others:
            assert (status(other.result()), other.result().content) == ("HIT", first.result().content)
    assert gate.seen == 1
    assert before - customer.balance.posted == price_of(10, 20)
    assert farebox.services.response_cache.flights == {}
    until(lambda: not farebox.services.tasks.running("records of hits"))
    assert sorted(row["cached"] for row in log_rows(customer)) == [False, True, True, True]
    assert differences(farebox) == []


def test_if_the_one_call_is_cut_off_the_others_are_sent(farebox: Farebox, gate: Gate, customer: Customer) -> None:
    leader = begin(customer)
    until(lambda: gate.waiting == 1)
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(post, customer) for _ in range(2)]
        until(lambda: others_wait(customer, 2))
        leader.close()
        until(lambda: gate.seen == 3)
        gate.open()
        assert [(each.result().status_code, status(each.result())) for each in others] == [(200, "MISS")] * 2
    until(lambda: under_way(customer) == 0)
    assert customer.balance.held == 0
    assert differences(farebox) == []


def test_only_identical_calls_of_gateways_with_the_option_are_joined(
    farebox: Farebox, gate: Gate, customer: Customer
) -> None:
    set_gateway(customer, "alone", cache_ttl=600)
    with ThreadPoolExecutor(4) as pool:
        alone = [pool.submit(post, customer, CHAT, "alone") for _ in range(2)]
        until(lambda: gate.waiting == 2)
        different = [pool.submit(post, customer, CHAT | {"seed": seed}) for seed in range(2)]
        until(lambda: gate.waiting == 4)
        gate.open()
        assert [status(each.result()) for each in (*alone, *different)] == ["MISS"] * 4
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    shown = http.put(url, json=GATEWAY_FIELDS, headers=customer.headers).json()["result"]
    assert shown["cache_coalesce"] is True, "an update that omits the field leaves it unchanged"
    assert "cache_coalesce" not in http.get(f"{url[:-7]}alone", headers=customer.headers).json()["result"]
