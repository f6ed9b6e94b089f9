"""The operator's bounds on calls with the operator's key: a cap on the estimate, refused fields and tools."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.app import running
from farebox.clock import SystemClock
from farebox.errors import ESTIMATE_CAPPED, REQUEST_REFUSED
from farebox.settings import SettingsError, load
from tests.calls.kit import differences, price_of, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, free_port, running_farebox

pytestmark = ON_BOTH_ENGINES

CAP_CENTS = 1
CAP_NANOS = CAP_CENTS * 10**7
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Good morning"}]}
ANSWER = {"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
MESSAGE = {"content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 7, "output_tokens": 3}}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with serving() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def farebox(engine: str, provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(
        tmp_path_factory.mktemp("bounds"),
        estimate_max_cents=CAP_CENTS,
        refused_fields="openai:service_tier, *:metadata,openai:language",
        refused_tools="anthropic:web_search",
    ) as served:
        for slug, model in (("openai", "gpt-4o"), ("openai", "whisper-1"), ("anthropic", "claude-9")):
            set_provider(served, slug, base_url=provider.url)
            set_price(served, slug, model)
        yield served


@pytest.fixture
def customer(farebox: Farebox, provider: Upstream) -> Customer:
    provider.response = ANSWER
    provider.sent.clear()
    return farebox.funded("5")


def post(customer: Customer, body: dict[str, Any], path: str = "openai/chat/completions", key: str = "") -> Any:
    headers = {"cf-aig-authorization": f"Bearer {customer.token}"} | ({"authorization": f"Bearer {key}"} if key else {})
    return httpx.post(f"{customer.gateway_url}/{path}", json=body, headers=headers, timeout=60)


def test_the_output_of_a_call_is_limited_to_the_cap_on_its_estimate(customer: Customer, provider: Upstream) -> None:
    response = post(customer, CHAT | {"max_tokens": 4_000, "n": 4})
    assert response.status_code == 200, response.text
    limit = int(response.headers["farebox-output-limit"])
    assert provider.requested == [CHAT | {"max_tokens": limit, "n": 4}]
    assert CAP_NANOS - price_of(300, 4) < price_of(0, 4 * limit) < CAP_NANOS
    assert customer.balance.posted == 5 * 10**9 - price_of(7, 3)


def test_a_call_within_the_cap_is_unchanged(customer: Customer, provider: Upstream) -> None:
    response = post(customer, CHAT | {"max_tokens": 1_000})
    assert "farebox-output-limit" not in response.headers
    assert provider.requested == [CHAT | {"max_tokens": 1_000}]


def test_input_beyond_the_cap_is_counted_and_then_refused(customer: Customer, provider: Upstream) -> None:
    """40,000 bytes are at most 8,000 tokens, which the cap allows; four times as many are too much."""
    text = "word word " * 4_000
    assert post(customer, CHAT | {"messages": [{"role": "user", "content": text}]}).status_code == 200
    response = post(customer, CHAT | {"messages": [{"role": "user", "content": text * 4}]})
    [error] = response.json()["errors"]
    assert (response.status_code, error["code"]) == (ESTIMATE_CAPPED.status, ESTIMATE_CAPPED.code)
    assert "0.01 USD" in error["message"]
    assert len(provider.sent) == 1
    assert customer.balance.held == 0
    assert differences(customer.farebox) == []


def test_a_balance_below_the_cap_limits_further(customer: Customer) -> None:
    poor = customer.farebox.funded("0.002")
    response = post(poor, CHAT | {"max_tokens": 100_000})
    assert price_of(0, int(response.headers["farebox-output-limit"])) < 2 * 10**6


@pytest.mark.parametrize("field", ["service_tier", "metadata"])
def test_a_field_that_the_operator_refuses(customer: Customer, provider: Upstream, field: str) -> None:
    response = post(customer, CHAT | {field: "priority"})
    [error] = response.json()["errors"]
    assert (response.status_code, error["code"]) == (REQUEST_REFUSED.status, REQUEST_REFUSED.code)
    assert f"the field `{field}`" in error["message"]
    common = post(customer, CHAT | {"model": "openai/gpt-4o", field: "x"}, "compat/chat/completions")
    assert common.json()["errors"][0]["code"] == REQUEST_REFUSED.code
    assert not provider.sent
    assert post(customer, CHAT | {field: None}).status_code == 200
    assert post(customer, CHAT | {field: "priority"}, key="sk-my-own").status_code == 200


def test_a_refused_field_of_a_form_and_of_a_large_body(customer: Customer, provider: Upstream) -> None:
    large = CHAT | {"service_tier": "flex", "messages": [{"role": "user", "content": "word " * 40_000}]}
    assert post(customer, large).json()["errors"][0]["code"] == REQUEST_REFUSED.code
    form = httpx.post(
        f"{customer.gateway_url}/openai/audio/transcriptions",
        data={"model": "whisper-1", "language": "de"},
        files={"file": b"RIFF"},
        headers=customer.headers,
    )
    assert "the field `language`" in form.json()["errors"][0]["message"]
    assert not provider.sent


@pytest.mark.parametrize("kind", ["web_search_20250305", "web_search_20260209"])
def test_a_tool_that_the_operator_refuses(customer: Customer, provider: Upstream, kind: str) -> None:
    provider.response = MESSAGE
    body = {"model": "claude-9", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
    response = post(customer, body | {"tools": [{"type": kind, "name": "web_search"}]}, "anthropic/v1/messages")
    assert response.status_code == 400
    assert "the tool `web_search`" in response.json()["error"]["message"]
    assert not provider.sent
    tools = [{"name": "lookup", "input_schema": {"type": "object"}}]
    assert post(customer, body | {"tools": tools}, "anthropic/v1/messages").status_code == 200


@pytest.mark.parametrize("text", ["openai", "openai:", "nobody:service_tier", ":x"])
async def test_an_empty_refusal_rule_refuses_to_start(text: str, tmp_path: Path) -> None:
    settings = load({}, data_dir=str(tmp_path), refused_fields=text, port=free_port())
    with pytest.raises(SettingsError, match="FAREBOX_REFUSED_FIELDS"):
        async with running(settings, demo=False, clock=SystemClock()):
            pass


@pytest.mark.parametrize(
    ("setting", "text"),
    [("custom_networks", "10.0.0.1/8"), ("custom_networks", "inside"), ("zdr_providers", "openai,nobody")],
)
async def test_an_invalid_setting_of_account_providers_refuses_to_start(
    setting: str, text: str, tmp_path: Path
) -> None:
    settings = load({}, data_dir=str(tmp_path), port=free_port(), **{setting: text})
    with pytest.raises(SettingsError, match=f"FAREBOX_{setting.upper()}"):
        async with running(settings, demo=False, clock=SystemClock()):
            pass
