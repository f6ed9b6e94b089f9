"""The end of a call: its price, the end of its hold, and its record, in one commit, on every path."""

from msgspec.structs import replace

from farebox.calls.attempts import record_attempts
from farebox.calls.causes import cause_of
from farebox.calls.counting import may_count, price_by_count
from farebox.calls.endings import (
    BALANCE_ENDED,
    BY_CALLER,
    CLIENT_CLOSED_STATUS,
    CLIENT_GONE,
    SERVER_STOPPED,
    Ending,
)
from farebox.calls.exports.spans import queue_span
from farebox.calls.key_selection import note_use
from farebox.calls.logged_body import LoggedBody, logged_request, logged_response
from farebox.calls.model import Call
from farebox.calls.ownership import keep_handed_out
from farebox.calls.persist import persist
from farebox.calls.price import NOTHING, REPORTED_FAILURE, PricedUsage, ResponseEnding, price_response
from farebox.calls.record import CallOutcome, CallRecord, log
from farebox.calls.screening.findings import Findings
from farebox.calls.spending.rules import may_count as counts_somewhere
from farebox.calls.stages import Admitted, Attempts, CallContext, Priced, Received, Responded, Settled, Terms
from farebox.calls.stated_cost import by_stated_cost
from farebox.calls.tiers import applied_price, with_further
from farebox.calls.unpaid import count_unpaid
from farebox.errors import Problem
from farebox.ledger.commands import UNKNOWN, Release, Settle, Verdict
from farebox.metrics.families import IMPLAUSIBLE_USAGE
from farebox.money import NANOS_PER_CENT
from farebox.pricing.estimate import estimate
from farebox.pricing.learned import learn
from farebox.pricing.model import Markup, ModelPrice
from farebox.pricing.stored_receipt import stored_of
from farebox.providers.formats.base import Observed
from farebox.runtime.observers import best_effort, observer_failed
from farebox.runtime.operator_alarms import raise_alarm
from farebox.runtime.services import Services
from farebox.runtime.verdicts import warn_if_unusual

COUNT_SECONDS = 2.0
"""How long a stopping server waits for a token count, of the five seconds that it has to settle the calls it cuts
off."""
_WHOLE = ResponseEnding()
_NO_ATTEMPTS = Attempts()
_FROM_CACHE = replace(NOTHING, usage={"input_tokens": 0, "output_tokens": 0}, notes=("from the gateway's cache",))
_RECEIPT_OF_HIT = stored_of(
    "", 0, "", _FROM_CACHE.source, _FROM_CACHE.usage, None, None, None, 0, 0, None, _FROM_CACHE.notes, None, None, ()
)
"""The receipt of every hit that states no prices of the caller's own."""


async def settle_call(
    stage: Responded,
    observed: Observed,
    interruption: str | None,
    *,
    broken_status: int | None = None,
    blocked: Problem | None = None,
) -> Settled:
    """End a call whose response had begun, by what the response showed. `interruption`: why it broke off, if it did;
    `broken_status`: the status that the client gets in that case, if it is not the provider's. `blocked`: the error
    that the client gets, by the gateway's rules, in place of the response or of the rest of it.

    Raises DatabaseUnavailable if neither database nor journal accepts it: the hold then stays open and is resolved by
    policy when it expires.
    """
    context, call, logged, terms = stage.context, stage.context.call, stage.logged, stage.terms
    ended = CallOutcome(
        "own_key" if call.own_key else "free",
        stage.response.status if interruption is None else _interrupted_status(stage, interruption, broken_status),
        context.elapsed_ms(),
        stage.attempts.first_byte_ms,
        stage.attempts.hold_ms,
        logged.response_type,
        logged.size,
        logged_response(context.services, call, logged),
        logged_request(context.services, call),
        observed.model or "",
        (interruption if interruption != BALANCE_ENDED else "") or (REPORTED_FAILURE if observed.failed else ""),
        notes=stage.attempts.notes,
    )
    if blocked is not None:
        _block(ended, blocked)
    hold = stage.held is not None or stage.counts
    if terms is None or stage.response.status >= 300:
        price = None if terms is None else terms.price
        return await end_call(stage, ended, _unpriced(stage, observed), price, hold=hold)
    priced, price = await _price(stage, terms, observed, interruption)
    if stage.attempts.given_up:
        with best_effort("what is left unpaid"):
            count_unpaid(stage, priced.charge)
    if stage.held is not None and (priced.charge or interruption is None):
        ended.outcome = "charged"
        if priced.implausible or observed.reference or terms.parsed.demand.unseen:
            with best_effort("what is learned"):
                _learn(context, terms, observed, priced)
    settled = await end_call(stage, ended, priced, price, hold=hold)
    if observed.handed_out and not call.own_key:
        await keep_handed_out(context.services, call, stage.key_id, observed.handed_out)
    return settled


def _unpriced(stage: Responded, observed: Observed) -> PricedUsage:
    """A price of nothing; the usage is logged if the caller has stated prices for it."""
    logged = stage.context.call.custom_cost is not None and stage.response.status < 300 and observed.usage is not None
    return replace(NOTHING, source="provider", usage=observed.usage or {}) if logged else NOTHING


async def end_without_response(stage: Received, end: Ending, problem: Problem | None = None) -> None:
    """End a call without a response, or with one that is not passed on, and release its hold. If the caller gave up
    while the provider was working, what is certain is charged first: by policy, as for a response of which nothing
    arrived.
    """
    attempts = stage.attempts if isinstance(stage, Admitted) else _NO_ATTEMPTS
    ended = CallOutcome(
        end.outcome,
        status=problem.kind.status if problem else attempts.status or end.status,
        duration_ms=stage.context.elapsed_ms(),
        first_byte_ms=attempts.first_byte_ms,
        hold_ms=attempts.hold_ms,
        request_body=logged_request(stage.context.services, stage.context.call),
        error=_named(problem) if problem else end.error,
        cause=problem.kind.name if problem else "",
        notes=attempts.notes,
    )
    terms = stage.terms if isinstance(stage, Priced) else None
    priced, price = NOTHING, None if terms is None else terms.price
    given_up = isinstance(stage, Admitted) and stage.held is not None and bool(attempts.given_up)
    if given_up and isinstance(stage, Admitted) and terms is not None:
        priced, price = await _price(stage, terms, Observed(empty=True), attempts.given_up)
        ended.outcome = "charged" if priced.charge else end.outcome
        with best_effort("what is left unpaid"):
            count_unpaid(stage, priced.charge)
    await end_call(stage, ended, priced, price, hold=stage.may_hold(end.outcome))


def end_hit(
    services: Services,
    call: Call,
    logged: LoggedBody,
    duration_ms: int = 0,
    findings: Findings | None = None,
    blocked: Problem | None = None,
) -> CallRecord:
    """End a call that was answered with a response from the cache, or with an error in its place: it used nothing, and
    costs nothing. The caller must still write the record (calls.hit_records)."""
    ended = CallOutcome(
        "free",
        200,
        duration_ms,
        response_type=logged.response_type,
        response_size=logged.size,
        response_body=logged_response(services, call, logged),
        request_body=logged_request(services, call),
        cached=True,
    )
    if blocked is not None:
        _block(ended, blocked)
        ended.outcome = "refused"
    if findings is not None:
        _add_findings(ended, findings)
    receipt = _RECEIPT_OF_HIT if call.custom_cost is None else None
    record = CallRecord(call, ended, _FROM_CACHE, None, None, None, receipt)
    _count(services, call, ended, None)
    _write_log(record, None, settled=False, ended_hold=False)
    if call.gateway.otel is not None:
        with best_effort("spans"):
            queue_span(services, record, 0)
    return record


def _block(ended: CallOutcome, problem: Problem) -> None:
    """Record that a rule of the gateway blocked the response."""
    ended.status, ended.error, ended.cause = problem.kind.status, _named(problem), problem.kind.name


def _add_findings(ended: CallOutcome, findings: Findings) -> None:
    ended.dlp_action, ended.screened = findings.dlp_action, findings.screened()


def _learn(context: CallContext, terms: Terms, observed: Observed, priced: PricedUsage) -> None:
    call, services = context.call, context.services
    if priced.implausible:
        services.metrics.count(IMPLAUSIBLE_USAGE, call.provider)
        raise_alarm(
            services,
            "usage_disbelieved",
            f"{call.provider}/{call.model}",
            why=priced.implausible,
            log_id=call.log_id,
            charged_nanos=priced.charge,
        )
    elif priced.source == "provider":
        demand = terms.parsed.demand
        learn(services.learned, call.account_id, call.provider, demand, priced.usage, observed.reference)


def _interrupted_status(stage: Responded, interruption: str, broken_status: int | None) -> int:
    if interruption == CLIENT_GONE:
        return CLIENT_CLOSED_STATUS
    return stage.response.status if broken_status is None else broken_status


def _named(problem: Problem) -> str:
    return f"{problem.kind.name} ({problem.reason})" if problem.reason else problem.kind.name


async def _price(
    stage: Admitted, terms: Terms, observed: Observed, interruption: str | None
) -> tuple[PricedUsage, ModelPrice]:
    """What the response costs, and the price that the provider applied."""
    context, demand, markup = stage.context, terms.parsed.demand, terms.markup
    price, doubts = applied_price(context, terms, observed)
    bound = estimate(demand, price, markup) if stage.held is None else stage.held.estimate
    ending = _ending(context, interruption) if interruption or observed.failed else _WHOLE
    if context.call.access.custom is not None:  # only for the log, and the model's tokenizer is unknown here
        priced = price_response(observed, demand, price, markup, bound, replace(ending, rough=True))
    elif may_count(observed, demand):
        priced = await price_by_count(
            context.services,
            context.call,
            observed,
            demand,
            price,
            markup,
            bound,
            ending,
            COUNT_SECONDS if interruption == SERVER_STOPPED else None,
        )
    else:
        priced = price_response(observed, demand, price, markup, bound, ending)
    if doubts:
        priced = replace(priced, notes=(*priced.notes, *doubts))
    if observed.further:
        priced = with_further(context, terms, priced, observed, price, None if stage.held is None else bound)
    if interruption is None and not observed.failed and (observed.stated_usd is not None or price.bounded):
        priced = by_stated_cost(context, priced, observed, price, markup)
    if priced.notes:
        with best_effort("the log"):
            call = context.call
            log.warning("usage in question", log_id=call.log_id, provider=call.provider, notes=list(priced.notes))
    return priced, price


def _ending(context: CallContext, interruption: str | None) -> ResponseEnding:
    return ResponseEnding(
        interruption=interruption,
        by_client=interruption in BY_CALLER,
        seconds=context.elapsed_ms() / 1000,
        policy="delivered" if interruption == BALANCE_ENDED else context.services.settings.cut_stream,
    )


async def end_call(
    stage: Received,
    ended: CallOutcome,
    priced: PricedUsage,
    price: ModelPrice | None,
    *,
    hold: bool,
    markup: Markup | None = None,
) -> Settled:
    """Write the end of the call. `hold`: whether there may be a hold to end. Raises DatabaseUnavailable as
    `settle_call` does."""
    context = stage.context
    call, services = context.call, context.services
    attempts, bound, held = None, None, None
    if isinstance(stage, Admitted):
        attempts = stage.attempts
        if stage.held is not None:
            bound = stage.held.estimate
            held = bound.amount if context.plain and stage.held.part is None else None  # unchanged, and in no budget
        if (key := attempts.key) is not None:
            call = replace(call, key_id=key.key_id, key_alias=key.alias)
    markup = markup if stage.markup is None else stage.markup
    if context.screening is not None:
        _add_findings(ended, context.screening.findings)
    if call.trail is not None or (attempts is not None and attempts.failed):
        record_attempts(stage, ended)
    record = CallRecord(call, ended, priced, price, markup, bound)
    now, began = services.clock.now_ms(), services.clock.monotonic()
    command: Settle | Release | None = None
    if hold and ended.outcome == "charged":
        command = Settle(
            account_id=call.account_id, hold_id=call.log_id, amount=priced.charge, at=now, record=record, held=held
        )
    elif hold and call.own_key and (counts := record.counts):
        command = Settle(
            account_id=call.account_id, hold_id=call.log_id, amount=0, at=now, record=record, counts=counts
        )
    elif hold:
        command = Release(account_id=call.account_id, hold_id=call.log_id, at=now, record=record)
    verdict = await persist(services, command, record, now)
    # The end is durable: from here on nothing may raise, or the client would retry and pay again.
    ended_hold = verdict is not None and command is not None and verdict.outcome is not UNKNOWN
    _count(services, call, ended, services.clock.monotonic() - began)
    if attempts is not None and (attempts.status or attempts.given_up):
        note_use(services, call, call.key_id, now)
    if ended_hold and verdict is not None:
        _notify_others(context, verdict, now)
    _write_log(record, verdict, settled=isinstance(command, Settle), ended_hold=ended_hold)
    if call.gateway.otel is not None:
        with best_effort("spans"):
            queue_span(services, record, _charged(record, verdict, ended_hold=ended_hold))
    return Settled(verdict if ended_hold else None, priced.usage)


def _count(services: Services, call: Call, ended: CallOutcome, seconds: float | None) -> None:
    """Update the metrics; `seconds` is how long the ledger took, if the call waited for it. Raises nothing."""
    try:
        if seconds is not None:
            services.settle_times.note(call.log_id, seconds)
            services.metrics.observe_settle(seconds)
        services.metrics.call_ended(
            call.provider,
            ended.outcome,
            cause=cause_of(ended) if ended.cause or ended.error or ended.status >= 400 else "",
            duration_ms=ended.duration_ms,
            first_byte_ms=ended.first_byte_ms,
        )
    except Exception as error:  # noqa: BLE001 - the charge is durable
        observer_failed("the metrics", error)


def _notify_others(context: CallContext, verdict: Verdict, now: int) -> None:
    """Notify those who are affected by the end of a hold. Raises nothing."""
    services, account_id = context.services, context.call.account_id
    try:
        services.waiters.wake(account_id)
    except Exception as error:  # noqa: BLE001 - the charge is durable
        observer_failed("those who wait", error)
    try:
        services.unpaid.paid(account_id, verdict.amount)
    except Exception as error:  # noqa: BLE001 - as above
        observer_failed("what is left unpaid", error)
    if not context.plain and counts_somewhere(context.call):
        services.spend_watch.touch(account_id)
    if verdict.written_off:
        with best_effort("overruns"):
            _count_write_off(context, verdict.written_off, now)


def _write_log(record: CallRecord, verdict: Verdict | None, *, settled: bool, ended_hold: bool) -> None:
    """Write the call's log line, and another about a hold that did not end as expected. Raises nothing."""
    try:
        if verdict is not None and (ended_hold or settled):  # an unknown hold had been acknowledged
            overrun = ended_hold and record.bound is not None and verdict.amount > record.bound.amount
            warn_if_unusual(record.call.log_id, verdict, overrun=overrun)
        record.write_log_line(_charged(record, verdict, ended_hold=ended_hold))
    except Exception as error:  # noqa: BLE001 - the charge is durable
        observer_failed("the log", error)


def _charged(record: CallRecord, verdict: Verdict | None, *, ended_hold: bool) -> int:
    """What the account pays; if the charge is in the journal, as far as is known."""
    if verdict is None:
        return record.priced.charge if record.ended.outcome == "charged" else 0
    return verdict.amount if ended_hold else 0


def _count_write_off(context: CallContext, amount: int, now: int) -> None:
    services, call = context.services, context.call
    limit = services.settings.overrun_alarm_cents * NANOS_PER_CENT
    day = services.alarms.count_write_off(amount, now)
    if limit and day > limit:
        raise_alarm(
            services,
            "overrun",
            "written off today",
            written_off_nanos=day,
            latest_log_id=call.log_id,
            provider=call.provider,
            model=call.model,
        )
