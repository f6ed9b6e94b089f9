"""The supplement over the list: models, meters and tiers that genai-prices lacks, to the nano-dollar."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from farebox.pricing.bill import combined, highest_ratio, scaled, stated_cost, with_fee
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import PriceList
from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.model import Markup, ModelPrice
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.pricing.supplement import InvalidSupplement, Supplement, shipped
from farebox.usage import Usage

AT = int(datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp() * 1000)
PRICES = PriceList()


def price(provider: str, model: str, **context: str) -> ModelPrice:
    found = PRICES.find(provider, model, AT, context)
    assert found is not None, (provider, model)
    return found


def nanos(found: ModelPrice, **usage: int) -> int:
    return charge_of(cost_of(found, usage), Markup())


def test_everything_shipped_compiles() -> None:
    supplement = shipped()
    assert supplement.date == "2026-12-02"
    for provider in LIST_IDS:
        for model in PRICES.models(provider):
            found = PRICES.find(provider, model, AT)
            for entry in supplement.match(provider, model).variants if found is not None else ():
                varied = PRICES.find(provider, model, AT, entry.when)
                assert varied is not None
                assert varied.unknown == ()
    assert all(entry.source.startswith("https://") for entry in supplement.entries())


TEN_AND_ONE = {"input_tokens": 10_000, "output_tokens": 1_000}
TIERS = [
    ("openai", "gpt-6-astra", {"service_tier": "ultrafast"}, 900_000_000),
    ("openai", "gpt-6.1-sol", {"service_tier": "ultrafast"}, 180_000_000),
    ("openai", "gpt-6-astra", {"service_tier": "priority"}, 300_000_000),
    ("google-ai-studio", "gemini-3.5-flash", {"service_tier": "priority"}, 43_200_000),
    ("google-ai-studio", "gemini-3.5-flash", {"service_tier": "flex"}, 12_000_000),
    ("anthropic", "claude-opus-4-6", {"inference_geo": "us"}, 82_500_000),
    ("anthropic", "claude-opus-5", {"inference_geo": "us", "speed": "fast"}, 165_000_000),
    ("anthropic", "claude-opus-4-6", {"service_tier": "priority"}, 75_000_000),
]


@pytest.mark.parametrize(("provider", "model", "context", "expected"), TIERS)
def test_a_tier(provider: str, model: str, context: dict[str, str], expected: int) -> None:
    found = price(provider, model, **context)
    assert nanos(found, **TEN_AND_ONE) == expected
    assert found.unknown == ()


def test_per_use_charges_have_no_tier() -> None:
    usage = {"input_tokens": 1_000, "output_tokens": 0, "web_searches": 1}
    assert nanos(price("anthropic", "claude-opus-4-6", inference_geo="us"), **usage) == 5_500_000 + 10_000_000


@pytest.mark.parametrize(
    ("context", "unknown"),
    [
        ({"service_tier": "turbo"}, ("service_tier=turbo",)),
        ({"service_tier": "flex", "inference_geo": "eu"}, ("inference_geo=eu",)),
        ({"service_tier": "default"}, ()),
    ],
)
def test_unknown_context_is_reported(context: dict[str, str], unknown: tuple[str, ...]) -> None:
    assert price("openai", "gpt-6-astra", **context).unknown == unknown
    older = price("anthropic", "claude-opus-4-1", inference_geo="us")
    assert older.unknown == ("inference_geo=us",), "available since Opus 4.6"


@pytest.mark.parametrize(("tokens", "rate"), [(272_000, 25_000), (272_001, 50_000)])
@pytest.mark.parametrize(("tier", "times"), [("default", 2), ("flex", 1), ("priority", 4), ("ultrafast", 12)])
def test_twelve_hour_cache_writes_cost_two_and_a_half_times_the_input(
    tokens: int, rate: int, tier: str, times: int
) -> None:
    usage = {"input_tokens": tokens, "cache_write_tokens": tokens, "cache_write_12h_tokens": tokens}
    assert nanos(price("openai", "gpt-6-astra", service_tier=tier), **usage) == tokens * rate * times // 2


def test_the_tier_of_xai_begins_at_its_number() -> None:
    for model in ("grok-4.3", "grok-build-latest"):
        expensive, cheap = (cost_of(price("grok", model), {"input_tokens": tokens}) for tokens in (200_000, 199_999))
        assert Fraction(expensive.numerator, 200_000) == 2 * Fraction(cheap.numerator, 199_999)


@pytest.mark.parametrize(("day", "peak"), [(27, True), (28, False), (29, False), (30, True)])
def test_deepseeks_peak_hours_are_those_of_working_days(day: int, peak: bool) -> None:
    """The 28th and 29th of November 2026 are a Saturday and a Sunday."""
    for hour, minute, within in ((1, 0, True), (3, 59, True), (4, 0, False), (6, 0, True), (10, 0, False)):
        at = int(datetime(2026, 11, day, hour, minute, tzinfo=UTC).timestamp() * 1000)
        found = PRICES.find("deepseek", "deepseek-v4-pro", at)
        assert found is not None
        assert nanos(found, input_tokens=1000) == (1_320_000 if peak and within else 660_000)


NAMES = [
    ("cohere", "rerank-v3.5", {"rerank_searches": 1}, 2_000_000),
    ("cohere", "command-a-vision-07-2025", {"input_tokens": 1000, "output_tokens": 1000}, 12_500_000),
    ("openai", "gpt-5-search-api-2025-10-14", {"input_tokens": 1000}, 11_250_000),
    ("openai", "gpt-4o-mini-search-preview", {"input_tokens": 1000}, 25_150_000),
    ("openai", "gpt-4o-mini", {"input_tokens": 1000}, 150_000),
    ("openai", "gpt-5.5-pro-2031-01-31", {"input_tokens": 1000}, 30_000_000),
    ("google-ai-studio", "models/gemini-3.5-flash", {"input_tokens": 1000}, 1_500_000),
    ("mistral", "mistral-large-3", {"input_tokens": 1000}, 500_000),
]


@pytest.mark.parametrize(("provider", "model", "usage", "expected"), NAMES)
def test_models_that_the_list_lacks(provider: str, model: str, usage: Usage, expected: int) -> None:
    assert charge_of(cost_of(price(provider, model), usage), Markup()) == expected


def test_the_version_names_its_source() -> None:
    date = shipped().date
    assert price("cohere", "rerank-v3.5").version == f"supplement/{date}/cohere/rerank-v3.5"
    assert price("openai", "gpt-6-astra", service_tier="ultrafast").version.endswith(
        f"/supplement/{date}/service_tier=ultrafast"
    )


def test_the_highest_rate_of_a_provider() -> None:
    assert PRICES.highest_factor("openai") == 6
    assert PRICES.highest_factor("google-ai-studio") == Fraction(9, 5)
    assert PRICES.highest_factor("no-such") == 1


def test_a_tier_of_an_own_price_has_the_same_factor() -> None:
    own = OwnPrice("p1", "openai", "gpt-6-astra", None, {"input_mtok": "1", "output_mtok": "2"}, 0)
    private = OwnPrice("p2", "openai", "acme-1", None, {"input_mtok": "1"}, 0)
    book = PriceBook([own, private], price_list=PRICES)

    def found(model: str, **context: str) -> ModelPrice:
        price = book.find("a", "openai", model, AT, context)
        assert price is not None
        return price

    assert nanos(found("gpt-6-astra", service_tier="ultrafast"), **TEN_AND_ONE) == 6 * 12_000_000
    assert nanos(found("gpt-6-astra", service_tier="flex"), **TEN_AND_ONE) == 6_000_000
    assert nanos(found("gpt-6-astra", service_tier="default"), **TEN_AND_ONE) == 12_000_000
    assert found("acme-1", service_tier="flex").unknown == ("service_tier=flex",)


def test_the_costs_of_several_models_are_rounded_once() -> None:
    one, other = price("openai", "gpt-5-nano"), price("anthropic", "claude-opus-4-6")
    parts = [(one, cost_of(one, {"input_tokens": 1})), (other, cost_of(other, {"input_tokens": 1}))]
    cost = combined(parts)
    assert Fraction(cost.numerator, cost.denominator) == 50 + 5_000
    assert charge_of(cost, Markup(333_333)) == -(-5_050 * 333_333 // 10**6)
    assert [line.model for line in cost.lines] == ["", "claude-opus-4-6"]
    assert [Fraction(line.rate, cost.rates_over) for line in cost.lines] == [50, 5_000]


def test_a_stated_cost_is_exact() -> None:
    from decimal import Decimal

    cost = stated_cost(Decimal("0.00012345678901234567"))
    assert Fraction(cost.numerator, cost.denominator) == Fraction("123456.78901234567")
    assert charge_of(cost, Markup()) == 123_457


def test_prices_derived_from_others() -> None:
    found = price("openai", "gpt-5-nano")
    assert nanos(with_fee(found, 7), input_tokens=1) == 57
    costlier = scaled(found, Fraction(9, 5), "x")
    assert nanos(costlier, input_tokens=1) == 90
    assert highest_ratio(found, costlier) == Fraction(9, 5)


BROKEN = [
    b"{",
    b'{"date": "x", "prices": [{"provider": "openai"}]}',
    b'{"date": "x", "more": 1}',
    b'{"date":"x","prices":[{"provider":"a","models":["m"],"rates":{"nope":"1"},"source":"s","date":"d"}]}',
    b'{"date":"x","prices":[{"provider":"a","models":["m"],"rates":{"input_mtok":"-1"},"source":"s","date":"d"}]}',
    b'{"date":"x","variants":[{"provider":"a","models":["m"],"when":{"k":"v"},"factor":"0","source":"s","date":"d"}]}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_supplement_that_cannot_be_charged_by_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidSupplement):
        Supplement(text)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o-audio-preview-2024-12-17", 1_000 * 40_000 + 100 * 2_500 + 50 * 80_000 + 80 * 10_000),
        ("gpt-4o-mini-audio-preview", 1_000 * 10_000 + 100 * 150 + 50 * 20_000 + 80 * 600),
    ],
)
def test_audio_costs_more_than_words(model: str, expected: int) -> None:
    heard: dict[str, int] = {"input_tokens": 1_100, "input_audio_tokens": 1_000}
    said: dict[str, int] = {"output_tokens": 130, "output_audio_tokens": 50}
    assert nanos(price("openai", model), **heard, **said) == expected


def test_mistrals_cached_input_costs_a_tenth() -> None:
    for model in ("mistral-large-latest", "codestral-latest", "magistral-small-latest"):
        found = price("mistral", model)
        cached, all_new = (nanos(found, input_tokens=1_000, **more) for more in ({"cache_read_tokens": 1_000}, {}))
        assert 10 * cached == all_new, model


def test_a_name_that_moved_has_the_price_of_the_model_it_means() -> None:
    """Mistral serves `mistral-large-latest` with Mistral Large 3 (0.5 and 1.5 USD per million tokens, as its
    documentation and LiteLLM 1.110.2 say); genai-prices 0.2.3 has it for Mistral Large 2 (2 and 6 USD).
    """
    found = price("mistral", "Mistral-Large-Latest")
    assert nanos(found, **TEN_AND_ONE) == 10_000 * 500 + 1_000 * 1_500
    assert found.context_window == 262_144
    assert found.version.startswith("genai-prices/0.2.3/mistral/mistral-large-2512")
    assert nanos(price("mistral", "mistral-large-2411"), **TEN_AND_ONE) == 10_000 * 2_000 + 1_000 * 6_000


def test_the_list_has_not_caught_up_with_the_names_that_moved() -> None:
    """An entry that the list no longer needs is to be deleted: it would hide the name's next move."""
    alone = PriceList(supplement=Supplement(b'{"date": "2026-12-02"}'))
    for entry in shipped().moved():
        to = price(entry.provider, entry.to)
        for name in entry.models:
            listed = alone.find(entry.provider, name, AT)
            assert listed is None or (listed.denominator, listed.rates) != (to.denominator, to.rates), name
