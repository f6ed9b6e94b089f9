"""The cost that the provider itself states is authoritative if its documentation says so; ours is recorded next to
it."""

from msgspec.structs import replace

from farebox.calls.price import PricedUsage
from farebox.calls.stages import CallContext
from farebox.pricing.bill import stated_cost
from farebox.pricing.charge import charge_of
from farebox.pricing.model import Markup, ModelPrice
from farebox.pricing.receipt import exact_text
from farebox.providers.formats.base import Observed
from farebox.runtime.operator_alarms import raise_alarm


def by_stated_cost(
    context: CallContext, priced: PricedUsage, observed: Observed, price: ModelPrice, markup: Markup
) -> PricedUsage:
    """The charge of a complete response by the cost that the provider states, if it states one."""
    usd = observed.stated_usd
    if usd is None:
        if price.bounded and priced.cost is not None:
            note = "no list has a price for this model and the response states no cost: charged at the most it may cost"
            return replace(priced, notes=(*priced.notes, note))
        return priced
    computed = None
    if priced.cost is not None and priced.source == "provider" and not price.bounded:
        computed = priced.cost
    priced = replace(
        priced,
        stated_usd=f"{usd:f}",
        computed_nanos=None if computed is None else exact_text(computed.numerator, computed.denominator),
    )
    cost = stated_cost(usd)
    if computed is not None:
        _compare(context, cost.numerator * computed.denominator, computed.numerator * cost.denominator, price)
    if price.is_own:
        note = f"the provider states a cost of {usd:f} USD; the operator's own price takes precedence"
        return replace(priced, notes=(*priced.notes, note))
    notes = priced.notes
    if computed is not None and cost.numerator * computed.denominator != computed.numerator * cost.denominator:
        notes = (*notes, f"charged at the cost that the provider states; at our prices it is {priced.computed_nanos} n")
    return replace(priced, source="provider", cost=cost, charge=charge_of(cost, markup), policy=None, notes=notes)


def _compare(context: CallContext, stated: int, computed: int, price: ModelPrice) -> None:
    """Compare the costs, given over the same denominator. The operator is alerted if they differ by more than the
    limit: a price is then out of date."""
    limit = context.services.settings.stated_cost_percent
    if abs(stated - computed) * 100 > limit * computed and not context.call.own_key:
        raise_alarm(
            context.services,
            "cost_differs",
            f"{context.call.provider}/{price.model}",
            log_id=context.call.log_id,
            stated_per_computed=f"{stated / computed:.4f}" if computed else "more than nothing",
            price_version=price.version,
        )
