"""Cost and charge: rounding once, absurd usage, decimals, and meters without a price."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.pricing.charge import charge_of, cost_of, unpriced_meters
from farebox.pricing.compiler import PriceList
from farebox.pricing.model import Cost, Markup, ModelPrice
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.usage import AbsurdUsage, Usage

NOW = 1_790_000_000_000
LIST = PriceList()


def priced(**rates: str) -> ModelPrice:
    price = PriceBook([OwnPrice("p", "x", "m", None, rates, 0)], price_list=LIST).find("a", "x", "m", NOW)
    assert price is not None
    return price


def listed(provider: str, model: str) -> ModelPrice:
    price = LIST.find(provider, model, NOW)
    assert price is not None
    return price


def nanos(cost: Cost) -> Fraction:
    return Fraction(cost.numerator, cost.denominator)


def test_each_unit_is_charged_once_at_its_most_specific_price() -> None:
    price = priced(
        input_mtok="2", cache_read_mtok="0.2", input_audio_mtok="10", cache_audio_read_mtok="1", output_mtok="8"
    )
    usage = {
        "input_tokens": 100,
        "cache_read_tokens": 50,
        "input_audio_tokens": 30,
        "cache_audio_read_tokens": 20,
        "output_tokens": 7,
        "output_reasoning_tokens": 5,
    }
    cost = cost_of(price, usage)
    # 20 of cached audio, 10 of other audio, 30 of other cached input, 40 of the rest
    assert nanos(cost) == 20 * 1000 + 10 * 10_000 + 30 * 200 + 40 * 2000 + 7 * 8000
    assert [(line.meter, line.quantity) for line in cost.lines] == [
        ("input_tokens", 40),
        ("output_tokens", 7),
        ("cache_read_tokens", 30),
        ("input_audio_tokens", 10),
        ("cache_audio_read_tokens", 20),
    ]


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 10, "cache_read_tokens": 11},
        {"cache_read_tokens": 1},
        {"input_tokens": 10, "cache_read_tokens": 6, "cache_write_tokens": 5},
        {"input_tokens": Decimal("1.5"), "cache_read_tokens": Decimal("1.6")},
    ],
)
def test_parts_above_their_whole_are_absurd(usage: dict[str, int]) -> None:
    with pytest.raises(AbsurdUsage):
        cost_of(priced(input_mtok="1", cache_read_mtok="0.1", cache_write_mtok="2"), usage)


def test_a_tier_starts_above_its_start_and_takes_all_units() -> None:
    price = listed("openai", "gpt-5.4")
    below = cost_of(price, {"input_tokens": 272_000, "output_tokens": 1})
    above = cost_of(price, {"input_tokens": 272_001, "output_tokens": 1})
    base, output, tier, costlier = 2500, 15_000, 5000, 22_500
    assert nanos(below) == 272_000 * base + output
    assert nanos(above) == 272_001 * tier + costlier


def test_decimal_quantities_are_exact() -> None:
    price = listed("openai", "whisper-1")
    cost = cost_of(price, {"audio_seconds": Decimal("8.470000267028809123")})
    assert nanos(cost) == Fraction("8.470000267028809123") * 360_000_000 / 3600
    assert cost.lines[0].quantity == Decimal("8.470000267028809123")
    with pytest.raises(AbsurdUsage):
        cost_of(price, {"audio_seconds": Decimal("1E-400")})


def test_a_tier_is_found_with_decimal_quantities_too() -> None:
    price = listed("openai", "gpt-5.4")
    usage: Usage = {"input_tokens": 272_000, "web_searches": Decimal("0.5")}
    assert nanos(cost_of(price, usage)) == 272_000 * 2500 + 5_000_000


def test_meters_without_a_price_are_visible_and_cost_nothing() -> None:
    price = priced(input_mtok="1", output_mtok="2")
    usage = {
        "input_tokens": 10,
        "cache_read_tokens": 4,
        "output_reasoning_tokens": 0,
        "web_searches": 3,
        "storage_searches": 0,
        "thought_units": 1,
        "requests": 1,
    }
    assert nanos(cost_of(price, usage)) == 10_000
    assert unpriced_meters(price, usage) == ("web_searches", "thought_units")


@given(
    numerator=st.integers(0, 10**30),
    denominator=st.integers(1, 10**24),
    parts=st.integers(0, 10**9),
)
def test_a_charge_is_rounded_up_once(numerator: int, denominator: int, parts: int) -> None:
    charge = charge_of(Cost(numerator, denominator, ()), Markup(parts))
    exact = Fraction(numerator, denominator) * parts / 1_000_000
    assert 0 <= charge - exact < 1


def test_a_markup_is_applied_before_rounding() -> None:
    third = Cost(1, 3, ())
    assert charge_of(third, Markup(1_000_000)) == 1
    assert charge_of(third, Markup(3_000_000)) == 1
    assert charge_of(third, Markup(3_000_001)) == 2
    assert charge_of(third, Markup(0)) == 0
    assert charge_of(Cost(0, 3, ()), Markup(2_000_000)) == 0
