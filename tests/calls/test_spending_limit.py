"""An account's spending limit on real calls: exact with any number in flight, and final once reached."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from farebox.calls.spending import spending_limit
from farebox.errors import ACCESS_DENIED, VALIDATION_FAILED, Problem
from farebox.money import NANOS_PER_USD
from farebox.storage.spending import Duration, SpendingLimit, Strategy, set_limit
from tests.calls.gate import INPUT_TOKENS, OUTPUT_TOKENS, gated
from tests.calls.kit import differences, log_rows, price_of, set_gateway, set_provider, within
from tests.calls.test_exact_admission import (
    ASKING,
    IN_FLIGHT,
    BalanceWatch,
    K,
    assert_credit_held,
    gate_body,
    hold_of,
    in_flight,
    refusals,
)
from tests.calls.wire import WireResponse, chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]

FIVE = 5 * NANOS_PER_USD


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("limited"), hold_wait_ms=100) as served:
        yield served


def limit_to(
    customer: Customer, nanos: int | None, duration: Duration = "monthly", strategy: Strategy = "sliding"
) -> None:
    """Set a limit to the nano-dollar; the use case accepts only whole cents, and at least one dollar."""
    farebox = customer.farebox
    limit = None if nanos is None else SpendingLimit(nanos, duration, strategy)
    assert farebox.run(farebox.services.database.write(lambda c: set_limit(c, customer.account_id, limit)))


def spent(customer: Customer) -> int:
    state = customer.farebox.run(spending_limit.state(customer.farebox.services, customer.account_id))
    assert state is not None
    assert state.spent + state.held + state.available == state.limit.amount or state.available == 0
    return state.spent


def notices(customer: Customer) -> list[Any]:
    services = customer.farebox.services
    sql = "SELECT notice_id, content FROM notices WHERE account_id = ? AND kind = 'limit_reached'"
    return customer.farebox.run(services.database.scan(lambda c: c.execute(sql, (customer.account_id,)).fetchall()))


@pytest.mark.parametrize(("stream", "strategy"), [(False, "fixed"), (True, "sliding")], ids=["plain", "stream"])
async def test_a_limit_of_k_holds_admits_exactly_k_calls(farebox: Farebox, stream: bool, strategy: Strategy) -> None:
    with gated(farebox) as gate:
        body = gate_body(stream=stream)
        hold = await hold_of(farebox, gate, body)
        customer = farebox.funded("5")
        limit_to(customer, K * hold, "monthly", strategy)
        with BalanceWatch(customer) as watch:
            wires = await in_flight(customer, body, IN_FLIGHT)
            refused, pending = await refusals(wires, IN_FLIGHT - K)
            assert gate.waiting == K
            assert customer.balance.held == K * hold
            gate.open()
            admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * K
        assert all(response.whole for response in admitted)
        for response in refused:  # the others may spend less than they hold, so retrying makes sense
            assert_credit_held(response)
        assert watch.most_held == K * hold
        assert notices(customer) == []
        charged = K * price_of(INPUT_TOKENS, OUTPUT_TOKENS)
        assert spent(customer) == charged == FIVE - customer.balance.posted

        # Held amounts that were not spent are available again, to the last hold.
        gate.shut()
        again = (K * hold - charged) // hold
        wires = await in_flight(customer, body, IN_FLIGHT)
        refused, pending = await refusals(wires, IN_FLIGHT - again)
        gate.open()
        admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * again
        assert {response.status for response in refused} == {429}
    assert differences(farebox) == []


async def test_calls_are_served_up_to_the_limit_and_not_beyond(farebox: Farebox) -> None:
    """With repeated bursts of concurrent calls, the sum of the charges is at most the limit, and nearly all of it."""
    least = 260_000  # the hold of the smallest call that is not refused: its text in bytes, 16 tokens of output
    customer = farebox.funded("5")
    limit = price_of(2, 50) * 10
    limit_to(customer, limit)
    body = chat_body(max_tokens=50)
    for _ in range(6):
        responses = await asyncio.gather(*(post(customer, body, demo="tokens=50") for _ in range(12)))
        assert {response.status for response in responses} <= {200, 429}
    refused = await _until_refused(customer, body)
    assert limit - least < spent(customer) <= limit
    assert refused.code == 2045
    assert differences(farebox) == []


async def _until_refused(customer: Customer, body: bytes) -> WireResponse:
    for _ in range(30):
        response = await post(customer, body)
        if response.status != 200:
            return response
    raise AssertionError("the limit is never reached")


async def test_a_reached_limit_is_final_and_notified_once(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    limit_to(customer, 300_000, "daily", "fixed")
    await _until_refused(customer, chat_body(max_tokens=100))
    for _ in range(3):
        refused = await post(customer, chat_body(max_tokens=100))
        assert (refused.status, refused.code) == (429, 2045)
        long = int(refused.headers["retry-after"]) > 60  # except in the last minute of a day
        assert (refused.headers.get("x-should-retry") == "false") == long
    message = refused.json()["message"]
    assert "the limit is 0.0003 USD for the running day (until 20" in message
    assert "T00:00:00Z)" in message
    [row, *_] = log_rows(customer)
    assert (row["status_code"], row["farebox"]["error"], row["farebox"]["charge_nanos"]) == (429, "spend_limited", 0)
    [(name, content)] = notices(customer)
    assert name.startswith("limit_reached:")
    assert '"limit_nanos":300000' in content

    limit_to(customer, None)
    assert (await post(customer, chat_body(max_tokens=100))).status == 200


async def test_a_callers_own_key_is_not_limited(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    set_provider(farebox, "openai")
    set_gateway(customer)
    limit_to(customer, 1)
    body = {"model": "demo-1", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer sk-own-key"}
    url = f"{customer.gateway_url}/openai/chat/completions"
    response = await asyncio.to_thread(partial(httpx.post, url, json=body, headers=headers, timeout=30))
    assert response.status_code == 200, response.text


async def test_a_large_output_limit_is_cut_to_what_the_limit_leaves(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    limit_to(customer, 2_000_000)
    response = await post(customer, chat_body(max_tokens=64_000), demo="tokens=2000")
    assert response.status == 200, response.body
    assert 800 < int(response.headers["farebox-output-limit"]) < 1000
    assert 0 < spent(customer) <= 2_000_000


LIMITED: dict[str, Callable[[], type[Exception]]] = {
    "chat": lambda: openai.RateLimitError,
    "responses": lambda: openai.RateLimitError,
    "messages": lambda: anthropic.RateLimitError,
    "generate": lambda: genai.errors.ClientError,
}


@pytest.mark.parametrize("way", LIMITED)
def test_the_sdk_raises_429_and_does_not_try_again(farebox: Farebox, way: str) -> None:
    ask, kind = ASKING[way][0], LIMITED[way]()
    customer = farebox.funded("5")
    customer.chat("demo:tokens=2000", max_tokens=2000)
    limit_to(customer, FIVE - customer.balance.posted)  # more than the call needs, all of it spent
    before = farebox.demo_stats()["requests"]
    with pytest.raises(kind) as caught:
        ask(customer, 100)
    error: Any = caught.value
    assert (error.code if way == "generate" else error.status_code) == 429
    said = str(error.body) if isinstance(error, openai.APIStatusError) else str(error)
    assert "2045" in said
    assert "Spending limit exceeded" in said
    assert farebox.demo_stats()["requests"] == before
    refused = [row for row in log_rows(customer) if row["status_code"] == 429]
    assert len(refused) == 1, "an SDK that retries makes more"


def test_a_limit_is_put_read_and_removed(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    services, account_id = farebox.services, customer.account_id
    assert farebox.run(spending_limit.get(services, account_id)) is None
    assert farebox.run(spending_limit.state(services, account_id)) is None
    put = partial(spending_limit.put, services, account_id, duration="weekly", strategy="fixed")
    saved = farebox.run(put(amount_cents=250))
    assert (saved.amount, saved.amount_cents) == (2_500_000_000, 250)
    assert farebox.run(spending_limit.get(services, account_id)) == saved
    assert customer.chat(max_tokens=10).status_code == 200
    state = farebox.run(spending_limit.state(services, account_id))
    assert state is not None
    assert state.window_end is not None
    assert state.window_end - state.window_start == 7 * 86_400_000
    assert state.spent == FIVE - customer.balance.posted > 0
    assert (state.held, state.available) == (0, saved.amount - state.spent)
    for wrong in (99, 10**12):
        with pytest.raises(Problem) as caught:
            farebox.run(put(amount_cents=wrong))
        assert caught.value.kind is VALIDATION_FAILED
    for _ in range(2):
        farebox.run(spending_limit.remove(services, account_id))
    assert farebox.run(spending_limit.get(services, account_id)) is None
    with pytest.raises(Problem) as caught:
        farebox.run(spending_limit.remove(services, "nobody"))
    assert caught.value.kind is ACCESS_DENIED
