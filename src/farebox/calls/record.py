"""The record of a call: its log row, its receipt and its canonical log line."""

import msgspec
import structlog
from msgspec.structs import asdict

from farebox.calls.model import Call, SpanNotes
from farebox.calls.price import PricedUsage
from farebox.ledger.commands import CallWritten, Verdict
from farebox.logs import write_line
from farebox.money import ceil_div
from farebox.pricing.custom_provider_costs import CUSTOM_COST
from farebox.pricing.model import Estimate, Markup, ModelPrice
from farebox.pricing.receipt import Receipt, ReceiptAttempt, ReceiptParts, make_receipt
from farebox.pricing.stored_receipt import stored_of
from farebox.runtime.verdicts import notes_of
from farebox.screened import Screened
from farebox.storage.calls import CLASSIFY, METER, PUSH, CallDetail, CallRow

_COST_MAX = 2**53 - 1
"""Maximum cost in nano-dollars in the log and in spend limits: with custom providers, the account states the prices and
its provider the usage, and the product of the two could exceed what the columns hold."""

log = structlog.get_logger("farebox.calls")


class CallOutcome(msgspec.Struct):
    """How a call ended, as far as its record needs that."""

    outcome: str
    """charged, free, own_key, released, refused."""
    status: int
    duration_ms: int
    first_byte_ms: int | None = None
    hold_ms: int | None = None
    response_type: str = ""
    response_size: int = 0
    response_body: bytes | None = None
    request_body: bytes | None = None
    """The request's and the response's body, as far as the log keeps them."""
    model: str = ""
    error: str = ""
    cause: str = ""
    """The name of the error that was returned, if any."""
    cached: bool = False
    """The response came from the gateway's cache."""
    notes: SpanNotes | None = None
    """For the call's span; None if there is no span, or no request was made."""
    attempts: tuple[ReceiptAttempt, ...] = ()
    """Empty if there was only one attempt, in a request without earlier steps."""
    dlp_action: str = ""
    screened: Screened | None = None
    """What screening has found."""


class CallLine(msgspec.Struct, omit_defaults=True):
    """The canonical log line of a call (logs.StructuredLine)."""

    log_id: str
    account: str
    gateway: str
    provider: str
    model: str
    path: str
    status: int
    outcome: str
    charge_nanos: int
    hold_nanos: int
    usage: str
    ms: int
    event: str
    level: str
    timestamp: str
    client: str | None = None
    error: str | None = None
    policy: str | None = None
    first_byte_ms: int | None = None
    cached: bool = False
    dlp: str | None = None


class CallRecord(msgspec.Struct, CallWritten):
    """The record, written in the commit that ends the hold, so that there is no charge without its receipt."""

    call: Call
    ended: CallOutcome
    priced: PricedUsage
    price: ModelPrice | None
    markup: Markup | None
    bound: Estimate | None
    known_receipt: bytes | None = None
    """The stored receipt, if it is the same for all calls of this kind."""

    @property
    def at(self) -> int:
        """When the call began: it is counted in that hour."""
        return self.call.started_at

    def row(self, verdict: Verdict) -> CallRow:
        """The call's row, with the charge by the ledger's verdict."""
        call, ended, usage = self.call, self.ended, self.priced.usage
        tokens_in, tokens_out = usage.get("input_tokens"), usage.get("output_tokens")
        model = ended.model or call.model
        cost_nanos = self.cost_nanos
        return CallRow(
            call.account_id,
            call.log_id,
            call.gateway_id,
            call.started_at,
            call.provider,
            model,
            ended.status < 400 and not ended.error,
            ended.status,
            ended.duration_ms,
            tokens_in if isinstance(tokens_in, int) else None,
            tokens_out if isinstance(tokens_out, int) else None,
            cost_nanos,
            verdict.amount,
            self._detail(),
            self._stored(verdict, model, cost_nanos) if self.known_receipt is None else self.known_receipt,
            call.logged,
            ended.request_body,
            ended.response_body,
            0 if call.gateway.is_plain else self._exports(),
        )

    @property
    def success(self) -> bool:
        return self.ended.status < 400 and not self.ended.error

    @property
    def cost_nanos(self) -> int:
        """What the call costs at the provider, rounded up, as the log and the span show it."""
        if self.call.custom_cost is not None:
            return min(self.call.custom_cost.nanos(self.priced.usage), _COST_MAX)
        cost = self.priced.cost
        return 0 if cost is None else min(ceil_div(cost.numerator, cost.denominator), _COST_MAX)

    @property
    def counts(self) -> int:
        """What counts in spend limits if the caller's own key pays: the call's cost, else the estimate."""
        cost = self.priced.cost
        return self.priced.charge if cost is None else min(ceil_div(cost.numerator, cost.denominator), _COST_MAX)

    def _stored(self, verdict: Verdict, model: str, cost_nanos: int) -> bytes:
        """The receipt as it is stored in a row with this model and cost."""
        return stored_of(model, cost_nanos, self.call.model, self.priced.source, *self._parts(verdict))

    def receipt(self, verdict: Verdict) -> Receipt:
        """The complete receipt, for the journal."""
        call = self.call
        return make_receipt(
            call.log_id,
            call.account_id,
            call.gateway_id,
            call.provider,
            call.model,
            self.ended.outcome,
            self.priced.source,
            verdict.amount,
            *self._parts(verdict),
        )

    def _parts(self, verdict: Verdict) -> ReceiptParts:
        """The parts of a receipt that are not in a column of the call's row."""
        priced = self.priced
        return (
            priced.usage,
            self.price,
            priced.cost,
            self.markup,
            0 if self.bound is None else self.bound.amount,
            verdict.written_off,
            priced.policy,
            (*priced.notes, *notes_of(verdict)),
            priced.stated_usd,
            priced.computed_nanos,
            self.ended.attempts,
        )

    def write_log_line(self, charge: int) -> None:
        """Write the call's canonical log line."""
        call, ended = self.call, self.ended
        line = CallLine(
            call.log_id,
            call.account_id,
            call.gateway_id,
            call.provider,
            ended.model or call.model,
            call.path,
            ended.status,
            ended.outcome,
            charge,
            0 if self.bound is None else self.bound.amount,
            self.priced.source,
            ended.duration_ms,
            "call",
            "info",
            "",
            call.client or None,
            ended.error or None,
            self.priced.policy,
            ended.first_byte_ms,
            ended.cached,
            ended.dlp_action or None,
        )
        if not write_line(line):
            values = asdict(line)
            del values["event"], values["level"], values["timestamp"]
            log.info("call", **values)

    def _detail(self) -> CallDetail:
        call, ended = self.call, self.ended
        return CallDetail(  # in the order of the fields, as CallRow
            call.path,
            "" if call.format is None else call.format.name,
            call.content_type,
            ended.response_type,
            ended.outcome,
            ended.error,
            call.step,
            call.metadata,
            call.event_id,
            call.own_key,
            call.gateway.authentication,
            call.user_agent,
            len(call.body),
            ended.response_size,
            call.custom_cost is not None or (self.price is not None and self.price.version.startswith(CUSTOM_COST)),
            ended.first_byte_ms,
            ended.hold_ms,
            _unseen(call),
            call.common_form,
            call.route,
            call.key_alias,
            None,
            None,
            ended.cached,
            call.token_id,
            ended.dlp_action,
            ended.screened,
            None if call.gateway.stripe is None else self._cached_tokens(),
            call.end_user,
        )

    def _exports(self) -> int:
        """What is exported of the call (storage.calls). Stripe gets calls that were paid for, from credit or with a key
        of the account's own, and that the provider answered. The classifier reads the bodies that the log has."""
        call, ended = self.call, self.ended
        exports = PUSH if call.logged and call.gateway.logpush else 0
        if call.gateway.log_classification and ended.request_body and ended.response_body:
            exports |= CLASSIFY if self.success and not ended.cached else 0
        if call.gateway.stripe is not None:
            exports |= METER if ended.outcome == "charged" or (ended.outcome == "own_key" and self.success) else 0
        return exports

    def _cached_tokens(self) -> tuple[int, int]:
        read, write = (self.priced.usage.get(meter) for meter in ("cache_read_tokens", "cache_write_tokens"))
        return read if isinstance(read, int) else 0, write if isinstance(write, int) else 0


def _unseen(call: Call) -> tuple[str, ...]:
    """The names of the kinds of unseen input."""
    if call.parsed is None or not call.parsed.demand.unseen:
        return ()
    return tuple(sorted({unseen.kind for unseen in call.parsed.demand.unseen}))
