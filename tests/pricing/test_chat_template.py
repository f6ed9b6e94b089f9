"""Chats whose input is counted exactly before they are sent, and their holds."""

import json
from typing import Any

import pytest

from farebox.pricing.chat_template import count_chat
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, Markup
from farebox.pricing.pricebook import PriceBook

AT = 1_790_000_000_000
USER: dict[str, Any] = {"role": "user", "content": "Count."}


def counted(model: str = "gpt-4o-mini", provider: str = "openai", **fields: Any) -> int | None:
    return count_chat(provider, model, json.dumps({"model": model, "messages": [USER], **fields}).encode())


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([USER], 3 + 1 + 2 + 3),
        ([{"role": "system", "content": "one two three"}, USER], (3 + 1 + 3) + (3 + 1 + 2) + 3),
        ([USER, {"role": "assistant", "content": " one" * 50}, USER], 6 + 54 + 6 + 3),
        ([USER | {"name": "one"}], 3 + 1 + 2 + (1 + 1) + 3),
        ([USER | {"content": ""}], 3 + 1 + 3),
    ],
)
def test_a_chat_of_text_is_counted_with_its_template(messages: list[dict[str, Any]], tokens: int) -> None:
    assert counted(messages=messages) == tokens
    assert counted("gpt-4.1-nano-2025-04-14", messages=messages) == tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"a_field_of_next_year": True},
        {"messages": [USER | {"content": [{"type": "text", "text": "Count."}]}]},
        {"messages": [{"role": "developer", "content": "Count."}]},
        {"messages": [USER | {"refusal": None}]},
        {"messages": []},
        {"messages": "Count."},
    ],
)
def test_a_chat_with_other_content_is_not_counted(fields: dict[str, Any]) -> None:
    assert counted(**fields) is None


@pytest.mark.parametrize(
    "model", ["gpt-4o-audio-preview", "gpt-4o-search-preview", "gpt-5", "o3-mini", "gpt-4o-mini-x"]
)
def test_chats_of_other_models_are_not_counted(model: str) -> None:
    assert counted(model) is None
    assert counted(provider="openrouter") is None


def test_the_hold_of_a_counted_chat_is_its_maximum_cost() -> None:
    price = PriceBook().find("account", "openai", "gpt-4o-mini", AT)
    assert price is not None
    demand = Demand("gpt-4o-mini", 100, messages=1, output_max=100, clampable=True)
    assert estimate(demand, price, Markup(), exact_input_tokens=9, whole=True).amount == 9 * 150 + 100 * 600
    assert estimate(demand, price, Markup(), exact_input_tokens=9).amount == (9 + 128 + 8) * 150 + 100 * 600
