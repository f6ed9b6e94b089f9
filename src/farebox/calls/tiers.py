"""Which of a model's prices applies to a call, given the tiers, geographies and speeds it requests and gets.

None of them is silently charged at the standard price. What neither price list nor supplement knows is refused if it is
requested; if a provider applies it unasked, it is charged at the highest multiplier known for that provider, and the
operator is notified.
"""

from collections.abc import Mapping
from dataclasses import replace as price_replace
from fractions import Fraction
from typing import Final

from msgspec.structs import replace

from farebox.calls.price import Priced
from farebox.calls.state import CallState
from farebox.errors import MODEL_UNPRICED, NOT_METERED, Problem
from farebox.pricing.belief import check_possible
from farebox.pricing.bill import combined, scaled, with_fee
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import STANDARD
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.providers.formats.base import Observed
from farebox.runtime.operator_alarms import raise_alarm
from farebox.usage import AbsurdUsage, Usage

MAY_CHOOSE: Final[Mapping[str, tuple[str, ...]]] = {"openai": ("priority",)}
"""Service tiers that a provider may choose itself if a call leaves it the choice (`auto`): those that the operator's
project can be set to. The others fall back to the standard tier only."""
BOUND: Final = frozenset({("openai", "flex"), ("google-ai-studio", "flex"), ("openai", "batch")})
"""Cheaper tiers that a provider keeps to, or answers with an error; where the response names no tier, others are
believed to be the standard one."""
_COST_ONLY: Final = Markup()
_NO_BOUND: Final = Estimate(0, 0, 0)
_LONG_CACHE: Final = "cache_write_12h_tokens"


def asked_price(state: CallState) -> ModelPrice:
    """The price of what the call asks for. Raises Problem where it is unknown."""
    assert state.call.parsed is not None
    assert state.price is not None
    context = state.call.parsed.context
    price = (state.price_for(context) if context else None) or state.price
    if price.unknown:
        raise Problem(
            NOT_METERED,
            f"What {', '.join(price.unknown)} costs for {state.call.parsed.model!r} of {state.call.provider} is not "
            "known, so the request is not sent on the operator's key. Leave it out, or use your own provider key.",
        )
    return price


def hold_price(state: CallState, asked: ModelPrice) -> ModelPrice:
    """The price that the hold is estimated by: the most expensive that the provider may apply, with what other models
    may cost in the same call. Raises Problem if one of those has no price."""
    assert state.call.parsed is not None
    assert state.price is not None
    context, demand = state.call.parsed.context, state.call.parsed.demand
    dearest = state.price
    candidates = [state.price] if asked is state.price else [state.price, asked]
    if context and context.get("service_tier") == "auto":
        for tier in MAY_CHOOSE.get(state.call.provider, ()):
            chosen = state.price_for({**context, "service_tier": tier})
            if chosen is not None and not chosen.unknown:
                candidates.append(chosen)
    if len(candidates) > 1:
        dearest = max(candidates, key=lambda price: estimate(demand, price, _COST_ONLY).amount)
    if _LONG_CACHE in dearest.meters and not state.call.long_cache:
        dearest = _without_long_cache(dearest)
    if not demand.further_models:
        return dearest
    fee = sum(_further(state, demand, dearest, index) for index in range(len(demand.further_models)))
    return with_fee(dearest, fee) if fee else dearest


def _without_long_cache(price: ModelPrice) -> ModelPrice:
    """Nothing is kept for 12 hours unless the request asks for it, and that would be the dearest input there is."""
    return price_replace(price, rates=tuple(rate for rate in price.rates if rate.meter != _LONG_CACHE))


def _further(state: CallState, demand: Demand, own: ModelPrice, index: int) -> int:
    """The most that one of the other models may cost, in nano-dollars."""
    assert state.call.parsed is not None
    further = demand.further_models[index]
    price = state.price_for(state.call.parsed.context, further.model) if further.model else own
    if price is None or price.unknown:
        raise Problem(
            MODEL_UNPRICED if price is None else NOT_METERED,
            f"The request lets {state.call.provider} run the model {further.model!r} too, which has no price for what "
            f"is asked. The operator can set one: farebox price set {state.call.provider} {further.model} --input USD "
            "--output USD (per million tokens).",
        )
    alone = replace(demand, further_models=(), fixed={}, allowed={}, output_max=further.output_max, no_output=False)
    return further.uses * estimate(alone, price, _COST_ONLY).amount


def applied_price(state: CallState, observed: Observed) -> tuple[ModelPrice, tuple[str, ...]]:
    """The price of what the provider applied, and notes for the receipt."""
    assert state.call.parsed is not None
    assert state.price is not None
    asked, model = state.call.parsed.context, observed.billed_model
    if not (asked or observed.context or model):
        return known_price(state, state.price, observed.usage or {})
    applied = {**asked, **observed.context}
    found = state.price_for(applied, model) if applied or model else state.price
    price = state.price if found is None else found
    notes = (
        ()
        if found is not None
        else (f"the model {model!r}, which responded, has no price: charged as the requested one",)
    )
    tier = asked.get("service_tier", "")
    told = "service_tier" in observed.context
    if tier and tier not in STANDARD and not told and (state.call.provider, tier) not in BOUND:
        standard = state.price_for({**applied, "service_tier": "default"}, model)
        price = price if standard is None else _dearer(state, price, standard)
    price, doubts = known_price(state, price, observed.usage or {})
    return price, (*notes, *doubts)


def known_price(state: CallState, price: ModelPrice, usage: Usage) -> tuple[ModelPrice, tuple[str, ...]]:
    """The price or, if it is not known what part of the request got it, the most expensive that it may be."""
    assert state.call.parsed is not None
    unpriced_cache = _LONG_CACHE in usage and _LONG_CACHE not in price.meters
    if not (price.unknown or unpriced_cache):
        return price, ()
    unknown = [*price.unknown, "12-hour caching"] if unpriced_cache else list(price.unknown)
    factor = state.services.configuration.prices.dearest_factor(state.call.provider)
    what = ", ".join(unknown)
    if not state.call.own_key:
        raise_alarm(
            state.services,
            "tier_unknown",
            f"{state.call.provider}/{state.call.parsed.model}: {what}",
            log_id=state.call.log_id,
            factor=str(factor),
        )
    note = f"no price is known for {what}: charged at {factor.normalize():f} times the standard price of a token, the "
    return scaled(price, Fraction(factor), f"unknown:{what}"), (note + "highest that this provider is known to have",)


def with_further(state: CallState, priced: Priced, observed: Observed, own: ModelPrice) -> Priced:
    """The price of a response with what it bills beside its own usage: one exact cost, rounded once."""
    assert state.call.parsed is not None
    assert state.markup is not None
    if priced.cost is None:
        return priced
    context = {**state.call.parsed.context, **observed.context}
    parts, notes, disbelieved = [(own, priced.cost)], list(priced.notes), ""
    for passed in observed.further:
        price = state.price_for(context, passed.model) if passed.model else own
        if price is None:
            notes.append(
                f"the model {passed.model!r}, which the response bills too, has no price: charged as its own model"
            )
            price = own
        price, doubts = known_price(state, price, passed.usage)
        notes += doubts
        try:
            check_possible(passed.usage, Demand(price.model), price, _NO_BOUND)
            parts.append((price, cost_of(price, passed.usage)))
        except AbsurdUsage as absurd:
            disbelieved = str(absurd)
            notes.append(f"a pass of the model {passed.model or own.model!r} is impossible: {absurd}")
    cost = combined(parts)
    charge = priced.charge + charge_of(cost, state.markup) - charge_of(priced.cost, state.markup)
    if disbelieved:
        charge = max(charge, 0 if state.bound is None else state.bound.amount)
        notes.append("what is not believed is charged at the hold, where that is more")
    return replace(priced, cost=cost, charge=charge, notes=tuple(notes), disbelieved=priced.disbelieved or disbelieved)


def _dearer(state: CallState, one: ModelPrice, other: ModelPrice) -> ModelPrice:
    assert state.call.parsed is not None
    demand = state.call.parsed.demand
    return max(one, other, key=lambda price: estimate(demand, price, _COST_ONLY).amount)
