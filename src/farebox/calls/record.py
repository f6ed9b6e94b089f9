"""The record of a call: its log row, its receipt and its canonical log line, made from what happened."""

import msgspec
import structlog

from farebox.calls.model import Call
from farebox.calls.price import Priced
from farebox.ledger.commands import Verdict
from farebox.money import ceil_div
from farebox.pricing.model import Estimate, Markup, ModelPrice
from farebox.pricing.receipt import Receipt, make_receipt
from farebox.runtime.verdicts import notes_of
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.sql import Connection

log = structlog.get_logger("farebox.calls")


class Ended(msgspec.Struct, kw_only=True):
    """How a call ended, as far as its record needs it."""

    outcome: str
    """charged, free, own_key, released, refused."""
    status: int
    duration_ms: int
    first_byte_ms: int | None = None
    answer_type: str = ""
    answer_size: int = 0
    answer_body: bytes | None = None
    request_body: bytes | None = None
    """Both bodies as far as the log keeps them."""
    model: str = ""
    error: str = ""
    cause: str = ""
    """The name of the error that was returned, if any."""


class CallRecord(msgspec.Struct):
    """Written in the commit that ends the hold (ledger.commands.Record), so that no charge is without its receipt."""

    call: Call
    ended: Ended
    priced: Priced
    price: ModelPrice | None
    markup: Markup | None
    bound: Estimate | None

    @property
    def at(self) -> int:
        """A call is counted in the hour in which it began."""
        return self.call.started_at

    def write(self, connection: Connection, bucket: int, verdict: Verdict) -> None:
        insert_call(connection, bucket, self.row(verdict))

    def row(self, verdict: Verdict) -> CallRow:
        """The call's row, for what the ledger says was taken."""
        call, ended, cost, charge = self.call, self.ended, self.priced.cost, verdict.amount
        receipt = self.receipt(verdict)
        usage = self.priced.usage
        return CallRow(
            account_id=call.account_id,
            log_id=call.log_id,
            gateway_id=call.gateway_id,
            created_at=call.started_at,
            provider=call.provider,
            model=ended.model or call.model,
            success=ended.status < 400 and not ended.error,
            status_code=ended.status,
            duration=ended.duration_ms,
            tokens_in=_count(usage.get("input_tokens")),
            tokens_out=_count(usage.get("output_tokens")),
            cost=0 if cost is None else ceil_div(cost.numerator, cost.denominator),
            charge=charge,
            detail=self._detail(),
            receipt=msgspec.json.encode(receipt),
            logged=call.logged,
            request_body=ended.request_body,
            response_body=ended.answer_body,
        )

    def receipt(self, verdict: Verdict) -> Receipt:
        return make_receipt(
            log_id=self.call.log_id,
            account_id=self.call.account_id,
            gateway_id=self.call.gateway_id,
            provider=self.call.provider,
            model=self.call.model,
            outcome=self.ended.outcome,
            usage_source=self.priced.source,
            charge_nanos=verdict.amount,
            usage=self.priced.usage,
            price=self.price,
            cost=self.priced.cost,
            markup=self.markup,
            hold_nanos=0 if self.bound is None else self.bound.amount,
            written_off_nanos=verdict.written_off,
            policy=self.priced.policy,
            notes=(*self.priced.notes, *notes_of(verdict)),
            stated_usd=self.priced.stated_usd,
            computed_nanos=self.priced.computed_nanos,
        )

    def say(self, charge: int) -> None:
        """The one canonical log line of the call."""
        call, ended = self.call, self.ended
        log.info(
            "call",
            log_id=call.log_id,
            account=call.account_id,
            gateway=call.gateway_id,
            provider=call.provider,
            model=ended.model or call.model,
            client=call.client or None,
            path=call.path,
            status=ended.status,
            outcome=ended.outcome,
            error=ended.error or None,
            charge_nanos=charge,
            hold_nanos=0 if self.bound is None else self.bound.amount,
            usage=self.priced.source,
            policy=self.priced.policy,
            ms=ended.duration_ms,
            first_byte_ms=ended.first_byte_ms,
        )

    def _detail(self) -> CallDetail:
        call, ended = self.call, self.ended
        return CallDetail(
            path=call.path,
            request_type=call.format.name if call.format else "",
            request_content_type=call.content_type,
            response_content_type=ended.answer_type,
            outcome=ended.outcome,
            error=ended.error,
            step=call.step,
            metadata=call.metadata,
            event_id=call.event_id,
            own_key=call.own_key,
            authenticated=call.gateway.authentication,
            user_agent=call.user_agent,
            request_size=len(call.body),
            response_size=ended.answer_size,
            first_byte_ms=ended.first_byte_ms,
            unseen=_unseen(call),
        )


def _unseen(call: Call) -> tuple[str, ...]:
    """The kinds, by name."""
    if call.parsed is None or not call.parsed.demand.unseen:
        return ()
    return tuple(sorted({unseen.kind for unseen in call.parsed.demand.unseen}))


def _count(quantity: object) -> int | None:
    return quantity if isinstance(quantity, int) else None
