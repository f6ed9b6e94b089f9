"""Hold the most a call can cost; where that is more than there is, find what the money does allow.

What the operator's cap on a call (`FAREBOX_ESTIMATE_MAX_CENTS`) leaves comes first: an exact count of the input, a
limit on the output, and then a refusal. Within it, in this order: the byte bound; an exact count of the input; fewer
uses of tools whose needs are learned; a limit on the output that the balance affords (where the provider has a
parameter for it); waiting a moment for money that other calls hold; and only then a refusal. What an account's spending
limit and its gateway's spend limits leave counts like its money.
"""

from collections.abc import Callable

import msgspec
from msgspec import structs

from farebox.calls.counting import count_input
from farebox.calls.credit_refusal import credit_refusal
from farebox.calls.model import Call
from farebox.calls.spend_refusal import spend_refusal
from farebox.calls.spend_rules import budgets_of, may_count, rules_for
from farebox.calls.stages import CallContext, Held, Terms
from farebox.errors import ESTIMATE_CAPPED, NOT_METERED, Problem
from farebox.ledger.commands import Hold, Outcome, Verdict
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.unseen import NOTHING, Outside, Rules, outside_of, refused, with_single_uses
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable

OUTPUT_MIN = 16
"""A limit below this many tokens gives no response worth paying for: the call is refused instead."""
CLAMPS = 4
"""How often a call's output is limited to what was left a moment ago, or to what another limit leaves."""
HOLD_GRACE_MS = 60_000
"""How much longer than the longest call a hold lives."""


async def hold_credit(context: CallContext, terms: Terms, price: ModelPrice) -> Held:
    """Put the hold of a call on its account, estimated by this price.

    Raises Problem: NO_CREDIT if the account has too little, TOP_UP_UNDER_WAY where more is being bought, CREDIT_HELD
    where other calls hold it for the moment, SPEND_LIMITED; ESTIMATE_CAPPED; NOT_METERED for what the operator does
    not pay for. Raises DatabaseUnavailable.
    """
    services, call, demand = context.services, context.call, terms.parsed.demand
    if demand.unseen:
        _check_paid_for(services, demand)
    offer = _Offer(demand, price, terms.markup, _outside(services, call) if demand.unseen else _nothing_outside)
    wanted = offer.estimate()
    cap = services.settings.estimate_max_cents * NANOS_PER_CENT
    if cap and wanted.amount > cap:
        offer = await _within_cap(services, call, offer, cap)
        wanted = offer.estimate()
    verdict = await _try(services, call, wanted)
    if verdict.ok:
        return Held(wanted, verdict, offer.limit)
    return await _hold_affordable(services, call, offer)


async def _hold_affordable(services: Services, call: Call, offer: "_Offer") -> Held:
    """A hold where the first estimate was refused: counted exactly, of less, or once other calls have ended."""
    offer = await _counted(services, call, offer)
    wanted = offer.estimate()
    deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
    while True:
        held = await _retry_smaller(services, call, offer, wanted)
        if isinstance(held, Held):
            return held
        left = deadline - services.clock.monotonic()
        may_wait = held.outcome is Outcome.HELD_ELSEWHERE and left > 0
        if not may_wait or not await services.waiters.wait(call.account_id, left):
            least = offer.with_single_uses(services.unseen_rules) or offer
            raise await _refusal(services, call, held, least, why=offer.why(wanted.input_tokens))


async def reserve(context: CallContext, terms: Terms) -> None:
    """Reserve the most that a call on the caller's own key can cost in the spend limits that count it; nothing is held
    on the account. Raises Problem (SPEND_LIMITED, CREDIT_HELD), DatabaseUnavailable."""
    services, call, demand = context.services, context.call, terms.parsed.demand
    outside = _outside(services, call) if demand.unseen else _nothing_outside
    offer = _Offer(demand, terms.price, Markup(), outside)
    deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
    verdict = await _try(services, call, offer.estimate())
    if verdict.ok:
        return
    offer = await _counted(services, call, offer)
    wanted = offer.estimate()
    while not (verdict := await _try(services, call, wanted)).ok:
        left = deadline - services.clock.monotonic()
        may_wait = verdict.outcome is Outcome.HELD_ELSEWHERE and left > 0
        if not may_wait or not await services.waiters.wait(call.account_id, left):
            raise await _refusal(services, call, verdict, offer)


async def _refusal(services: Services, call: Call, verdict: Verdict, offer: "_Offer", *, why: str = "") -> Problem:
    asked = offer.estimate().amount
    limited = offer.demand.clampable and not call.own_key
    least = min(asked, offer.estimate(OUTPUT_MIN).amount) if limited else asked
    if verdict.budget is not None:
        return await spend_refusal(services, call, verdict, asked, least)
    return await credit_refusal(services, call.account_id, verdict, asked, least=least, why=why)


def _outside(services: Services, call: Call) -> Callable[[Demand], Outside]:
    """What is held for the unseen input of the call, by the operator's rules and what was learned."""
    learned, percentile = services.learned, services.settings.unseen_percentile
    account, provider = call.account_id, call.provider

    def outside(demand: Demand) -> Outside:
        return outside_of(
            demand,
            services.unseen_rules,
            known=lambda unseen: learned.size(account, provider, unseen.ref),
            learned=lambda kind: learned.per_use(account, provider, kind, percentile),
        )

    return outside


def _check_paid_for(services: Services, demand: Demand) -> None:
    kinds = refused(demand, services.unseen_rules)
    if kinds:
        raise Problem(
            NOT_METERED,
            f"The request refers to input that cannot be seen from here ({', '.join(kinds)}), which the operator's key "
            "does not pay for. Send the input itself, or your own provider key.",
        )


def _nothing_outside(_: Demand) -> Outside:
    return NOTHING


class _Offer(msgspec.Struct, frozen=True):
    """What holds are made of."""

    demand: Demand
    price: ModelPrice
    markup: Markup
    outside: Callable[[Demand], Outside]
    counted_tokens: int | None = None
    limit: int | None = None
    """Output tokens per choice that the operator's cap on a call allows, where the request may take more."""

    def estimate(self, output_tokens: int | None = None) -> Estimate:
        """The most that the call can cost, with this many output tokens per choice if they are limited."""
        demand = self.demand
        if output_tokens is not None:
            demand = structs.replace(demand, output_max=output_tokens)
        return estimate(
            demand, self.price, self.markup, exact_input_tokens=self.counted_tokens, outside=self.outside(demand)
        )

    def output_within(self, available: int) -> int:
        """Output tokens per choice that so much money affords."""
        return affordable_output(
            self.demand,
            self.price,
            self.markup,
            available=available,
            exact_input_tokens=self.counted_tokens,
            outside=self.outside(self.demand),
        )

    def with_single_uses(self, rules: Rules) -> "_Offer | None":
        """The same with one use of each tool whose needs are learned, where it is allowed more."""
        fewer = with_single_uses(self.demand, rules)
        return None if fewer is None else structs.replace(self, demand=fewer)

    def why(self, tokens: int) -> str:
        """What makes the hold large, where that is input which is not in the request; and what to do about it."""
        kinds = ", ".join(dict.fromkeys(unseen.kind for unseen in self.demand.unseen))
        if not kinds:
            return ""
        return (
            f" What it may read cannot be seen from here ({kinds}), so up to {tokens} input tokens are held for it: "
            "send the input itself instead, or allow the tools fewer uses (max_uses, max_tool_calls)."
        )


async def _retry_smaller(services: Services, call: Call, offer: _Offer, wanted: Estimate) -> Held | Verdict:
    """A hold of what is wanted, else of what the balance affords; the ledger's refusal if neither is possible."""
    verdict = await _try(services, call, wanted)
    if verdict.ok:
        return Held(wanted, verdict, offer.limit)
    if verdict.outcome not in (Outcome.REFUSED, Outcome.LIMITED):
        return verdict
    fewer = offer.with_single_uses(services.unseen_rules)
    if fewer is not None:
        least = fewer.estimate().amount
        if least <= verdict.affordable:  # all there is, for the uses that it affords
            clamped = structs.replace(wanted, amount=min(wanted.amount, verdict.affordable))
            response = await _try(services, call, clamped)
            return Held(clamped, response, offer.limit) if response.ok else _later(response)
        if least <= verdict.affordable_in_time:
            return _later(verdict)
        offer = fewer
    if not offer.demand.clampable:
        return verdict
    for _ in range(CLAMPS):
        limit = offer.output_within(verdict.affordable)
        if limit < OUTPUT_MIN:
            break
        limited = offer.estimate(limit)
        response = await _try(services, call, limited)
        if response.ok:
            return Held(limited, response, limit)
        if response.outcome not in (Outcome.REFUSED, Outcome.LIMITED):
            return _later(response)
        verdict = response  # of another limit, which leaves less
    else:
        return _later(verdict)
    if offer.output_within(verdict.affordable_in_time) >= OUTPUT_MIN:
        return _later(verdict)
    return verdict


def _later(verdict: Verdict) -> Verdict:
    """A refusal that waiting may change after all."""
    return structs.replace(verdict, outcome=Outcome.HELD_ELSEWHERE)


async def _within_cap(services: Services, call: Call, offer: _Offer, cap: int) -> _Offer:
    """The offer made to cost no more than the operator lets one call cost: counted, and then limited in its output,
    where that is needed. Raises Problem (ESTIMATE_CAPPED)."""
    offer = await _counted(services, call, offer)
    wanted = offer.estimate()
    if wanted.amount <= cap:
        return offer
    limit = offer.output_within(cap) if offer.demand.clampable else 0
    if limit >= OUTPUT_MIN:
        return structs.replace(offer, demand=structs.replace(offer.demand, output_max=limit), limit=limit)
    raise Problem(
        ESTIMATE_CAPPED,
        f"The call may cost up to {format_usd(wanted.amount)} USD ({wanted.input_tokens} input and "
        f"{wanted.output_tokens} output tokens), and no call may cost more than {format_usd(cap)} USD here."
        + offer.why(wanted.input_tokens),
    )


async def _counted(services: Services, call: Call, offer: _Offer) -> _Offer:
    if offer.counted_tokens is not None:
        return offer
    return structs.replace(offer, counted_tokens=await count_input(services, call, offer.demand, offer.price))


async def _try(services: Services, call: Call, wanted: Estimate) -> Verdict:
    """Raises DatabaseUnavailable: then there may be a hold, and the end of the call releases it."""
    services.database.check()
    now, began = services.clock.now_ms(), services.clock.monotonic()
    hold = Hold(
        account_id=call.account_id,
        hold_id=call.log_id,
        amount=wanted.amount,
        at=now,
        expires_at=now + services.settings.call_timeout_ms + HOLD_GRACE_MS,
        owner=services.instance,
        counted_at=call.started_at,
    )
    if may_count(call):
        hold = _in_budgets(call, hold)
    try:
        verdict = await services.ledger.do(hold)
    except DatabaseUnavailable as error:
        services.database.report_failure(error)
        raise
    services.metrics.hold_took(services.clock.monotonic() - began)
    return verdict


def _in_budgets(call: Call, hold: Hold) -> Hold:
    """The hold with the budgets of the limits that count the call. On the caller's own key nothing else is held."""
    budgets = budgets_of(rules_for(call), hold.at)
    if call.own_key:
        return structs.replace(hold, amount=0, reserve=hold.amount, budgets=budgets)
    return structs.replace(hold, budgets=budgets)
