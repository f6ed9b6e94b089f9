"""Which of a model's prices applies to a call, given the tiers, geographies and speeds that it requests and gets.

None of these is silently charged at the standard price. If neither price list nor supplement knows one, a request for
it is refused; if a provider applies it without being asked, it is charged at the highest multiplier known for that
provider, and the operator is notified.
"""

from collections.abc import Mapping
from dataclasses import replace as price_replace
from typing import Final

from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.price import PricedUsage
from farebox.calls.stages import CallContext, Terms
from farebox.calls.unlisted import OPENROUTER, plain_model, price_without_list, with_variant
from farebox.errors import MODEL_UNPRICED, NOT_METERED, Problem
from farebox.pricing.bill import LONG_CACHE, at_highest, combined, doubts_of, with_fee
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import STANDARD
from farebox.pricing.custom_provider_costs import CustomCosts
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, Estimate, FurtherModel, Markup, ModelPrice
from farebox.pricing.plausibility import check_plausible
from farebox.providers.formats.base import Observed
from farebox.providers.formats.openai_images import OpenAIImages
from farebox.quoting import quoted
from farebox.runtime.operator_alarms import raise_alarm
from farebox.usage import AbsurdUsage, Usage

MAY_CHOOSE: Final[Mapping[str, tuple[str, ...]]] = {"openai": ("priority",)}
"""Service tiers that a provider may choose itself if a call lets it choose (`auto`): those that the operator's project
can be set to. Other providers only fall back to the standard tier."""
BOUND: Final = frozenset({("openai", "flex"), ("google-ai-studio", "flex"), ("openai", "batch")})
"""Cheaper tiers that a provider either applies or answers with an error. With other cheaper tiers, a response
that names no tier is charged at the standard one."""
_COST_ONLY: Final = Markup()
_NO_BOUND: Final = Estimate(0, 0, 0)


def find_price(context: CallContext, model: str, applied: Mapping[str, str]) -> ModelPrice | None:
    """The price of a model for this call if the provider applies these (a service tier and so on); None if it has
    none."""
    call, prices = context.call, context.services.configuration.prices
    if call.access.custom is not None:
        return _custom_price(call, call.access.custom.costs, model)
    found = prices.find(call.account_id, call.provider, model, call.started_at, applied or None)
    if found is not None or call.provider != OPENROUTER:
        return found
    plain = plain_model(model)
    if plain != model:
        found = prices.find(call.account_id, call.provider, plain, call.started_at, applied or None)
    if found is not None:
        return with_variant(found, model)
    return price_without_list(model, call.small_body, context.services.settings)


def _custom_price(call: Call, costs: CustomCosts, model: str) -> ModelPrice:
    """The price that the account states for a model of its custom provider."""
    demand = None if call.parsed is None else call.parsed.demand
    if demand is None:
        return costs.find(model)
    pictures = demand.choices if isinstance(call.format, OpenAIImages) else 0
    return costs.find(model, input_images=len(demand.images), output_images=pictures)


def requested_price(context: CallContext, terms: Terms) -> ModelPrice:
    """The price of what the call requests. Raises Problem if it is unknown."""
    parsed, price = terms.parsed, terms.price
    if parsed.context:
        price = find_price(context, parsed.model, parsed.context) or price
    if price.unknown:
        raise Problem(
            NOT_METERED,
            f"What {', '.join(price.unknown)} costs for {quoted(parsed.model)} of {context.call.provider} is not "
            "known, so the request is not sent on the operator's key. Leave it out, or use your own provider key.",
        )
    return price


def hold_price(context: CallContext, terms: Terms, asked: ModelPrice) -> ModelPrice:
    """The price that the hold is estimated by: the highest that the provider may apply, plus what other models may cost
    in the same call. Raises Problem if one of those has no price."""
    call, parsed, demand = context.call, terms.parsed, terms.parsed.demand
    costliest = terms.price
    if asked is costliest and LONG_CACHE not in costliest.meters and not (parsed.context or demand.further_models):
        return costliest  # as in most calls
    candidates = [terms.price] if asked is terms.price else [terms.price, asked]
    if parsed.context.get("service_tier") == "auto":
        for tier in MAY_CHOOSE.get(call.provider, ()):
            chosen = find_price(context, parsed.model, {**parsed.context, "service_tier": tier})
            if chosen is not None and not chosen.unknown:
                candidates.append(chosen)
    if len(candidates) > 1:
        costliest = max(candidates, key=lambda price: estimate(demand, price, _COST_ONLY).amount)
    if LONG_CACHE in costliest.meters and not call.long_cache:
        costliest = without_long_cache(costliest)
    if not demand.further_models:
        return costliest
    fee = sum(_further(context, terms, costliest, further) for further in demand.further_models)
    return with_fee(costliest, fee) if fee else costliest


def without_long_cache(price: ModelPrice) -> ModelPrice:
    """The price without that of a 12-hour cache, which would be the most expensive input: nothing is cached for 12
    hours unless the request asks for it."""
    return price_replace(price, rates=tuple(rate for rate in price.rates if rate.meter != LONG_CACHE))


def _further(context: CallContext, terms: Terms, own: ModelPrice, further: FurtherModel) -> int:
    """The most that one of the other models may cost, in nano-dollars."""
    provider = context.call.provider
    price = find_price(context, further.model, terms.parsed.context) if further.model else own
    if price is None or price.unknown:
        raise Problem(
            MODEL_UNPRICED if price is None else NOT_METERED,
            f"The request lets {provider} run the model {quoted(further.model)} too, which has no price for what "
            f"is asked. The operator can set one on the Prices page, or with: farebox price set {provider} "
            f"{further.model} --input USD --output USD (per million tokens).",
        )
    alone = replace(
        terms.parsed.demand, further_models=(), fixed={}, allowed={}, output_max=further.output_max, no_output=False
    )
    return further.uses * estimate(alone, price, _COST_ONLY).amount


def applied_price(context: CallContext, terms: Terms, observed: Observed) -> tuple[ModelPrice, tuple[str, ...]]:
    """The price of what the provider applied, and notes for the receipt."""
    asked, model = terms.parsed.context, observed.billed_model
    if not model and context.call.access.provider.deploys:
        model = _deployed(context, terms, observed)
    if not (asked or observed.context or model):
        return known_price(context, terms, terms.price, observed.usage or {})
    applied = {**asked, **observed.context}
    found = find_price(context, model or terms.parsed.model, applied) if applied or model else terms.price
    price = terms.price if found is None else found
    notes = (
        ()
        if found is not None
        else (f"the model {quoted(model)}, which responded, has no price: charged as the requested one",)
    )
    tier = asked.get("service_tier", "")
    reported = "service_tier" in observed.context
    if tier and tier not in STANDARD and not reported and (context.call.provider, tier) not in BOUND:
        standard = find_price(context, model or terms.parsed.model, {**applied, "service_tier": "default"})
        price = price if standard is None else _costlier(terms, price, standard)
    price, doubts = known_price(context, terms, price, observed.usage or {})
    return price, (*notes, *doubts)


def _deployed(context: CallContext, terms: Terms, observed: Observed) -> str:
    """The model behind a deployment, as the response names it; empty if the key's owner has named it, or if the
    response names none that has a price."""
    call, requested = context.call, terms.parsed.model
    if terms.price.is_own or call.is_named_by_owner:
        return ""
    model = observed.model or ""
    return model if model != requested and find_price(context, model, {}) is not None else ""


def known_price(
    context: CallContext, terms: Terms, price: ModelPrice, usage: Usage
) -> tuple[ModelPrice, tuple[str, ...]]:
    """The price or, if it is not known to which part of the request it applied, the highest possible one, with
    notes."""
    if context.call.access.custom is not None or not (price.unknown or LONG_CACHE in usage):
        return price, ()  # nearly always
    what = doubts_of(price, usage)
    if not what:
        return price, ()
    call, services = context.call, context.services
    factor = services.configuration.prices.highest_factor(call.provider)
    if not call.own_key:
        raise_alarm(
            services,
            "tier_unknown",
            f"{call.provider}/{terms.parsed.model}: {what}",
            log_id=call.log_id,
            factor=str(factor),
        )
    note = f"no price is known for {what}: charged at {factor.normalize():f} times the standard price of a token, the "
    return at_highest(price, what, factor), (note + "highest that this provider is known to have",)


def with_further(
    context: CallContext, terms: Terms, priced: PricedUsage, observed: Observed, own: ModelPrice, bound: Estimate | None
) -> PricedUsage:
    """The price of a response with what it bills in addition to its own usage: one exact cost, rounded once. `bound` is
    the hold's estimate, if there is a hold."""
    if priced.cost is None:
        return priced
    applied = {**terms.parsed.context, **observed.context}
    parts, notes, implausible = [(own, priced.cost)], list(priced.notes), ""
    for passed in observed.further:
        price = find_price(context, passed.model, applied) if passed.model else own
        if price is None:
            notes.append(
                f"the model {quoted(passed.model)}, which the response bills too, has no price: charged as its own "
                "model"
            )
            price = own
        price, doubts = known_price(context, terms, price, passed.usage)
        notes += doubts
        try:
            check_plausible(passed.usage, Demand(price.model), price, _NO_BOUND)
            parts.append((price, cost_of(price, passed.usage)))
        except AbsurdUsage as absurd:
            implausible = str(absurd)
            notes.append(f"a pass of the model {quoted(passed.model or own.model)} is impossible: {absurd}")
    cost = combined(parts)
    charge = priced.charge + charge_of(cost, terms.markup) - charge_of(priced.cost, terms.markup)
    if implausible:
        charge = max(charge, 0 if bound is None else bound.amount)
        notes.append("implausible usage is charged at the hold, where that is more")
    return replace(priced, cost=cost, charge=charge, notes=tuple(notes), implausible=priced.implausible or implausible)


def _costlier(terms: Terms, one: ModelPrice, other: ModelPrice) -> ModelPrice:
    return max(one, other, key=lambda price: estimate(terms.parsed.demand, price, _COST_ONLY).amount)
