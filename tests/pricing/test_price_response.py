"""The cost of a response: reported usage is believed unless impossible, and completed by counting; hanging up avoids no
charge."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import quicktok  # type: ignore[import-untyped]
from msgspec.structs import replace as replace_demand

from farebox.calls.price import REASONING_TOKENS_PER_SECOND, PricedUsage, ResponseEnding, price_response
from farebox.pricing.compiler import PriceList
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, FurtherModel, ImageInput, Markup, ModelPrice, UnseenInput
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.providers.formats.base import Observed

NOW = 1_795_000_000_000
LIST = PriceList()
COST = Markup()
TEXT = "Describe the harbour of Lundby in the evening, with all its cranes."
SAID = "The cranes stand still, and the water carries their lights."
TEXT_TOKENS, SAID_TOKENS = 15, 12
"""Token counts of the texts by o200k_base."""


def count(text: str) -> int:
    return int(quicktok.get_encoding("o200k_base").count(text))


def test_known_texts_have_their_token_counts() -> None:
    assert (count(TEXT), count(SAID)) == (TEXT_TOKENS, SAID_TOKENS)


def priced_as(model: str = "m", **rates: str) -> ModelPrice:
    rates = rates or {"input_mtok": "1", "cache_read_mtok": "0.1", "output_mtok": "2"}
    found = PriceBook([OwnPrice("p", "x", "*", None, rates, 0)], price_list=LIST).find("a", "x", model, NOW)
    assert found is not None
    return replace(found, context_window=100_000, output_max=1_000)


def price(
    observed: Observed, demand: Demand | None = None, model: ModelPrice | None = None, **ending: Any
) -> tuple[PricedUsage, int]:
    """The cost, and the hold."""
    demand = demand or Demand("m", text_bytes=len(TEXT), messages=1, output_max=100)
    model = model or priced_as()
    bound = estimate(demand, model, COST)
    end = ResponseEnding(lambda: TEXT, **ending)
    return price_response(observed, demand, model, COST, bound, end), bound.amount


def whole(usage: dict[str, Any] | None, **more: Any) -> Observed:
    return Observed(usage=usage, complete=True, **{"delivered_bytes": len(SAID), "text": SAID, **more})


@pytest.mark.parametrize(
    ("usage", "unseen"),
    [
        ({"input_tokens": 105_000, "output_tokens": 1_000}, ()),
        ({"input_tokens": 105_000, "output_tokens": 1}, (UnseenInput("file"),)),
        ({"input_tokens": 4 * 105_000, "output_tokens": 4 * 1_000}, (UnseenInput("web_search", uses=3),)),
        ({"input_tokens": 10**8, "output_tokens": 10**8}, (UnseenInput("mcp", uses=None),)),
        ({"input_tokens": 10**8, "output_tokens": 1}, (UnseenInput("tool_search", uses=None),)),
    ],
)
def test_usage_is_believed_however_large(usage: dict[str, Any], unseen: tuple[UnseenInput, ...]) -> None:
    demand = Demand("m", text_bytes=10, output_max=100, unseen=unseen)
    response, _ = price(whole(usage), demand)
    assert (response.source, response.usage) == ("provider", usage)
    assert response.charge == usage["input_tokens"] * 1000 + usage["output_tokens"] * 2000


@pytest.mark.parametrize(
    ("usage", "unseen"),
    [
        ({"input_tokens": 105_001, "output_tokens": 1}, ()),
        ({"input_tokens": 1, "output_tokens": 1_001}, ()),
        ({"input_tokens": 105_001, "output_tokens": 1}, (UnseenInput("file"),)),
        ({"input_tokens": 4 * 105_000 + 1, "output_tokens": 1}, (UnseenInput("web_search", uses=3),)),
        ({"input_tokens": 1, "output_tokens": 4_001}, (UnseenInput("web_search", uses=3),)),
    ],
)
def test_impossible_usage_costs_the_hold(usage: dict[str, Any], unseen: tuple[UnseenInput, ...]) -> None:
    response, held = price(whole(usage), Demand("m", text_bytes=10, output_max=100, unseen=unseen))
    assert (response.source, response.charge) == ("estimate", held)
    assert response.implausible
    response, held = price(whole(None, implausible=True, problem="input_tokens is -1"))
    assert (response.source, response.charge, response.implausible) == ("estimate", held, "input_tokens is -1")


def test_usage_is_believed_beyond_an_assumed_model_limit() -> None:
    unknown = replace(priced_as(), context_window=None, output_max=None)
    usage = {"input_tokens": 4_000_000, "output_tokens": 500_000}
    assert price(whole(usage), model=unknown)[0].source == "provider"
    assert price(whole({"input_tokens": 5_000_000}), model=unknown)[0].source == "estimate"


def test_any_number_of_images_is_believed() -> None:
    model = priced_as(input_mtok="5", output_mtok="40")
    tokens = 10 * 6_240
    demand = Demand(
        "m", text_bytes=50, choices=10, no_output=True, fixed={"output_tokens": tokens, "output_image_tokens": tokens}
    )
    response, held = price(whole({"input_tokens": 20, "output_tokens": tokens}), demand, model)
    assert response.charge == 20 * 5_000 + tokens * 40_000 <= held
    response, held = price(whole(None, delivered_bytes=0, text=""), demand, model)
    assert response.usage["output_tokens"] == tokens, "what the request fixes"


def test_without_usage_what_was_sent_and_delivered_is_counted() -> None:
    demand = Demand("m", text_bytes=len(TEXT), messages=2, output_max=100, allowed={"web_searches": 10})
    model = priced_as(input_mtok="1", output_mtok="2", web_searches_kcount="10")
    response, held = price(whole(None), demand, model)
    assert response.usage == {"input_tokens": TEXT_TOKENS + 8, "output_tokens": SAID_TOKENS}
    assert response.charge == (TEXT_TOKENS + 8) * 1000 + SAID_TOKENS * 2000
    assert held > response.charge + 100_000_000, "the searches are held, not charged"


def test_images_and_audio_of_the_request_are_counted_too() -> None:
    demand = Demand("m", text_bytes=len(TEXT), images=(ImageInput(280, 280),), output_max=100)
    assert price(whole(None), demand)[0].usage["input_image_tokens"] == 6_500
    speech = Demand("m", text_bytes=9, no_output=True, fixed={"input_characters": 9, "output_tokens": 36})
    model = priced_as(input_mtok="1", output_mtok="12")
    assert price(whole(None, delivered_bytes=0, text=""), speech, model)[0].usage["output_tokens"] == 36


def test_a_count_is_charged_up_to_the_hold() -> None:
    demand = Demand("m", text_bytes=len(TEXT), output_max=1)
    response, held = price(whole(None, text="many words " * 5_000, delivered_bytes=55_000), demand)
    assert (response.usage["output_tokens"], response.charge <= held) == (1, True)


@pytest.mark.parametrize(
    ("usage", "missing", "wanted"),
    [
        ({"output_tokens": 7}, ("input_tokens",), {"input_tokens": TEXT_TOKENS + 4, "output_tokens": 7}),
        ({"input_tokens": 7}, ("output_tokens",), {"input_tokens": 7, "output_tokens": SAID_TOKENS}),
        (
            {"input_tokens": 300, "input_tool_tokens": 300, "output_tokens": 7},
            ("input_tokens",),
            {"input_tokens": TEXT_TOKENS + 4 + 300, "input_tool_tokens": 300, "output_tokens": 7},
        ),
        (
            {"input_tokens": 7, "output_tokens": 90, "output_reasoning_tokens": 90},
            ("output_tokens",),
            {"input_tokens": 7, "output_tokens": 90 + SAID_TOKENS, "output_reasoning_tokens": 90},
        ),
        ({}, ("input_tokens", "output_tokens"), {"input_tokens": TEXT_TOKENS + 4, "output_tokens": SAID_TOKENS}),
    ],
)
def test_missing_figures_of_a_usage_are_counted(
    usage: dict[str, Any], missing: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    response, _ = price(whole(usage, missing=missing), Demand("m", text_bytes=1_000, messages=1, output_max=500))
    assert (response.source, response.usage) == ("counted", wanted)


def test_an_empty_response_is_free() -> None:
    assert price(whole({}, delivered_bytes=0, text=""))[0].charge == 0
    assert price(Observed(empty=True))[0].policy == "the response was empty: free"
    assert price(Observed(problem="no usage"))[0].charge == 0


def test_an_interrupted_stream_keeps_the_reported_usage() -> None:
    reported = {"input_tokens": 50_000, "cache_read_tokens": 50_000, "output_tokens": 1}
    observed = Observed(usage=reported, delivered_bytes=len(SAID), text=SAID)
    response, held = price(observed, interruption="the provider stopped sending")
    assert response.usage == {**reported, "output_tokens": SAID_TOKENS}
    assert response.charge == 50_000 * 100 + SAID_TOKENS * 2000 > held, "the reported usage stands"
    response, _ = price(Observed(delivered_bytes=len(SAID), text=SAID), interruption="the provider stopped sending")
    assert response.usage == {"input_tokens": TEXT_TOKENS + 4, "output_tokens": SAID_TOKENS}


def test_intermediate_figures_do_not_price_a_response_that_just_stops() -> None:
    said: dict[str, Any] = {"delivered_bytes": len(SAID), "text": SAID}
    reported = {"input_tokens": 9, "output_tokens": 1}
    response, _ = price(Observed(usage=reported, **said))
    assert response.usage == {"input_tokens": 9, "output_tokens": SAID_TOKENS}
    assert response.policy == "the response ended early: counted from what was delivered"
    near = {"input_tokens": 9, "output_tokens": SAID_TOKENS - 3}
    assert price(Observed(usage=near, **said))[0].usage == near, "the provider's count, not our tokenizer's"
    assert price(whole(reported))[0].usage == reported


def test_a_part_of_a_picture_or_of_speech_is_not_free() -> None:
    for seen, tokens in ((Observed(image_tokens_delivered=40), 40), (Observed(sound_seconds=Decimal(2)), 50)):
        for interruption in (None, "the client disconnected"):
            assert price(seen, interruption=interruption)[0].usage["output_tokens"] == tokens


def test_hanging_up_on_hidden_reasoning_is_charged() -> None:
    observed = Observed(delivered_bytes=len(SAID), text=SAID)
    demand = Demand("o3", text_bytes=len(TEXT), output_max=90_000)
    model = replace(priced_as("o3"), output_max=100_000)
    left: dict[str, Any] = {"interruption": "the client disconnected", "by_client": True, "seconds": 30.0}
    assert price(observed, demand, model, **left)[0].usage["output_tokens"] == 30 * REASONING_TOKENS_PER_SECOND
    other = {**left, "by_client": False}
    assert price(observed, demand, model, **other)[0].usage["output_tokens"] == SAID_TOKENS
    assert price(observed, demand, priced_as("gpt-4o"), **left)[0].usage["output_tokens"] == SAID_TOKENS
    thinking = Demand("m", text_bytes=len(TEXT), output_max=90_000, hides_reasoning=True)
    assert price(observed, thinking, replace(model, model="m"), **left)[0].usage["output_tokens"] == 3_000
    assert price(Observed(), demand, model, **left)[0].usage["output_tokens"] == 3_000, "before any output"
    assert "output_tokens" not in price(Observed(), demand, priced_as("gpt-4o"), **left)[0].usage
    response, held = price(observed, demand, model, **{**left, "seconds": 10_000.0})
    assert (response.usage["output_tokens"], response.charge <= held) == (90_000, True)


def test_a_client_that_leaves_pays_the_reported_usage() -> None:
    reported = {"input_tokens": 900, "output_tokens": 1}
    response, _ = price(Observed(usage=reported), interruption="the client disconnected", by_client=True)
    assert response.usage == reported
    assert price(Observed(usage=reported), interruption="the provider stopped sending")[0].charge == 0


def test_hanging_up_does_not_hide_what_was_read() -> None:
    left: dict[str, Any] = {"interruption": "the client disconnected", "by_client": True}
    reported = Observed(usage={"input_tokens": 900}, delivered_bytes=len(SAID), text=SAID)
    requested = Demand("m", text_bytes=len(TEXT), output_max=100)
    for unseen, observed, is_held in (
        (UnseenInput("response"), Observed(delivered_bytes=len(SAID), text=SAID), True),
        (UnseenInput("response"), reported, False),
        (UnseenInput("response"), Observed(empty=True), False),
        (UnseenInput("web_search", uses=2), reported, True),
        (UnseenInput("web_search", uses=0), reported, False),
    ):
        response, held = price(observed, replace_demand(requested, unseen=(unseen,)), **left)
        assert (response.charge == held) == is_held, unseen
    advised = replace_demand(requested, further_models=(FurtherModel("b"),))
    assert price(reported, advised, **left)[0].source == "estimate"
    assert price(reported, advised, interruption="the provider stopped sending")[0].source == "counted"


@pytest.mark.parametrize(("policy", "free"), [("free", True), ("hold", False)])
def test_the_operator_can_choose_another_policy(policy: str, free: bool) -> None:
    observed = Observed(usage={"input_tokens": 9, "output_tokens": 9}, delivered_bytes=9, text="123456789")
    response, held = price(observed, interruption="the client disconnected", by_client=True, policy=policy)
    assert response.charge == (0 if free else held)


def test_parts_that_overlap_are_cut_to_what_fits() -> None:
    model = priced_as(
        input_mtok="1", input_audio_mtok="10", cache_read_mtok="0.1", cache_audio_read_mtok="0.5", output_mtok="2"
    )
    usage = {"input_tokens": 10, "cache_read_tokens": 8, "input_audio_tokens": 5, "output_tokens": 1}
    response, _ = price(whole(usage), model=model)
    assert response.charge == 5 * 10_000 + 5 * 100 + 2_000
    assert "cache_read_tokens overlaps" in response.notes[0]


def test_seconds_are_not_tokens() -> None:
    model = priced_as(audio_hours="0.36", input_audio_hours="0.36")
    demand = Demand("m", text_bytes=10, audio_seconds=9, audio_seconds_max=9, fixed={"audio_seconds": 9})
    assert price(whole({"audio_seconds": Decimal("8.5")}), demand, model)[0].charge == 850_000
