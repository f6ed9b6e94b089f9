"""What a call would cost, before it is made: its price, and the most that would be held for it."""

import msgspec

from farebox.calls.tiers import without_long_cache
from farebox.pricing.bill import LONG_CACHE
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.runtime.services import Services


class Quote(msgspec.Struct, frozen=True):
    """Of a call on the operator's key."""

    price: ModelPrice
    markup: Markup
    most: Estimate


def quote(services: Services, account_id: str, provider: str, demand: Demand) -> Quote | None:
    """At the standard tier, of what the request itself shows; None if the model has no price."""
    prices, now = services.configuration.prices, services.clock.now_ms()
    price = prices.find(account_id, provider, demand.model, now)
    if price is None:
        return None
    markup = prices.markup(account_id, provider, demand.model, now)
    asked = without_long_cache(price) if LONG_CACHE in price.meters else price
    return Quote(price, markup, estimate(demand, asked, markup))
