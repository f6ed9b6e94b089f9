"""What an answer costs: the provider's figures where they can be believed, else what was seen to be delivered."""

from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from farebox.money import ceil_div
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.model import Cost, Demand, Estimate, Markup, ModelPrice
from farebox.pricing.receipt import UsageSource
from farebox.providers.formats.base import Observed
from farebox.usage import AbsurdUsage, Usage

BYTES_PER_TOKEN = 4
"""Counting what was delivered, where the provider does not say: one token for every four bytes of text, rounded up."""
REPORTED_FAILURE = "the provider reported a failure within the answer"
BELIEVABLE = 10
"""The estimate bounds what the request itself can use. A provider's own tools may add to it; more than so many times
the bound is not believed."""


class Priced(msgspec.Struct, frozen=True):
    """An answer's price, and how it was come by."""

    source: UsageSource
    usage: Usage
    cost: Cost | None
    charge: int
    policy: str | None = None
    notes: tuple[str, ...] = ()
    stated_usd: str | None = None
    """What the provider states that the call costs."""
    computed_nanos: str | None = None
    """The cost by our prices, where it states one."""


NOTHING = Priced("none", {}, None, 0)


def price_answer(
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    *,
    cut: str | None,
    cut_policy: str,
) -> Priced:
    """Price what an answer showed. `cut` says why the answer did not reach its end, or is None.

    Policy: the provider's usage where a whole answer carries it and it is believable; for a whole answer without it, a
    count of what was delivered, never above the hold; for a cut answer nothing where nothing was delivered, else
    `cut_policy`: `delivered`, `hold` or `free`.
    """
    notes = (observed.problem,) if observed.problem else ()
    whole = cut is None and not observed.failed
    if whole and observed.usage is not None:
        try:
            return _reported(observed.usage, price, markup, bound, notes)
        except AbsurdUsage as error:
            notes = (f"the provider's usage is not believed: {error}",)
            observed = replace(observed, usage=None)
    if whole:
        counted = _counted(observed, demand, price, markup, bound, notes, fixed=demand.fixed)
        return replace(counted, policy="usage absent or not believed: counted from what was delivered")
    reason = cut or REPORTED_FAILURE
    if cut_policy == "free":
        return replace(NOTHING, policy=f"{reason}: cut answers are free", notes=notes)
    if not observed.delivered_bytes:
        return replace(NOTHING, policy=f"{reason}: nothing was delivered, nothing is charged", notes=notes)
    if cut_policy == "hold":
        return Priced("estimate", {}, None, bound.amount, f"{reason}: cut answers cost their hold", notes)
    return replace(
        _counted(observed, demand, price, markup, bound, notes), policy=f"{reason}: counted from what was delivered"
    )


def _reported(usage: Usage, price: ModelPrice, markup: Markup, bound: Estimate, notes: tuple[str, ...]) -> Priced:
    for meter, most in (("input_tokens", bound.input_tokens), ("output_tokens", bound.output_tokens)):
        if usage.get(meter, 0) > BELIEVABLE * max(most, 1000):
            raise AbsurdUsage(f"{meter} is {usage[meter]}, and the request allows {most}")
    cost = cost_of(price, usage)
    return Priced("provider", usage, cost, charge_of(cost, markup), None, notes)


def _counted(
    observed: Observed,
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    bound: Estimate,
    notes: tuple[str, ...],
    fixed: Usage = MappingProxyType({}),
) -> Priced:
    """A count of what was seen, or what the provider reported before the cut where that is more; never above the
    hold. `fixed`: what the request alone decides, for answers that are whole."""
    reported = observed.usage or {}
    usage = {
        **fixed,
        "input_tokens": max(ceil_div(demand.text_bytes, BYTES_PER_TOKEN), int(reported.get("input_tokens", 0))),
        "output_tokens": max(
            ceil_div(observed.delivered_bytes, BYTES_PER_TOKEN), int(reported.get("output_tokens", 0))
        ),
    }
    usage["input_tokens"] = min(usage["input_tokens"], bound.input_tokens)
    usage["output_tokens"] = min(usage["output_tokens"], bound.output_tokens)
    try:
        cost = cost_of(price, {meter: quantity for meter, quantity in usage.items() if quantity})
    except AbsurdUsage as error:  # what the request fixes does not fit what was counted: the bound is all there is
        return Priced("estimate", {}, None, bound.amount, None, (*notes, str(error)))
    return Priced("counted", usage, cost, min(charge_of(cost, markup), bound.amount), None, notes)
