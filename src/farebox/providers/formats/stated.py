"""The cost that providers themselves state, if their documentation says that the figure is what they bill.

Each function takes a usage object, and returns US dollars; None if it states no cost. They raise ImplausibleCost if the
figure cannot be one. Sources are in docs/metering.md.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, TypeAlias

from farebox.quoting import quoted

USD_MAX: Final = 10_000
"""No single call costs more; a larger figure is not trusted."""
StatedCost: TypeAlias = Callable[[Mapping[str, object]], Decimal | None]

_DIGITS_MAX: Final = 30
_EXPONENT_MAX: Final = 1_000
"""Largest exponent of numbers that are computed with: their sums and products do not overflow."""
_TICKS_PER_USD_EXPONENT: Final = 10


class ImplausibleCost(ValueError):
    """An impossible stated cost: not a number, negative, or implausibly large."""


def exact_number(text: str) -> Decimal:
    """A JSON number as it is written, never converted through a binary float. NaN if it is too large or too small to be
    computed with."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        return Decimal("NaN")
    return number if abs(number.adjusted()) <= _EXPONENT_MAX else Decimal("NaN")


def openrouter(usage: Mapping[str, object]) -> Decimal | None:
    """`cost` is in credits, and a credit is a dollar. If the upstream was called with the operator's own key there
    (`is_byok`), what the upstream bills is added; if it is not reported, `cost` is only a part and is ignored.
    """
    cost = _usd(usage.get("cost"))
    if cost is None or usage.get("is_byok") is not True:
        return cost
    details = usage.get("cost_details")
    upstream = _usd(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
    if upstream is None:
        raise ImplausibleCost("the cost is that of routing only, since the upstream was called with a key of its own")
    return cost + upstream


def xai(usage: Mapping[str, object]) -> Decimal | None:
    """`cost_in_usd_ticks`: ten thousand million ticks are a dollar."""
    ticks = usage.get("cost_in_usd_ticks")
    if ticks is None:
        return None
    if not isinstance(ticks, int) or isinstance(ticks, bool) or not 0 <= ticks <= USD_MAX * 10**_TICKS_PER_USD_EXPONENT:
        raise ImplausibleCost(f"a cost of {str(ticks)[:40]} ticks")
    return Decimal(ticks).scaleb(-_TICKS_PER_USD_EXPONENT)


def perplexity(usage: Mapping[str, object]) -> Decimal | None:
    """`cost.total_cost`, in dollars, of everything: tokens and searches."""
    cost = usage.get("cost")
    return _usd(cost.get("total_cost")) if isinstance(cost, dict) else None


def _usd(value: object) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, float):  # a reader that did not keep the text: the shortest form equals what was written
        value = Decimal(repr(value))
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ImplausibleCost(f"a cost of {quoted(str(value))}")
    cost = Decimal(value)
    if not cost.is_finite() or not 0 <= cost <= USD_MAX:
        raise ImplausibleCost(f"a cost of {str(value)[:40]} USD")
    if len(cost.as_tuple().digits) > _DIGITS_MAX or cost.adjusted() < -_DIGITS_MAX:
        raise ImplausibleCost("a cost of more digits than any price has")
    return cost
