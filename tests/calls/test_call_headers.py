"""Headers by which callers describe a call: its metadata, its end user, and its cost under their own contract."""

import json
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from farebox.gateway import SpendLimits
from farebox.pricing.custom_cost import custom_cost
from tests.calls.kit import forget, log_row, price_of, set_gateway, spend_rule
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer

pytestmark = ON_BOTH_ENGINES


def test_metadata_that_is_ignored_is_reported(customer: Customer) -> None:
    many = dict.fromkeys("abcdefg", 1)
    cases: list[tuple[str, Any, str]] = [
        ('{"team":"red","n":1.5,"on":true}', {"team": "red", "n": 1.5, "on": True}, ""),
        (json.dumps(many), dict.fromkeys("abcde", 1), "all but the first 5 entries"),
        ('{"cf.x":1,"y":2}', {"y": 2}, "entries whose names begin with 'cf.'"),
        (json.dumps({"cf.x": 1} | many), dict.fromkeys("abcde", 1), "'cf.'; all but the first 5"),
        ('{"a":1,"b":null}', None, "all of it: the value of 'b' is not a string, a number or a boolean"),
        ('{"a":1e999,"b":1}', None, "all of it: a number in it is out of range"),
        ('{"a":' + "[" * 3000 + "]" * 3000 + "}", None, "all of it: it is nested too deeply"),
        ("[1]", None, "all of it: it is not a JSON object"),
        ('{"a":{"b":1}}', None, "all of it: the value of 'a'"),
        ('{"a\\r\\nx":[]}', None, "all of it: the value of 'a\\\\r\\\\nx'"),
        ('{"\\u00fc":[]}', None, "all of it: the value of '\\\\xfc'"),
        ("team=red", None, "all of it: it is not JSON"),
        ("", None, ""),
    ]
    for text, kept, ignored in cases:
        response = customer.chat(headers={"cf-aig-metadata": text})
        assert response.status_code == 200, text
        found = response.headers.get("farebox-metadata-ignored", "")
        assert ignored.replace("\\\\", "\\") in found, (text, found)
        assert bool(ignored) == bool(found)
        assert log_row(customer, response.headers["cf-aig-log-id"]).get("metadata") == kept, text


def test_a_call_with_x402_payment_is_not_paid_from_credit(customer: Customer) -> None:
    before = customer.balance.posted
    message = {"messages": [{"role": "user", "content": "x"}]}
    run = f"{customer.api_url}/ai/run/demo/demo-1"
    for url, header in (
        (f"{customer.gateway_url}/compat/chat/completions", {"payment-method": "X402"}),
        (run, {"payment-method": "x402"}),
        (run, {"payment-signature": "e30="}),
    ):
        headers = {"authorization": f"Bearer {customer.token}"}
        body = {"model": "demo/demo-1"} | message if "compat" in url else message
        assert httpx.post(url, json=body, headers=headers).status_code == 200
        paid, before = before - customer.balance.posted, customer.balance.posted
        refused = httpx.post(url, json=body, headers=headers | header)
        code = 7003 if url == run else 2901
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, code), refused.text
        assert "x402" in refused.text
        assert customer.balance.posted == before
        assert paid > 0


def test_a_header_names_the_end_user_wherever_the_body_cannot(customer: Customer) -> None:
    set_gateway(
        customer,
        spend_limits=msgspec.convert(
            {"enabled": True, "rules": [spend_rule("each", 10**9, user={"mode": "partition"})]}, SpendLimits
        ),
    )
    url = f"{customer.api_url}/farebox/model-aliases/short"
    assert httpx.put(url, json={"targets": ["demo/demo-1"]}, headers=customer.headers).status_code in (200, 201)
    forget(customer.farebox)
    said = {"messages": [{"role": "user", "content": "Hi"}]}
    step = {"provider": "demo", "endpoint": "v1/chat/completions", "query": said | {"model": "demo-1"}}
    google = {"contents": [{"parts": [{"text": "Hi"}]}]}
    cases: list[tuple[str, Any, str | None, str]] = [
        ("compat/chat/completions", said | {"model": "demo/demo-1", "user": "body"}, None, "body"),
        ("compat/chat/completions", said | {"model": "demo/demo-1", "user": "body"}, "header", "header"),
        ("compat/chat/completions", said | {"model": "short"}, "alias", "alias"),
        ("demo/v1/messages", said | {"model": "demo-1", "max_tokens": 9}, "Renée 東", "Renée 東"),
        ("demo/v1/messages", said | {"model": "demo-1", "max_tokens": 9, "metadata": {"user_id": "é"}}, None, "é"),
        ("demo/v1beta/models/demo-1:generateContent", google, "g" * 256, "g" * 256),
        ("", [step], "whole", "whole"),
        ("", [step | {"headers": {"Farebox-End-User": "step"}}], "whole", "step"),
        ("demo/v1/chat/completions", said | {"model": "demo-1"}, None, ""),
    ]
    counted = set()
    for path, body, user, expected in cases:
        named = [] if user is None else [(b"farebox-end-user", user.encode())]
        headers = httpx.Headers([*httpx.Headers(customer.headers).raw, *named])
        response = httpx.post(f"{customer.gateway_url}/{path}".rstrip("/"), json=body, headers=headers)
        assert response.status_code == 200, response.text
        counted |= {expected} - {""}
        rules = httpx.get(f"{customer.api_url}/farebox/gateways/default/spend-limits", headers=customer.headers)
        assert {each["partition"]["user"] for each in rules.json()["result"]} == counted
    for wrong in ("", "x" * 257):
        response = customer.chat(headers={"farebox-end-user": wrong})
        assert (response.status_code, response.json()["internalCode"]) == (400, 2901), "it does not escape a budget"
        assert "farebox-end-user" in response.text
    assert all("farebox-end-user" not in json.dumps(each).lower() for each in customer.farebox.demo_journal())


def own(customer: Customer, cost: str, model: str = "demo-1") -> httpx.Response:
    return httpx.post(
        f"{customer.gateway_url}/demo/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "one two three"}]},
        headers={
            "cf-aig-authorization": f"Bearer {customer.token}",
            "authorization": "Bearer sk-own",
            "cf-aig-custom-cost": cost,
            "x-demo": "tokens=4 cached=2",
        },
    )


def test_custom_costs_are_those_of_the_log_and_charge_nothing(customer: Customer) -> None:
    stated = '{"per_token_in": 0.5, "per_token_out": 0.25}'
    row = log_row(customer, own(customer, stated).headers["cf-aig-log-id"])
    assert (row["cost"], row["custom_cost"], row["wholesale"]) == (3 * 0.5 + 4 * 0.25, True, False)
    cached = '{"per_token_in": 0.5, "per_token_out": 0.25, "per_cache_read_token": 0.125}'
    row = log_row(customer, own(customer, cached).headers["cf-aig-log-id"])
    assert row["cost"] == 0.5 + 2 * 0.125 + 4 * 0.25
    row = log_row(customer, own(customer, stated, "unpriced").headers["cf-aig-log-id"])
    assert (row["cost"], row["tokens_in"], row["tokens_out"], row["custom_cost"]) == (2.5, 3, 4, True)
    assert customer.balance.posted == 5 * 10**9
    paid = customer.chat("one two", headers={"cf-aig-custom-cost": '{"per_token_in": 0, "per_token_out": 0}'})
    usage = paid.json()["usage"]
    charge = price_of(usage["prompt_tokens"], usage["completion_tokens"])
    assert customer.balance.posted == 5 * 10**9 - charge, "a caller that pays from credit cannot set the price"
    row = log_row(customer, paid.headers["cf-aig-log-id"])
    assert (row["cost"], row["custom_cost"]) == (charge / 10**9, False)


@pytest.mark.parametrize(
    "text",
    ["x", "[]", "{}", '{"per_token_in":1}', '{"per_token_in":-1,"per_token_out":1}',
     '{"per_token_in":1e9,"per_token_out":1}', '{"per_token_in":1,"per_token_out":1,"per_request":1}',
     '{"per_token_in":"much","per_token_out":1}', '{"per_token_in":"NaN","per_token_out":1}'],
)  # fmt: skip
def test_wrong_custom_costs_are_refused(customer: Customer, text: str) -> None:
    response = own(customer, text)
    assert response.status_code == 400
    assert "cf-aig-custom-cost" in response.text


def test_custom_costs_are_rounded_up_once() -> None:
    cost = custom_cost('{"per_token_in": 1e-10, "per_token_out": 0.0000000001}')
    assert cost.per_token_in == Decimal("1e-10")
    assert cost.nanos({"input_tokens": 3, "output_tokens": 4}) == 1
    assert cost.nanos({}) == 0
