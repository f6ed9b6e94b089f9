"""What programs can read from each refusal, in each form: whose limit it is, what would help, where to change it, and
when to retry."""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from farebox.calls.spending import spending_limit
from farebox.model import Permission
from farebox.money import NANOS_PER_CENT, NANOS_PER_USD
from farebox.operator import tokens
from tests.calls import kit
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

PUBLIC = "https://ai.example.com/farebox"
TEXT = "Good morning. " * 12
MESSAGES = [{"role": "user", "content": TEXT}]
CHAT = {"model": "dear", "messages": MESSAGES, "max_tokens": 16}
STEP = {"provider": "demo", "endpoint": "v1/chat/completions", "query": CHAT}
USER = {"farebox-end-user": "ada"}
FORMS: dict[str, tuple[str, Any]] = {
    "openai": ("v1/{}/default/demo/v1/chat/completions", CHAT),
    "compat": ("v1/{}/default/compat/chat/completions", CHAT | {"model": "demo/dear"}),
    "responses": ("v1/{}/default/demo/v1/responses", {"model": "dear", "input": TEXT, "max_output_tokens": 16}),
    "anthropic": ("v1/{}/default/demo/v1/messages", CHAT),
    "google": (
        "v1/{}/default/demo/v1beta/models/dear:generateContent",
        {"contents": [{"parts": [{"text": TEXT}]}], "generationConfig": {"maxOutputTokens": 16}},
    ),
    "universal": ("v1/{}/default", [STEP]),
    "rest": ("client/v4/accounts/{}/ai/v1/chat/completions", CHAT | {"model": "demo/dear"}),
    "run": ("client/v4/accounts/{}/ai/run/demo/dear", {"messages": MESSAGES, "max_tokens": 16}),
}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("refusals"), public_url=PUBLIC) as served:
        served.url = f"http://127.0.0.1:{served.port}/farebox"
        kit.set_price(served, "demo", "dear", input_mtok="20000")
        yield served
        assert kit.differences(served) == []


@pytest.fixture(scope="module")
def room(farebox: Farebox) -> int:
    """A limit, in nano-dollars, that covers any one of the calls."""
    customer = farebox.funded("0.01")
    needed: list[float] = [ask(customer, form).json()["needed_usd"] for form in FORMS]
    return round(max(needed) * NANOS_PER_USD)


def ask(customer: Customer, form: str, **more: str) -> httpx.Response:
    path, body = FORMS[form]
    url = f"{customer.farebox.url}/{path.format(customer.account_id)}"
    headers = customer.headers | USER | {"cf-aig-gateway-id": "default"} | more
    return http.post(url, json=body, headers=headers)


def used_up(customer: Customer) -> Customer:
    """Call until calls are refused; the customer."""
    assert ask(customer, "openai").status_code == 200
    for form in FORMS:
        while ask(customer, form).status_code == 200:
            pass
    return customer


# --- what refuses -----------------------------------------------------------------------------------------------------


def empty(farebox: Farebox, room: int) -> Customer:
    return farebox.funded("0.01")


def too_low(arranged: Callable[..., Customer]) -> Callable[[Farebox, int], Customer]:
    """The same, with a limit below the cost of any call."""
    return lambda farebox, room: arranged(farebox, room // 2, fits=False)


def limited_account(strategy: str) -> Callable[..., Customer]:
    def arranged(farebox: Farebox, room: int, *, fits: bool = True) -> Customer:
        customer, cents = farebox.funded("50"), -(-room // NANOS_PER_CENT)
        limit = {"amount_cents": cents, "duration": "daily", "strategy": strategy}
        farebox.run(spending_limit.put(farebox.services, customer.account_id, **limit))  # type: ignore[arg-type]
        return used_up(customer) if fits else customer

    return arranged


def ruled(**selects: Any) -> Callable[..., Customer]:
    def arranged(farebox: Farebox, room: int, *, fits: bool = True) -> Customer:
        customer = farebox.funded("50")
        rule = kit.spend_rule("tight", room, **selects)
        at = farebox.services.clock.now_ms()
        farebox.run(
            farebox.services.database.write(lambda connection: kit.put_rules(connection, customer.account_id, at, rule))
        )
        kit.forget(farebox)
        return used_up(customer) if fits else customer

    return arranged


def policed(action: Callable[[int], dict[str, Any]]) -> Callable[..., Customer]:
    def arranged(farebox: Farebox, room: int, *, fits: bool = True) -> Customer:
        customer = farebox.funded("50")
        kit.set_gateway(customer)
        policy: dict[str, Any] = {"name": "tight", "actor": "everyone", "resource": "*", "action": action(room)}
        url = f"{customer.api_url}/ai-gateway/gateways/default/policies?commit=true"
        assert http.post(url, json=policy, headers=customer.headers).status_code == 200
        kit.forget(farebox)
        return used_up(customer) if fits and policy["action"]["type"] != "block" else customer

    return arranged


def rated(technique: str) -> Callable[[Farebox, int], Customer]:
    def arranged(farebox: Farebox, room: int) -> Customer:
        customer = farebox.funded("50")
        rate: dict[str, Any] = {"rate_limiting_limit": 1, "rate_limiting_interval": 86_400}
        kit.set_gateway(customer, rate_limiting_technique=technique, **rate)
        return used_up(customer)

    return arranged


def with_token(farebox: Farebox, **terms: Any) -> Customer:
    customer, services = farebox.funded("50"), farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection, services.ids, services.vault, account_id=customer.account_id,
                permissions=[Permission.RUN], at=services.clock.now_ms(), **terms,
            )
        )
    )  # fmt: skip
    return Customer(farebox, customer.account_id, made.secret)


def rated_token(farebox: Farebox, room: int) -> Customer:
    customer = farebox.funded("50")
    tokens = http.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers).json()["result"]
    url = f"{customer.api_url}/farebox/tokens/{tokens[0]['id']}"
    rate = {"rate_limiting_limit": 1, "rate_limiting_interval": 86_400}
    assert http.put(url, json=rate, headers=customer.headers).status_code == 200
    kit.forget(farebox)
    return used_up(customer)


def other_models(farebox: Farebox, room: int) -> Customer:
    return with_token(farebox, models=("demo/demo-1",))


def rated_key(farebox: Farebox, room: int) -> Customer:
    customer = farebox.funded("50")
    key = {"provider_slug": "demo", "alias": "ours", "secret": "sk-of-the-account", "default_config": True}
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    rate = {"rate_limit": 1, "rate_limit_period": 86_400}
    made = http.post(url, json=key | rate, headers=customer.headers)
    assert made.status_code in (200, 201), made.text
    kit.forget(farebox)
    return used_up(customer)


def without_key(farebox: Farebox, room: int) -> Customer:
    customer = farebox.funded("50")
    kit.set_gateway(customer, byok_only=True)
    return customer


def by_credit(room: int) -> dict[str, Any]:
    dollars = room / NANOS_PER_USD
    return {"type": "limit", "amount": dollars, "period": "monthly", "technique": "named-interval"}


@dataclass(frozen=True)
class Source:
    """Something that refuses calls, and how the refusal describes it."""

    arranged: Callable[[Farebox, int], Customer]
    status: int
    code: int
    source: str
    page: str = ""
    """The page with its remedy; empty: none."""
    waits: bool = False
    """Whether waiting helps."""
    money: bool = False
    rule: bool = False


SOURCES = {
    "empty account": Source(empty, 402, 2021, "account", "/billing", money=True),
    "spending limit": Source(limited_account("fixed"), 429, 2045, "limit", "/billing", waits=True, money=True),
    "sliding limit": Source(limited_account("sliding"), 429, 2045, "limit", "/billing", waits=True, money=True),
    "spend rule": Source(ruled(), 429, 2045, "limit", "/ui/limits", waits=True, money=True, rule=True),
    "sliding rule": Source(
        ruled(technique="sliding"), 429, 2045, "limit", "/ui/limits", waits=True, money=True, rule=True
    ),
    "token's budget": Source(
        ruled(token={"mode": "partition"}), 429, 2045, "limit", "/ui/limits", waits=True, money=True, rule=True
    ),
    "end user's budget": Source(
        ruled(user={"mode": "partition"}), 429, 2045, "limit", "/ui/limits", waits=True, money=True, rule=True
    ),
    "policy's limit": Source(policed(by_credit), 429, 2045, "limit", "/ui/limits", waits=True, money=True, rule=True),
    "too low a spending limit": Source(too_low(limited_account("fixed")), 402, 2045, "limit", "/billing", money=True),
    "too low a spend rule": Source(too_low(ruled()), 402, 2045, "limit", "/ui/limits", money=True, rule=True),
    "too low a sliding rule": Source(
        too_low(ruled(technique="sliding")), 402, 2045, "limit", "/ui/limits", money=True, rule=True
    ),
    "too low a policy's limit": Source(
        too_low(policed(by_credit)), 402, 2045, "limit", "/ui/limits", money=True, rule=True
    ),
    "policy": Source(policed(lambda _: {"type": "block"}), 403, 2971, "policy", "/ui/limits"),
    "gateway's rate": Source(rated("fixed"), 429, 2003, "limit", waits=True),
    "gateway's sliding rate": Source(rated("sliding"), 429, 2003, "limit", waits=True),
    "token's rate": Source(rated_token, 429, 2003, "token", "/ui/tokens", waits=True),
    "key's rate": Source(rated_key, 429, 2003, "provider", "/ui/gateways", waits=True),
    "token's models": Source(other_models, 403, 2970, "token", "/ui/tokens"),
    "no key": Source(without_key, 400, 2905, "provider", "/ui/gateways"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_refusal_has_the_same_facts_in_every_form(farebox: Farebox, room: int, name: str) -> None:
    source = SOURCES[name]
    customer = source.arranged(farebox, room)
    charged = customer.balance.posted
    for form in FORMS:
        response = ask(customer, form)
        found = response.json()
        assert (response.status_code, found["errors"][0]["code"]) == (source.status, source.code), (form, found)
        check(source, customer, response, found)
        error = found["error"]
        if form == "google":
            metadata = error["details"][0]["metadata"]
            check(source, customer, response, metadata | {"retry_after": int(metadata.get("retry_after", 0))})
        elif form != "anthropic":
            check(source, customer, response, error)
    if source.status == 402:  # waiting does not help; agents end their run then too
        codex, gemini = ask(customer, "responses", originator="codex_exec"), ask(customer, "google")
        assert (codex.status_code, codex.json()["error"]["type"]) == (429, "usage_limit_reached")
        assert codex.json()["message"].startswith(codex.headers["x-codex-promo-message"])
        assert "PerDay" in gemini.json()["error"]["details"][1]["violations"][0]["quotaId"]
    assert customer.balance.posted == charged
    assert customer.balance.held == 0


def check(source: Source, customer: Customer, response: httpx.Response, found: dict[str, Any]) -> None:
    assert found["source"] == source.source, found
    assert found["remedy"].endswith(".")
    page = f"{PUBLIC}{source.page}?account={customer.account_id}" if source.page else None
    assert found.get("remedy_url") == page
    assert ("rule_id" in found) == source.rule
    assert ("needed_usd" in found) == ("available_usd" in found) == source.money
    if source.money:
        assert float(found["needed_usd"]) > float(found["available_usd"]) > 0
    assert ("resets_at" in found) == ("retry-after" in response.headers) == source.waits
    final = not source.waits or int(response.headers["retry-after"]) > 60
    assert response.headers.get("x-should-retry") == ("false" if final else None)
    if source.waits:
        wait = int(response.headers["retry-after"])
        assert found["retry_after"] == wait > 0
        at = datetime.datetime.fromisoformat(found["resets_at"]).timestamp()
        assert abs(at - customer.farebox.services.clock.now_ms() / 1000 - wait) < 60, "the same time"


# --- the control plane ------------------------------------------------------------------------------------------------


def test_holds_of_applications_are_refused_in_cloudflares_form(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    hold = {"hold_id": "h", "amount_nanos": 6 * NANOS_PER_USD, "expires_in_ms": 60_000}
    refused = http.post(f"{customer.api_url}/farebox/holds", json=hold, headers=customer.headers)
    found = refused.json()
    assert (refused.status_code, found["errors"][0]["code"], found["result"]) == (402, 2021, None)
    assert (found["source"], found["needed_usd"], found["available_usd"]) == ("account", 6.0, 5.0)
    assert found["remedy_url"] == f"{PUBLIC}/billing?account={customer.account_id}"
    foreign = http.get(f"{farebox.funded().api_url}/farebox/tokens", headers=customer.headers)
    assert (foreign.status_code, foreign.json()["source"]) == (403, "token")
    wrong = http.post(f"{customer.api_url}/farebox/holds", json={}, headers=customer.headers)
    assert sorted(wrong.json()) == ["errors", "messages", "result", "success"], "nothing blocks it"


def test_the_refusal_of_an_unread_large_body_states_no_amount(farebox: Farebox) -> None:
    customer = farebox.funded("0.01")
    farebox.run(drained(farebox, customer.account_id))
    body = CHAT | {"messages": [{"role": "user", "content": "x" * 300_000}]}
    refused = http.post(f"{customer.gateway_url}/openai/chat/completions", json=body, headers=customer.headers)
    found = refused.json()
    assert (refused.status_code, found["available_usd"]) == (402, 0.0), found
    assert "needed_usd" not in found


async def drained(farebox: Farebox, account_id: str) -> None:
    """Take all credit from the account."""
    from farebox.ledger.commands import Hold, Settle

    services, now = farebox.services, farebox.services.clock.now_ms()
    amount = 10_000_000
    hold = Hold(
        account_id=account_id, hold_id="all", amount=amount, at=now, expires_at=now + 60_000, owner=services.instance
    )
    assert (await services.ledger.do(hold)).ok
    assert (await services.ledger.do(Settle(account_id=account_id, hold_id="all", amount=amount, at=now))).ok
