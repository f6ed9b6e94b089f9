"""Hold the most a call can cost; if the account has less, find out what it can afford.

The operator's cap on a call (`FAREBOX_ESTIMATE_MAX_CENTS`) is applied first: by counting the input exactly, then by
limiting the output, then by refusing the call. Within the cap, these are tried in order: the byte bound; an exact count
of the input; fewer uses of tools whose needs are learned; a limit on the output that the balance affords (if the
provider has a parameter for it); waiting a moment for money that other calls hold; and only then a refusal. What the
account's spending limit and the gateway's spend limits leave is treated like the balance.
"""

from collections.abc import Callable

from msgspec import structs

from farebox.calls.counting import count_input
from farebox.calls.hold_estimator import HoldEstimator
from farebox.calls.model import Call
from farebox.calls.slices import SLICE, is_countable, may_slice
from farebox.calls.spending.credit_refusal import credit_refusal
from farebox.calls.spending.rule_refusal import spend_refusal
from farebox.calls.spending.rules import budgets_of, may_count, rules_for
from farebox.calls.stages import CallContext, Held, Terms
from farebox.errors import ESTIMATE_CAPPED, NOT_METERED, Problem
from farebox.ledger.commands import Hold, Outcome, Verdict
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.pricing.ceilings import output_ceiling, shows_output
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.token_counts import has_tokenizer
from farebox.pricing.unseen import NO_UNSEEN_TOKENS, UnseenTokens, refused, tokens_for_unseen
from farebox.runtime.services import Services
from farebox.storage.accounts import read_balance
from farebox.storage.sql import DatabaseUnavailable

OUTPUT_MIN = 16
"""With a limit below this many tokens, a response is not worth paying for: the call is refused instead."""
COUNT_FROM = 16
"""A call's input is counted before the hold if, over this many times as many calls as the balance covers, counting may
save enough for one more call."""
ROOMY, ROOMY_REASONING = 8_192, 32_768
"""Output tokens that responses rarely exceed, without and with reasoning. If more is affordable, a call is limited to
this or to a quarter of what is affordable, whichever is more, to leave the rest to others."""
CLAMPS = 4
"""How often to limit a call's output to the latest figure for what is left, or to what another limit leaves."""
NEAR = 64
"""A balance that does not cover this many such holds is nearly exhausted: the call's hold is then kept tighter."""
HOLD_GRACE_MS = 60_000
"""How much longer than the longest call a hold lasts."""


async def hold_credit(context: CallContext, terms: Terms, price: ModelPrice) -> Held:
    """Hold credit for a call on its account, with an estimate at this price.

    Raises Problem: NO_CREDIT if the account has too little, TOP_UP_UNDER_WAY if more is being bought, CREDIT_HELD if
    other calls hold the money at the moment, SPEND_LIMITED, LIMIT_TOO_LOW; ESTIMATE_CAPPED; NOT_METERED for input that
    the operator does not pay for. Raises DatabaseUnavailable.
    """
    services, call, demand = context.services, context.call, terms.parsed.demand
    if demand.unseen:
        _check_paid_for(services, demand)
    estimator = HoldEstimator(
        demand, price, terms.markup, _unseen_tokens(services, call) if demand.unseen else _no_unseen_tokens
    )
    if services.settings.output_default:
        estimator = _with_default(estimator, services.settings.output_default)
    wanted = estimator.estimate()
    cap = services.settings.estimate_max_cents * NANOS_PER_CENT
    if cap and wanted.amount > cap:
        estimator = await _within_cap(services, call, estimator, cap)
        wanted = estimator.estimate()
    posted, available = services.credit.get(call.account_id) or await _read_credit(services, call)
    if available < NEAR * wanted.amount and _count_pays(estimator, wanted, posted):
        estimator = await _counted(services, call, estimator)
        wanted = estimator.estimate()
    verdict = await _try(services, call, wanted)
    if verdict.ok:
        return Held(wanted, verdict, estimator.limit)
    if may_slice(context, terms, estimator.demand):
        estimator = structs.replace(estimator, in_slices=True)
    return await _hold_affordable(services, call, estimator)


def _with_default(estimator: HoldEstimator, tokens: int) -> HoldEstimator:
    """The same with the operator's default output limit, if the request has none and the model can produce more."""
    demand = estimator.demand
    if (
        demand.output_max is not None
        or not demand.clampable
        or demand.no_output
        or output_ceiling(estimator.price) <= tokens
    ):
        return estimator
    return structs.replace(estimator, demand=structs.replace(demand, output_max=tokens), limit=tokens)


async def _read_credit(services: Services, call: Call) -> tuple[int, int]:
    """The account's posted and available amounts. Raises DatabaseUnavailable."""
    services.database.check()
    try:
        balance = await services.database.get(lambda connection: read_balance(connection, call.account_id))
    except DatabaseUnavailable as error:
        services.database.report_failure(error)
        raise
    return (0, 0) if balance is None else (balance.posted, balance.available)


def _count_pays(estimator: HoldEstimator, wanted: Estimate, posted: int) -> bool:
    """Whether holding for the exact count of the input, on calls like this one, may leave room for one more of them.
    Nearly all of the byte bound is assumed to be saved."""
    if not has_tokenizer(estimator.price.provider, estimator.price.model):
        return False
    return estimator.estimate(0).amount * max(posted, wanted.amount) * COUNT_FROM >= wanted.amount**2


async def _hold_part(services: Services, call: Call, estimator: HoldEstimator) -> Held | None:
    """A hold for the input and a first slice of the output; None if a slice would be all of the output, or is refused.
    If the account cannot pay for all of the output, the provider is given the limit that it can pay for, so that it
    ends the response itself."""
    part = estimator.estimate(SLICE)
    if part.output_tokens >= estimator.estimate().output_tokens:
        return None
    verdict = await _try(services, call, part)
    if not verdict.ok:
        return None
    most, limit = estimator.output_within(verdict.posted), estimator.limit
    if estimator.demand.clampable and most < estimator.estimate().output_tokens:
        limit = max(most, part.output_tokens)
        estimator = structs.replace(estimator, demand=structs.replace(estimator.demand, output_max=limit))
    return Held(part, verdict, limit, estimator)


async def _hold_affordable(services: Services, call: Call, estimator: HoldEstimator) -> Held:
    """A hold after the first estimate was refused: counted exactly, made smaller, or tried again once other calls have
    ended."""
    estimator = await _counted(services, call, estimator)
    wanted = estimator.estimate()
    deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
    while True:
        held = await _retry_smaller(services, call, estimator, wanted)
        if isinstance(held, Held):
            return held
        left = deadline - services.clock.monotonic()
        may_wait = held.outcome is Outcome.HELD_ELSEWHERE and left > 0
        if not may_wait or not await services.waiters.wait(call.account_id, left):
            least = estimator.with_single_uses(services.unseen_rules) or estimator
            why, smaller = estimator.why(wanted.input_tokens), _smaller(estimator, held.available)
            raise await _refusal(services, call, held, least, why=why, smaller=smaller)


async def reserve(context: CallContext, terms: Terms) -> None:
    """Reserve the most that a call on the caller's own key can cost in the spend limits that count it; nothing is held
    on the account. Raises Problem (SPEND_LIMITED, LIMIT_TOO_LOW, CREDIT_HELD), DatabaseUnavailable."""
    services, call, demand = context.services, context.call, terms.parsed.demand
    unseen_tokens = _unseen_tokens(services, call) if demand.unseen else _no_unseen_tokens
    estimator = HoldEstimator(demand, terms.price, Markup(), unseen_tokens)
    deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
    verdict = await _try(services, call, estimator.estimate())
    if verdict.ok:
        return
    estimator = await _counted(services, call, estimator)
    wanted = estimator.estimate()
    while not (verdict := await _try(services, call, wanted)).ok:
        left = deadline - services.clock.monotonic()
        may_wait = verdict.outcome is Outcome.HELD_ELSEWHERE and left > 0
        if not may_wait or not await services.waiters.wait(call.account_id, left):
            raise await _refusal(services, call, verdict, estimator)


async def _refusal(
    services: Services,
    call: Call,
    verdict: Verdict,
    estimator: HoldEstimator,
    *,
    why: str = "",
    smaller: str = "",
) -> Problem:
    asked = estimator.estimate().amount
    limited = estimator.demand.clampable and not call.own_key
    least = min(asked, estimator.estimate(OUTPUT_MIN).amount) if limited else asked
    if verdict.budget is not None:
        return await spend_refusal(services, call, verdict, asked, least)
    return await credit_refusal(services, call.account_id, verdict, asked, least=least, why=why, smaller=smaller)


def _smaller(estimator: HoldEstimator, available: int) -> str:
    """How the caller can limit the output so that the call fits into this amount; empty if that is impossible."""
    demand = estimator.demand
    most = estimator.output_within(available) if demand.limited_by else 0
    if most < demand.output_min or estimator.estimate(most).amount > available:
        return ""
    return f"set `{demand.limited_by}` to {most} or less"


def _unseen_tokens(services: Services, call: Call) -> Callable[[Demand], UnseenTokens]:
    """What is held for the call's unseen input, by the operator's rules and what was learned."""
    learned, percentile = services.learned, services.settings.unseen_percentile
    account, provider = call.account_id, call.provider

    def tokens(demand: Demand) -> UnseenTokens:
        return tokens_for_unseen(
            demand,
            services.unseen_rules,
            known=lambda unseen: learned.size(account, provider, unseen.ref),
            learned=lambda kind: learned.per_use(account, provider, kind, percentile),
        )

    return tokens


def _check_paid_for(services: Services, demand: Demand) -> None:
    kinds = refused(demand, services.unseen_rules)
    if kinds:
        raise Problem(
            NOT_METERED,
            f"The request refers to input that cannot be seen from here ({', '.join(kinds)}), for which the operator's "
            "key is not used. Send the input itself, or your own provider key.",
        )


def _no_unseen_tokens(_: Demand) -> UnseenTokens:
    return NO_UNSEEN_TOKENS


async def _retry_smaller(services: Services, call: Call, estimator: HoldEstimator, wanted: Estimate) -> Held | Verdict:
    """A hold for the whole estimate, else for what the balance affords; the ledger's refusal if neither is possible."""
    verdict = await _try(services, call, wanted)
    if verdict.ok:
        return Held(wanted, verdict, estimator.limit)
    # A call that is alone may take all there is.
    if estimator.in_slices and (verdict.held or is_countable(call, estimator)):
        held = await _hold_part(services, call, estimator)
        if held is not None:
            return held
    if verdict.outcome not in (Outcome.REFUSED, Outcome.LIMITED):
        return verdict
    fewer = estimator.with_single_uses(services.unseen_rules)
    if fewer is not None:
        least = fewer.estimate().amount
        if least <= verdict.affordable:  # all of the balance, for the tool uses that it affords
            clamped = structs.replace(wanted, amount=min(wanted.amount, verdict.affordable))
            response = await _try(services, call, clamped)
            return Held(clamped, response, estimator.limit) if response.ok else _later(response)
        if least <= verdict.affordable_in_time:
            return _later(verdict)
        estimator = fewer
    return await _limited(services, call, estimator, verdict) if estimator.demand.clampable else verdict


async def _limited(services: Services, call: Call, estimator: HoldEstimator, verdict: Verdict) -> Held | Verdict:
    """A hold for as much output as the balance affords, by the ledger's latest answer."""
    for _ in range(CLAMPS):
        limit = _shared(estimator, estimator.output_within(verdict.affordable))
        if limit < OUTPUT_MIN:
            break
        limited = estimator.estimate(limit)
        response = await _try(services, call, limited)
        if response.ok:
            return Held(limited, response, limit)
        if response.outcome not in (Outcome.REFUSED, Outcome.LIMITED):
            return _later(response)
        verdict = response  # by another limit, which leaves less
    else:
        return _later(verdict)
    if estimator.output_within(verdict.affordable_in_time) >= OUTPUT_MIN:
        return _later(verdict)
    return verdict


def _shared(estimator: HoldEstimator, affordable: int) -> int:
    """The output limit to use if this many tokens are affordable: all of them, unless that is more than is usually
    needed."""
    reasons = estimator.demand.hides_reasoning or not shows_output(estimator.price.provider, estimator.price.model)
    return min(affordable, max(ROOMY_REASONING if reasons else ROOMY, affordable // 4))


def _later(verdict: Verdict) -> Verdict:
    """The same refusal, marked as one that waiting may change."""
    return structs.replace(verdict, outcome=Outcome.HELD_ELSEWHERE)


async def _within_cap(services: Services, call: Call, estimator: HoldEstimator, cap: int) -> HoldEstimator:
    """The estimator, limited to cost no more than the operator's cap on one call: if needed, its input is counted and
    its output limited. Raises Problem (ESTIMATE_CAPPED)."""
    estimator = await _counted(services, call, estimator)
    wanted = estimator.estimate()
    if wanted.amount <= cap:
        return estimator
    limit = estimator.output_within(cap) if estimator.demand.clampable else 0
    if limit >= OUTPUT_MIN:
        return structs.replace(estimator, demand=structs.replace(estimator.demand, output_max=limit), limit=limit)
    raise Problem(
        ESTIMATE_CAPPED,
        f"The call may cost up to {format_usd(wanted.amount)} USD ({wanted.input_tokens} input and "
        f"{wanted.output_tokens} output tokens), and no call may cost more than {format_usd(cap)} USD here."
        + estimator.why(wanted.input_tokens),
    )


async def _counted(services: Services, call: Call, estimator: HoldEstimator) -> HoldEstimator:
    if estimator.counted is not None:
        return estimator
    return structs.replace(estimator, counted=await count_input(services, call, estimator.demand, estimator.price))


async def _try(services: Services, call: Call, wanted: Estimate) -> Verdict:
    """Ask for a hold. Raises DatabaseUnavailable: there may be a hold then, and the end of the call releases it."""
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
    services.metrics.observe_hold(services.clock.monotonic() - began)
    services.credit.note(call.account_id, verdict.posted, verdict.available)
    return verdict


def _in_budgets(call: Call, hold: Hold) -> Hold:
    """The hold with the budgets of the limits that count the call. On the caller's own key, only those are held."""
    budgets = budgets_of(rules_for(call), hold.at)
    if call.own_key:
        return structs.replace(hold, amount=0, reserve=hold.amount, budgets=budgets)
    return structs.replace(hold, budgets=budgets)
