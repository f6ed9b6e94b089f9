"""The charge is what the provider will bill: its own stated cost, passes of other models, tiers and geographies.

The test scripts the upstream's responses; everything from there to the receipt is real.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import pytest

from farebox.money import parse_usd
from farebox.operator.audit_prices import against_stated, summarize_calls
from farebox.runtime.pending_alarms import Alarms
from farebox.storage.calls import models_since, stated_since
from farebox.storage.config import add_supplement
from tests.calls.kit import forget, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.engines import looking
from tests.support import Customer, Farebox, running_farebox

MESSAGE = {"role": "user", "content": "Hello there"}
SLUGS = ("openai", "anthropic", "google-ai-studio", "openrouter", "grok", "perplexity-ai")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("prices")) as served:
        for slug in SLUGS:
            set_provider(served, slug, base_url=upstream.url)
        yield served


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("1000")


def call(customer: Customer, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{customer.gateway_url}/{path}", json=body, headers=customer.headers)


def charged(customer: Customer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The receipt of a call."""
    response = call(customer, path, body)
    assert response.status_code == 200, response.text
    return customer.receipt(response.headers["cf-aig-log-id"])


def chat_response(usage: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage, **more}


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [MESSAGE], "max_tokens": 1000, **more}


def message_response(model: str, usage: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "Good day."}]
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "end_turn",
        "usage": usage,
        **more,
    }


def tokens(input_tokens: int, output_tokens: int, **more: Any) -> dict[str, Any]:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, **cached, **more}


def raw(usage: str) -> bytes:
    """A complete chat response whose usage is this JSON text, digit for digit."""
    text = json.dumps(chat_response({"x": 1}))
    return text.replace('{"x": 1}', usage).encode()


# --- tiers and geographies --------------------------------------------------------------------------------------------

TEN_AND_ONE = {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000}
TIERS = [
    ("gpt-6-astra", {"service_tier": "ultrafast"}, {"service_tier": "ultrafast"}, "0.9"),
    ("gpt-6.1-sol", {"service_tier": "ultrafast"}, {"service_tier": "ultrafast"}, "0.18"),
    ("gpt-6-astra", {"service_tier": "ultrafast"}, {"service_tier": "default"}, "0.15"),
    ("gpt-6-astra", {"service_tier": "flex"}, {}, "0.075"),
    ("gpt-6-astra", {"service_tier": "flex"}, {"service_tier": "default"}, "0.15"),
    ("gpt-6-astra", {"service_tier": "priority"}, {}, "0.3"),
    ("gpt-6-astra", {"service_tier": "auto"}, {"service_tier": "priority"}, "0.3"),
    ("gpt-6-astra", {}, {"service_tier": "scale"}, "0.15"),
]


@pytest.mark.parametrize(("model", "requested", "reported", "usd"), TIERS)
def test_a_tier_of_openai(
    customer: Customer, upstream: Upstream, model: str, requested: dict[str, str], reported: dict[str, str], usd: str
) -> None:
    upstream.response = chat_response(TEN_AND_ONE, **reported)
    receipt = charged(customer, "openai/chat/completions", chat(model, **requested, metadata={"x": "y " * 9000}))
    assert receipt["charge_nanos"] == parse_usd(usd)
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]


@pytest.mark.parametrize(
    ("tier", "usd"), [("priority", "0.0432"), ("PRIORITY", "0.0432"), ("flex", "0.012"), ("standard", "0.024")]
)
def test_a_tier_of_google(customer: Customer, upstream: Upstream, tier: str, usd: str) -> None:
    usage = {"promptTokenCount": 10_000, "candidatesTokenCount": 1_000, "totalTokenCount": 11_000}
    part = {"content": {"parts": [{"text": "Good day."}]}, "finishReason": "STOP"}
    upstream.response = {"candidates": [part], "usageMetadata": {**usage, "serviceTier": tier}}
    requested = {"contents": [{"parts": [{"text": "Hello " * 5000}]}], "serviceTier": tier}
    receipt = charged(customer, "google-ai-studio/v1beta/models/gemini-3.5-flash:generateContent", requested)
    assert receipt["charge_nanos"] == parse_usd(usd)
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]


def test_a_requested_unknown_tier_is_refused(customer: Customer, upstream: Upstream) -> None:
    before = len(upstream.requested)
    for requested in ({"service_tier": "hyperfast"}, {"service_tier": "turbo"}):
        response = call(customer, "openai/chat/completions", chat("gpt-6-astra", **requested))
        assert response.status_code == 400, response.text
        assert f"service_tier={requested['service_tier']}" in response.text
    response = call(customer, "anthropic/v1/messages", chat("claude-opus-4-6", inference_geo="mars"))
    assert "inference_geo=mars" in response.text
    assert len(upstream.requested) == before, "nothing was sent"


def test_an_unrequested_unknown_tier_costs_the_highest_known_price(customer: Customer, upstream: Upstream) -> None:
    upstream.response = chat_response(TEN_AND_ONE, service_tier="hyperfast")
    receipt = charged(customer, "openai/chat/completions", chat("gpt-6-astra"))
    assert receipt["charge_nanos"] == 6 * parse_usd("0.15")
    assert any("service_tier=hyperfast" in note and "6 times" in note for note in receipt["notes"])


def test_the_united_states_cost_a_tenth_more(customer: Customer, upstream: Upstream) -> None:
    upstream.response = message_response("claude-opus-4-6", tokens(1000, 1000, inference_geo="us"))
    receipt = charged(customer, "anthropic/v1/messages", chat("claude-opus-4-6", inference_geo="us"))
    assert receipt["charge_nanos"] == parse_usd("0.033")
    assert "supplement/" in receipt["price_version"]
    upstream.response = message_response("claude-opus-4-6", tokens(1000, 1000, inference_geo="global"))
    assert charged(customer, "anthropic/v1/messages", chat("claude-opus-4-6"))["charge_nanos"] == parse_usd("0.03")


def test_writes_to_a_twelve_hour_cache_have_their_price(customer: Customer, upstream: Upstream) -> None:
    details = {
        "cache_write_tokens": 9_000,
        "cache_write_tokens_details": {"ttl_30m_tokens": 4_000, "ttl_12h_tokens": 5_000},
    }
    upstream.response = chat_response({**TEN_AND_ONE, "prompt_tokens_details": details})
    receipt = charged(customer, "openai/chat/completions", chat("gpt-6-astra"))
    # 1,000 at 10 USD per million, 4,000 at 12.5, 5,000 at 25, 1,000 of output at 50
    assert receipt["charge_nanos"] == parse_usd("0.235")
    upstream.response = chat_response({**TEN_AND_ONE, "prompt_tokens_details": details})
    receipt = charged(customer, "openai/chat/completions", chat("gpt-5.2"))
    assert any("12-hour" in note for note in receipt["notes"]), (
        "the price is unknown: the standard price is not charged silently"
    )


@pytest.mark.parametrize("model", ["gpt-4o-search-preview", "gpt-4o-mini-search-preview", "gpt-5-search-api"])
def test_search_models_cost_by_the_request_too(customer: Customer, upstream: Upstream, model: str) -> None:
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 75, "total_tokens": 175})
    fee = {"gpt-4o-search-preview": 25, "gpt-4o-mini-search-preview": 25, "gpt-5-search-api": 10}[model]
    price = {
        "gpt-4o-search-preview": (2_500, 10_000),
        "gpt-4o-mini-search-preview": (150, 600),
        "gpt-5-search-api": (1_250, 10_000),
    }[model]
    receipt = charged(customer, "openai/chat/completions", chat(model))
    assert receipt["charge_nanos"] == fee * 1_000_000 + 100 * price[0] + 75 * price[1]


DALLE = [
    ("dall-e-3", {}, 40_000_000),
    ("dall-e-3", {"size": "1792x1024", "n": 2}, 160_000_000),
    ("dall-e-3", {"size": "1024x1024", "quality": "hd"}, 80_000_000),
    ("dall-e-3", {"size": "1024x1792", "quality": "hd"}, 120_000_000),
    ("dall-e-2", {"size": "256x256", "n": 3}, 48_000_000),
    ("dall-e-2", {"size": "512x512"}, 18_000_000),
]


@pytest.mark.parametrize(("model", "more", "nanos"), DALLE)
def test_images_by_size_and_quality(
    customer: Customer, upstream: Upstream, model: str, more: dict[str, Any], nanos: int
) -> None:
    upstream.response = {"created": 1, "data": [{"url": "https://example.com/1.png"}] * more.get("n", 1)}
    receipt = charged(customer, "openai/images/generations", {"model": model, "prompt": "A harbour", **more})
    assert receipt["charge_nanos"] == nanos
    assert receipt["hold_nanos"] >= nanos


# --- passes of other models -------------------------------------------------------------------------------------------


def entry(kind: str, input_tokens: int, output_tokens: int, model: str | None = None) -> dict[str, Any]:
    return {"type": kind, **tokens(input_tokens, output_tokens), **({"model": model} if model else {})}


def test_a_compaction_is_billed_in_addition_to_the_response(customer: Customer, upstream: Upstream) -> None:
    passes = [entry("compaction", 180_000, 3_500), entry("message", 23_000, 1_000)]
    upstream.response = message_response("claude-opus-4-6", tokens(23_000, 1_000, iterations=passes))
    edits = {"edits": [{"type": "compact_20260112"}]}
    requested = chat("claude-opus-4-6", context_management=edits, system="word " * 40_000)
    receipt = charged(customer, "anthropic/v1/messages", requested)
    assert receipt["charge_nanos"] == 203_000 * 5_000 + 4_500 * 25_000
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]


ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-6", "max_uses": 2}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_advisor_is_billed_at_its_own_prices(customer: Customer, upstream: Upstream, streamed: bool) -> None:
    passes = [
        entry("message", 500, 40),
        entry("advisor_message", 9_000, 7_001, "claude-opus-4-6"),
        entry("message", 700, 60),
    ]
    usage = tokens(1_200, 100, iterations=passes)
    upstream.response = message_response("claude-haiku-4-5", usage)
    if streamed:
        start = {"type": "message_start", "message": {"model": "claude-haiku-4-5", "usage": tokens(1_200, 1)}}
        text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Good day."}}
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        events: list[dict[str, Any]] = [start, text, end, {"type": "message_stop"}]
        upstream.response = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    requested = chat("claude-haiku-4-5", tools=[ADVISOR], system="word " * 2000, stream=streamed)
    receipt = charged(customer, "anthropic/v1/messages", requested)
    assert receipt["charge_nanos"] == 1_200 * 1_000 + 100 * 5_000 + 9_000 * 5_000 + 7_001 * 25_000
    assert receipt["hold_nanos"] >= receipt["charge_nanos"]
    others = [line for line in receipt["lines"] if line.get("model")]
    assert {line["model"] for line in others} == {"claude-opus-4-6"}
    assert {line["meter"]: line["nanos_per_unit"] for line in others} == {
        "input_tokens": "5000",
        "output_tokens": "25000",
    }


def test_a_fallback_answers_at_its_own_price(customer: Customer, upstream: Upstream) -> None:
    """The top-level figures repeat those of the attempt that answered. A declined attempt is billed if it had begun."""
    fallbacks = [{"model": "claude-opus-4-6"}]
    for spoken, declined in ((0, 0), (300, 2_000 * 10_000 + 300 * 50_000)):
        passes = [
            entry("message", 2_000, spoken, "claude-fable-5"),
            entry("fallback_message", 2_000, 100, "claude-opus-4-6"),
        ]
        upstream.response = message_response("claude-opus-4-6", tokens(2_000, 100, iterations=passes))
        receipt = charged(customer, "anthropic/v1/messages", chat("claude-fable-5", fallbacks=fallbacks))
        assert receipt["charge_nanos"] == 2_000 * 5_000 + 100 * 25_000 + declined
        assert receipt["priced_model"] == "claude-opus-4-6"


def test_a_fallback_outside_the_top_level_usage_is_added(customer: Customer, upstream: Upstream) -> None:
    passes = [entry("message", 2_000, 30), entry("fallback_message", 2_030, 100, "claude-opus-4-6")]
    upstream.response = message_response("claude-fable-5", tokens(2_000, 30, iterations=passes))
    receipt = charged(
        customer, "anthropic/v1/messages", chat("claude-fable-5", fallbacks=[{"model": "claude-opus-4-6"}])
    )
    assert receipt["charge_nanos"] == 2_000 * 10_000 + 30 * 50_000 + 2_030 * 5_000 + 100 * 25_000


def test_an_impossible_pass_costs_the_hold(customer: Customer, upstream: Upstream) -> None:
    passes = [entry("compaction", 900_000_000, 1), entry("message", 50, 16)]
    upstream.response = message_response("claude-opus-4-6", tokens(50, 16, iterations=passes))
    edits = {"edits": [{"type": "compact_20260112"}]}
    receipt = charged(customer, "anthropic/v1/messages", chat("claude-opus-4-6", context_management=edits))
    assert receipt["charge_nanos"] == receipt["hold_nanos"]
    assert any("is impossible" in note for note in receipt["notes"])


def test_a_model_that_declines_before_any_output_is_free(customer: Customer, upstream: Upstream) -> None:
    upstream.response = message_response("claude-fable-5", tokens(400, 0), content=[], stop_reason="refusal")
    receipt = charged(customer, "anthropic/v1/messages", chat("claude-fable-5"))
    assert receipt["charge_nanos"] == 0


@pytest.mark.parametrize(
    "more",
    [
        {"fallbacks": [{"model": "claude-nobody-knows"}]},
        {"fallbacks": "default"},
        {"tools": [{**ADVISOR, "model": "no-such-model"}]},
        {"tools": [{"type": "xyz_20990101", "name": "xyz"}]},
    ],
)
def test_a_request_that_cannot_be_priced_is_not_sent(
    customer: Customer, upstream: Upstream, more: dict[str, Any]
) -> None:
    before = len(upstream.requested)
    response = call(customer, "anthropic/v1/messages", chat("claude-haiku-4-5", **more))
    assert response.status_code in (400, 402, 403, 404), response.text
    assert len(upstream.requested) == before


# --- stated costs -----------------------------------------------------------------------------------------------------


def test_openrouters_cost_is_what_is_charged_to_the_last_digit(customer: Customer, upstream: Upstream) -> None:
    upstream.response = raw('{"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.00012345678901234567}')
    receipt = charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o-mini"))
    assert receipt["charge_nanos"] == 123_457
    assert receipt["stated_usd"] == "0.00012345678901234567"
    assert receipt["cost_nanos"] == "123456.78901234567"
    assert receipt["computed_nanos"] == "21000"


def test_an_upstream_key_at_openrouter_costs_too(customer: Customer, upstream: Upstream) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.000001, "is_byok": True}
    upstream.response = chat_response({**usage, "cost_details": {"upstream_inference_cost": 0.00002}})
    assert charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o-mini"))["charge_nanos"] == 21_000
    upstream.response = chat_response({**usage, "cost": 0})
    receipt = charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o-mini"))
    assert receipt["charge_nanos"] == 21_000, "the upstream's cost is not reported: our own prices apply"
    assert any("ignored" in note for note in receipt["notes"])


@pytest.mark.parametrize("cost", ["-1", "1e300", "true", '"free"', "1e-999999999", "[]"])
def test_an_impossible_stated_cost_is_disregarded(customer: Customer, upstream: Upstream, cost: str) -> None:
    upstream.response = raw(f'{{"prompt_tokens": 100, "completion_tokens": 10, "cost": {cost}}}')
    receipt = charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o-mini"))
    assert receipt["charge_nanos"] == 21_000
    assert any("ignored" in note for note in receipt["notes"])


@pytest.mark.parametrize("model", ["openrouter/auto", "acme/picture-1", "acme/model-9:nitro"])
def test_a_model_without_a_list_price_is_held_by_the_operators_bound(
    customer: Customer, upstream: Upstream, model: str
) -> None:
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.0031})
    receipt = charged(customer, "openrouter/chat/completions", chat(model, provider={"sort": "price"}))
    assert receipt["charge_nanos"] == 3_100_000
    assert receipt["hold_nanos"] >= 1000 * 25_000
    sent = upstream.requested[-1]["provider"]
    assert sent == {"sort": "price", "max_price": {"prompt": 5, "completion": 25, "request": 0.05}}


def test_the_requests_own_bound_takes_precedence(customer: Customer, upstream: Upstream) -> None:
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.00001})
    own = {"max_price": {"prompt": "0.5", "completion": 1, "image": 0.2, "request": 0}}
    receipt = charged(customer, "openrouter/chat/completions", chat("openrouter/auto", provider=own))
    assert receipt["charge_nanos"] == 10_000
    assert 1_000_000 <= receipt["hold_nanos"] < 2_000_000
    assert upstream.requested[-1]["provider"]["max_price"] == {
        "prompt": 0.5,
        "completion": 1,
        "image": 0.2,
        "request": 0,
    }


def test_variants_have_their_models_price_and_free_ones_none(customer: Customer, upstream: Upstream) -> None:
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.00002})
    receipt = charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o-mini:floor"))
    assert (receipt["charge_nanos"], receipt["computed_nanos"]) == (20_000, "21000")
    assert "provider" not in upstream.requested[-1]
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0})
    assert charged(customer, "openrouter/chat/completions", chat("acme/tiny:free"))["charge_nanos"] == 0


def test_openrouters_cost_of_embeddings_is_charged(customer: Customer, upstream: Upstream) -> None:
    upstream.response = {"data": [{"embedding": [0.25]}], "model": "m", "usage": {"prompt_tokens": 6, "cost": 1.2e-7}}
    receipt = charged(customer, "openrouter/embeddings", {"model": "acme/embed-1", "input": "Hello there"})
    assert receipt["charge_nanos"] == 120


def test_costs_in_ticks_of_xai_are_charged(customer: Customer, upstream: Upstream) -> None:
    usage = {"prompt_tokens": 200_000, "completion_tokens": 100, "total_tokens": 200_100}
    upstream.response = chat_response({**usage, "cost_in_usd_ticks": 5_005_000_001})
    requested = chat("grok-4.3", metadata={"x": "y " * 20_000})
    receipt = charged(customer, "grok/v1/chat/completions", requested)
    assert receipt["charge_nanos"] == 500_500_001
    assert receipt["computed_nanos"] == "500500000", "the tier starts at exactly its threshold"
    upstream.response = chat_response({**usage, "prompt_tokens": 199_999})
    assert charged(customer, "grok/v1/chat/completions", requested)["charge_nanos"] == 199_999 * 1_250 + 250_000


def test_perplexitys_total_cost_is_charged(customer: Customer, upstream: Upstream) -> None:
    cost = {"input_tokens_cost": 0.001, "request_cost": 0.006, "total_cost": 0.0071}
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": cost})
    assert charged(customer, "perplexity-ai/chat/completions", chat("sonar-pro"))["charge_nanos"] == 7_100_000


def test_the_operators_own_price_takes_precedence_over_a_stated_cost(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("10")
    set_price(farebox, "openrouter", "acme/own-price")
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.5})
    receipt = charged(customer, "openrouter/chat/completions", chat("acme/own-price"))
    assert receipt["charge_nanos"] == 100 * 1_000 + 10 * 2_000
    assert receipt["stated_usd"] == "0.5"


def test_the_operator_is_alerted_to_differing_costs(
    farebox: Farebox, customer: Customer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(farebox)
    raised, alarms = list[tuple[str, str]](), farebox.services.alarms

    def add(kind: str, about: str, content: Mapping[str, str | int], at: int) -> bool:
        """Record alarms directly: the job that writes them may be faster than the test."""
        raised.append((kind, about))
        return Alarms.add(alarms, kind, about, content, at)

    monkeypatch.setattr(alarms, "add", add)
    upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.0000231})
    charged(customer, "openrouter/chat/completions", chat("openai/gpt-4o"))
    assert ("cost_differs", "openrouter/openai/gpt-4o") in raised


def test_the_audit_has_the_median_of_stated_costs(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    for cost in (0.000021, 0.000042, 0.00063):
        upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10, "cost": cost})
        charged(customer, "openrouter/chat/completions", chat("anthropic/claude-haiku-4.5"))
    now = farebox.services.clock.now_ms()
    with looking(farebox.services.settings) as connection:
        calls = summarize_calls(models_since(connection, now - 3_600_000), stated_since(connection, now - 3_600_000))
    found = against_stated(farebox.services.configuration.prices, calls, now)
    ours = {one.model: one for one in found}["anthropic/claude-haiku-4.5"]
    assert ours.theirs == Decimal("0.000042") / Decimal("0.00015")
    assert ours.in_use
    assert abs(ours.percent) > 5


def test_a_loaded_supplement_is_charged_by_at_once(farebox: Farebox, upstream: Upstream) -> None:
    customer = farebox.funded("10")
    ours = {"provider": "openai", "models": ["acme-9*"], "rates": {"input_mtok": "3", "output_mtok": "6"}}
    text = json.dumps(
        {"date": "2027-01-31", "prices": [{**ours, "source": "https://example.com", "date": "2027-01-30"}]}
    )
    assert call(customer, "openai/chat/completions", chat("acme-9-large")).status_code == 400
    services = farebox.services
    for loaded in (text, ""):
        farebox.run(services.database.write(partial(add_supplement, text=loaded, at=services.clock.now_ms())))
        forget(farebox)
        if loaded:
            upstream.response = chat_response({"prompt_tokens": 100, "completion_tokens": 10})
            receipt = charged(customer, "openai/chat/completions", chat("acme-9-large"))
            assert receipt["charge_nanos"] == 100 * 3_000 + 10 * 6_000
            assert receipt["price_version"].startswith("supplement/2027-01-31/")
    assert call(customer, "openai/chat/completions", chat("acme-9-large")).status_code == 400
