"""What a new price or markup would change: what a million tokens cost an account, and what past calls would have
cost."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from farebox.calendar import DAY_MS
from farebox.pricing.model import Markup, ModelPrice
from farebox.storage.past_usage import PastUsage

PAST_MS: Final = 30 * DAY_MS
"""The period whose calls a preview looks at: the last 30 days."""
PER_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RateChange:
    """What an account pays for a million units of a meter, before and after. Nano-dollars; None: it has no price."""

    meter: str
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class PriceEffect:
    """What the calls of the last days were charged, and what they would be charged. Nano-dollars."""

    usage: PastUsage
    after: int | None
    """None: unknown, because the price has no rate for tokens."""


def rates(before: tuple[ModelPrice | None, Markup], after: tuple[ModelPrice, Markup]) -> list[RateChange]:
    """The rates by meter, input and output tokens first."""
    was = {} if before[0] is None else _charged(before[0], before[1])
    now = _charged(*after)
    return [RateChange(meter, was.get(meter), now.get(meter)) for meter in sorted({**was, **now}, key=_order)]


def repriced(usage: PastUsage, price: ModelPrice, markup: Markup) -> PriceEffect:
    """The past calls at a price, with all tokens as plain input and output: caches and tiers are not in the sums."""
    charged = _charged(price, markup)
    if not {"input_tokens", "output_tokens"} <= charged.keys():
        return PriceEffect(usage, None)
    nanos = usage.tokens_in * charged["input_tokens"] + usage.tokens_out * charged["output_tokens"]
    return PriceEffect(usage, nanos // PER_MILLION)


def marked_up(usage: PastUsage, before: int, after: int) -> PriceEffect:
    """The past calls at a markup, where `before` applied to all of them. Parts per million of the cost."""
    return PriceEffect(usage, usage.charge * after // before if before else None)


def _charged(price: ModelPrice, markup: Markup) -> dict[str, int]:
    factor = Fraction(markup.parts_per_million, price.denominator)
    return {rate.meter: round(rate.base * factor) for rate in price.rates}


def _order(meter: str) -> tuple[int, str]:
    first = ("input_tokens", "output_tokens")
    return (first.index(meter) if meter in first else len(first), meter)
