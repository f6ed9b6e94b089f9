"""What a call cost, and what the account pays for it. Exact until the single rounding of each charge, here."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import cast

from farebox.money import ceil_div
from farebox.pricing.model import Cost, CostLine, Markup, ModelPrice, Rate
from farebox.pricing.rates import REQUESTS, ancestors
from farebox.usage import AbsurdUsage, Quantity, Usage

PER_MILLION = 1_000_000
_SHAPES_MAX = 64
_DECIMALS_MAX = 18
"""Decimals of a quantity that are accepted. With METER_MAX that is 28 digits, which Decimal holds without rounding."""


def cost_of(price: ModelPrice, usage: Usage) -> Cost:
    """The exact cost of a checked usage. A meter that the model has no price for costs nothing (`unpriced_meters`).

    Raises AbsurdUsage if the parts of a meter exceed the meter: the caller falls back to its own count.
    """
    if price.audio_seconds_min:
        usage = _with_minimum(usage, price.audio_seconds_min)
    for quantity in usage.values():
        if type(quantity) is not int:
            return _scaled_cost(price, usage)
    whole: Mapping[str, int] = usage  # type: ignore[assignment] # all of them are integers
    shape = tuple(usage)
    apart = price.apart[shape] if shape in price.apart else _rates_apart(price, shape)
    return _cost(price, whole, 1) if apart is None else _cost_separately(price, apart, whole)


def charge_of(cost: Cost, markup: Markup) -> int:
    """Nano-dollars that the account pays: rounded up, once, after the markup."""
    return -(-cost.numerator * markup.parts_per_million // (cost.denominator * PER_MILLION))


def charge_of_batch(costs: Iterable[tuple[Fraction, Markup]]) -> int:
    """Nano-dollars that the account pays for a batch, by the cost of each model's requests in nano-dollars: rounded up
    once, as one charge."""
    exact = sum((cost * markup.parts_per_million / PER_MILLION for cost, markup in costs), Fraction(0))
    return ceil_div(exact.numerator, exact.denominator)


def share_of_hold(amount: int, requests: int, of: int) -> int:
    """Nano-dollars that the account pays for this number of a batch's requests if their usage is unknown. `amount`: the
    hold for all of them."""
    return ceil_div(amount * requests, of)


def unpriced_meters(price: ModelPrice, usage: Usage) -> tuple[str, ...]:
    """The meters of the usage that cost nothing because the model has no price for them; the receipt lists them.

    A special meter without a price of its own is charged inside its general one and is not among them.
    """
    if not usage:
        return ()
    priced = price.meters
    for meter in usage:
        if meter not in priced:
            break
    else:
        return ()
    return tuple(
        meter
        for meter, quantity in usage.items()
        if quantity and meter != REQUESTS and meter not in priced and priced.isdisjoint(ancestors(meter))
    )


def _rates_apart(price: ModelPrice, meters: tuple[str, ...]) -> tuple[Rate, ...] | None:
    """The rates for these meters, most general first, if none contains another; None if one does, so that quantities
    must be separated. Usage objects have few shapes."""
    found: tuple[Rate, ...] | None = tuple(
        rate for rate in reversed(price.rates) if rate.meter in meters or rate.meter == REQUESTS
    )
    if any(meter in rate.inside for rate in price.rates for meter in (*meters, REQUESTS)):
        found = None
    if len(price.apart) < _SHAPES_MAX:
        price.apart[meters] = found
    return found


def _cost_separately(price: ModelPrice, rates: tuple[Rate, ...], usage: Mapping[str, int]) -> Cost:
    """`_cost` for usage in which no meter contains another."""
    lines: list[CostLine] = []
    total = 0
    for rate in rates:
        meter, number, above = rate.meter, rate.base, None
        quantity = 1 if meter == REQUESTS else usage[meter]
        if not quantity:
            continue
        if rate.tiers:
            above, number = _tier(rate, usage.get("input_tokens", 0), 1)
        numerator = quantity * number
        total += numerator
        lines.append(CostLine(meter, quantity, number, numerator, "", "", above))
    return Cost(total, price.denominator, tuple(lines))


def _tier(rate: Rate, input_tokens: int, scale: int) -> tuple[int, int]:
    """CostLine.above, and the rate that applies. `input_tokens` counts 1/scale tokens."""
    found = (0, rate.base)
    for tier in rate.tiers:
        if input_tokens > tier[0] * scale:
            found = tier
    return found


def _cost(price: ModelPrice, usage: Mapping[str, int], scale: int) -> Cost:
    """`usage` counts 1/scale units. Relies on the rates being ordered with the most special meters first."""
    input_tokens = usage.get("input_tokens", 0)
    exclusive: dict[str, int] = {}
    lines = []
    total = 0
    for rate in price.rates:
        meter = rate.meter
        if meter == REQUESTS:
            quantity = scale
        elif meter in usage:
            quantity = usage[meter]
        elif exclusive:
            quantity = 0
        else:
            continue
        if exclusive:
            for part in rate.inside:
                if part in exclusive:
                    quantity -= exclusive[part]
        if not quantity:
            continue
        if quantity < 0:
            raise AbsurdUsage(f"{meter} is less than the sum of what it contains")
        exclusive[meter] = quantity
        number, above = rate.base, None
        if rate.tiers:
            above, number = _tier(rate, input_tokens, scale)
        numerator = quantity * number
        total += numerator
        exact = quantity if scale == 1 else Decimal(quantity) / scale
        lines.append(CostLine(meter, exact, number, numerator, "", "", above))
    lines.reverse()
    return Cost(total, price.denominator * scale, tuple(lines))


def _scaled_cost(price: ModelPrice, usage: Usage) -> Cost:
    decimals = max(_decimals(quantity) for quantity in usage.values())
    if decimals > _DECIMALS_MAX:
        raise AbsurdUsage(f"a quantity has {decimals} decimals")
    scale = 10**decimals
    return _cost(price, {meter: int(quantity * scale) for meter, quantity in usage.items()}, scale)


def _decimals(quantity: Quantity) -> int:
    return max(0, -cast(int, quantity.as_tuple().exponent)) if isinstance(quantity, Decimal) else 0


def _with_minimum(usage: Usage, least: int) -> Usage:
    """The usage with the duration raised to the minimum that the provider bills, however it is reported."""
    seconds = usage.get("audio_seconds") or usage.get("input_audio_seconds")
    if not seconds:
        return usage
    billed = max(seconds, least)
    return {**usage, "audio_seconds": billed, "input_audio_seconds": billed}
