"""The list of models, read with OpenAI's SDK: the price of each for this account, and whether a call is affordable
now."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from farebox.calls.quotes import SMALL_BYTES, SMALL_OUTPUT
from farebox.operator import prices
from tests.calls.kit import INPUT_NANOS, forget, set_gateway
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES
MILLION = 1_000_000


def client_of(customer: Customer, path: str = "") -> openai.OpenAI:
    base_url = f"{customer.api_url}/ai/v1" if path == "rest" else f"{customer.gateway_url}/compat{path}"
    return openai.OpenAI(api_key=customer.token, base_url=base_url, max_retries=0)


def listed(customer: Customer, path: str = "") -> dict[str, dict[str, Any]]:
    with client_of(customer, path) as client:
        return {model.id: model.model_dump(exclude_unset=True) for model in client.models.list()}


def store_key(customer: Customer, provider: str) -> None:
    body = {"alias": "default", "default_config": True, "provider_slug": provider, "secret": "key-of-the-accounts-own"}
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    assert httpx.post(url, json=body, headers=customer.headers).is_success


def set_markup(customer: Customer, parts_per_million: int) -> None:
    services = customer.farebox.services
    customer.farebox.run(
        services.database.write(
            lambda connection: prices.set_markup(
                connection, services.ids, by=TESTER, parts_per_million=parts_per_million,
                at=services.clock.now_ms() - 1000, account_id=customer.account_id, valid_from=0,
            )
        )
    )  # fmt: skip
    forget(customer.farebox)


def test_every_model_has_its_price_and_its_limits(farebox: Farebox, customer: Customer) -> None:
    expected = {
        "id": "demo/demo-1", "object": "model", "created": 0, "owned_by": "demo", "context_window": 128_000,
        "max_output_tokens": 4_096, "paid_from": "credit", "affordable": True,
        "pricing": {
            "currency": "USD",
            "input_tokens": {"per": MILLION, "usd": 1.0},
            "output_tokens": {"per": MILLION, "usd": 2.0},
            "cache_read_tokens": {"per": MILLION, "usd": 0.1},
        },
    }  # fmt: skip
    for path in ("", "/v1", "rest"):
        found = listed(customer, path)["demo/demo-1"]
        assert found.pop("small_call_nanos") > 0
        assert found == expected
    set_markup(customer, 1_200_000)
    found = listed(customer)["demo/demo-1"]["pricing"]
    assert [found[meter]["usd"] for meter in expected["pricing"] if meter != "currency"] == [1.2, 2.4, 0.12]  # type: ignore[attr-defined]
    assert listed(farebox.funded("1"))["demo/demo-1"]["pricing"] == expected["pricing"], "another account's markup"


def test_a_single_model_is_described(customer: Customer) -> None:
    for path in ("", "rest"):
        with client_of(customer, path) as client:
            assert (
                client.models.retrieve("demo/demo-1").model_dump(exclude_unset=True) == listed(customer)["demo/demo-1"]
            )
            with pytest.raises(openai.NotFoundError) as refused:
                client.models.retrieve("demo/no-such-model")
            assert refused.value.code == "model_not_found"


def test_affordable_means_that_a_small_call_can_be_held_for(farebox: Farebox, customer: Customer) -> None:
    hold = listed(customer)["demo/demo-1"]["small_call_nanos"]
    short = farebox.funded(f"{(hold - 1) / 10**9:.9f}")
    assert listed(short)["demo/demo-1"]["affordable"] is False
    farebox.grant(short.account_id, f"{1 / 10**9:.9f}")
    assert listed(short)["demo/demo-1"]["affordable"] is True
    text = "demo:tokens=1 " + "x" * SMALL_BYTES
    asked = customer.chat(text, max_completion_tokens=SMALL_OUTPUT, stream=True).headers["farebox-hold-usd"]
    text = text[: -(round(float(asked) * 10**9) - hold) // INPUT_NANOS]  # the whole request is then small
    answer = short.chat(text, max_completion_tokens=SMALL_OUTPUT, stream=True)
    assert answer.status_code == 200, answer.text
    assert float(answer.headers["farebox-hold-usd"]) == hold / 10**9
    assert "farebox-output-limit" not in answer.headers


def test_the_spending_limit_counts_like_credit(customer: Customer) -> None:
    funded = customer.farebox.funded("50")
    url = f"{funded.api_url}/ai-gateway/billing/spending-limit"
    body = {"amount": 100, "duration": "daily", "strategy": "fixed"}
    assert httpx.post(url, json=body, headers=funded.headers).is_success
    set_markup(funded, 10**9)  # a small call costs more than a dollar
    assert listed(funded)["demo/demo-1"]["affordable"] is False
    assert httpx.delete(url, headers=funded.headers).status_code == 200
    assert listed(funded)["demo/demo-1"]["affordable"] is True


def test_models_on_a_stored_key_cost_nothing(farebox: Farebox) -> None:
    empty = farebox.funded("0.000000001")
    for provider in ("google-ai-studio", "groq"):
        store_key(empty, provider)
    set_markup(empty, 2_000_000)
    found = listed(empty)
    gemini, whisper = found["google-ai-studio/gemini-2.5-pro"], found["groq/whisper-large-v3"]
    assert (gemini["paid_from"], gemini["affordable"], gemini["small_call_nanos"]) == ("own_key", True, 0)
    assert gemini["pricing"]["input_tokens"] == {
        "per": MILLION, "usd": 1.25, "above": [{"input_tokens": 200_000, "usd": 2.5}]
    }  # fmt: skip
    assert whisper["pricing"]["audio_seconds"] == {"per": 3600, "usd": 0.111}
    assert whisper["max_output_tokens"] is None
    assert found["demo/demo-1"]["affordable"] is False
    set_gateway(empty, byok_only=True)
    assert {model["paid_from"] for model in listed(empty).values()} == {"own_key"}
