"""Price audit: compares our prices with those that others publish and costs that providers state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Final

from farebox.money import NANOS_PER_USD
from farebox.pricing.compiler import PriceList
from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.litellm_map import LiteLLMMap
from farebox.pricing.model import ModelPrice
from farebox.pricing.pricebook import PriceBook
from farebox.pricing.rates import UNITS, Price, ancestors
from farebox.pricing.stored_receipt import whole
from farebox.storage.calls import ReceiptRow

SHOWN_PERCENT: Final = Decimal(1)
"""A smaller difference is not shown: price lists round."""
_METERS: Final = {unit.price_key: meter for meter, unit in UNITS.units.items()}


@dataclass(frozen=True, slots=True)
class PriceDifference:
    """One price on which two sources differ, in US dollars for the price key's unit."""

    provider: str
    model: str
    key: str
    """A price key, followed by `>N` for calls with more than N input tokens; or `stated cost`."""
    ours: Decimal
    theirs: Decimal
    version: str
    """The source of our price."""
    source: str
    """The source of their price."""
    date: str
    """Since when our price is valid, if its source says so."""
    in_use: bool
    """Whether the model was called in the days examined."""

    @property
    def percent(self) -> Decimal:
        """How far their price is above ours, in percent; negative if it is below."""
        if not self.ours:
            return Decimal("Infinity") if self.theirs else Decimal(0)
        return (self.theirs - self.ours) * 100 / self.ours


@dataclass(frozen=True, slots=True)
class RecentCalls:
    """Recent calls: the models, and the ratio of each provider's stated cost to our own computation."""

    models: frozenset[tuple[str, str]]
    ratios: Mapping[tuple[str, str], list[Decimal]]


def summarize_calls(in_use: set[tuple[str, str]], stated: Iterable[ReceiptRow]) -> RecentCalls:
    """Summarize recent calls: `in_use` lists charged models, `stated` receipts with a stated cost."""
    models = set(in_use)
    ratios: dict[tuple[str, str], list[Decimal]] = {}
    for found in stated:
        receipt, provider = whole(found), found.provider
        models.add((provider, receipt.model))
        if receipt.stated_usd is not None and receipt.computed_nanos is not None:
            computed = _decimal(receipt.computed_nanos)
            if computed:
                nanos = Decimal(receipt.stated_usd) * NANOS_PER_USD
                ratios.setdefault((provider, receipt.priced_model or receipt.model), []).append(nanos / computed)
    return RecentCalls(frozenset(models), ratios)


def against_map(book: PriceBook, theirs: LiteLLMMap, calls: RecentCalls, at_ms: int) -> list[PriceDifference]:
    """Differences between our prices and LiteLLM's map."""
    found: list[PriceDifference] = []
    for provider, model in sorted(theirs):
        ours = book.find("", provider, model, at_ms)
        rates = theirs.rates(provider, model)
        if ours is not None and rates is not None:
            source = " ".join(filter(None, (theirs.version, theirs.source(provider, model))))
            found += _compared(ours, rates, model, source, (provider, model) in calls.models)
    return found


def against_supplement(price_list: PriceList, calls: RecentCalls, at_ms: int) -> list[PriceDifference]:
    """Differences between the supplement and the list for models that the list has a price for (which takes
    precedence).
    """
    supplement = price_list.supplement
    version = f"supplement/{supplement.date}"
    found: list[PriceDifference] = []
    for provider in LIST_IDS:
        for model in supplement.models(provider):
            ours = price_list.find(provider, model, at_ms)
            rates = supplement.rates(provider, model)
            if ours is not None and rates is not None and not ours.version.startswith(version):
                found += _compared(ours, rates, model, version, (provider, model) in calls.models)
    return found


def against_stated(book: PriceBook, calls: RecentCalls, at_ms: int) -> list[PriceDifference]:
    """Models whose providers state another cost than we compute, by the median over the calls."""
    found: list[PriceDifference] = []
    for (provider, model), ratios in sorted(calls.ratios.items()):
        price = book.find("", provider, model, at_ms)
        version = price.version if price is not None else ""
        source = f"{provider}'s own figure, median of {len(ratios)} calls"
        one = PriceDifference(
            provider, model, "stated cost", Decimal(1), median(ratios), version, source, _date_of(version), True
        )
        if abs(one.percent) > SHOWN_PERCENT:
            found.append(one)
    return found


def newest_first(differences: Iterable[PriceDifference]) -> list[PriceDifference]:
    """The latest prices first, then the largest differences."""
    by_size = sorted(differences, key=lambda one: (-abs(one.percent), one.provider, one.model, one.key))
    return sorted(by_size, key=lambda one: one.date, reverse=True)


def _compared(
    ours: ModelPrice, theirs: Mapping[str, Price], model: str, source: str, in_use: bool
) -> list[PriceDifference]:
    mine = _amounts(ours)
    found = []
    for key, usd in _flat(theirs).items():
        amount = mine.get(key) if key in mine or not usd else _general(mine, key)  # zero: not billed separately
        if amount is not None:
            one = PriceDifference(
                ours.provider, model, key, amount, usd, ours.version, source, _date_of(ours.version), in_use
            )
            if abs(one.percent) > SHOWN_PERCENT:
                found.append(one)
    return found


def _amounts(price: ModelPrice) -> dict[str, Decimal]:
    """US dollars by price key, and by price key and tier."""
    amounts = {}
    for rate in price.rates:
        unit = UNITS.units[rate.meter]
        for start, number in ((0, rate.base), *rate.tiers):
            usd = Decimal(number) * unit.per / price.denominator / NANOS_PER_USD
            amounts[_key(unit.price_key, start)] = usd
    return amounts


def _general(mine: Mapping[str, Decimal], key: str) -> Decimal | None:
    """The price at which a special meter without its own is charged: that of the closest meter that contains it."""
    meter = _METERS.get(key)
    wider = [] if meter is None else [name for name in ancestors(meter) if UNITS.units[name].price_key in mine]
    closest = max(wider, key=lambda name: len(ancestors(name)), default=None)
    return None if closest is None else mine[UNITS.units[closest].price_key]


def _flat(rates: Mapping[str, Price]) -> dict[str, Decimal]:
    flat: dict[str, Decimal] = {}
    for key, price in rates.items():
        if isinstance(price, Decimal):
            flat[key] = price
            continue
        flat[key] = price.base
        flat |= {_key(key, tier.start): tier.price for tier in price.tiers}
    return flat


def _key(key: str, start: int) -> str:
    # Lists that include the boundary state one token less.
    return f"{key} >{start + 1 if start % 10 == 9 else start}" if start else key


def _date_of(version: str) -> str:
    """The latest date in a price's version; empty if it has none."""
    parts = [part for part in version.replace("+", "/").split("/") if len(part) == 10 and part[4] == part[7] == "-"]
    return max(parts, default="")


def _decimal(text: str) -> Decimal:
    numerator, _, denominator = text.partition("/")
    return Decimal(numerator) / Decimal(denominator or 1)
