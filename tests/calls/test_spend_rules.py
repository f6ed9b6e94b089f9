"""Rules of a gateway's spend limits on real calls: exact with any number in flight, whichever rule is the tightest."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from farebox.gateway import SpendLimits
from farebox.money import NANOS_PER_USD
from tests.calls.gate import INPUT_TOKENS, OUTPUT_TOKENS, SLUG, gated
from tests.calls.kit import differences, log_rows, price_of, set_gateway, spend_rule, within
from tests.calls.test_exact_admission import IN_FLIGHT, K, gate_body, hold_of, in_flight, refusals
from tests.calls.wire import Wire, WireResponse, chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]

PRICE = price_of(INPUT_TOKENS, OUTPUT_TOKENS)
SCOPES = ("first", "second", "token", "user")
"""Each call counts in all of these rules."""


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("ruled"), hold_wait_ms=100) as served:
        yield served


def limits_of(*rules: dict[str, Any]) -> SpendLimits:
    return msgspec.convert({"enabled": True, "rules": rules}, SpendLimits)


def limit_to(customer: Customer, *rules: dict[str, Any]) -> None:
    set_gateway(customer, spend_limits=limits_of(*rules))


def only(*values: str) -> dict[str, Any]:
    return {"mode": "filter", "values": values}


def in_scopes(room: dict[str, int], technique: str = "fixed") -> list[dict[str, Any]]:
    """A rule for each scope: two of the gateway, one for each access token, one for each end user."""
    return [
        spend_rule("first", room["first"], technique=technique),
        spend_rule("second", room["second"], technique=technique, provider=only(SLUG)),
        spend_rule("token", room["token"], technique=technique, token={"mode": "partition"}),
        spend_rule("user", room["user"], technique=technique, user={"mode": "partition"}),
    ]


def body_of(user: str, *, stream: bool) -> bytes:
    """A call of this end user."""
    body: bytes = msgspec.json.encode(msgspec.json.decode(gate_body(stream=stream)) | {"user": user})
    return body


def left(customer: Customer, rule_id: str = "") -> list[dict[str, Any]]:
    url = f"{customer.api_url}/farebox/gateways/default/spend-limits"
    response = httpx.get(url, headers=customer.headers, params={"rule_id": rule_id})
    found: list[dict[str, Any]] = response.json()["result"]
    return found


def spent(customer: Customer) -> dict[str, tuple[int, int]]:
    return {each["rule_id"]: (each["spent_nanos"], each["held_nanos"]) for each in left(customer)}


@pytest.mark.parametrize(
    ("stream", "tightest", "technique"),
    [
        (False, "account", "fixed"),
        (True, "first", "sliding"),
        (False, "second", "sliding"),
        (True, "token", "fixed"),
        (False, "user", "sliding"),
        (True, "user", "fixed"),
    ],
)
async def test_exactly_as_many_calls_are_admitted_as_the_tightest_budget_covers(
    farebox: Farebox, stream: bool, tightest: str, technique: str
) -> None:
    with gated(farebox) as gate:
        body = body_of("ann", stream=stream)
        hold = await hold_of(farebox, gate, body)
        room = {name: (K if name == tightest else 2 * K) * hold for name in ("account", *SCOPES)}
        customer = farebox.funded(f"{room['account'] / NANOS_PER_USD:.9f}")
        limit_to(customer, *in_scopes(room, technique), spend_rule("others", 1, model=only("another")))
        wires = await in_flight(customer, body, IN_FLIGHT)
        refused, pending = await refusals(wires, IN_FLIGHT - K)
        assert gate.waiting == K
        assert spent(customer) == {**dict.fromkeys(SCOPES, (0, K * hold)), "others": (0, 0)}
        gate.open()
        admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * K
        assert all(response.whole for response in admitted)
        assert {(response.status, response.code) for response in refused} == {(429, 2907)}
        assert spent(customer) == {**dict.fromkeys(SCOPES, (K * PRICE, 0)), "others": (0, 0)}
        assert customer.balance.posted == room["account"] - K * PRICE
        if tightest != "account":
            assert {response.json()["rule_id"] for response in refused} == {tightest}
            gate.shut()
            again = (room[tightest] - K * PRICE) // hold
            wires = await in_flight(customer, body, IN_FLIGHT)
            refused, pending = await refusals(wires, IN_FLIGHT - again)
            gate.open()
            admitted = await within(asyncio.gather(*pending))
            assert [response.status for response in admitted] == [200] * again
    assert differences(farebox) == []


async def test_calls_of_many_users_and_tokens_are_admitted_while_all_their_scopes_have_room(
    farebox: Farebox,
) -> None:
    """No scope is overdrawn, and no call is refused that fits in all of its scopes."""
    with gated(farebox) as gate:
        hold = await hold_of(farebox, gate, body_of("ann", stream=False))
        room = {"first": 9 * hold, "second": 30 * hold, "token": 5 * hold, "user": 3 * hold}
        one = farebox.funded("5")
        limit_to(one, *in_scopes(room))
        callers = [Customer(farebox, one.account_id, farebox.create_token(one.account_id)) for _ in range(3)]
        users = ("ann", "bob", "eve", "joe")
        asked = [(caller, user) for _ in range(6) for caller in callers for user in users]
        sent = [await in_flight(caller, body_of(user, stream=n % 2 == 0), 1) for n, (caller, user) in enumerate(asked)]
        tasks = [asyncio.ensure_future(wire.response()) for (wire,) in sent]
        await eventually(lambda: sum(map(asyncio.Task.done, tasks)) + gate.waiting == len(tasks), "all were decided")
        of_token, of_user = (Counter(), Counter())  # type: Counter[str], Counter[str]
        for (caller, user), task in zip(asked, tasks, strict=True):
            if not task.done():
                of_token[caller.token] += 1
                of_user[user] += 1
        admitted = of_token.total()
        assert admitted <= 9
        assert max(of_token.values()) <= 5
        assert max(of_user.values()) <= 3
        for (caller, user), task in zip(asked, tasks, strict=True):
            full = admitted == 9 or of_token[caller.token] == 5 or of_user[user] == 3
            assert full or not task.done(), (of_token, of_user)
        gate.open()
        answers = await within(asyncio.gather(*tasks))
        assert Counter(answer.status for answer in answers) == {200: admitted, 429: len(tasks) - admitted}
        counted = [(one["rule_id"], one["spent_nanos"], one["held_nanos"]) for one in left(one)]
        sums = Counter({rule_id: 0 for rule_id, _, _ in counted})
        for rule_id, spent_nanos, held_nanos in counted:
            assert held_nanos == 0
            sums[rule_id] += spent_nanos
        assert sums == dict.fromkeys(SCOPES, admitted * PRICE)
        assert one.balance.posted == 5 * NANOS_PER_USD - admitted * PRICE
    assert differences(farebox) == []


async def test_a_call_is_limited_in_its_output_to_what_every_budget_leaves(farebox: Farebox) -> None:
    """By the tightest budget, even if another would limit it as well."""
    body = chat_body()
    probe = farebox.funded("5")
    hold = probe.receipt((await post(probe, body)).log_id)["hold_nanos"]
    customer = farebox.funded("5")
    limit_to(customer, spend_rule("a", hold * 3 // 4), spend_rule("b", hold // 2), spend_rule("c", hold * 2 // 3))
    response = await post(customer, body)
    assert response.status == 200
    assert 0 < customer.receipt(response.log_id)["hold_nanos"] <= hold // 2
    assert int(response.headers["farebox-output-limit"]) > 16


async def test_a_budget_that_is_spent_refuses_until_its_window_ends(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    body = chat_body(max_tokens=100)
    first = await post(customer, body)
    used = customer.receipt(first.log_id)
    limit_to(
        customer, spend_rule("fixed", used["hold_nanos"], user={"mode": "partition"}), spend_rule("wide", NANOS_PER_USD)
    )
    mine = chat_body(max_tokens=100, user="me")
    assert (await post(customer, mine)).status == 200
    # The rest is too little even for sixteen tokens, or is used.
    responses = [await post(customer, mine) for _ in range(40)]
    refused = responses[-1]
    assert (refused.status, refused.code) == (429, 2045)
    said = refused.json()
    assert said["message"].startswith(f"Spend limit exceeded: rule 'fixed' (cost limit {used['hold_nanos'] / 1e9} per ")
    assert (said["rule_id"], said["source"]) == ("fixed", "limit")
    assert said["remedy"]
    assert int(refused.headers["retry-after"]) == said["retry_after"] > 0
    assert said["resets_at"] > "2026"
    assert float(said["needed_usd"]) > float(said["available_usd"]) >= 0
    assert (refused.headers.get("x-should-retry") == "false") == (said["retry_after"] > 60)
    (state,) = left(customer, "fixed")
    assert state["partition"] == {"user": "me"}
    assert state["spent_nanos"] <= state["limit_nanos"]
    assert said["resets_at"] == state["resets_at"].replace(".000Z", "Z")
    assert (await post(customer, chat_body(max_tokens=100, user="you"))).status == 200
    assert log_rows(customer)[1]["cost"] == 0
    assert differences(farebox) == []


async def test_calls_on_the_callers_own_key_count_what_they_cost(farebox: Farebox) -> None:
    """Nothing is charged and no credit is needed."""
    with gated(farebox) as gate:
        customer = Customer(farebox, account := farebox.create_account(), farebox.create_token(account))
        paid = await hold_of(farebox, gate, gate_body(stream=False))
        limit_to(customer, spend_rule("own", K * paid))
        wires = await own_key_calls(customer, IN_FLIGHT)
        refused, pending = await refusals(wires, IN_FLIGHT - K)
        assert gate.waiting == K
        assert spent(customer) == {"own": (0, K * paid)}
        gate.open()
        admitted = await within(asyncio.gather(*pending))
        assert [response.status for response in admitted] == [200] * K
        assert {response.json()["rule_id"] for response in refused} == {"own"}
        assert spent(customer) == {"own": (K * PRICE, 0)}
        assert (customer.balance.posted, customer.balance.held) == (0, 0)
        receipt = customer.receipt(admitted[0].log_id)
        assert (receipt["outcome"], receipt["charge_nanos"], receipt.get("hold_nanos", 0)) == ("own_key", 0, 0)
    assert differences(farebox) == []


async def own_key_calls(customer: Customer, count: int) -> list[Wire]:
    wires = await asyncio.gather(*(Wire.open(customer.farebox.url) for _ in range(count)))
    headers = {
        "content-type": "application/json", "authorization": "Bearer callers-own-key",
        "cf-aig-authorization": f"Bearer {customer.token}",
    }  # fmt: skip
    path = f"/v1/{customer.account_id}/default/compat/chat/completions"
    await asyncio.gather(*(wire.send(path, headers, gate_body(stream=False)) for wire in wires))
    return list(wires)


async def test_unanswered_calls_free_their_budget(farebox: Farebox) -> None:
    """After a provider error, a client that hangs up, or a refusal for lack of credit."""
    customer = farebox.funded("1")
    limit_to(customer, spend_rule("r", NANOS_PER_USD // 2))
    failed = await post(customer, chat_body(), demo="status=500")
    assert failed.status == 500
    wires: list[Wire] = await in_flight(customer, chat_body(max_tokens=50), 3, demo="hang=1")
    await eventually(lambda: spent(customer)["r"][1] > 0, "calls hold money")
    for wire in wires:
        wire.hang_up()
    await eventually(lambda: spent(customer)["r"][1] == 0, "every hold ended")
    charged = 10**9 - customer.balance.posted
    assert spent(customer) == {"r": (charged, 0)}, "the input of calls that hung up is charged, and counts"
    poor = farebox.funded("0.000001")
    limit_to(poor, spend_rule("r", NANOS_PER_USD))
    response: WireResponse = await post(poor, chat_body())
    assert response.status == 402
    assert spent(poor) == {"r": (0, 0)}
    assert differences(farebox) == []


def test_unreadable_requests_do_not_pass_the_rules(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    ours = {"authorization": "Bearer callers-own-key", "cf-aig-authorization": f"Bearer {customer.token}"}
    nested = b"[" * 130 + b"]" * 130
    body = b'{"model": "demo-1", "messages": [{"role": "user", "content": "x"}], "metadata": %s}' % nested
    url = f"{customer.gateway_url}/demo/v1/chat/completions"
    before = httpx.post(url, content=body, headers=ours | {"content-type": "application/json"})
    assert before.status_code == 200, before.text
    limit_to(customer, spend_rule("first", 1))
    after = httpx.post(url, content=body, headers=ours | {"content-type": "application/json"})
    assert (after.status_code, after.json()["internalCode"]) == (400, 2901)
