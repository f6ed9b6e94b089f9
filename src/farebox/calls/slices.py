"""Streams for which only a part of the output is held: the hold is raised slice by slice, ahead of what passes.

What has passed is bounded like input: a byte of text is at most one token. Only when the hold cannot be raised any
further is it counted by the model's own tokenizer. Nothing passes that the hold does not cover; if the hold cannot be
raised, the stream ends as if its output had reached a limit, and is charged by what was delivered.

This requires that all billed output is visible: `may_slice` says for which calls that is known.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import structs

from farebox.calls.counting import count_input, count_output
from farebox.calls.hold_estimator import HoldEstimator
from farebox.calls.model import Call
from farebox.calls.spending.rules import may_count, rules_for
from farebox.calls.stages import CallContext, Held, Responded, Terms
from farebox.ledger.commands import Extend, Outcome, Verdict
from farebox.pricing.ceilings import shows_output
from farebox.pricing.count import COUNTED_BYTES_MAX
from farebox.pricing.model import Demand, Estimate
from farebox.pricing.token_counts import has_tokenizer
from farebox.providers.formats.base import Observed
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.length_end import length_end_of
from farebox.storage.sql import DatabaseUnavailable

SLICE: Final = 2_048
"""Output tokens that are held at first, and the minimum by which the hold is raised."""
LEAST: Final = 16
"""Minimum output tokens for which raising the hold once more is worth it."""
RESERVE: Final = 64
RESERVE_WITH_TOOLS: Final = 256
"""Output tokens in addition to the text: the beginning and end of a response, and tool calls. Recorded responses of the
models in question bill at most 14 and 58 tokens more than they have bytes."""
TRIES: Final = 4
_PLAIN_ENDS: Final = re.compile(rb".*?(?:\r?\n){2}|.+", re.DOTALL)


class BalanceEnded(Exception):
    """The hold does not cover what comes next, and cannot be raised."""


def may_slice(context: CallContext, terms: Terms, demand: Demand) -> bool:
    """Whether the call is a stream whose billed output is all in its text, and that can be ended at any event. Excluded
    are calls that count in budgets, as their holds are not raised."""
    call = context.call
    return (
        terms.parsed.stream
        and not terms.parsed.background  # it continues without its client, and its output does not pass here
        and shows_output(call.provider, terms.price.model)
        and demand.choices <= 1
        and not (demand.no_output or demand.hides_reasoning or demand.unseen or demand.further_models)
        and not (demand.fixed or demand.allowed or terms.price.bounded)
        and length_end_of(terms.wire.name, usage_requested=False) is not None
        and (terms.wire.name != "google_generate" or "alt=sse" in call.url)
        and context.screening is None
        and not (may_count(call) and rules_for(call))
    )


def is_countable(call: Call, estimator: HoldEstimator) -> bool:
    """Whether the output can be counted exactly as it passes. The text of tool calls does not show all of their
    tokens."""
    return not estimator.demand.tools and has_tokenizer(call.provider, estimator.price.model)


class Slices:
    """What is held for one stream, and what has passed of it."""

    def __init__(self, stage: Responded, held: Held, part: HoldEstimator) -> None:
        self._context, self._part = stage.context, part
        self.held = held
        self._limit = part.estimate().output_tokens
        self._reserve = RESERVE_WITH_TOOLS if part.demand.tools else RESERVE
        self._place = 0  # in the reader's text, up to which `_bytes` goes
        self._text_bytes = self._bytes = 0
        self._counted_tokens = self._counted_bytes = 0
        self._passed = (0, 0)  # characters of the text, and bytes that are not in it

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """The chunk, split into its events if the hold may not cover all of it."""
        return (chunk,) if len(chunk) <= self._left() else _PLAIN_ENDS.findall(chunk)

    async def cover(self, reader: EventReader) -> None:
        """Make sure that the hold covers what the reader has read, before that is passed on. Raises BalanceEnded."""
        self._measure(reader)
        if self._left() < 0 and not reader.all_ended and not await self._raise(reader):
            raise BalanceEnded
        self._passed = (self._place, reader.seen.delivered)

    def delivered(self, observed: Observed) -> Observed:
        """What was observed, without what was not passed on."""
        characters, others = self._passed
        text = observed.text[:characters]
        size = len(text.encode("utf-8", "surrogatepass")) + others
        return structs.replace(observed, text=text, delivered_bytes=size, complete=False)

    def _measure(self, reader: EventReader) -> None:
        text = reader.seen.text
        text.seek(self._place)
        fresh: str = text.read()  # up to its end, where the reader continues writing
        self._place += len(fresh)
        self._text_bytes += len(fresh.encode("utf-8", "surrogatepass"))
        self._bytes = self._text_bytes + reader.seen.delivered

    @property
    def _bound(self) -> int:
        """The maximum number of output tokens received so far."""
        return min(self._limit, self._counted_tokens + self._bytes - self._counted_bytes + self._reserve)

    def _left(self) -> int:
        return self.held.estimate.output_tokens - self._bound

    async def _raise(self, reader: EventReader) -> bool:
        """Raise the hold until it covers what has been received. Returns whether it does."""
        services, call = self._context.services, self._context.call
        deadline = services.clock.monotonic() + services.settings.hold_wait_ms / 1000
        while True:
            verdict = await self._extend(self._bound + max(SLICE, self._bound // 2))
            if verdict.ok:
                return True
            await self._count(reader)
            for _ in range(TRIES):
                if self._left() >= 0:
                    return True
                most = self._part.output_within(self.held.estimate.amount + verdict.affordable)
                if most < min(self._limit, self._bound + LEAST):
                    break
                verdict = await self._extend(min(most, self._bound + SLICE))
            if self._left() >= 0:
                return True
            left = deadline - services.clock.monotonic()
            in_time = self._part.output_within(verdict.affordable_in_time)
            may_wait = left > 0 and in_time >= min(self._limit, self._bound + LEAST)
            if not may_wait or not await services.waiters.wait(call.account_id, left):
                return False

    async def _count(self, reader: EventReader) -> None:
        """Count the input and what has been received, if that can be done exactly: there are fewer tokens than
        bytes."""
        call, part = self._context.call, self._part
        if part.counted is None and has_tokenizer(call.provider, part.price.model):
            counted = await count_input(self._context.services, call, part.demand, part.price)
            self._part = part = structs.replace(part, counted=counted)
        if not is_countable(call, part) or self._text_bytes > COUNTED_BYTES_MAX or reader.seen.delivered:
            return
        tokens = await count_output(self._context.services, call, part.price, reader.seen.text.getvalue())
        if tokens is not None:
            self._counted_tokens, self._counted_bytes = tokens, self._bytes

    async def _extend(self, tokens: int) -> Verdict:
        estimate = self._part.estimate(min(tokens, self._limit))
        verdict = await self._ask(estimate)
        if verdict.ok:
            self.held = structs.replace(self.held, estimate=estimate, verdict=verdict)
        return verdict

    async def _ask(self, estimate: Estimate) -> Verdict:
        """The ledger's verdict; while the database is unavailable, the hold cannot be raised."""
        services, call = self._context.services, self._context.call
        command = Extend(
            account_id=call.account_id,
            hold_id=call.log_id,
            amount=estimate.amount,
            at=services.clock.now_ms(),
            expires_at=0,
            counted_at=call.started_at,
        )
        try:
            services.database.check()
            verdict = await services.ledger.do(command)
        except DatabaseUnavailable as error:
            services.database.report_failure(error)
            return Verdict(Outcome.UNKNOWN)
        services.credit.note(call.account_id, verdict.posted, verdict.available)
        return verdict
