"""Hold the most a call can cost; where that is more than there is, find what the money does allow.

In this order: the byte bound; an exact count of the input; a limit on the output that the balance affords (where the
provider has a parameter for it); waiting a moment for money that other calls hold; and only then a refusal. What an
account's spending limit leaves counts like its money.
"""

from dataclasses import dataclass

import msgspec
from msgspec import structs

from farebox.ledger.commands import Hold, Outcome, Verdict
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.tokens import count_tokens
from farebox.storage.sql import DatabaseUnavailable
from farebox.usecases.call import Call
from farebox.usecases.credit_refusal import credit_refusal
from farebox.usecases.services import Services

OUTPUT_MIN = 16
"""A limit below this many tokens gives no answer worth paying for: the call is refused instead."""
HOLD_GRACE_MS = 60_000
"""How much longer than the longest call a hold lives."""


class Held(msgspec.Struct, frozen=True):
    """A hold that was admitted."""

    estimate: Estimate
    verdict: Verdict
    output_limit: int | None = None
    """Output tokens per choice that the request must be limited to; None where it can stay as it is."""


async def hold_credit(services: Services, call: Call, price: ModelPrice, markup: Markup) -> Held:
    """Put the hold of a call on its account.

    Raises Problem: NO_CREDIT where the account has too little, TOP_UP_UNDER_WAY where more is being bought, CREDIT_HELD
    where other calls hold it for the moment, SPEND_LIMITED. Raises DatabaseUnavailable.
    """
    assert call.parsed is not None
    demand = call.parsed.demand
    wanted = estimate(demand, price, markup)
    verdict = await _try(services, call, wanted)
    if verdict.ok:
        return Held(wanted, verdict)
    tokens = _count_input(call, price)
    if tokens is not None:
        wanted = estimate(demand, price, markup, exact_input_tokens=tokens)
    offer = _Offer(demand, price, markup, wanted, tokens)
    deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
    while True:
        held = await _second_try(services, call, offer)
        if isinstance(held, Held):
            return held
        left = deadline - services.clock.monotonic()
        may_wait = held.outcome is Outcome.HELD_ELSEWHERE and left > 0
        if not may_wait or not await services.waiters.wait(call.account_id, left):
            raise await credit_refusal(services, call.account_id, held, wanted.amount)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What the second try works with."""

    demand: Demand
    price: ModelPrice
    markup: Markup
    wanted: Estimate
    counted_tokens: int | None

    def output_within(self, available: int) -> int:
        """Output tokens per choice that so much money affords."""
        return affordable_output(
            self.demand, self.price, self.markup, available=available, input_tokens=self.wanted.input_tokens
        )

    def limited_to(self, output_tokens: int) -> Estimate:
        limited = structs.replace(self.demand, output_max=output_tokens)
        return estimate(limited, self.price, self.markup, exact_input_tokens=self.counted_tokens)


async def _second_try(services: Services, call: Call, offer: _Offer) -> Held | Verdict:
    """A hold of what is wanted, else of what the balance affords; the ledger's refusal where neither is to be had."""
    verdict = await _try(services, call, offer.wanted)
    if verdict.ok:
        return Held(offer.wanted, verdict)
    if verdict.outcome not in (Outcome.REFUSED, Outcome.LIMITED) or not offer.demand.clampable:
        return verdict
    limit = offer.output_within(verdict.affordable)
    if limit >= OUTPUT_MIN:
        limited = offer.limited_to(limit)
        answer = await _try(services, call, limited)
        return Held(limited, answer, limit) if answer.ok else _later(answer)
    if offer.output_within(verdict.affordable_in_time) >= OUTPUT_MIN:
        return _later(verdict)
    return verdict


def _later(verdict: Verdict) -> Verdict:
    """A refusal that waiting may change after all."""
    return structs.replace(verdict, outcome=Outcome.HELD_ELSEWHERE)


def _count_input(call: Call, price: ModelPrice) -> int | None:
    """Tokens of the request's text by the model's own tokenizer; None where that is not known."""
    assert call.format is not None
    text = call.format.parse(call.path, call.content_type, call.body, exact=True).demand.text
    return count_tokens(price.provider, price.model, text)


async def _try(services: Services, call: Call, wanted: Estimate) -> Verdict:
    """Raises DatabaseUnavailable: then there may be a hold, and whoever ends the call gives it back."""
    services.database.check()
    now = services.clock.now_ms()
    hold = Hold(
        account_id=call.account_id,
        hold_id=call.log_id,
        amount=wanted.amount,
        at=now,
        expires_at=now + services.settings.call_timeout_ms + HOLD_GRACE_MS,
        owner=services.instance,
        counted_at=call.started_at,
    )
    try:
        return await services.ledger.do(hold)
    except DatabaseUnavailable as error:
        services.database.suspect(error)
        raise
