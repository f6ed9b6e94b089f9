"""The estimate is never below the cost, and the affordable output is the most that fits."""

from dataclasses import replace
from decimal import Decimal
from random import Random

import pytest
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.long import times

from farebox.pricing.ceilings import output_ceiling
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import PriceList
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.media import image_tokens
from farebox.pricing.model import Demand, ImageInput, Markup, ModelPrice, UnseenInput
from farebox.pricing.pricebook import OwnPrice, PriceBook
from farebox.pricing.rates import UNITS
from farebox.usage import Quantity

NOW = 1_790_000_000_000
LIST = PriceList()
SLUGS = {list_id: slug for slug, list_id in LIST_IDS.items()}


def _prices() -> "st.SearchStrategy[ModelPrice]":
    every = [
        price
        for provider in providers
        if provider.id in SLUGS
        for info in provider.models
        if (price := LIST.find(SLUGS[provider.id], info.id, NOW)) is not None
    ]
    # Prices with tiers, or with more than input and output, are the interesting third: draw them more often.
    special = [price for price in every if len(price.rates) > 3 or any(rate.tiers for rate in price.rates)]
    return st.one_of(st.sampled_from(every), st.sampled_from(special))


prices = st.deferred(_prices)  # computed lazily: it takes long, and every worker of pytest-xdist imports this module
markups = st.builds(Markup, st.one_of(st.just(1_000_000), st.integers(1, 5_000_000)))
images = st.builds(
    ImageInput,
    width=st.one_of(st.none(), st.integers(1, 5000)),
    height=st.one_of(st.none(), st.integers(1, 5000)),
    detail=st.sampled_from(["auto", "low", "high"]),
)
demands = st.builds(
    Demand,
    model=st.just("m"),
    text_bytes=st.one_of(st.integers(0, 3000), st.integers(0, 600_000)),
    messages=st.integers(0, 20),
    tools=st.integers(0, 3),
    images=st.lists(images, max_size=3).map(tuple),
    choices=st.integers(1, 4),
    output_max=st.one_of(st.none(), st.integers(0, 300_000)),
    no_output=st.booleans(),
    fixed=st.dictionaries(
        st.sampled_from(["web_searches", "audio_seconds", "input_characters", "input_document_pages"]),
        st.one_of(st.integers(0, 5000), st.decimals(0, 5000, places=3)),
        max_size=2,
    ),
)


def split(random: Random, total: int, general: str, price: ModelPrice, modalities: set[str]) -> dict[str, Quantity]:
    """`total` units of a general meter, distributed at random over the priced meters that it contains."""
    meters = [
        rate.meter
        for rate in price.rates
        if (rate.meter == general or general in UNITS.ancestor_usage_keys(rate.meter))
        and UNITS.units[rate.meter].dimensions.get("modality", "text") in modalities
    ]
    usage: dict[str, Quantity] = {}
    left = total
    for position, meter in enumerate(random.sample(meters, len(meters))):
        part = left if position == len(meters) - 1 or random.random() < 0.3 else random.randint(0, left)
        left -= part
        for whole in (meter, *UNITS.ancestor_usage_keys(meter)):
            usage[whole] = usage.get(whole, 0) + part
    return usage


def merged(*parts: dict[str, Quantity]) -> dict[str, Quantity]:
    return {meter: sum(part.get(meter, 0) for part in parts) for meter in set().union(*parts)}


@settings(max_examples=times(200, 5000), deadline=None)
@given(price=prices, demand=demands, markup=markups, random=st.randoms(use_true_random=False), full=st.booleans())
def test_the_estimate_bounds_every_usage_within_the_demand(
    price: ModelPrice, demand: Demand, markup: Markup, random: Random, full: bool
) -> None:
    text = demand.text_bytes + 8 * demand.messages
    pictures = sum(image_tokens(price.model, image) for image in demand.images)
    ceiling = output_ceiling(price)
    output = (
        0
        if demand.no_output
        else demand.choices * min(ceiling, ceiling if demand.output_max is None else demand.output_max)
    )
    if not full:
        text, pictures, output = (random.randint(0, most) for most in (text, pictures, output))
    usage = merged(
        split(random, text, "input_tokens", price, {"text"}),
        split(random, pictures, "input_tokens", price, {"text", "image"}),
        split(random, output, "output_tokens", price, {"text", "image", "audio", "video"}),
        dict(demand.fixed),
    )
    charge = charge_of(cost_of(price, usage), markup)
    bound = estimate(demand, price, markup)
    assert charge <= bound.amount
    assert bound.input_tokens >= text + pictures
    assert bound.output_tokens >= output


@settings(max_examples=times(200, 5000), deadline=None)
@given(
    price=prices,
    demand=demands,
    markup=markups,
    share=st.floats(0, 1.2),
    exact=st.one_of(st.none(), st.integers(0, 1000)),
)
def test_the_affordable_output_is_the_most_that_fits(
    price: ModelPrice, demand: Demand, markup: Markup, share: float, exact: int | None
) -> None:
    bound = estimate(demand, price, markup, exact_input_tokens=exact)
    available = int(bound.amount * share)
    most = affordable_output(demand, price, markup, available=available, exact_input_tokens=exact)
    if demand.no_output:
        assert most == 0
        return
    limit = min(output_ceiling(price), output_ceiling(price) if demand.output_max is None else demand.output_max)

    def amount(output: int) -> int:
        return estimate(structs.replace(demand, output_max=output), price, markup, exact_input_tokens=exact).amount

    assert 0 <= most <= limit
    assert most == 0 or amount(most) <= available
    assert most == limit or amount(most + 1) > available


def priced(model: str = "m", **rates: str) -> ModelPrice:
    price = PriceBook([OwnPrice("p", "x", "*", None, rates, 0)], price_list=LIST).find("a", "x", model, NOW)
    assert price is not None
    return replace(price, output_max=100)


COST = Markup()


def test_the_bound_by_hand() -> None:
    price = priced(input_mtok="1", output_mtok="2")
    bound = estimate(Demand("m", text_bytes=1000, messages=2, tools=3, choices=2, output_max=50), price, COST)
    tokens = 1000 + 128 + 2 * 8 + 1600 + 3 * 64
    assert (bound.input_tokens, bound.output_tokens, bound.exact) == (tokens, 100, False)
    assert bound.amount == tokens * 1000 + 100 * 2000
    counted = estimate(Demand("m", text_bytes=1000), price, COST, exact_input_tokens=200)
    assert (counted.input_tokens, counted.exact) == (328, True)
    assert estimate(Demand("m", text_bytes=100), price, COST, exact_input_tokens=200).input_tokens == 228


def test_every_input_token_is_estimated_at_the_highest_rate() -> None:
    price = priced(input_mtok="1", cache_write_mtok="1.25", cache_write_1h_mtok="2", cache_read_mtok="0.1")
    assert estimate(Demand("m", text_bytes=872), price, COST).amount == 1000 * 2000


def test_rates_of_audio_and_images_apply_only_to_audio_and_images() -> None:
    price = priced(input_mtok="1", input_audio_mtok="40", input_image_mtok="5", input_video_mtok="3")
    text = estimate(Demand("m", text_bytes=872), price, COST).amount
    assert text == 1000 * 1000
    audio = estimate(Demand("m", text_bytes=872, audio_seconds_max=10), price, COST).amount
    assert audio - text == 10 * 50 * 40_000
    image = estimate(Demand("m", text_bytes=872, images=(ImageInput(),)), price, COST).amount
    assert image - text == 16_384 * 5000
    unseen = estimate(Demand("m", text_bytes=872, unseen=(UnseenInput("file"),)), price, COST).amount
    assert unseen - text == (1_048_576 - 1000) * 40_000


def test_a_tier_counts_once_its_start_can_be_passed() -> None:
    price = LIST.find("openai", "gpt-5.4", NOW)
    assert price is not None
    within = Demand("m", text_bytes=272_000 - 128, no_output=True)
    assert estimate(within, price, COST).amount == 272_000 * 2500
    beyond = structs.replace(within, text_bytes=within.text_bytes + 1)
    assert estimate(beyond, price, COST).amount == 272_001 * 5000
    image = structs.replace(within, images=(ImageInput(32, 32),))
    assert estimate(image, price, COST).amount == 272_002 * 5000
    fixed = structs.replace(within, fixed={"input_tokens": 1})
    assert estimate(fixed, price, COST).amount == 272_001 * 5000


def test_output_is_estimated_at_the_highest_output_rate() -> None:
    price = priced(
        input_mtok="0",
        output_mtok="2",
        output_audio_mtok="80",
        output_reasoning_mtok="3",
        output_audio_reasoning_mtok="4",
    )
    assert estimate(Demand("m", output_max=10), price, COST).amount == 10 * 80_000


def test_output_is_bounded_by_the_models_maximum() -> None:
    price = priced(input_mtok="0", output_mtok="2")
    for requested in (None, 100, 10**12):
        assert estimate(Demand("m", output_max=requested), price, COST).output_tokens == 100
    assert estimate(Demand("m", choices=0), price, COST).output_tokens == 100
    assert estimate(Demand("m", no_output=True), price, COST).output_tokens == 0


def test_requests_and_fixed_meters_are_in_the_estimate() -> None:
    price = priced(input_mtok="0", requests_kcount="5", input_mchars="15", audio_hours="0.36", input_audio_hours="0.72")
    assert estimate(Demand("m"), price, COST).amount == 5_000_000
    fixed: dict[str, Quantity] = {
        "input_characters": 100,
        "requests": 3,
        "audio_seconds": Decimal("9.5"),
        "input_audio_seconds": 9,
    }
    assert estimate(Demand("m", fixed=fixed), price, COST).amount == 5_000_000 + 1_500_000 + 10 * 200_000
    assert estimate(Demand("m", fixed={"nothing_known": 5}), price, COST).amount == 5_000_000


def test_audio_is_held_for_its_longest_possible_duration() -> None:
    price = LIST.find("groq", "whisper-large-v3", NOW)
    assert price is not None
    long = estimate(Demand("m", audio_seconds=7, audio_seconds_max=1000), price, COST).amount
    assert long == pytest.approx(1000 * 111_000_000 / 3600, abs=1)
    for demand in (Demand("m", audio_seconds_max=1), Demand("m", fixed={"audio_seconds": 1})):
        short = estimate(demand, price, COST).amount
        assert short == charge_of(cost_of(price, {"audio_seconds": 2}), COST), "at least ten seconds"


def test_affordable_output_without_money_and_for_a_free_model() -> None:
    price = priced(input_mtok="1", output_mtok="2")
    demand = Demand("m", text_bytes=872)
    assert affordable_output(demand, price, COST, available=999_999) == 0
    assert affordable_output(demand, price, COST, available=-5) == 0
    assert affordable_output(demand, price, COST, available=1_000_000) == 0
    assert affordable_output(demand, price, COST, available=1_002_000) == 1
    assert affordable_output(demand, price, Markup(0), available=0) == 100
    free = priced(input_mtok="0", output_mtok="0")
    assert affordable_output(demand, free, COST, available=0) == 100
