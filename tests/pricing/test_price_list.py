"""The compiled price list against genai-prices' own arithmetic, over every model, price, date, variant and tier."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from importlib.metadata import version
from itertools import combinations
from random import Random

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices.data import providers
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ClauseAnd,
    ClauseEquals,
    ClauseOr,
    ConditionalPrice,
    ModelInfo,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import ModelPrice as ListedPrice

from farebox.pricing.charge import cost_of
from farebox.pricing.compiler import PriceList
from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.model import ModelPrice
from farebox.pricing.rates import UNITS, InvalidPrice, compile_rates
from farebox.pricing.supplement import Supplement, shipped
from farebox.usage import Quantity

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RELEASE = version("genai-prices")
NOW_MS = 1_790_000_000_000
EVERY_PROVIDER = {provider.id: provider.id for provider in providers}
METERS = [meter for meter in unit_data if meter != "requests"]
"""The providers that genai-prices has."""
PARTS = {
    meter: [part for part in METERS if part == meter or meter in UNITS.ancestor_usage_keys(part)] for meter in METERS
}
"""A meter and all that it contains."""
SECONDS = {meter for meter in METERS if UNITS.units[meter].dimensions["family"] == "durations"}
TICK = timedelta(milliseconds=1)
NO_SUPPLEMENT = Supplement(b'{"date": "2026-11-29"}')
"""The price list without our supplement, which is what is compared here."""


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // TICK


def moment_of(at_ms: int) -> datetime:
    return EPOCH + at_ms * TICK


def conditions(info: ModelInfo) -> list[StartDateConstraint | TimeOfDateConstraint]:
    prices = info.prices if isinstance(info.prices, list) else []
    found = [price.constraint for price in prices] + [variant.constraint for variant in info.price_variants or []]
    return [constraint for constraint in found if constraint is not None]


def moments(info: ModelInfo) -> list[datetime]:
    """Times just before and at every start date and daily boundary; daily boundaries are tested for every start
    date."""
    days = [datetime(2020, 6, 1, tzinfo=UTC)]
    edges = []
    for constraint in conditions(info):
        if isinstance(constraint, StartDateConstraint):
            start = datetime.combine(constraint.start_date, datetime.min.time(), UTC)
            edges += [start - TICK, start]
            days.append(start + timedelta(days=1))
    for constraint in conditions(info):
        if isinstance(constraint, TimeOfDateConstraint):
            for day in days:
                for moment in (constraint.start_time, constraint.end_time):
                    edge = datetime.combine(day.date(), moment, moment.tzinfo or UTC)
                    edges += [edge - TICK, edge]
    return sorted({*days, *edges})


def contexts(info: ModelInfo) -> list[dict[str, str] | None]:
    """No context, an unknown one, each variant's, and those of every two variants combined."""
    whens = [variant.when for variant in info.price_variants or []]
    found: list[dict[str, str] | None] = [None, {"service_tier": "unheard-of"}, *whens]
    found += [first | second for first, second in combinations(whens, 2)]
    return [context for index, context in enumerate(found) if context not in found[:index]]


def tier_starts(prices: ListedPrice) -> set[int]:
    return {tier.start for price in vars(prices).values() if isinstance(price, TieredPrices) for tier in price.tiers}


def alone(provider: Provider, info: ModelInfo) -> tuple[Provider, ModelInfo]:
    """The model as its provider's only one, so that no other model shadows it."""
    info = replace(info, match=ClauseEquals(equals=info.id))
    return replace(provider, models=[info], fallback_model_providers=None), info


def random_usage(random: Random, priced: list[str], input_tokens: int | None) -> dict[str, Quantity]:
    """Consistent figures for every meter: each is its own units plus all meters that it contains. Some meters without a
    price are used too. With `input_tokens`, exactly this many."""
    used = set(random.sample(METERS, 4)) | {meter for meter in priced if random.random() < 0.8}
    own: dict[str, Quantity] = dict.fromkeys(METERS, 0)
    for meter in sorted(used & own.keys()):
        count = random.randint(0, 10 ** random.randint(0, 6))
        own[meter] = Decimal(count) / 1000 if meter in SECONDS and random.random() < 0.5 else count
    usage = {meter: sum(map(own.__getitem__, parts)) for meter, parts in PARTS.items()}
    if input_tokens is not None:
        usage |= dict.fromkeys(PARTS["input_tokens"], 0)
        usage["input_tokens"] = input_tokens
        if "cache_read_tokens" in priced:
            usage["cache_read_tokens"] = random.randint(0, input_tokens)
    return usage


def listed_nanos(
    info: ModelInfo, provider: Provider, usage: dict[str, Quantity], at: datetime, context: object
) -> Fraction:
    with localcontext(prec=100):
        result = info.calc_price(
            ListedUsage(**usage),
            provider,
            genai_request_timestamp=at,
            price_context=context,  # type: ignore[arg-type]
        )
        return Fraction(result.total_price) * 10**9


def assert_same(price: ModelPrice, usage: dict[str, Quantity], expected: Fraction) -> None:
    cost = cost_of(price, usage)
    actual = Fraction(cost.numerator, cost.denominator)
    if any(rate.meter.endswith("audio_seconds") for rate in price.rates):
        # A price per hour does not divide evenly: the reference is a decimal of a hundred digits.
        assert abs(actual - expected) <= Fraction(1, 10**60), (price.version, usage)
    else:
        assert actual == expected, (price.version, usage)
    assert sum(line.nanos_numerator for line in cost.lines) == cost.numerator


def check_model(provider: Provider, info: ModelInfo, random: Random) -> None:
    """Which price applies, at every moment in every context; and the sums of each price, once."""
    compiled = PriceList({provider.id: provider.id}, [provider], NO_SUPPLEMENT)
    versions: dict[str, tuple[ModelPrice, dict[str, object]]] = {}
    for at in moments(info):
        if provider.id == "deepseek" and at.weekday() > 4:
            continue  # its peak prices apply only on working days, which the list cannot express
        for context in contexts(info):
            listed = info.get_prices(at, context)
            keys = [key for key, value in vars(listed).items() if value is not None]
            price = compiled.find(provider.id, info.id, ms(at), context)
            if not keys:
                assert price is None, "a model without any price is unpriced, not free"
                continue
            assert price is not None
            if price.version in versions:
                assert versions[price.version] == (price, vars(listed)), "a version identifies one price"
                continue
            versions[price.version] = price, dict(vars(listed))
            priced = [UNITS.unit_for_price_key(key).usage_key for key in keys]
            for tokens in [
                None,
                None,
                None,
                *(start + more for start in sorted(tier_starts(listed)) for more in (0, 1)),
            ]:
                usage = random_usage(random, priced, tokens)
                assert_same(price, usage, listed_nanos(info, provider, usage, at, context))


@pytest.mark.slow
@pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.id)
def test_every_price_of_every_model_equals_the_lists_own_arithmetic(provider: Provider) -> None:
    random = Random(provider.id)
    for info in provider.models:
        check_model(*alone(provider, info), random)


def names(clause: object) -> set[str]:
    """The names in a match rule."""
    if isinstance(clause, ClauseOr | ClauseAnd):
        return set().union(*(names(part) for part in (clause.or_ if isinstance(clause, ClauseOr) else clause.and_)))
    return {str(value) for value in vars(clause).values()}


def refs(provider: Provider) -> set[str]:
    """Names that clients may send: IDs, parts of match rules, dated and misspelled names, and other providers'
    models."""
    found = {"", "no-such-model", "gpt-4o", "claude-sonnet-4-5", "GPT-5.2-20251211", "deepseek-chat"}
    for info in provider.models:
        for name in names(info.match) | {info.id}:
            found |= {name, f"{name}-20251211"}
    return found | {info.id.upper() for info in provider.models}


def look_up_once(patch: pytest.MonkeyPatch) -> None:
    """Cache the list's lookup, which compares a name with all models and takes most of the time here, for both
    sides."""
    find_model, found = Provider.find_model, dict[tuple[str, str], ModelInfo | None]()

    def once(self: Provider, ref: str, *, all_providers: list[Provider] | None = None) -> ModelInfo | None:
        if (self.id, ref) not in found:
            found[self.id, ref] = find_model(self, ref, all_providers=all_providers)
        return found[self.id, ref]

    patch.setattr(Provider, "find_model", once)


@pytest.mark.slow
@pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.id)
def test_a_model_ref_finds_the_model_that_the_list_finds(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up_once(monkeypatch)
    compiled = PriceList(EVERY_PROVIDER, supplement=NO_SUPPLEMENT)
    for ref in refs(provider):
        info = provider.find_model(ref, all_providers=providers)
        price = compiled.find(provider.id, ref, NOW_MS)
        if info is None:
            assert price is None
        elif any(value is not None for value in vars(info.get_prices(moment_of(NOW_MS))).values()):
            assert price is not None
            assert price.model == info.id
            assert price.version.startswith(f"genai-prices/{RELEASE}/{provider.id}/{info.id}")
            assert price.context_window == info.context_window
        else:
            assert price is None


def test_our_slugs_name_providers_of_the_list() -> None:
    assert set(LIST_IDS.values()) <= EVERY_PROVIDER.keys()
    price = PriceList().find("workers-ai", "@cf/meta/llama-3.1-8b-instruct", NOW_MS)
    assert price is not None
    assert price.provider == "workers-ai"
    assert PriceList().find("azure", "gpt-4o", NOW_MS) is None


def test_versions_contain_start_date_daily_interval_and_variant() -> None:
    book = PriceList()
    peak = ms(datetime(2026, 10, 20, 7, 30, tzinfo=UTC))
    price = book.find("deepseek", "deepseek-flash", peak)
    assert price is not None
    assert price.version == f"genai-prices/{RELEASE}/deepseek/deepseek-flash/06:00-10:00Z,Mon-Fri"
    price = book.find("openai", "gpt-5.6-sol", peak, {"service_tier": "flex", "user": "x"})
    assert price is not None
    version = f"genai-prices/{RELEASE}/openai/gpt-5.6-sol/2026-08-21/service_tier=flex/2026-10-12"
    assert price.version == f"{version}+supplement/{shipped().date}"
    assert price.unknown == ("user=x",)


def test_a_name_of_absurd_length_is_unknown() -> None:
    """The match rule accepts any name with the prefix, but the cache does not keep long names."""
    name = "claude-2".ljust(256, "x")
    assert PriceList().find("anthropic", name, NOW_MS) is not None
    assert PriceList().find("anthropic", name + "x", NOW_MS) is None


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_a_price_list_with_an_invalid_amount_is_refused(usd: str) -> None:
    with pytest.raises(InvalidPrice):
        compile_rates({"input_mtok": Decimal(usd)})


def test_a_borrowed_model_has_no_variants() -> None:
    """Azure sells OpenAI's models, but not at OpenAI's batch prices."""
    book = PriceList(EVERY_PROVIDER)
    azure = next(provider for provider in providers if provider.id == "azure")
    own = {id(info) for info in azure.models}
    borrowed = 0
    for provider in providers:
        for info in provider.models:
            found = azure.find_model(info.id, all_providers=providers)
            if provider.id in (azure.fallback_model_providers or []) and found is info and id(info) not in own:
                for context in contexts(info):
                    assert book.find("azure", info.id, NOW_MS, context) == book.find("azure", info.id, NOW_MS)
                    borrowed += 1
    assert borrowed > 50


def test_groq_bills_ten_seconds_of_audio_however_it_is_reported() -> None:
    groq = next(provider for provider in providers if provider.id == "groq")
    info = groq.find_model("whisper-large-v3")
    price = PriceList().find("groq", "whisper-large-v3", NOW_MS)
    assert info is not None
    assert price is not None
    for seconds in (0, 3, Decimal("9.999"), 10, Decimal("10.001"), 4000):
        for usage in ({"audio_seconds": seconds}, {"input_audio_seconds": seconds}):
            assert_same(price, usage, listed_nanos(info, groq, usage, moment_of(NOW_MS), None))


def test_a_request_price_is_charged_once() -> None:
    price = PriceList().find("perplexity-ai", "sonar-pro", NOW_MS)
    assert price is not None
    assert cost_of(price, {}).numerator == 14 * 10**6 * price.denominator
    assert cost_of(price, {"requests": 7}) == cost_of(price, {})


def test_a_daily_interval_may_pass_midnight_and_have_an_offset() -> None:
    night = TimeOfDateConstraint(time(23, 0, tzinfo=timezone(timedelta(hours=2))), time(3, 30))  # 21:00 to 03:30 UTC
    info = ModelInfo(
        id="m",
        match=ClauseEquals(equals="m"),
        prices=[
            ConditionalPrice(prices=ListedPrice(input_mtok=Decimal(2))),
            ConditionalPrice(night, prices=ListedPrice(input_mtok=Decimal(1))),
        ],
    )
    provider = Provider(id="p", name="p", api_pattern="p", models=[info])
    check_model(provider, info, Random(1))
    compiled = PriceList({"p": "p"}, [provider])
    versions = []
    for hour in (20, 21, 23, 0, 3, 4):
        price = compiled.find("p", "m", ms(datetime(2026, 1, 1, hour, 1, tzinfo=UTC)))
        assert price is not None
        versions.append(price.version.removeprefix(f"genai-prices/{RELEASE}/p/m"))
    assert versions == ["", *["/21:00-03:30Z"] * 4, ""]
