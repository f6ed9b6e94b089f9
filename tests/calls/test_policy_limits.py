"""Limits of policies on real calls: exact with any number in flight, in every budget in which calls count."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.money import NANOS_PER_USD
from tests.calls.gate import INPUT_TOKENS, OUTPUT_TOKENS, SLUG, gated
from tests.calls.kit import differences, price_of, set_gateway, spend_rule, within
from tests.calls.test_exact_admission import IN_FLIGHT, K, gate_body, hold_of, in_flight, refusals
from tests.calls.test_spend_rules import limit_to, own_key_calls
from tests.calls.wire import chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]

PRICE = price_of(INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("policed"), hold_wait_ms=100) as served:
        yield served


def add(customer: Customer, name: str, nanos: int, period: str = "monthly", **changes: Any) -> str:
    """Add a committed policy with a limit; returns its ID."""
    action = {"type": "limit", "amount": nanos / NANOS_PER_USD, "period": period, "technique": "named-interval"}
    body = {"name": name, "actor": name, "resource": "*", "action": action, **changes}
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies?commit=true"
    response = httpx.post(url, json=body, headers=customer.headers)
    assert response.status_code == 200, response.text
    found: str = response.json()["result"]["id"]
    return found


def change(customer: Customer, policy_id: str, action: dict[str, Any]) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/policies/{policy_id}?commit=true"
    response = httpx.put(url, json={"action": action}, headers=customer.headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("tightest", ["company", "team", "rule", "own key"])
async def test_exactly_as_many_calls_are_admitted_as_the_tightest_budget_covers(
    farebox: Farebox, tightest: str
) -> None:
    with gated(farebox) as gate:
        body = gate_body(stream=False)
        hold = await hold_of(farebox, gate, body)
        names = ("company", "team", "rule")
        room = {name: (K if tightest in (name, "own key") else 2 * K) * hold for name in names}
        customer = farebox.funded("5")
        set_gateway(customer)
        ids = {
            "company": add(customer, "company", room["company"]),
            "team": add(customer, "team", room["team"], "hourly", resource={"provider": SLUG}),
            "rule": "rule",
        }
        add(customer, "company", hold // 2)  # the same budget: the higher amount counts
        limit_to(customer, spend_rule("rule", room["rule"]))
        calls = own_key_calls(customer, IN_FLIGHT) if tightest == "own key" else in_flight(customer, body, IN_FLIGHT)
        refused, pending = await refusals(await calls, IN_FLIGHT - K)
        assert gate.waiting == K
        gate.open()
        admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * K
        assert {(response.status, response.code) for response in refused} == {(429, 2907)}
        if tightest != "own key":
            assert {response.json()["rule_id"] for response in refused} == {ids[tightest]}
            assert customer.balance.posted == 5 * NANOS_PER_USD - K * PRICE
    assert differences(farebox) == []


async def test_a_spent_budget_refuses_one_actor_and_survives_a_change_of_the_policy(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    set_gateway(customer)
    body = chat_body(max_tokens=100)
    probe = customer.receipt((await post(customer, body)).log_id)
    limit = probe["hold_nanos"]
    policy_id = add(customer, "Each", limit, "daily", actor="user:{user}", condition="user != 'root'")
    add(customer, "Root", NANOS_PER_USD, actor="root", condition="user == 'root'")
    mine = chat_body(max_tokens=100, user="me")
    responses = [await post(customer, mine) for _ in range(40)]
    refused = responses[-1]
    assert responses[0].status == 200
    assert (refused.status, refused.code) == (429, 2045)
    said = refused.json()
    assert said["message"].startswith(f"Spend limit exceeded: policy 'Each' ({limit / 1e9} USD daily for 'user:me')")
    assert (said["rule_id"], said["source"]) == (policy_id, "limit")
    assert said["resets_at"].endswith("T00:00:00Z"), "the end of the day in UTC"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert (await post(customer, chat_body(max_tokens=100, user="you"))).status == 200
    assert (await post(customer, chat_body(max_tokens=100, user="root"))).status == 200
    assert (await post(customer, body)).status == 403, "calls that name no user are not counted, and are refused"
    action = {"type": "limit", "period": "daily", "technique": "named-interval"}
    raised = {**action, "amount": 4 * limit / NANOS_PER_USD}
    change(customer, policy_id, raised)
    assert (await post(customer, mine)).status == 200, "more is left"
    lowered = {**action, "amount": limit / NANOS_PER_USD}
    change(customer, policy_id, lowered)
    assert (await post(customer, mine)).status == 429, "earlier spending counts"
    change(customer, policy_id, {"type": "no-limit"})
    assert (await post(customer, mine)).status == 200
    assert differences(farebox) == []


async def test_unreadable_requests_do_not_pass_the_limits(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    set_gateway(customer)
    ours = {"authorization": "Bearer callers-own-key", "cf-aig-authorization": f"Bearer {customer.token}"}
    nested = b"[" * 130 + b"]" * 130
    body = b'{"model": "demo-1", "messages": [{"role": "user", "content": "x"}], "metadata": %s}' % nested
    url = f"{customer.gateway_url}/demo/v1/chat/completions"

    def send() -> tuple[int, int]:
        response = httpx.post(url, content=body, headers=ours | {"content-type": "application/json"})
        return response.status_code, response.json().get("internalCode", 0)

    assert send() == (200, 0)
    add(customer, "all", NANOS_PER_USD)
    assert send() == (400, 2901)
    add(customer, "block", 1, resource={"model": "demo/gold"}, action={"type": "block"})
    assert send() == (400, 2940), "it may be the blocked model"
