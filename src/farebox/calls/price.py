"""What a response costs: by the provider's figures unless they are impossible, else by what was delivered (ADR 18).

Amounts are nano-dollars.
"""

import math
from collections.abc import Callable
from typing import Literal, cast

import msgspec
from msgspec.structs import replace

from farebox.money import ceil_div
from farebox.pricing.ceilings import hides_reasoning
from farebox.pricing.charge import charge_of, cost_of, unpriced_meters
from farebox.pricing.count import TEXT_BYTES_PER_TOKEN, count_request, count_text
from farebox.pricing.media import speech_tokens
from farebox.pricing.model import Cost, Demand, Estimate, Markup, ModelPrice
from farebox.pricing.plausibility import check_plausible
from farebox.pricing.receipt import UsageSource
from farebox.pricing.unseen import has_unreported_cost
from farebox.providers.formats.base import Observed
from farebox.usage import AbsurdUsage, Quantity, Usage

REPORTED_FAILURE = "the provider reported a failure within the response"
REASONING_TOKENS_PER_SECOND = 100
"""The rate at which hidden reasoning is counted if the client disconnected before the usage arrived: about the speed of
the models that hide it."""

CAPPED = "counted usage is charged up to the hold"
CutPolicy = Literal["delivered", "hold", "free"]


class PricedUsage(msgspec.Struct, frozen=True):
    """A response's usage and price, and how both were determined."""

    source: UsageSource
    usage: Usage
    cost: Cost | None
    charge: int
    policy: str | None = None
    notes: tuple[str, ...] = ()
    stated_usd: str | None = None
    """The cost that the provider states."""
    computed_nanos: str | None = None
    """The cost by our prices, if the provider states one."""
    implausible: str = ""
    """Why the provider's figures are impossible, if they are: the operator is notified."""


NOTHING = PricedUsage("none", {}, None, 0)


class ResponseEnding(msgspec.Struct, frozen=True):
    """How a response ended, and the text of its request in case that must be counted."""

    request_text: Callable[[], str] = str
    interruption: str | None = None
    """Why the response did not reach its end; None if it did."""
    by_client: bool = False
    """Whether the client disconnected, or the caller's own timeout ended the wait."""
    seconds: float = 0.0
    """How long the call took."""
    policy: CutPolicy = "delivered"
    rough: bool = False
    """Whether no tokenizer is available, so that every four bytes count as one token."""


def price_response(
    observed: Observed, demand: Demand, price: ModelPrice, markup: Markup, bound: Estimate, ending: ResponseEnding
) -> PricedUsage:
    """Price a response by what it reported and delivered.

    A complete response: the provider's usage, whatever its size, unless it is impossible; then the hold. Without usage,
    what was sent and delivered is counted, with what the request itself determines. An interrupted response: by
    `ending.policy`; what the provider had reported stands, the rest is counted from what was delivered.
    """
    counter = _Counter(observed, demand, price, markup, bound, ending)
    if ending.interruption is None and not observed.failed:
        return counter.whole()
    return counter.interrupted(ending.interruption or REPORTED_FAILURE)


class _Counter(msgspec.Struct, frozen=True):
    observed: Observed
    demand: Demand
    price: ModelPrice
    markup: Markup
    bound: Estimate
    ending: ResponseEnding

    def whole(self) -> PricedUsage:
        """The price of a complete response."""
        observed = self.observed
        notes = (observed.problem, *observed.notes) if observed.problem else observed.notes
        if observed.implausible:
            return self._implausible(observed.problem or "", notes)
        if observed.usage is None:
            if observed.empty or not (observed.complete or self._delivered):
                return replace(NOTHING, policy="the response was empty: free", notes=notes)
            counted = self._counted({}, ("input_tokens",), notes, output=self._output(), fixed=True)
            return replace(counted, policy="the response reported no usage: counted from what was sent and delivered")
        missing = observed.missing
        if not observed.usage and not missing:
            policy = "the provider reports no usage: free"
            return PricedUsage("provider", {}, Cost(0, self.price.denominator, ()), 0, policy, notes)
        try:
            check_plausible(observed.usage, self.demand, self.price, self.bound)
        except AbsurdUsage as error:
            return self._implausible(str(error), notes)
        if not missing and (observed.complete or not self._lags(observed.usage)):
            return self._charged("provider", observed.usage, notes)
        if not missing:
            counted = self._counted(observed.usage, (), notes, output=self._output())
            return replace(counted, policy="the response ended early: counted from what was delivered")
        output = self._reported_or_counted(observed.usage) if "output_tokens" in missing else None
        counted = self._counted(observed.usage, missing, notes, output=output)
        return replace(counted, policy=f"the usage lacks {' and '.join(missing)}: counted")

    def interrupted(self, reason: str) -> PricedUsage:
        """The price of a response that did not reach its end, or that reports a failure."""
        observed, ending = self.observed, self.ending
        notes = (observed.problem, *observed.notes) if observed.problem else observed.notes
        reported = {} if observed.usage is None else dict(observed.usage)
        if ending.policy == "free":
            return replace(NOTHING, policy=f"{reason}: cut responses are free", notes=notes)
        input_reported = "input_tokens" in reported and "input_tokens" not in observed.missing
        if ending.by_client and not observed.empty and has_unreported_cost(self.demand, input_reported=input_reported):
            policy = f"{reason}, and what was read was not reported in time: the hold is charged"
            return PricedUsage("estimate", {}, None, self.bound.amount, policy, notes)
        hidden = self._hidden_reasoning() if ending.by_client else 0
        if not self._delivered and not ending.by_client:
            return replace(NOTHING, policy=f"{reason}: nothing was delivered, nothing is charged", notes=notes)
        if ending.policy == "hold":
            return PricedUsage(
                "estimate", {}, None, self.bound.amount, f"{reason}: cut responses cost their hold", notes
            )
        output = self._reported_or_counted(reported)
        policy = f"{reason}: counted from what was {'delivered' if self._delivered else 'read'}"
        if hidden > output:
            output, policy = hidden, f"{reason}: counted from its duration, because the model's reasoning is hidden"
        missing = () if input_reported else ("input_tokens",)
        return replace(self._counted(reported, missing, notes, output=output), policy=policy)

    @property
    def _delivered(self) -> bool:
        """Whether any generated output has been delivered."""
        return bool(
            self.observed.delivered_bytes or self.observed.sound_seconds or self.observed.image_tokens_delivered
        )

    def _lags(self, reported: Usage) -> bool:
        """Whether these are interim figures of a response that simply stopped: much more has been delivered since."""
        output = reported.get("output_tokens")
        return output is not None and self._output() > 2 * output

    def _reported_or_counted(self, reported: Usage) -> int:
        """Output tokens: the reported number, or the delivered number if that is larger; their sum if only parts were
        reported."""
        output = cast(int, reported.get("output_tokens", 0))
        if "output_tokens" in self.observed.missing:
            return output + self._output()
        return max(output, self._output())

    def _implausible(self, why: str, notes: tuple[str, ...]) -> PricedUsage:
        policy = "the provider's usage is impossible: the hold is charged"
        notes = tuple(dict.fromkeys((*notes, f"the provider's usage is impossible: {why}")))
        return PricedUsage("estimate", {}, None, self.bound.amount, policy, notes, implausible=why or "impossible")

    def _charged(self, source: UsageSource, usage: Usage, notes: tuple[str, ...]) -> PricedUsage:
        usage, cost, doubts = cost_of_fitted(self.price, usage)
        return PricedUsage(source, usage, cost, charge_of(cost, self.markup), None, (*notes, *doubts))

    def _counted(
        self,
        reported: Usage,
        missing: tuple[str, ...],
        notes: tuple[str, ...],
        *,
        output: int | None = None,
        fixed: bool = False,
    ) -> PricedUsage:
        """The price of the reported usage; of the input, if that is missing, as counted from the request; and of this
        many output tokens. With `fixed`, at least what the request itself determines. Counted usage is charged up to
        the hold."""
        usage: dict[str, Quantity] = dict(reported)
        if "input_tokens" in missing:
            counted = count_request(
                self._with_audio(), self.price, None if self.ending.rough else self.ending.request_text
            )
            for meter, quantity in counted.items():
                usage[meter] = max(quantity, usage.get(meter, 0))
            whole = counted.get("input_tokens", 0) + usage.get("input_tool_tokens", 0)
            usage["input_tokens"] = min(max(whole, reported.get("input_tokens", 0)), self.bound.input_tokens)
            if self.bound.whole:
                usage["input_tokens"] = self.bound.input_tokens
        if output is not None:
            allowed = math.ceil(self.demand.allowed.get("output_tokens", 0))
            most = max(self.bound.output_tokens, allowed, int(reported.get("output_tokens", 0)))
            usage["output_tokens"] = min(output, most)
            if sound := min(self._sound(), most):
                usage["output_audio_tokens"] = max(sound, usage.get("output_audio_tokens", 0))
        if fixed:
            for meter, quantity in self.demand.fixed.items():
                usage[meter] = max(quantity, usage.get(meter, 0))
        for meter in unpriced_meters(self.price, usage):
            if meter not in reported:  # counting tokens is free
                del usage[meter]
        priced = self._charged("counted", {meter: count for meter, count in usage.items() if count}, notes)
        if reported or priced.charge <= self.bound.amount:  # reported usage stands, whatever its amount
            return priced
        return replace(priced, charge=self.bound.amount, notes=(*priced.notes, CAPPED))

    def _output(self) -> int:
        """Tokens of the delivered output; for output that was not kept as text, one for every four bytes."""
        observed = self.observed
        kept = len(observed.text.encode("utf-8", "surrogatepass"))
        tokens = ceil_div(max(observed.delivered_bytes - kept, 0), TEXT_BYTES_PER_TOKEN)
        if self.ending.rough:
            tokens += ceil_div(kept, TEXT_BYTES_PER_TOKEN)
        elif observed.text:
            tokens += count_text(self.price, observed.text)
        return tokens + self._sound() + observed.image_tokens_delivered

    def _sound(self) -> int:
        """Tokens of the delivered audio."""
        seconds = self.observed.sound_seconds
        return speech_tokens(self.price.model, seconds) if seconds else 0

    def _with_audio(self) -> Demand:
        """The request; if the size of its audio does not show the duration, with the duration that the response
        states."""
        demand, duration = self.demand, math.ceil(self.observed.input_audio_seconds)
        if not duration or demand.audio_seconds == demand.audio_seconds_max:
            return demand
        return replace(demand, audio_seconds=min(duration, demand.audio_seconds_max))

    def _hidden_reasoning(self) -> int:
        """Output tokens that the model can have generated in the duration of the call, if it reasons without showing
        it."""
        if not (self.demand.hides_reasoning or hides_reasoning(self.price.model)):
            return 0
        return int(self.ending.seconds * REASONING_TOKENS_PER_SECOND)


def cost_of_fitted(price: ModelPrice, usage: Usage) -> tuple[Usage, Cost, tuple[str, ...]]:
    """The cost of the usage. Parts of a meter may overlap so that their sum exceeds it, such as cached tokens and audio
    tokens if the cached ones are audio: the part with the lowest rate is then reduced to fit, with a note."""
    try:
        return usage, cost_of(price, usage), ()
    except AbsurdUsage:
        pass
    parts = [
        rate for rate in price.rates if rate.meter in usage and rate.meter not in ("input_tokens", "output_tokens")
    ]
    for rate in sorted(parts, key=lambda rate: rate.base):
        fitting, cost = _largest(price, usage, rate.meter)
        if cost is not None:
            return fitting, cost, (f"{rate.meter} overlaps other parts: cut to what they leave",)
        usage = fitting
    return usage, Cost(0, price.denominator, ()), ("the usage does not fit its price",)


def _largest(price: ModelPrice, usage: Usage, meter: str) -> tuple[Usage, Cost | None]:
    """The usage with as much of the meter as fits, and its cost; without the meter, and None, if nothing fits."""
    low, high = -1, int(usage[meter])
    best: tuple[Usage, Cost | None] = ({key: count for key, count in usage.items() if key != meter}, None)
    while low < high:
        middle = (low + high + 1) // 2
        tried = {**usage, meter: middle}
        try:
            best, low = (tried, cost_of(price, tried)), middle
        except AbsurdUsage:
            high = middle - 1
    return best
