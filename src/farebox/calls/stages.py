"""The stages of one call. Each contains what is known by then, and nothing that is not known yet:

    Received → Priced → Admitting → Admitted → Responded → Settled

A function takes the earliest stage that has what it needs, and can be given that or any later one. `calls.endings` says
how calls end that do not reach the last stage.
"""

from typing import TypeAlias

import msgspec

from farebox.calls.hold_estimator import HoldEstimator
from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call, KeyChoice, Sink, SpanNotes
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
    """On the monotonic clock, in seconds."""
    screening: Screening | None = None
    """None if the gateway has no screening rules."""
    tokens: list[str] = []
    """The short-lived tokens that its requests carried instead of a key."""
    plain: bool = False
    """The result of `is_plain`, if that was called."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets that were sent to the provider, which the caller must not learn and no response may contain."""
        return (*self.call.secrets, *self.tokens) if self.tokens else self.call.secrets

    def elapsed_ms(self) -> int:
        return round((self.services.clock.monotonic() - self.started) * 1000)


def is_plain(call: Call) -> bool:
    """Whether the call only has to be held for, forwarded and charged. The steps for optional features of its gateway,
    its route, its policies and its request are then skipped: the person who adds a feature adds its condition here,
    or in `ServedGateway.is_plain`."""
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
    """How a call's usage is read, and the markup on its cost."""

    wire: WireFormat
    parsed: ParsedRequest
    markup: Markup


class Terms(Metered, frozen=True, gc=False):
    """The same for a call whose model has a price."""

    price: ModelPrice
    """At the standard tier."""


class Received(msgspec.Struct, frozen=True):
    """Nothing has been looked up for the call."""

    context: CallContext

    def may_hold(self, outcome: str) -> bool:
        """Whether there may be a hold to end if the call ends at this stage with this outcome."""
        return False

    @property
    def markup(self) -> Markup | None:
        """The markup on the call's cost, if it is known."""
        return None


class Priced(Received, frozen=True):
    """The price of the call's model has been looked up."""

    metered: Metered | None
    """None if no usage is read from the response: the path costs nothing, the caller's own key pays for what cannot be
    read, or what is charged is metered apart, as the requests of a batch and the turns of a WebSocket are."""
    terms: Terms | None
    """None if `metered` is None, or if the model has no price."""

    @property
    def markup(self) -> Markup | None:
        return None if self.metered is None else self.metered.markup


class Admitting(Priced, frozen=True):
    """The ledger has been asked for a hold. If the wait for its verdict breaks off, it is unknown whether there is a
    hold."""

    def may_hold(self, outcome: str) -> bool:
        return outcome != "refused"  # refused: the ledger has said no


class Held(msgspec.Struct, frozen=True, gc=False):
    """A hold that was admitted."""

    estimate: Estimate
    verdict: Verdict
    output_limit: int | None = None
    """Output tokens per choice that the request must be limited to; None if it can stay as it is."""
    part: HoldEstimator | None = None
    """If only a part of the output is held, and more as it passes (calls.slices): what that is estimated by."""


class Attempts(msgspec.Struct, gc=False):
    """The results of the requests to the provider so far."""

    hold_ms: int | None = None
    """Time from the start of the call until it was admitted; None: it needed no hold."""
    given_up: str = ""
    """Why the wait for the response was broken off after the whole request was sent, and before any of it was passed
    on: the provider may be processing the request."""
    status: int = 0
    """Status of the response whose head has arrived; 0: none has."""
    first_byte_ms: int | None = None
    """Time from the start of the call until that head arrived."""
    notes: SpanNotes | None = None
    """For the call's span; None if the gateway sends none."""
    key: KeyChoice | None = None
    """The key in use, if it is not the one that the call began with."""
    failed: tuple[ReceiptAttempt, ...] = ()
    """The attempts that were followed by another one."""
    refused: tuple[str, ...] = ()
    """The IDs of the keys that were refused or rate limited."""


class Admitted(Priced, frozen=True):
    """The call may go to the provider: its hold is durable, or it needs none."""

    held: Held | None
    """None if nothing is to be charged."""
    attempts: Attempts
    counts: bool
    """Whether nothing is charged, but the cost counts in spend limits: an empty hold reserves it there."""

    def may_hold(self, outcome: str) -> bool:
        return self.held is not None or self.counts

    @property
    def long_hold(self) -> Held | None:
        """The hold, if the work continues after the request has been answered: it is then that of a long call."""
        long = self.context.call.object is not None or (self.terms is not None and self.terms.parsed.background)
        return self.held if long else None

    @property
    def long_kind(self) -> str:
        """The kind of the object that continued work is done for."""
        return "response" if self.terms is None else getattr(self.terms.wire, "long_kind", "response")

    @property
    def key_id(self) -> str:
        """ID of the key that the call uses; empty for the caller's own key."""
        return self.context.call.key_id if self.attempts.key is None else self.attempts.key.key_id


class Responded(Admitted, frozen=True):
    """The head of the response has arrived, and may be passed on."""

    response: UpstreamResponse
    logged: LoggedBody
    """What is kept of the body for the log."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The call has ended: its charge and its record are durable."""

    verdict: Verdict | None
    """The ledger's verdict; None if nothing was held, the charge is in the journal, or the hold was charged like that
    of a call in doubt."""
    usage: Usage = {}
    """The usage that was charged."""


Stage: TypeAlias = Received | Priced | Admitting | Admitted | Responded
"""The stages at which a call can end early."""
