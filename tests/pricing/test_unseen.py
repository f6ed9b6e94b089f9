"""Holds for input that a request does not contain."""

from dataclasses import replace

import pytest

from farebox.pricing.compiler import PriceList
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Markup, ModelPrice, UnseenInput
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.pricing.unseen import (
    KINDS,
    PRIOR_TOKENS,
    TOOLS,
    UnseenRules,
    UnseenTokens,
    parse_rules,
    passes_max,
    refused,
    tokens_for_unseen,
    with_single_uses,
)
from farebox.pricing.window import context_window

NOW = 1_795_000_000_000
LIST = PriceList()
COST = Markup()
WINDOW = 210_000


def price() -> ModelPrice:
    rates = {"input_mtok": "1", "output_mtok": "2", "web_searches_kcount": "10"}
    found = PriceBook([OwnPrice("p", "x", "*", None, rates, 0)], price_list=LIST).find("a", "x", "m", NOW)
    assert found is not None
    return replace(found, context_window=200_000, output_max=1000)


def tokens(*unseen: UnseenInput, text_bytes: int = 0, rules: UnseenRules | None = None) -> int:
    demand = Demand("m", text_bytes=text_bytes, unseen=unseen, no_output=True)
    tokens = tokens_for_unseen(demand) if rules is None else tokens_for_unseen(demand, rules)
    return estimate(demand, price(), COST, unseen=tokens).input_tokens


@pytest.mark.parametrize("kind", sorted(set(KINDS) - TOOLS))
def test_input_stored_elsewhere_is_held_as_one_context_window(kind: str) -> None:
    assert tokens(UnseenInput(kind)) == WINDOW
    assert tokens(UnseenInput(kind), UnseenInput("file")) == WINDOW
    assert tokens(UnseenInput(kind), text_bytes=50_000) == WINDOW, "minus the sent input"
    assert tokens(UnseenInput(kind), text_bytes=500_000) == 500_128


def test_a_tool_that_fetches_is_held_once_more_for_each_use() -> None:
    assert tokens(UnseenInput("web_fetch", uses=2)) == 3 * WINDOW
    assert tokens(UnseenInput("mcp", uses=None)) == 11 * WINDOW
    assert tokens(UnseenInput("web_fetch", uses=0)) == 128
    assert tokens(UnseenInput("file"), UnseenInput("web_fetch", uses=1), UnseenInput("mcp", uses=1)) == 3 * WINDOW


def test_a_search_is_held_as_what_it_brought_in() -> None:
    assert tokens(UnseenInput("web_search", uses=3)) == 128 + 3 * PRIOR_TOKENS
    assert tokens(UnseenInput("web_search", uses=None)) == 128 + 10 * PRIOR_TOKENS
    assert tokens(UnseenInput("web_search", uses=1), UnseenInput("file")) == WINDOW + PRIOR_TOKENS
    demand = Demand("m", unseen=(UnseenInput("web_search", uses=2),))
    assert tokens_for_unseen(demand, learned=lambda _: 50_000) == UnseenTokens(learned=100_000)
    assert tokens_for_unseen(demand, learned=lambda _: 5) == UnseenTokens(learned=2 * PRIOR_TOKENS)


def test_a_known_size_replaces_the_context_window() -> None:
    demand = Demand("m", unseen=(UnseenInput("response", "r"),))
    known = tokens_for_unseen(demand, known=lambda unseen: {"r": 7_000}.get(unseen.ref))
    assert known.tokens(price(), 0) == 7_000
    assert tokens_for_unseen(demand, known=lambda _: None).tokens(price(), 0) == WINDOW
    assert tokens_for_unseen(demand, known=lambda _: 10**9).tokens(price(), 0) == WINDOW


def test_a_tool_that_searches_sent_input_adds_only_passes() -> None:
    demand = Demand("m", unseen=(UnseenInput("tool_search", uses=None),))
    assert tokens_for_unseen(demand) == UnseenTokens()
    assert passes_max(demand) is None


def test_the_minimum_hold_covers_one_use_of_each_search() -> None:
    demand = Demand(
        "m",
        unseen=(UnseenInput("web_search", uses=None), UnseenInput("web_fetch", uses=3)),
        allowed={"web_searches": 10, "x": 4},
    )
    least = with_single_uses(demand, UnseenRules())
    assert least is not None
    assert least.unseen == (UnseenInput("web_search", uses=1), UnseenInput("web_fetch", uses=3))
    assert least.allowed == {"web_searches": 1, "x": 4}
    assert with_single_uses(least, UnseenRules()) is None
    assert with_single_uses(Demand("m"), UnseenRules()) is None


def test_the_operator_sets_rules() -> None:
    rules = parse_rules(" mcp=learned, web_search = window,file=refuse", 1000)
    assert tokens(UnseenInput("mcp", uses=2), rules=rules) == 128 + 2000
    assert tokens(UnseenInput("web_search", uses=2), rules=rules) == 3 * WINDOW
    assert refused(Demand("m", unseen=(UnseenInput("file"), UnseenInput("mcp"))), rules) == ("file",)
    assert parse_rules("") == UnseenRules(KINDS)
    for wrong in ("mcp", "mcp=never", "everything=window", "file=learned"):
        with pytest.raises(ValueError, match=wrong.partition("=")[0]):
            parse_rules(wrong)


def test_the_affordable_output_leaves_room_for_what_comes_in() -> None:
    demand = Demand("m", text_bytes=1000, unseen=(UnseenInput("file"),), clampable=True)
    available = WINDOW * 1000 + 70 * 2000
    assert affordable_output(demand, price(), COST, available=available) == 70
    assert affordable_output(demand, price(), COST, available=WINDOW * 1000 - 1) == 0


def test_windows_are_rounded_in_lists_and_larger_where_tiers_say_so() -> None:
    assert context_window(price()) == 210_000
    assert context_window(replace(price(), context_window=None)) == 1_048_576
    sonnet = LIST.find("anthropic", "claude-sonnet-4-5", NOW)
    assert sonnet is not None
    assert context_window(sonnet) >= 1_000_000
    gpt = LIST.find("openai", "gpt-4.1", NOW)
    assert gpt is not None
    assert context_window(gpt) >= 1_047_576


def test_holds_of_ordinary_calls_are_unchanged() -> None:
    """Holds are unchanged for requests without unseen input: plain chat, the caller's own tools, images."""
    chat = Demand("gpt-4o", text_bytes=2_000, messages=4, output_max=500)
    gpt = LIST.find("openai", "gpt-4o", NOW)
    assert gpt is not None
    assert estimate(chat, gpt, COST).amount == (2_000 + 128 + 32) * 2_500 + 500 * 10_000
    with_tools = Demand("gpt-4o", text_bytes=2_000, messages=4, tools=2, output_max=500)
    assert estimate(with_tools, gpt, COST).amount == (2_000 + 128 + 32 + 1_600 + 128) * 2_500 + 500 * 10_000
