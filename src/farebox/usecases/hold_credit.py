"""Hold the most a call can cost; where that is more than there is, find what the money does allow.

In this order: the byte bound; an exact count of the input; a limit on the output that the balance affords (where the
provider has a parameter for it); waiting a moment for money that other calls hold; and only then a refusal.
"""

from dataclasses import dataclass, replace

from farebox.errors import CREDIT_HELD, NO_CREDIT, Problem
from farebox.ledger.commands import Hold, Outcome, Verdict
from farebox.money import format_usd
from farebox.pricing.estimate import affordable_output, estimate
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.tokens import count_tokens
from farebox.usecases.call import Call
from farebox.usecases.services import Services

OUTPUT_MIN = 16
"""A limit below this many tokens gives no answer worth paying for: the call is refused instead."""
HOLD_GRACE_MS = 60_000
"""How much longer than the longest call a hold lives."""
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that was admitted."""

    estimate: Estimate
    verdict: Verdict
    output_limit: int | None = None
    """Output tokens per choice that the request must be limited to; None where it can stay as it is."""


async def hold_credit(services: Services, call: Call, price: ModelPrice, markup: Markup) -> Held:
    """Put the hold of a call on its account.

    Raises Problem: NO_CREDIT where the account has too little, CREDIT_HELD where other calls hold it for the moment.
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
        if held.outcome is not Outcome.HELD_ELSEWHERE:
            raise _no_credit(held, wanted)
        if left <= 0 or not await services.waiters.wait(call.account_id, left):
            raise _credit_held()


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
        limited = replace(self.demand, output_max=output_tokens)
        return estimate(limited, self.price, self.markup, exact_input_tokens=self.counted_tokens)


async def _second_try(services: Services, call: Call, offer: _Offer) -> Held | Verdict:
    """A hold of what is wanted, else of what the balance affords; the ledger's refusal where neither is to be had."""
    verdict = await _try(services, call, offer.wanted)
    if verdict.ok:
        return Held(offer.wanted, verdict)
    if verdict.outcome is not Outcome.REFUSED or not offer.demand.clampable:
        return verdict
    limit = offer.output_within(verdict.available)
    if limit >= OUTPUT_MIN:
        limited = offer.limited_to(limit)
        answer = await _try(services, call, limited)
        return Held(limited, answer, limit) if answer.ok else replace(answer, outcome=Outcome.HELD_ELSEWHERE)
    if offer.output_within(verdict.posted) >= OUTPUT_MIN:
        return replace(verdict, outcome=Outcome.HELD_ELSEWHERE)
    return verdict


def _count_input(call: Call, price: ModelPrice) -> int | None:
    """Tokens of the request's text by the model's own tokenizer; None where that is not known."""
    assert call.format is not None
    text = call.format.parse(call.path, call.content_type, call.body, exact=True).demand.text
    return count_tokens(price.provider, price.model, text)


async def _try(services: Services, call: Call, wanted: Estimate) -> Verdict:
    now = services.clock.now_ms()
    return await services.ledger.do(
        Hold(
            account_id=call.account_id,
            hold_id=call.log_id,
            amount=wanted.amount,
            at=now,
            expires_at=now + services.settings.call_timeout_ms + HOLD_GRACE_MS,
            owner=services.instance,
        )
    )


def _no_credit(verdict: Verdict, wanted: Estimate) -> Problem:
    return Problem(
        NO_CREDIT,
        f"Insufficient credits: this call can cost up to {format_usd(wanted.amount)} USD and the account has "
        f"{format_usd(verdict.posted)} USD. Add credit to the account, or send your own provider key.",
    )


def _credit_held() -> Problem:
    return Problem(
        CREDIT_HELD,
        "The account's credit is held by other calls in flight. Nothing was charged; try again in a moment.",
        retry_after=RETRY_AFTER_SECONDS,
    )
