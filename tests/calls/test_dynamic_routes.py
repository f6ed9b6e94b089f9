"""Calls of `dynamic/…`: which model answers, what happens if it fails, and what is charged."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from farebox.limits import rate
from farebox.runtime.services import Services
from farebox.storage.sql import Connection, rows
from tests.calls.kit import differences, log_rows, price_of, set_gateway, set_price, set_provider, set_rates
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.http.support import http
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import start_of_window

pytestmark = ON_BOTH_ENGINES
END = {"id": "end", "type": "end", "outputs": {}}
NAMES = (
    *("a", "b", "c", "first", "second", "third", "slow", "again", "cheap", "big", "new", "large", "tools", "halting"),
    *("small", "m", "one", "two", "three", "four"),
)
"""The demo provider's models that have a price."""


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Callers and routes may set any timeout; the demo provider also stands in for OpenAI and Groq."""
    with running_farebox(tmp_path_factory.mktemp("routes"), request_timeout_min_ms=1) as served:
        for slug in ("openai", "groq"):
            set_provider(served, slug)
            set_price(served, slug, "gpt-x")
        for name in NAMES:
            set_price(served, "demo", name)
        yield served
        assert differences(served) == []


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def start(first: str) -> dict[str, Any]:
    return {"id": "start", "type": "start", "outputs": {"next": {"elementId": first}}}


def model(element_id: str, fallback: str | None = None, **properties: Any) -> dict[str, Any]:
    outputs = {"success": {"elementId": "end"}} | ({"fallback": {"elementId": fallback}} if fallback else {})
    chosen = {"provider": "demo", "model": element_id, "retries": 0, "timeout": 0} | properties
    return {"id": element_id, "type": "model", "properties": chosen, "outputs": outputs}


def either(element_id: str, conditions: Any, yes: str, no: str) -> dict[str, Any]:
    outputs = {"true": {"elementId": yes}, "false": {"elementId": no}}
    return {"id": element_id, "type": "conditional", "properties": {"conditions": conditions}, "outputs": outputs}


def limit(element_id: str, success: str, fallback: str | None = None, **properties: Any) -> dict[str, Any]:
    chosen = {"key": "", "limit": 2, "limitType": "count", "window": 3600} | properties
    outputs = {"success": {"elementId": success}} | ({"fallback": {"elementId": fallback}} if fallback else {})
    return {"id": element_id, "type": "rate", "properties": chosen, "outputs": outputs}


def create(customer: Customer, *elements: dict[str, Any], name: str = "r", gateway: str = "default") -> str:
    for element in elements:
        if element["type"] == "rate":
            start_of_window(element["properties"]["window"])
    response = http.post(
        f"{customer.api_url}/ai-gateway/gateways/{gateway}/routes",
        json={"name": name, "elements": elements},
        headers=customer.headers,
    )
    assert response.status_code == 200, response.text
    return str(response.json()["result"]["id"])


def call(customer: Customer, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return customer.chat(headers=headers, **{"model": "dynamic/r", **body})


def chosen(customer: Customer, *, headers: dict[str, str] | None = None, **body: Any) -> str:
    """The model that answered."""
    response = call(customer, headers=headers, **body)
    assert response.status_code == 200, response.text
    found: str = response.headers["cf-aig-model"]
    assert response.json()["model"] == found
    return found


def code(response: httpx.Response) -> int:
    return int(response.json()["errors"][0]["code"])


def spent(customer: Customer) -> int:
    return 5 * 10**9 - customer.balance.posted


def test_the_openai_sdk_calls_a_route_and_learns_who_answered(customer: Customer) -> None:
    create(customer, start("gpt-x"), model("gpt-x", provider="groq"), END, name="my.route-1")
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/compat", max_retries=0) as client:
        _chat_along_a_route(customer, client)


def _chat_along_a_route(customer: Customer, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    raw = client.chat.completions.with_raw_response.create(model="dynamic/my.route-1", messages=messages)
    assert (raw.headers["cf-aig-provider"], raw.headers["cf-aig-model"]) == ("groq", "gpt-x")
    assert raw.headers["cf-aig-step"] == "0"
    usage = raw.parse().usage
    assert usage is not None
    assert spent(customer) == price_of(usage.prompt_tokens, usage.completion_tokens)
    (row,) = log_rows(customer)
    assert (row["provider"], row["model"], row["farebox"]["route"]) == ("groq", "gpt-x", "my.route-1")
    assert row["id"] == raw.headers["cf-aig-log-id"]
    with client.chat.completions.create(model="dynamic/my.route-1", messages=messages, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    plain = customer.chat()
    assert "cf-aig-model" not in plain.headers


def test_conditions_on_metadata_headers_and_the_body(customer: Customer) -> None:
    create(
        customer,
        start("paid"),
        either("paid", {"metadata.plan": {"$in": ["pro", "team"]}, "metadata.seats": {"$gte": 3}}, "big", "beta"),
        either(
            "beta",
            {"$or": [{"headers.X-Beta": {"$gt": 1}}, {"headers.x-cohort": {"$in": ["new", 7, "8"]}}]},
            "new",
            "long",
        ),
        either("long", {"body.max_tokens": {"$gt": 100}}, "large", "tool"),
        either("tool", {"body.tools.0.type": "function", "$not": {"body.user": {"$exists": True}}}, "tools", "stop"),
        either("stop", {"body.stop": {"$eq": "halt"}, "body.seed": {"$ne": 7}}, "halting", "small"),
        *(model(name) for name in ("big", "new", "large", "tools", "halting", "small")),
        END,
    )

    def tagged(**metadata: Any) -> dict[str, str]:
        return {"cf-aig-metadata": json.dumps(metadata)}

    tools = [{"type": "function", "function": {"name": "f"}}]
    cases: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        ("big", tagged(plan="pro", seats=3), {}),
        ("small", tagged(plan="pro", seats=2), {}),
        ("small", tagged(plan="pro", seats="3"), {}),
        ("small", tagged(plan="free", seats=9), {}),
        ("small", {}, {}),
        ("new", {"x-beta": "1.5"}, {}),
        ("small", {"x-beta": "1"}, {}),
        ("small", {"x-beta": "many"}, {}),
        ("new", {"x-cohort": "new"}, {}),
        ("new", {"x-cohort": "7.0"}, {}),
        ("new", {"x-cohort": "8"}, {}),
        ("small", {"x-cohort": "8.0"}, {}),
        ("large", {}, {"max_tokens": 101}),
        ("small", {}, {"max_tokens": 100}),
        ("tools", {}, {"tools": tools}),
        ("small", {}, {"tools": tools, "user": "u"}),
        ("halting", {}, {"stop": "halt"}),
        ("halting", {}, {"stop": ["x", "halt"]}),
        ("small", {}, {"stop": "halt", "seed": 7}),
    ]
    for expected, headers, body in cases:
        assert chosen(customer, headers=headers, **body) == expected, (headers, body)


def test_a_condition_on_a_large_body(customer: Customer) -> None:
    create(customer, start("if"), either("if", {"body.user": "u"}, "a", "b"), model("a"), model("b"), END)
    many = [{"role": "user", "content": "word " * 10} for _ in range(3_000)]
    assert chosen(customer, messages=many, user="u") == "a"
    assert chosen(customer, messages=many) == "b"


def test_percentages(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    split = {"10%": {"elementId": "a"}, "20.5%": {"elementId": "b"}, "else": {"elementId": "c"}}
    whole = {"50%": {"elementId": "a"}, "50.0%": {"elementId": "b"}}
    names = ("a", "b", "c")
    create(customer, start("p"), {"id": "p", "type": "percentage", "outputs": split}, *map(model, names), END)
    create(
        customer,
        start("p"),
        {"id": "p", "type": "percentage", "outputs": whole},
        *map(model, names[:2]),
        END,
        name="whole",
    )
    services: Services = customer.farebox.services
    for chance, first, second in ((0.0, "a", "a"), (0.0999, "a", "a"), (0.1, "b", "a"), (0.3049, "b", "a"),
                                  (0.305, "c", "a"), (0.5, "c", "b"), (0.9999, "c", "b")):  # fmt: skip
        monkeypatch.setattr(services.ids, "chance", lambda value=chance: value)
        assert (chosen(customer), chosen(customer, model="dynamic/whole")) == (first, second)
    monkeypatch.undo()
    assert {chosen(customer, model="dynamic/whole") for _ in range(40)} == {"a", "b"}


def test_the_fallback_answers_where_the_first_fails_and_only_it_is_charged(customer: Customer) -> None:
    create(customer, start("first"), model("first", "second"), model("second", "third"), model("third"), END)
    farebox = customer.farebox
    farebox.script("status=500", "status=429", "tokens=3")
    response = call(customer)
    assert (response.status_code, response.headers["cf-aig-model"]) == (200, "third")
    assert response.headers["cf-aig-step"] == "2"
    rows = log_rows(customer)
    assert [(row["model"], row["step"], row["status_code"]) for row in rows] == [
        ("third", 2, 200),
        ("second", 1, 429),
        ("first", 0, 500),
    ]
    charges = [customer.receipt(row["id"])["charge_nanos"] for row in rows]
    assert charges == [price_of(2, 3), 0, 0]
    assert (spent(customer), customer.balance.held) == (price_of(2, 3), 0)

    farebox.script("status=500", "status=503", "status=418")
    failed = call(customer)
    assert (failed.status_code, failed.headers["cf-aig-model"]) == (418, "third")  # the response is the last error
    farebox.script("cut=1", "tokens=2")
    assert chosen(customer) == "second"
    farebox.script("status=500 tokens=1", "tokens=4")
    with http.stream(
        "POST",
        f"{customer.gateway_url}/compat/chat/completions",
        json={"model": "dynamic/r", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
        headers=customer.headers,
    ) as stream:
        assert (stream.status_code, stream.headers["cf-aig-model"]) == (200, "second")
        assert "data: [DONE]" in stream.read().decode()
    assert customer.balance.held == 0


def test_time_and_retries_of_an_element(customer: Customer) -> None:
    create(customer, start("slow"), model("slow", "again", timeout=60), model("again", retries=2), END)
    farebox = customer.farebox
    farebox.script("hang=1", "status=500", "status=500", "tokens=2")
    assert chosen(customer) == "again"
    rows = log_rows(customer)
    assert [(row["model"], row["status_code"], row["step"]) for row in rows] == [("again", 200, 1), ("slow", 504, 0)]
    farebox.script("status=500 delay=150", "tokens=2")
    assert call(customer, headers={"cf-aig-max-attempts": "1"}).headers["cf-aig-model"] == "again"
    assert customer.balance.held == 0


def test_models_that_cannot_be_called_are_skipped(farebox: Farebox, customer: Customer) -> None:
    """If a model has no price or key, or the credit or a spending limit does not cover it, the fallback is tried."""
    create(
        customer,
        start("unpriced"),
        model("unpriced", "keyless", provider="openai"),
        model("keyless", "expensive", provider="mistral"),
        model("expensive", "cheap", provider="openai", model="expensive"),
        model("cheap"),
        END,
    )
    set_rates(farebox, ("openai", "expensive", {"input_mtok": "9000000"}, None))
    assert chosen(customer) == "cheap"
    assert [row["farebox"]["error"] for row in log_rows(customer)] == ["", "no_credit", "model_unpriced"]
    url = f"{customer.api_url}/ai-gateway/billing/spending-limit"
    limited = {"amount": 100, "duration": "daily", "strategy": "fixed"}
    assert http.post(url, json=limited, headers=customer.headers).status_code == 201
    assert chosen(customer) == "cheap"


def test_limits_send_requests_to_the_fallback(customer: Customer) -> None:
    create(
        customer,
        start("few"),
        limit("few", "first", "none", key="metadata.user"),
        limit("none", "second", limit=1, key=""),
        model("first"),
        model("second"),
        END,
    )

    def of(user: str) -> dict[str, str]:
        return {"cf-aig-metadata": json.dumps({"user": user})}

    assert [chosen(customer, headers=of("a")) for _ in range(2)] == ["first"] * 2
    assert [chosen(customer, headers=of("b")) for _ in range(2)] == ["first"] * 2
    assert chosen(customer, headers=of("a")) == "second"
    refused = call(customer, headers=of("b"))
    assert (refused.status_code, code(refused)) == (429, 2003)
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert [chosen(customer) for _ in range(2)] == ["first"] * 2  # calls without a user share a limit
    assert call(customer).status_code == 429
    other = customer.farebox.funded("1")
    create(other, start("few"), limit("few", "first", limit=1), model("first"), END)
    assert chosen(other) == "first"
    assert customer.balance.held == 0


def test_a_request_counts_once_if_a_fallback_passes_the_same_limit_again(customer: Customer) -> None:
    create(
        customer,
        start("budget"),
        limit("budget", "few", "few", limitType="cost", limit=0.000001),
        limit("few", "first", "second"),
        model("first"),
        model("second"),
        END,
    )
    assert [chosen(customer, max_tokens=100) for _ in range(3)] == ["first", "first", "second"]


def budgets(customer: Customer) -> dict[str, tuple[int, int]]:
    """The spent and held amounts in the budgets of the account's routes, by the suffix of their scope."""

    def read(connection: Connection) -> dict[str, tuple[int, int]]:
        sql = "SELECT scope, sum(spent), sum(held) FROM budgets WHERE account_id = ? GROUP BY scope"
        return {scope: (int(spent), int(held)) for scope, spent, held in rows(connection, sql, (customer.account_id,))}

    return read_now(customer.farebox.services.settings, read)


def test_a_budget_is_exact_and_sends_what_does_not_fit_to_the_fallback(customer: Customer) -> None:
    create(
        customer,
        start("budget"),
        limit("budget", "first", "second", limitType="cost", limit=0.001, key="metadata.user"),
        model("first"),
        model("second"),
        END,
    )
    most = 1_000_000

    def of(user: str) -> httpx.Response:
        headers = {"cf-aig-metadata": json.dumps({"user": user}), "x-demo": "tokens=100"}
        return call(customer, headers=headers, max_tokens=100)

    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(of, ["a"] * 24 + ["b"]))
    answered = [response.headers["cf-aig-model"] for response in responses]
    assert {response.status_code for response in responses} == {200}
    assert answered[-1] == "first"
    charges = [customer.receipt(response.headers["cf-aig-log-id"])["charge_nanos"] for response in responses]
    spent_of_a = sum(charge for charge, name in zip(charges[:-1], answered[:-1], strict=True) if name == "first")
    assert 2 * price_of(2, 100) <= spent_of_a <= most
    assert "second" in answered
    assert sorted(budgets(customer).values()) == sorted([(spent_of_a, 0), (charges[-1], 0)])
    assert (sum(charges), customer.balance.held) == (spent(customer), 0)


def test_a_budget_without_a_fallback_refuses_and_is_named(customer: Customer) -> None:
    few = limit("few", "first", limitType="cost", limit=0.001)
    create(customer, start("few"), few, model("first", "second"), model("second"), END)
    limited = call(customer, max_tokens=1000, headers={"x-demo": "tokens=1000"})
    assert limited.status_code == 200
    assert 100 < int(limited.headers["farebox-output-limit"]) < 500
    for _ in range(5):
        refused = call(customer, max_tokens=1000, headers={"x-demo": "tokens=1000"})
        if refused.status_code != 200:
            break
    assert (refused.status_code, code(refused)) == (429, 2045)
    assert "rule 'dynamic/r/few'" in refused.text
    assert sum(spent for spent, _ in budgets(customer).values()) == spent(customer) <= 1_000_000


def test_a_route_without_a_model_names_the_element_where_it_ends(customer: Customer) -> None:
    create(customer, start("if"), either("if", {"metadata.plan": "pro"}, "m", "end"), model("m"), END)
    refused = call(customer)
    assert (refused.status_code, code(refused)) == (403, 2951)
    assert "ends at its element “end”" in refused.text
    assert refused.headers["x-should-retry"] == "false"
    assert spent(customer) == 0


def test_invalid_calls_of_routes_are_refused(customer: Customer) -> None:
    create(customer, start("m"), model("m"), END)
    unknown = call(customer, model="dynamic/none")
    assert (unknown.status_code, code(unknown)) == (404, 2950)
    own = call(customer, headers={"authorization": "Bearer sk-own", "cf-aig-authorization": f"Bearer {customer.token}"})
    assert (own.status_code, code(own)) == (400, 2901)
    assert "cannot use a provider key" in own.text
    body = {"model": "dynamic/r", "messages": [{"role": "user", "content": "Hi"}]}
    for url, sent in (
        (f"{customer.api_url}/ai/v1/responses", {"model": "dynamic/r", "input": "x"}),
        (f"{customer.gateway_url}/compat/embeddings", {"model": "dynamic/r", "input": "x"}),
        (customer.gateway_url, [{"provider": "compat", "endpoint": "chat/completions", "query": body}]),
    ):
        response = http.post(url, json=sent, headers=customer.headers)
        assert (response.status_code, code(response)) == (400, 2901), response.text
    assert customer.farebox.demo_stats()
    assert spent(customer) == 0
    set_gateway(customer, "second")
    elsewhere = http.post(
        f"{customer.farebox.url}/v1/{customer.account_id}/second/compat/chat/completions",
        json=body,
        headers=customer.headers,
    )
    assert elsewhere.status_code == 404
    rest = http.post(f"{customer.api_url}/ai/v1/chat/completions", json=body, headers=customer.headers)
    assert (rest.status_code, rest.headers["cf-aig-model"]) == (200, "m")


def test_a_deployment_applies_to_the_next_call(customer: Customer) -> None:
    route_id = create(customer, start("few"), limit("few", "one", "two", limit=1), model("one"), model("two"), END)
    assert [chosen(customer), chosen(customer)] == ["one", "two"]
    url = f"{customer.api_url}/ai-gateway/gateways/default/routes/{route_id}"
    elements = [start("few"), limit("few", "three", "four", limit=2), model("three"), model("four"), END]
    version = http.post(f"{url}/versions", json={"elements": elements}, headers=customer.headers).json()["result"]
    assert chosen(customer) == "two"
    deploy = {"version_id": version["version_id"]}
    assert http.post(f"{url}/deployments", json=deploy, headers=customer.headers).status_code == 200
    assert [chosen(customer), chosen(customer)] == ["three", "four"]  # its limit keeps its count
    assert http.delete(url, headers=customer.headers).status_code == 200
    assert call(customer).status_code == 404


def test_many_values_of_one_account_do_not_reset_the_limits_of_others(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = customer.farebox.funded("1")
    for owner in (customer, other):
        create(owner, start("few"), limit("few", "first", limit=1, key="metadata.user"), model("first"), END)

    def of(user: object) -> dict[str, str]:
        return {"cf-aig-metadata": json.dumps({"user": user})}

    assert chosen(customer, headers=of("a")) == "first"
    room = len(customer.farebox.services.route_rates._windows) + 20
    monkeypatch.setattr(rate, "KEYS_MAX", room)
    for user in range(30):
        assert chosen(other, headers=of(user)) == "first"
    assert call(customer, headers=of("a")).status_code == 429
