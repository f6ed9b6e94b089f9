"""Converts decimal prices per price key to integer rates per meter, over one denominator.

The meters, and which contains which, are those of genai-prices' unit registry, plus the few units that it lacks. A
general meter's quantity includes its special ones' (`input_tokens` includes cached tokens); each unit is charged once,
at the most specific price that applies to it.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from genai_prices.data_units import unit_data
from genai_prices.types import TieredPrices
from genai_prices.units import UnitDef, UnitRegistry
from genai_prices.validation import validate_priced_units

from farebox.money import NANOS_PER_USD
from farebox.pricing.model import Rate
from farebox.quoting import quoted

_CACHE_WRITE = {"family": "tokens", "direction": "input", "token_type": "cache_write"}
_OURS: dict[str, dict[str, Any]] = {
    "cache_write_12h_tokens": {
        "per": 1_000_000,
        "price_key": "cache_write_12h_mtok",
        "dimensions": {**_CACHE_WRITE, "cache_ttl": "12h"},
    },
    "standard_images": {
        "per": 1_000,
        "price_key": "standard_images_kcount",
        "dimensions": {"family": "images", "direction": "output"},
    },
    "input_images": {"per": 1, "price_key": "input_images_count", "dimensions": {"family": "input_image_count"}},
    "output_images": {"per": 1, "price_key": "output_images_count", "dimensions": {"family": "image_count"}},
    "output_pixels": {"per": 1_000_000, "price_key": "output_mpixels", "dimensions": {"family": "output_pixels"}},
    "output_steps": {"per": 1_000, "price_key": "output_steps_kcount", "dimensions": {"family": "steps"}},
    "output_video_seconds": {"per": 1, "price_key": "output_video_seconds", "dimensions": {"family": "video_seconds"}},
    "compute_seconds": {"per": 1, "price_key": "compute_seconds", "dimensions": {"family": "compute"}},
    "stored_token_hours": {"per": 1_000_000, "price_key": "stored_mtok_hours", "dimensions": {"family": "storage"}},
    "runs": {"per": 1, "price_key": "runs_count", "dimensions": {"family": "runs"}},
    "billed_units": {"per": 1, "price_key": "billed_units", "dimensions": {"family": "billed_units"}},
}
"""Units that providers bill by and that genai-prices lacks: OpenAI's 12-hour cache; images of DALL·E, each counted
as a number of images of the standard size and quality; images that are sent along; images, their pixels and steps,
seconds of video and of hardware; tokens that are kept for an hour; runs that succeeded; and units that only the
provider counts, and states: fal's, credits."""

UNITS = UnitRegistry({**unit_data, **_OURS})
REQUESTS = "requests"
"""The meter that counts one for every call, whatever the usage is."""

Price: TypeAlias = Decimal | TieredPrices
"""US dollars per the price key's number of units."""

_ORDER = {meter: position for position, meter in enumerate(UNITS.units)}


class InvalidPrice(ValueError):
    """The prices are invalid: an unknown price key, an invalid amount, or a special meter without the general one that
    contains it.
    """


def compile_rates(prices: Mapping[str, Price]) -> tuple[int, tuple[Rate, ...]]:
    """The denominator, and the rates with the most special meters first (the order `cost_of` needs).

    Raises InvalidPrice naming what is wrong.
    """
    units = [_unit(key) for key in prices]
    try:
        validate_priced_units(units, UNITS)
    except ValueError as error:
        raise InvalidPrice(str(error)) from error
    exact = {unit.usage_key: _nanos_per_unit(price, unit) for unit, price in zip(units, prices.values(), strict=True)}
    denominator = math.lcm(*(nanos.denominator for table in exact.values() for _, nanos in table))
    return denominator, tuple(
        _rate(unit, exact[unit.usage_key], denominator, exact.keys()) for unit in sorted(units, key=_specificity)
    )


def ancestors(meter: str) -> frozenset[str]:
    """The meters whose quantity contains this one's; none for a meter the registry does not know."""
    return UNITS.ancestor_usage_keys(meter) if meter in UNITS.units else frozenset()


def rate_option(meter: str) -> str:
    """How the operator states the price of this meter to `farebox price set`."""
    key = UNITS.units[meter].price_key
    return f"--rate {key}=USD ({unit_text(key)})"


def unit_text(price_key: str) -> str:
    """What the amount of a price key is for: `per 3,600 audio seconds`. Raises InvalidPrice if there is no such key."""
    unit = _unit(price_key)
    what = unit.usage_key.replace("_", " ")
    return f"per {unit.per:,} {what}" if unit.per > 1 else f"per {what.removesuffix('s')}"


def contains(general: str, special: str) -> bool:
    """Whether `special` is counted inside `general` too."""
    return general in ancestors(special)


def _unit(key: str) -> UnitDef:
    try:
        return UNITS.unit_for_price_key(key)
    except KeyError:
        raise InvalidPrice(
            f"{quoted(key)} is not a price key, such as input_mtok, output_mtok or cache_read_mtok"
        ) from None


def _specificity(unit: UnitDef) -> tuple[int, int]:
    return -len(unit.dimensions), -_ORDER[unit.usage_key]


def _nanos_per_unit(price: Price, unit: UnitDef) -> list[tuple[int, Fraction]]:
    """(start, nano-dollars per unit), the base first with a start of zero."""
    if isinstance(price, Decimal):
        return [(0, _exact(price, unit))]
    return [(0, _exact(price.base, unit)), *((tier.start, _exact(tier.price, unit)) for tier in price.tiers)]


def _exact(price: Decimal, unit: UnitDef) -> Fraction:
    if not price.is_finite() or price < 0:
        raise InvalidPrice(f"{unit.price_key} is {price}: a price is zero or more")
    return Fraction(price) * NANOS_PER_USD / unit.per


def _rate(unit: UnitDef, table: list[tuple[int, Fraction]], denominator: int, priced: Iterable[str]) -> Rate:
    (_, base), *tiers = ((start, int(nanos * denominator)) for start, nanos in table)
    inside = tuple(meter for meter in priced if contains(unit.usage_key, meter))
    return Rate(unit.usage_key, base, tuple(tiers), inside)
