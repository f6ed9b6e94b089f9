"""Combining several prices: the cost of a call that ran several models, and prices derived from other prices."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import lcm

from msgspec.structs import replace as with_fields

from farebox.money import NANOS_PER_USD
from farebox.pricing.model import Cost, CostLine, ModelPrice, Rate
from farebox.pricing.rates import REQUESTS, UNITS
from farebox.usage import Usage

STATED = "stated_cost"
"""The meter of a receipt line with the cost stated by the provider itself; its unit is a dollar."""


def combined(parts: Sequence[tuple[ModelPrice, Cost]]) -> Cost:
    """The exact sum of several models' costs, so that the charge is rounded once. Lines of models other than the first
    have their model's name and price version."""
    own = parts[0][0]
    if len(parts) == 1:
        return parts[0][1]
    denominator = lcm(*(cost.denominator for _, cost in parts))
    rates_over = lcm(*(price.denominator for price, _ in parts))
    lines: list[CostLine] = []
    for price, cost in parts:
        other = {} if price.version == own.version else {"model": price.model, "version": price.version}
        lines += [
            with_fields(
                line,
                rate=line.rate * (rates_over // price.denominator),
                nanos_numerator=line.nanos_numerator * (denominator // cost.denominator),
                **other,
            )
            for line in cost.lines
        ]
    return Cost(sum(line.nanos_numerator for line in lines), denominator, tuple(lines), rates_over)


def stated_cost(usd: Decimal) -> Cost:
    """The exact cost of what a provider states in dollars."""
    nanos = Fraction(usd) * NANOS_PER_USD
    line = CostLine(STATED, usd, NANOS_PER_USD * nanos.denominator, nanos.numerator)
    return Cost(nanos.numerator, nanos.denominator, (line,), nanos.denominator)


def highest_ratio(standard: ModelPrice, varied: ModelPrice) -> Fraction:
    """The highest ratio of a token price to the standard one."""
    usual = {rate.meter: rate.base for rate in standard.rates}
    ratios = [
        Fraction(rate.base * standard.denominator, usual[rate.meter] * varied.denominator)
        for rate in varied.rates
        if _of_tokens(rate.meter) and usual.get(rate.meter)
    ]
    return max(ratios, default=Fraction(1))


LONG_CACHE = "cache_write_12h_tokens"


def doubts_of(price: ModelPrice, usage: Usage) -> str:
    """The parts of the request or response without a known price; empty if there are none."""
    unpriced_cache = LONG_CACHE in usage and LONG_CACHE not in price.meters
    if not (price.unknown or unpriced_cache):
        return ""
    return ", ".join([*price.unknown, "12-hour caching"] if unpriced_cache else price.unknown)


def at_highest(price: ModelPrice, doubts: str, factor: Decimal) -> ModelPrice:
    """The price to use if `doubts` have none: `factor` times as much, the most that the provider is known to bill."""
    return scaled(price, Fraction(factor), f"unknown:{doubts}")


def scaled(price: ModelPrice, factor: Fraction, label: str) -> ModelPrice:
    """The price with each token rate multiplied by a factor; prices per use stay unchanged. The label is added to its
    version.
    """
    times = {True: factor.numerator, False: factor.denominator}
    rates = tuple(_multiplied(rate, times[_of_tokens(rate.meter)]) for rate in price.rates)
    return replace(
        price,
        version=f"{price.version}/{label}",
        denominator=price.denominator * factor.denominator,
        rates=rates,
        unknown=(),
    )


def with_fee(price: ModelPrice, nanos: int) -> ModelPrice:
    """The price with a fixed number of nano-dollars added for each call; used to estimate a hold if something other
    than the model's own tokens may be billed.
    """
    fee = nanos * price.denominator
    rates = tuple(_raised(rate, fee) if rate.meter == REQUESTS else rate for rate in price.rates)
    if all(rate.meter != REQUESTS for rate in rates):
        rates = (*rates, Rate(REQUESTS, fee))
    return replace(price, rates=rates)


def _multiplied(rate: Rate, times: int) -> Rate:
    return replace(rate, base=rate.base * times, tiers=tuple((start, number * times) for start, number in rate.tiers))


def _raised(rate: Rate, more: int) -> Rate:
    return replace(rate, base=rate.base + more, tiers=tuple((start, number + more) for start, number in rate.tiers))


def _of_tokens(meter: str) -> bool:
    unit = UNITS.units.get(meter)
    return unit is not None and unit.dimensions.get("family") == "tokens"
