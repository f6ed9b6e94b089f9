"""An account's own names for models: their life cycle, and calls of them in every common form."""

from typing import Any

import httpx
import pytest

from tests.calls.kit import log_rows, set_gateway, set_price, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import errors, http, result
from tests.support import Customer

pytestmark = ON_BOTH_ENGINES


def url(customer: Customer, alias: str = "", gateway: str = "") -> str:
    of = f"/gateways/{gateway}" if gateway else ""
    return f"{customer.api_url}/farebox{of}/model-aliases{'/' if alias else ''}{alias}"


def put(customer: Customer, alias: str, *targets: Any, gateway: str = "") -> httpx.Response:
    return http.put(url(customer, alias, gateway), json={"targets": targets}, headers=customer.headers)


def test_the_life_cycle_of_an_alias(customer: Customer) -> None:
    made = result(put(customer, "fast", "demo/demo-1"))
    assert (made["alias"], made["gateway_id"], made["targets"]) == ("fast", None, ["demo/demo-1"])
    changed = result(put(customer, "fast", "demo/demo-2", "@cf/meta/llama"))
    assert (changed["targets"], changed["created_at"]) == (["demo/demo-2", "@cf/meta/llama"], made["created_at"])
    put(customer, "cheap:1.5", "demo/demo-1")
    of_gateway = result(put(customer, "fast", "demo/demo-1", gateway="default"))
    assert of_gateway["gateway_id"] == "default"
    listed = http.get(url(customer), params={"per_page": 1}, headers=customer.headers)
    assert [alias["alias"] for alias in result(listed)] == ["cheap:1.5"]
    assert listed.json()["result_info"] == {"page": 1, "per_page": 1, "count": 1, "total_count": 2}
    assert result(http.get(url(customer, "fast"), headers=customer.headers)) == changed
    assert result(http.get(url(customer, gateway="default"), headers=customer.headers)) == [of_gateway]
    other = customer.farebox.funded("1")
    assert result(http.get(url(other), headers=other.headers)) == []
    assert http.get(url(other, "fast"), headers=other.headers).status_code == 404
    assert http.get(url(customer, "fast"), headers=other.headers).status_code == 403
    assert other.chat(model="fast").status_code == 400
    assert result(http.delete(url(customer, "fast"), headers=customer.headers)) == changed
    assert http.delete(url(customer, "fast"), headers=customer.headers).status_code == 404
    assert put(customer, "x", "demo/demo-1", gateway="none").status_code == 404


def test_wrong_aliases(customer: Customer) -> None:
    for alias, targets, path in (
        ("a b", ["demo/demo-1"], ["path", "alias"]),
        ("-a", ["demo/demo-1"], ["path", "alias"]),
        ("x" * 65, ["demo/demo-1"], ["path", "alias"]),
        ("a", [], ["body", "targets"]),
        ("a", ["demo/demo-1"] * 11, ["body", "targets"]),
        ("a", ["demo/demo-1", "gpt"], ["body", "targets", 1]),
        ("a", ["nobody/gpt"], ["body", "targets", 0]),
        ("a", [7], ["body", "targets", 0]),
    ):
        response = put(customer, alias, *targets)
        assert response.status_code == 400, alias
        assert (errors(response)[0][0], response.json()["errors"][0]["path"]) == (7001, path)


def test_an_alias_is_called_in_every_common_form_and_falls_back(customer: Customer) -> None:
    farebox = customer.farebox
    set_provider(farebox, "openai")
    set_price(farebox, "openai", "gpt-x")
    put(customer, "fast", "openai/gpt-x", "demo/demo-1")
    response = customer.chat(model="fast")
    assert (response.status_code, response.json()["model"]) == (200, "gpt-x")
    assert (response.headers["cf-aig-provider"], response.headers["cf-aig-model"]) == ("openai", "gpt-x")
    farebox.script("status=503", "tokens=2")
    response = customer.chat(model="fast")
    assert (response.headers["cf-aig-model"], response.headers["cf-aig-step"]) == ("demo-1", "1")
    assert [(row["model"], row["farebox"]["route"]) for row in log_rows(customer)[:2]] == [
        ("demo-1", "fast"),
        ("gpt-x", "fast"),
    ]
    rest = f"{farebox.url}/client/v4/accounts/{customer.account_id}/ai/v1"
    answered = http.post(f"{rest}/responses", json={"model": "fast", "input": "Hi"}, headers=customer.headers)
    assert (answered.status_code, answered.headers["cf-aig-model"]) == (200, "gpt-x")
    put(customer, "claude", "demo/demo-1")
    message = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    answered = http.post(f"{rest}/messages", json=message, headers=customer.headers)
    assert (answered.status_code, answered.headers["cf-aig-provider"]) == (200, "demo")
    with http.stream(
        "POST",
        f"{customer.gateway_url}/compat/v1/chat/completions",
        json={"model": "fast", "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
        headers=customer.headers,
    ) as stream:
        assert (stream.status_code, stream.headers["cf-aig-model"]) == (200, "gpt-x")
        assert "[DONE]" in stream.read().decode()
    assert customer.balance.held == 0


def test_a_gateways_own_alias_wins_and_a_change_applies_to_the_next_call(customer: Customer) -> None:
    set_gateway(customer, "second")
    put(customer, "m", "demo/demo-1")
    put(customer, "m", "demo/none-such", gateway="second")

    def called(gateway: str) -> int:
        target = f"{customer.farebox.url}/v1/{customer.account_id}/{gateway}/compat/chat/completions"
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        return http.post(target, json=body, headers=customer.headers).status_code

    assert (called("default"), called("second")) == (200, 400)
    assert http.delete(url(customer, "m", "second"), headers=customer.headers).status_code == 200
    assert called("second") == 200
    http.delete(url(customer, "m"), headers=customer.headers)
    refused = customer.chat(model="m")
    assert refused.status_code == 400
    assert "The model “m” names no provider" in refused.text
    own = {"authorization": "Bearer sk-own", "cf-aig-authorization": f"Bearer {customer.token}"}
    put(customer, "m", "demo/demo-1")
    assert "cannot use a provider key" in customer.chat(model="m", headers=own).text


@pytest.mark.parametrize(
    "name", ["gpt-4o", "unknown", pytest.param("", id="empty"), pytest.param("x" * 100_000, id="long")]
)
def test_a_model_without_a_provider_is_refused_as_before(customer: Customer, name: str) -> None:
    response = customer.chat(model=name)
    assert response.status_code == 400
    assert "names no provider" in response.text
    step = {"provider": "compat", "endpoint": "chat/completions", "query": {"model": name, "messages": []}}
    assert "names no provider" in http.post(customer.gateway_url, json=[step], headers=customer.headers).text
