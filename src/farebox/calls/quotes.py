"""What a call would cost, before it is made: its price, and the amount that would be held."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.calls.tiers import without_long_cache
from farebox.pricing.bill import LONG_CACHE
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.rates import UNITS
from farebox.runtime.services import Services
from farebox.usage import Quantity

SMALL_BYTES: Final = 1_000
SMALL_OUTPUT: Final = 256
"""Tokens."""
SMALL: Final[Mapping[str, int]] = {
    "characters": 1_000,
    "durations": 60,
    "output_pixels": 2**20,
    "steps": 30,
    "video_seconds": 5,
    "compute": 10,
}
"""How many units a small call has, by family of units; one of those that are not listed."""
_NOT_COUNTED: Final = ("tokens", "tool_calls", "requests")
"""Families of units that a small call does not have, or that are counted otherwise."""
SMALL_IMAGE_TOKENS: Final = 1_056
"""Tokens of a square image of medium quality (OpenAI's pricing page)."""


class Quote(msgspec.Struct, frozen=True):
    """The quote of a call on the operator's key."""

    price: ModelPrice
    markup: Markup
    most: Estimate


def quote(services: Services, account_id: str, provider: str, demand: Demand) -> Quote | None:
    """The quote at the standard tier, from what the request itself shows; None if the model has no price."""
    prices, now = services.configuration.prices, services.clock.now_ms()
    price = prices.find(account_id, provider, demand.model, now)
    if price is None:
        return None
    markup = prices.markup(account_id, provider, demand.model, now)
    asked = without_long_cache(price) if LONG_CACHE in price.meters else price
    return Quote(price, markup, estimate(demand, asked, markup))


def small_call(model: str, price: ModelPrice) -> Demand:
    """A typical small request, in whatever units the model is priced by."""
    fixed: dict[str, Quantity] = {}
    for meter in price.meters:
        family = UNITS.units[meter].dimensions["family"]
        if meter == "output_image_tokens":
            fixed[meter] = SMALL_IMAGE_TOKENS
        elif family not in _NOT_COUNTED:
            fixed[meter] = SMALL.get(family, 1)
    writes = "output_tokens" in price.meters
    return Demand(model, SMALL_BYTES, messages=1, output_max=SMALL_OUTPUT, no_output=not writes, fixed=fixed)
