"""`cloudflare/auto`: which model answers, why, and how that is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.model import Permission
from farebox.operator import tokens
from tests.calls import kit
from tests.calls.upstream import Upstream, serving
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """`cheap` of Groq can only do text; `gpt-4o-mini` and Claude are more expensive and can do more."""
    models = "groq/cheap, openai/gpt-4o-mini, anthropic/claude-sonnet-4-5, mistral/keyless, groq/calls=tools"
    with running_farebox(tmp_path_factory.mktemp("auto"), auto_models=models, request_timeout_min_ms=1) as served:
        for slug in ("openai", "groq", "anthropic"):
            kit.set_provider(served, slug)
        kit.set_price(served, "mistral", "keyless", input_mtok="0")
        kit.set_price(served, "groq", "cheap", input_mtok="0.1")
        kit.set_price(served, "groq", "calls", input_mtok="0.4")
        kit.set_price(served, "openai", "gpt-4o-mini", input_mtok="1")
        kit.set_price(served, "anthropic", "claude-sonnet-4-5", input_mtok="3")
        yield served
        assert kit.differences(served) == []


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def auto(customer: Customer, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return customer.chat(headers=headers, **{"model": "cloudflare/auto", **body})


def routed(customer: Customer, *, headers: dict[str, str] | None = None, **body: Any) -> tuple[str, str]:
    answer = auto(customer, headers=headers, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cf-aig-routing-decision-id"] == answer.headers["cf-aig-request-id"]
    return answer.headers["cf-aig-routed-model"], answer.headers["cf-aig-routing-reason"]


def test_the_cheapest_capable_model_answers(customer: Customer) -> None:
    cheapest = "cost_optimal_within_pool"
    assert routed(customer) == ("groq/cheap", cheapest)
    assert routed(customer, tools=TOOLS) == ("groq/calls", cheapest)
    assert routed(customer, response_format=SCHEMA) == ("openai/gpt-4o-mini", "forced_by_candidate_pool")
    # For an image of unknown size, GPT-4o mini counts more than enough tokens for Claude to be cheaper.
    assert routed(customer, messages=[{"role": "user", "content": [IMAGE]}])[0] == "anthropic/claude-sonnet-4-5"
    only_claude = ("anthropic/claude-sonnet-4-5", "forced_by_candidate_pool")
    assert routed(customer, reasoning_effort="high") == only_claude
    assert routed(customer, reasoning_effort="minimal")[0] == "groq/cheap"
    none = auto(customer, reasoning_effort="high", response_format=SCHEMA)
    assert (none.status_code, none.json()["internalCode"]) == (400, 2952)
    assert "json, reasoning" in none.json()["message"]
    rows = kit.log_rows(customer)
    assert rows[-1]["model"] == "cheap"
    assert rows[-1]["farebox"]["route"] == "cloudflare/auto/cost_optimal_within_pool"
    assert customer.balance.held == 0


def test_the_sdks(customer: Customer) -> None:
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.api_url}/ai/v1", max_retries=0) as client:
        raw = client.responses.with_raw_response.create(model="cloudflare/auto", input="Hi")
        assert raw.headers["cf-aig-routed-model"] == "groq/cheap"
        assert raw.parse().output_text
        messages: Any = [{"role": "user", "content": "Hi"}]
        with client.chat.completions.create(model="cloudflare/auto", messages=messages, stream=True) as stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    headers = {"x-api-key": customer.token}
    body = {"model": "cloudflare/auto", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    answer = http.post(f"{customer.api_url}/ai/v1/messages", json=body, headers=headers)
    assert (answer.json()["type"], answer.headers["cf-aig-routed-model"]) == ("message", "anthropic/claude-sonnet-4-5")


def test_langchain_cloudflare(customer: Customer) -> None:
    from langchain_cloudflare import ChatCloudflareWorkersAI

    with serving() as upstream:
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        message = {"role": "assistant", "content": "Hello"}
        upstream.response = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        _ask(customer, upstream, ChatCloudflareWorkersAI)


def _ask(customer: Customer, upstream: Upstream, chat_class: Any) -> None:
    small, large = "@cf/meta/llama-3.1-8b-instruct", "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
    kit.set_provider(customer.farebox, "workers-ai", base_url=f"{upstream.url}/ai")
    for model, usd in ((small, "0.2"), (large, "0.3")):
        kit.set_price(customer.farebox, "workers-ai", model, input_mtok=usd)
    options = {
        "model": "cloudflare/auto",
        "account_id": customer.account_id,
        "api_token": customer.token,
        "base_url": f"{customer.farebox.url}/client/v4",
        "ai_gateway": "default",
        "endpoint_format": "openai_compatible",
        "aig_allowed_models": [large, small],
        "aig_session_id": "s1",
    }
    chat: Any = chat_class(**options)
    metadata = chat.invoke("Hi there").response_metadata
    assert metadata["requested_model"] == "cloudflare/auto"
    assert metadata["model_name"] == small
    assert metadata["ai_gateway"]["routing_reason"] == "cost_optimal_within_pool"
    assert metadata["ai_gateway"]["routing_decision_id"]
    assert upstream.sent[-1].json()["model"] == small
    chat.client.close()
    asyncio.run(chat.async_client.aclose())


def test_candidates_can_be_restricted(customer: Customer) -> None:
    farebox = customer.farebox

    def of(models: str = "", providers: str = "") -> dict[str, str]:
        named = {"cf-aig-allowed-models": models, "cf-aig-allowed-providers": providers}
        return {name: value for name, value in named.items() if value}

    assert routed(customer, headers=of("anthropic/claude-sonnet-4.5"))[0] == "anthropic/claude-sonnet-4-5"
    assert routed(customer, headers=of("demo/*"))[0] == "demo/demo-1"
    assert routed(customer, headers=of("openai/gpt-4o-mini,groq/cheap", "openai"))[0] == "openai/gpt-4o-mini"
    assert routed(customer, headers=of("", "anthropic,openai"))[0] == "openai/gpt-4o-mini"
    for models, words in (
        ("openai/none", "matches no model"),
        ("x", "names no provider"),
        ("a/b=tools", "names of models"),
        (",".join(["demo/d*"] * 11), "at most"),
    ):
        refused = auto(customer, headers=of(models))
        assert (refused.status_code, refused.json()["internalCode"]) == (400, 2901)
        assert words in refused.json()["message"]
        assert not refused.json()["message"].endswith("..")
    nothing = auto(customer, headers=of("openai/gpt-4o-mini", "groq")).json()
    assert (nothing["internalCode"], "cf-aig-allowed-models" in nothing["message"]) == (2952, True)
    assert auto(customer, headers=of("", "nobody")).json()["internalCode"] == 2901
    assert auto(customer, headers={"cf-aig-no-wholesale": "true"}).json()["internalCode"] == 2952
    empty = auto(customer, headers={"cf-aig-allowed-providers": "cohere"}).json()
    assert (empty["internalCode"], "cf-aig-allowed-models" in empty["message"]) == (2952, True)
    kit.set_gateway(customer, "own", byok_only=True)
    own = http.post(f"{farebox.url}/v1/{customer.account_id}/own/compat/chat/completions", headers=customer.headers,
                    json={"model": "cloudflare/auto", "messages": [{"role": "user", "content": "Hi"}]})  # fmt: skip
    assert own.json()["internalCode"] == 2952
    services = farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection, services.ids, services.vault, account_id=customer.account_id, permissions=[Permission.RUN],
                at=services.clock.now_ms(), models=["openai/*"],
            )
        )
    )  # fmt: skip
    assert routed(Customer(farebox, customer.account_id, made.secret))[0] == "openai/gpt-4o-mini"
    url = f"{customer.api_url}/farebox/model-aliases/auto"
    targets = {"targets": ["anthropic/claude-sonnet-4-5", "openai/gpt-4o-mini"]}
    assert http.put(url, json=targets, headers=customer.headers).status_code == 200
    assert routed(customer)[0] == "openai/gpt-4o-mini"
    key = {"authorization": "Bearer sk-own", "cf-aig-authorization": f"Bearer {customer.token}"}
    assert auto(customer, headers=key).json()["internalCode"] == 2901


def test_the_next_model_answers_if_one_fails_or_is_too_expensive(customer: Customer) -> None:
    customer.farebox.script("status=500", "tokens=2")
    answer = auto(customer)
    assert (answer.headers["cf-aig-routed-model"], answer.headers["cf-aig-step"]) == ("groq/calls", "1")
    assert answer.headers["cf-aig-routing-reason"] == "fallback_candidate_unavailable"
    assert [row["status_code"] for row in kit.log_rows(customer)] == [200, 500]
    rule = {"mode": "filter", "values": ["groq"]}
    limits = {"enabled": True, "rules": [{"limit": 1e-9, "limitType": "cost", "window": 60, "provider": rule}]}
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    assert http.patch(url, json={"spend_limits": limits}, headers=customer.headers).status_code == 200
    assert routed(customer) == ("openai/gpt-4o-mini", "fallback_candidate_unavailable")
    assert customer.balance.held == 0


def test_a_conversation_stays_with_its_model(customer: Customer) -> None:
    session = {"cf-aig-session-id": "s1"}
    first = [{"role": "user", "content": "look it up"}]
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    second = [*first, called, {"role": "tool", "tool_call_id": "c", "content": "found"}]
    third = [*second, {"role": "assistant", "content": "It is."}, {"role": "user", "content": "thanks"}]
    assert routed(customer, headers=session, messages=first, tools=TOOLS)[0] == "groq/calls"
    assert routed(customer, headers=session, messages=second) == ("groq/calls", "pinned_by_turn")
    assert routed(customer, messages=second)[0] == "groq/cheap"
    free = {**session, "cf-aig-no-session-affinity": "true"}
    assert routed(customer, headers=free, messages=second)[0] == "groq/cheap"
    assert routed(customer, headers=session, messages=third) == ("groq/cheap", "cost_optimal_within_pool")
    turn = {**session, "cf-aig-turn-id": "t"}
    assert routed(customer, headers=turn, messages=third, tools=TOOLS)[0] == "groq/calls"
    assert routed(customer, headers=turn, messages=first) == ("groq/calls", "pinned_by_turn")
    assert routed(customer.farebox.funded("5"), headers=turn, messages=first)[0] == "groq/cheap"


def test_a_turn_that_no_model_answered_is_bound_to_none(customer: Customer) -> None:
    turn = {"cf-aig-session-id": "s", "cf-aig-turn-id": "t"}
    customer.farebox.script(*["status=500"] * 4)
    assert auto(customer, headers=turn).status_code == 500
    assert routed(customer, headers=turn) == ("groq/cheap", "cost_optimal_within_pool")
