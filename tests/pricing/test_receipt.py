"""A receipt can be checked by hand: its lines add up to its cost, and its cost with the markup to its charge."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import PriceList
from farebox.pricing.model import Markup
from farebox.pricing.receipt import Receipt, exact_text, make_receipt
from farebox.pricing.stored_receipt import stored, stored_of
from farebox.usage import Usage

NOW = 1_790_000_000_000
LIST = PriceList()


def receipt_of(provider: str, model: str, usage: Usage, markup: Markup) -> Receipt:
    price = LIST.find(provider, model, NOW)
    assert price is not None
    cost = cost_of(price, usage)
    return make_receipt(
        log_id="log",
        account_id="account",
        gateway_id="gateway",
        provider=provider,
        model=model,
        outcome="charged",
        usage_source="provider",
        charge_nanos=charge_of(cost, markup),
        usage=usage,
        price=price,
        cost=cost,
        markup=markup,
        hold_nanos=10**9,
        written_off_nanos=3,
        policy="cut_stream",
        notes=("a note",),
    )


_PRICED = pytest.mark.parametrize(
    ("provider", "model", "usage"),
    [
        (
            "openai",
            "gpt-4o-2024-08-06",
            {"input_tokens": 1001, "cache_read_tokens": 77, "output_tokens": 13, "rerank_searches": 2},
        ),
        ("groq", "whisper-large-v3", {"audio_seconds": Decimal("12.345")}),
        ("perplexity-ai", "sonar", {"input_tokens": 5, "output_tokens": 7}),
    ],
)


@_PRICED
@pytest.mark.parametrize("row_model", ["its own", "another"])
@pytest.mark.parametrize("parts", [1_000_000, 1_234_567])
def test_a_receipt_is_stored_as_it_is_made(provider: str, model: str, usage: Usage, parts: int, row_model: str) -> None:
    markup, row_model = Markup(parts, "m1"), model if row_model == "its own" else row_model
    receipt, price = receipt_of(provider, model, usage, markup), LIST.find(provider, model, NOW)
    assert price is not None
    for cost, priced in ((cost_of(price, usage), price), (None, price), (None, None)):
        row_cost = 0 if cost is None else -(-cost.numerator // cost.denominator)
        kept = stored_of(
            row_model, row_cost, model, "provider", usage, priced, cost, markup, 10**9, 3, "cut_stream", ("a note",),
            None, None, (),
        )  # fmt: skip
        if cost is None:
            receipt = make_receipt(
                "log", "account", "gateway", provider, model, "charged", "provider", 0, usage, priced, cost, markup,
                10**9, 3, "cut_stream", ("a note",),
            )  # fmt: skip
        assert kept == stored(receipt, row_model, row_cost)


@_PRICED
@pytest.mark.parametrize("parts", [1_000_000, 1_234_567])
def test_a_receipt_adds_up(provider: str, model: str, usage: Usage, parts: int) -> None:
    receipt = receipt_of(provider, model, usage, Markup(parts, "m1"))
    cost = sum(Fraction(line.cost_nanos) for line in receipt.lines)
    assert cost == Fraction(receipt.cost_nanos)
    for line in receipt.lines:
        assert Fraction(line.quantity) * Fraction(line.nanos_per_unit) == Fraction(line.cost_nanos)
    marked = cost * receipt.markup_parts_per_million / 1_000_000
    assert receipt.charge_nanos == marked + Fraction(receipt.rounding_nanos)
    assert 0 <= Fraction(receipt.rounding_nanos) < 1


def test_a_receipt_names_everything_and_survives_json() -> None:
    usage = {"input_tokens": 10, "output_tokens": 1, "rerank_searches": 2}
    receipt = receipt_of("openai", "gpt-4o-2024-08-06", usage, Markup(1_100_000, "m1"))
    assert (receipt.model, receipt.priced_model) == ("gpt-4o-2024-08-06", "gpt-4o")
    assert receipt.price_version is not None
    assert receipt.price_version.startswith("genai-prices/")
    assert receipt.unpriced_meters == ("rerank_searches",)
    assert (receipt.markup_parts_per_million, receipt.markup_version) == (1_100_000, "m1")
    assert (receipt.hold_nanos, receipt.written_off_nanos, receipt.policy) == (10**9, 3, "cut_stream")
    assert [line.nanos_per_unit for line in receipt.lines] == ["2500", "10000"]
    assert receipt.denominator >= 1
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt) == receipt


def test_a_receipt_of_nothing_priced() -> None:
    receipt = make_receipt(
        log_id="l",
        account_id="a",
        gateway_id="g",
        provider="openai",
        model="m",
        outcome="own_key",
        usage_source="none",
        charge_nanos=0,
    )
    assert (receipt.lines, receipt.cost_nanos, receipt.rounding_nanos, receipt.price_version) == ((), "0", "0", None)
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt) == receipt


@given(st.integers(-(10**20), 10**20), st.one_of(st.integers(1, 10**12), st.integers(0, 30).map(lambda n: 10**n)))
def test_exact_text_is_exact_and_plain_where_it_can_be(numerator: int, denominator: int) -> None:
    text = exact_text(numerator, denominator)
    value = Fraction(numerator, denominator)
    assert Fraction(text) == value
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    assert ("/" in text) == (rest != 1)


def test_exact_text_by_example() -> None:
    assert [exact_text(*pair) for pair in ((3, 20), (25, 3), (150, 1), (-1, 8), (0, 7), (1000, 10))] == [
        "0.15",
        "25/3",
        "150",
        "-0.125",
        "0",
        "100",
    ]
