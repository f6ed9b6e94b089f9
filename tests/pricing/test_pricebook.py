"""The operator's own prices and markups: which row wins, from when, and what is refused."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.pricing.charge import cost_of
from farebox.pricing.compiler import PriceList
from farebox.pricing.model import Markup
from farebox.pricing.pricebook import OwnMarkup, OwnPrice, PriceBook
from farebox.pricing.rates import InvalidPrice

LIST = PriceList()
NOW = 1_790_000_000_000


def own(price_id: str, model: str = "gpt-4o", account_id: str | None = None, **more: object) -> OwnPrice:
    row = OwnPrice(price_id, "openai", model, account_id, {"input_mtok": "1", "output_mtok": "2"}, 0)
    return replace(row, **more)  # type: ignore[arg-type]


def version(book: PriceBook, model: str = "gpt-4o", account: str = "a", at: int = NOW) -> str | None:
    price = book.find(account, "openai", model, at)
    return None if price is None else price.version


def book_of(*rows: OwnPrice) -> PriceBook:
    return PriceBook(rows, price_list=LIST)


def test_without_rows_the_list_answers() -> None:
    assert version(book_of()) == version(PriceBook(price_list=LIST))
    price = LIST.find("openai", "gpt-4o", NOW)
    assert price is not None
    assert version(book_of()) == price.version


def test_an_unknown_model_and_one_without_any_price_are_unpriced() -> None:
    book = book_of()
    assert version(book, "nobody-knows-this") is None
    assert book.find("a", "no-provider", "gpt-4o", NOW) is None
    assert version(book, "omni-moderation-latest") is None, "free at OpenAI, but nobody priced it"
    assert version(book, "x" * 300) is None


def test_a_model_priced_at_zero_is_priced() -> None:
    book = book_of(own("free", "omni-moderation-latest", rates={"input_mtok": "0"}))
    price = book.find("a", "openai", "omni-moderation-latest", NOW)
    assert price is not None
    assert cost_of(price, {"input_tokens": 10**6}).numerator == 0


def test_an_own_price_replaces_the_lists_whole() -> None:
    price = book_of(own("p", output_max=99, context_window=777)).find("a", "openai", "gpt-4o", NOW)
    assert price is not None
    assert (price.version, price.model, price.output_max, price.context_window) == ("own/p", "gpt-4o", 99, 777)
    cost = cost_of(price, {"input_tokens": 1000, "cache_read_tokens": 900, "output_tokens": 10})
    assert cost.numerator == (1000 * 1000 + 10 * 2000) * cost.denominator


def test_the_most_specific_own_price_wins() -> None:
    rows = [
        own("any", "*"),
        own("short", "gpt-*"),
        own("long", "gpt-4*"),
        own("exact", "GPT-4o"),
        own("mine-any", "*", "a"),
        own("mine-exact", "gpt-4o", "a"),
    ]
    book = book_of(*rows)
    assert version(book) == "own/mine-exact"
    assert version(book, "gpt-4O") == "own/mine-exact", "the case of a model name does not matter"
    assert version(book, "gpt-4.1") == "own/mine-any", "the account takes precedence over the model"
    assert version(book, account="b") == "own/exact"
    assert version(book, "gpt-4.1", "b") == "own/long"
    assert version(book, "gpt-5", "b") == "own/short"
    assert version(book, "o3", "b") == "own/any"
    assert version(book_of(*reversed(rows)), "gpt-4.1", "b") == "own/long"


def test_the_latest_valid_own_price_wins() -> None:
    book = book_of(own("b", valid_from=200), own("a", valid_from=100), own("tie", valid_from=200))
    assert version(book, at=99) == version(book_of(), at=99)
    assert version(book, at=100) == version(book, at=199) == "own/a"
    assert version(book, at=200) == "own/tie", "of two equal rows, the later one"
    starts = book_of(own("old", "gpt-*"), own("new", valid_from=500))
    assert version(starts, at=499) == "own/old", "a row that is not yet valid hides nothing"


def test_a_price_for_many_models_has_the_requested_name() -> None:
    price = book_of(own("p", "gpt-*")).find("a", "openai", "gpt-4o-mini", NOW)
    assert price is not None
    assert price.model == "gpt-4o-mini"


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"input_mtok": "-1"},
        {"input_mtok": "1e3"},
        {"input_mtok": "NaN"},
        {"input_mtok": ""},
        {"input_tokens": "1"},
        {"cache_read_mtok": "1"},
        {"input_mtok": "1", "cache_read_mtok": "1", "input_audio_mtok": "1"},
    ],
)
def test_a_price_that_cannot_be_charged_with_is_refused(rates: dict[str, str]) -> None:
    with pytest.raises(InvalidPrice):
        book_of(own("p", rates=rates))


def test_the_demo_price_exists_only_if_enabled() -> None:
    assert book_of().find("a", "demo", "demo-1", NOW) is None
    price = PriceBook(price_list=LIST, demo=True).find("a", "demo", "demo-1", NOW)
    assert price is not None
    assert (price.output_max, price.context_window) == (4096, 128_000)
    cost = cost_of(price, {"input_tokens": 10, "cache_read_tokens": 4, "output_tokens": 3})
    assert cost.numerator == (6 * 1000 + 4 * 100 + 3 * 2000) * cost.denominator
    assert PriceBook(price_list=LIST, demo=True).find("a", "demo", "demo-2", NOW) is None


def test_the_context_reaches_the_list() -> None:
    book = book_of()
    flex = book.find("a", "openai", "gpt-5.6-sol", NOW * 2, {"service_tier": "flex"})
    standard = book.find("a", "openai", "gpt-5.6-sol", NOW * 2)
    assert flex is not None
    assert standard is not None
    assert cost_of(flex, {"input_tokens": 1}).numerator * standard.denominator < (
        cost_of(standard, {"input_tokens": 1}).numerator * flex.denominator
    )


MARKUPS = [
    OwnMarkup("all", None, None, None, 1_100_000, 0),
    OwnMarkup("provider", None, "openai", None, 1_200_000, 0),
    OwnMarkup("model", None, None, "gpt-4o", 1_300_000, 0),
    OwnMarkup("model-provider", None, "openai", "gpt-4o", 1_400_000, 0),
    OwnMarkup("family", None, None, "gpt-*", 1_500_000, 0),
    OwnMarkup("mine", "a", None, None, 1_600_000, 1000),
]


@pytest.mark.parametrize(
    ("account", "provider", "model", "at", "expected"),
    [
        ("a", "openai", "gpt-4o", 999, "model-provider"),
        ("a", "openai", "gpt-4o", 1000, "mine"),
        ("b", "openai", "GPT-4o", 1000, "model-provider"),
        ("b", "openrouter", "gpt-4o", 1000, "model"),
        ("b", "openai", "gpt-5", 1000, "family"),
        ("b", "openai", "o3", 1000, "provider"),
        ("b", "groq", "o3", 1000, "all"),
    ],
)
def test_the_most_specific_markup_wins(account: str, provider: str, model: str, at: int, expected: str) -> None:
    for rows in (MARKUPS, MARKUPS[::-1]):
        found = PriceBook(markups=rows, price_list=LIST).markup(account, provider, model, at)
        assert found.version == expected
        assert found.parts_per_million == next(row.parts_per_million for row in MARKUPS if row.markup_id == expected)


def test_without_a_markup_the_cost_is_charged() -> None:
    assert PriceBook(price_list=LIST).markup("a", "openai", "gpt-4o", NOW) == Markup(1_000_000, "none")


@pytest.mark.parametrize("parts", [-1, 10**9 + 1])
def test_a_markup_out_of_range_is_refused(parts: int) -> None:
    with pytest.raises(InvalidPrice):
        PriceBook(markups=[replace(MARKUPS[0], parts_per_million=parts)], price_list=LIST)


def rank(row: OwnMarkup, position: int) -> tuple[bool, int, bool, int, int]:
    """The rule as a sort key: account, then model (exact, then the longer prefix), then provider, then date."""
    name = row.model or "*"
    exactness = len(name) - 1 if name.endswith("*") else 1000
    return row.account_id is not None, exactness, row.provider is not None, row.valid_from, position


markup_rows = st.lists(
    st.builds(
        OwnMarkup,
        markup_id=st.uuids().map(str),
        account_id=st.sampled_from([None, "a", "b"]),
        provider=st.sampled_from([None, "p", "q"]),
        model=st.sampled_from([None, "*", "m*", "mo*", "mod", "MOD", "x"]),
        parts_per_million=st.just(1),
        valid_from=st.integers(0, 3),
    ),
    max_size=12,
)


@given(
    rows=markup_rows,
    provider=st.sampled_from("pq"),
    model=st.sampled_from(["mod", "m", "x", "y"]),
    at=st.integers(0, 3),
)
def test_the_winning_row_is_the_greatest_by_the_rule(rows: list[OwnMarkup], provider: str, model: str, at: int) -> None:
    fitting = [
        (rank(row, position), row.markup_id)
        for position, row in enumerate(rows)
        if row.account_id in (None, "a")
        and row.provider in (None, provider)
        and row.valid_from <= at
        and (
            (row.model or "*").lower() == model
            or ((row.model or "*")[-1] == "*" and model.startswith((row.model or "*")[:-1]))
        )
    ]
    expected = max(fitting)[1] if fitting else "none"
    assert PriceBook(markups=rows, price_list=LIST).markup("a", provider, model, at).version == expected


@given(st.decimals(min_value=0, max_value=10**6, places=18))
def test_a_price_of_eighteen_decimals_is_exact(usd: Decimal) -> None:
    price = book_of(own("p", rates={"input_mtok": f"{usd:f}"})).find("a", "openai", "gpt-4o", NOW)
    assert price is not None
    cost = cost_of(price, {"input_tokens": 7})
    assert cost.numerator * 10**15 == int(usd * 10**18) * 7 * cost.denominator
