"""The stages of one call. Each has what is known by then, and nothing that is not known yet:

    CallContext → Priced → Admitting → Admitted → Responded → Settled

A function takes the earliest stage that has what it needs, and is given that one or any later one. `calls.endings` says
how a call ends that does not get to the end of this line.
"""

from typing import TypeAlias

import msgspec

from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call, KeyChoice, Sink, SpanNotes
from farebox.calls.offer import Offer
from farebox.calls.screening.screen import Screening
from farebox.calls.watch import Watch
from farebox.ledger.commands import Verdict
from farebox.pricing.model import Estimate, Markup, ModelPrice
from farebox.pricing.receipt import ReceiptAttempt
from farebox.providers.formats.base import ParsedRequest, WireFormat
from farebox.providers.upstream import UpstreamResponse
from farebox.runtime.services import Services
from farebox.usage import Usage


class CallContext(msgspec.Struct, frozen=True):
    """What stays the same from the first step of a call to the last."""

    services: Services
    call: Call
    sink: Sink
    watch: Watch
    started: float
    """On the monotonic clock."""
    screening: Screening | None = None
    """None if the gateway has no rules for what its calls say."""
    tokens: list[str] = []
    """The short-lived tokens that its requests have carried in the place of a key."""
    plain: bool = False
    """`is_plain`, where that has been asked."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What was sent to the provider that the caller need not know, and no response may tell."""
        return (*self.call.secrets, *self.tokens) if self.tokens else self.call.secrets

    def elapsed_ms(self) -> int:
        return round((self.services.clock.monotonic() - self.started) * 1000)


def is_plain(call: Call) -> bool:
    """Whether there is no more to the call than to hold, forward, and charge. What its gateway, its route or its
    policies may ask for, and what a request may be about, is then not looked for step by step: whatever is added to
    those belongs here, or in `ServedGateway.is_plain`."""
    parsed = call.parsed
    return (
        call.gateway.is_plain
        and parsed is not None
        and not (parsed.references or parsed.background)
        and call.object is None
        and not call.own_key
        and call.trail is None
        and not (call.route_limits or call.policy_limits)
    )


class Metered(msgspec.Struct, frozen=True, gc=False):
    """How a call's usage is read, and the markup on what it costs."""

    wire: WireFormat
    parsed: ParsedRequest
    markup: Markup


class Terms(Metered, frozen=True, gc=False):
    """The same of a call whose model has a price."""

    price: ModelPrice
    """At the standard tier."""


class Priced(msgspec.Struct, frozen=True):
    """The price of the call's model has been looked up."""

    context: CallContext
    metered: Metered | None
    """None if the call is not metered: its path costs nothing, or its caller's own key pays for what cannot be
    read."""
    terms: Terms | None
    """None, too, where its model has no price."""

    def may_hold(self, outcome: str) -> bool:
        """Whether there may be a hold to end, where the call ends at this stage, with this outcome."""
        return False


class Admitting(Priced, frozen=True):
    """The ledger has been asked for a hold. If the wait for its verdict breaks off, it is unknown whether there is
    one."""

    def may_hold(self, outcome: str) -> bool:
        return outcome != "refused"  # else the ledger has said no


class Held(msgspec.Struct, frozen=True, gc=False):
    """A hold that was admitted."""

    estimate: Estimate
    verdict: Verdict
    output_limit: int | None = None
    """Output tokens per choice that the request must be limited to; None if it can stay as it is."""
    part: Offer | None = None
    """Where only a part of the output is held, and more as it passes (calls.slices): what that is estimated by."""


class Attempts(msgspec.Struct, gc=False):
    """What came of the requests to the provider so far."""

    hold_ms: int | None = None
    """How long it took until the call was admitted, from its start; None: it needed no hold."""
    given_up: str = ""
    """Why the wait for the response was broken off after all of the request was sent: the provider may be at work."""
    status: int = 0
    """Of the response whose head has come; 0: none has."""
    first_byte_ms: int | None = None
    """How long that took, from the start of the call."""
    notes: SpanNotes | None = None
    """For the call's span; None where the gateway sends none."""
    key: KeyChoice | None = None
    """The key in use, if it is not the one that the call began with."""
    failed: tuple[ReceiptAttempt, ...] = ()
    """Those that another followed."""
    refused: tuple[str, ...] = ()
    """The IDs of the keys that were refused or rate limited."""


class Admitted(Priced, frozen=True):
    """The call may go to the provider: its hold is durable, or it needs none."""

    held: Held | None
    """None if nothing is to be charged."""
    attempts: Attempts
    counts: bool
    """Whether nothing is charged, but what it costs counts in spend limits: a hold of nothing reserves that."""

    def may_hold(self, outcome: str) -> bool:
        return self.held is not None or self.counts

    @property
    def goes_on(self) -> bool:
        """Whether the work goes on after the request has been answered: the hold is then a long call's."""
        if self.held is None:
            return False
        return self.context.call.object is not None or (self.terms is not None and self.terms.parsed.background)

    @property
    def long_kind(self) -> str:
        """What work that goes on is called."""
        return "response" if self.terms is None else getattr(self.terms.wire, "long_kind", "response")

    @property
    def key_id(self) -> str:
        """Of the key that the call is made with; empty: it is the caller's own."""
        return self.context.call.key_id if self.attempts.key is None else self.attempts.key.key_id


class Responded(Admitted, frozen=True):
    """The head of the response has come, and may be passed on."""

    response: UpstreamResponse
    logged: LoggedBody
    """What is kept of the body for the log."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The call has ended: its charge and its record are durable."""

    verdict: Verdict | None
    """The ledger's; None if nothing was held, the journal has the charge, or the hold was charged as that of a call
    in doubt."""
    usage: Usage = {}
    """What was charged for."""


Stage: TypeAlias = Priced | Admitting | Admitted | Responded
"""Where a call can end early."""
