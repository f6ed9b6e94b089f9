"""The end of a call: what it costs, the end of its hold, its record; one commit, on every path."""

from msgspec.structs import replace

from farebox import backoff
from farebox.calls.causes import cause_of
from farebox.calls.counting import may_count, price_by_count
from farebox.calls.price import NOTHING, REPORTED_FAILURE, Ending, Priced, price_response
from farebox.calls.record import CallRecord, Ended, log
from farebox.calls.state import BY_CALLER, CLIENT_GONE, SERVER_STOPPED, CallState
from farebox.calls.stated_cost import by_stated_cost
from farebox.calls.tiers import applied_price, with_further
from farebox.calls.unpaid import count_unpaid
from farebox.errors import DATABASE_UNAVAILABLE, Problem
from farebox.ledger.commands import Conflict, Outcome, Release, Settle, Verdict
from farebox.metrics.families import DISBELIEVED
from farebox.money import NANOS_PER_CENT
from farebox.pricing.estimate import estimate
from farebox.pricing.learned import learn
from farebox.providers.formats.base import Observed
from farebox.runtime.journal_entry import Entry
from farebox.runtime.observers import best_effort, observer_failed
from farebox.runtime.operator_alarms import raise_alarm
from farebox.runtime.services import Services
from farebox.runtime.verdicts import warn_if_unusual
from farebox.storage.journal_files import JournalUnwritable
from farebox.storage.sql import DatabaseUnavailable

CLIENT_CLOSED_STATUS = 499
PERSIST_ATTEMPTS = 5
PERSIST_WAITS_MS = (200, 1_600)
NOT_DURABLE = "database_unavailable (neither it nor the journal took the charge)"
_NO_VERDICT = Verdict(Outcome.UNKNOWN)
_WHOLE = Ending()
COUNT_SECONDS = 2.0
"""How long a server that stops waits for a count, of the five seconds that it has to settle what it cuts off."""


async def settle_call(
    state: CallState, observed: Observed, cut: str | None, *, broken_status: int | None = None
) -> Verdict | None:
    """End a call whose response had begun, by what the response showed. `cut` says why it broke off, or is None;
    `broken_status` is what the client is answered in that case, where not what the provider answered.

    Returns the ledger's verdict, or None where nothing was held, the journal has the charge, or the hold was charged as
    that of a call in doubt. Raises
    DatabaseUnavailable where neither database nor journal takes it: the hold then stays open and is resolved by policy
    when it expires.
    """
    call = state.call
    ended = Ended(
        "own_key" if call.own_key else "free",
        state.status if cut is None else _cut_status(state, cut, broken_status),
        state.elapsed_ms(),
        state.first_byte_ms,
        state.response_type,
        state.size,
        state.kept_body(),
        state.kept_request(),
        observed.model or "",
        cut or (REPORTED_FAILURE if observed.failed else ""),
    )
    priced = NOTHING
    if state.status < 300 and call.parsed is not None and state.price is not None and state.markup is not None:
        priced = await _price(state, observed, cut)
        if state.held is not None and (priced.charge or cut is None):
            ended.outcome = "charged"
            if priced.disbelieved or observed.reference or call.parsed.demand.unseen:
                with best_effort("what is learned"):
                    _learn(state, observed, priced)
    return await _end(state, ended, priced)


def _learn(state: CallState, observed: Observed, priced: Priced) -> None:
    call = state.call
    assert call.parsed is not None
    if priced.disbelieved:
        state.services.metrics.count(DISBELIEVED, call.provider)
        raise_alarm(
            state.services,
            "usage_disbelieved",
            f"{call.provider}/{call.model}",
            why=priced.disbelieved,
            log_id=call.log_id,
            charged_nanos=priced.charge,
        )
    elif priced.source == "provider":
        learn(
            state.services.learned, call.account_id, call.provider, call.parsed.demand, priced.usage, observed.reference
        )


def _cut_status(state: CallState, cut: str, broken_status: int | None) -> int:
    if cut == CLIENT_GONE:
        return CLIENT_CLOSED_STATUS
    return state.status if broken_status is None else broken_status


async def end_without_response(state: CallState, outcome: str, problem: Problem | None = None, error: str = "") -> None:
    """End a call that got no response, or none that is passed on: its hold is given back. Where its caller gave it up
    while the provider was at work, what is certain is charged first: by policy, as of a response of which nothing came.
    """
    ended = Ended(
        outcome,
        status=problem.kind.status if problem else state.status or CLIENT_CLOSED_STATUS,
        duration_ms=state.elapsed_ms(),
        first_byte_ms=state.first_byte_ms,
        request_body=state.kept_request(),
        error=_named(problem) if problem else error,
        cause=problem.kind.name if problem else "",
    )
    priced = NOTHING
    if state.given_up and state.held is not None:
        priced = await _price(state, Observed(empty=True), state.given_up)
        ended.outcome = "charged" if priced.charge else outcome
        with best_effort("what is left unpaid"):
            count_unpaid(state, priced.charge)
    await _end(state, ended, priced)


def _named(problem: Problem) -> str:
    return f"{problem.kind.name} ({problem.reason})" if problem.reason else problem.kind.name


async def _price(state: CallState, observed: Observed, cut: str | None) -> Priced:
    assert state.call.parsed is not None
    assert state.price is not None
    assert state.markup is not None
    state.price, doubts = applied_price(state, observed)
    bound = state.bound or estimate(state.call.parsed.demand, state.price, state.markup)
    demand, ending = state.call.parsed.demand, _ending(state, cut) if cut or observed.failed else _WHOLE
    if may_count(observed, demand):
        within = COUNT_SECONDS if cut == SERVER_STOPPED else None
        priced = await price_by_count(
            state.services, state.call, observed, state.price, state.markup, bound, ending, within
        )
    else:
        priced = price_response(observed, demand, state.price, state.markup, bound, ending)
    if doubts:
        priced = replace(priced, notes=(*priced.notes, *doubts))
    if observed.further:
        priced = with_further(state, priced, observed, state.price)
    if cut is None and not observed.failed:
        priced = by_stated_cost(state, priced, observed, state.price, state.markup)
    if priced.notes:
        with best_effort("the log"):
            log.warning(
                "usage in question", log_id=state.call.log_id, provider=state.call.provider, notes=list(priced.notes)
            )
    return priced


def _ending(state: CallState, cut: str | None) -> Ending:
    return Ending(
        cut=cut,
        by_client=cut in BY_CALLER,
        seconds=state.elapsed_ms() / 1000,
        policy=state.services.settings.cut_stream,
    )


async def _end(state: CallState, ended: Ended, priced: Priced) -> Verdict | None:
    call, services = state.call, state.services
    record = CallRecord(call, ended, priced, state.price, state.markup, state.bound)
    now, began = services.clock.now_ms(), services.clock.monotonic()
    command: Settle | Release | None = None
    if state.hold_asked and ended.outcome == "charged":
        command = Settle(account_id=call.account_id, hold_id=call.log_id, amount=priced.charge, at=now, record=record)
    elif state.hold_asked:
        command = Release(account_id=call.account_id, hold_id=call.log_id, at=now, record=record)
    verdict = await _persist(state, command, record, now)
    # It is durable: from here on nothing may raise, or the client would be told to try again, and pay again.
    try:
        services.metrics.settle_took(services.clock.monotonic() - began)
        services.metrics.call_ended(
            call.provider,
            ended.outcome,
            cause=cause_of(ended),
            duration_ms=ended.duration_ms,
            first_byte_ms=ended.first_byte_ms,
        )
    except Exception as error:  # noqa: BLE001 - the charge is durable
        observer_failed("the metrics", error)
    if verdict is None:
        with best_effort("the log"):
            record.say(priced.charge if ended.outcome == "charged" else 0)
        return None
    held = command is not None and verdict.outcome is not Outcome.UNKNOWN
    if held:
        try:
            services.waiters.wake(call.account_id)
        except Exception as error:  # noqa: BLE001 - the charge is durable
            observer_failed("those who wait", error)
        try:
            services.unpaid.paid(call.account_id, verdict.amount)
        except Exception as error:  # noqa: BLE001 - as above
            observer_failed("what is left unpaid", error)
    try:
        if held or isinstance(command, Settle):  # a hold that is unknown had been acknowledged
            overrun = held and state.bound is not None and verdict.amount > state.bound.amount
            warn_if_unusual(call.log_id, verdict, overrun=overrun)
        record.say(verdict.amount if held else 0)
    except Exception as error:  # noqa: BLE001 - the charge is durable
        observer_failed("the log", error)
    if held and verdict.written_off:
        with best_effort("overruns"):
            _count_write_off(state, verdict.written_off, now)
    return verdict if held else None


def _count_write_off(state: CallState, amount: int, now: int) -> None:
    services, call = state.services, state.call
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


async def _persist(state: CallState, command: Settle | Release | None, record: CallRecord, now: int) -> Verdict | None:
    """Make the end of the call durable: in the database or, if that is unavailable, in the journal.

    Returns the ledger's verdict; UNKNOWN if there is no hold, and None if the journal has it, or the hold was charged
    as one in doubt. Raises DatabaseUnavailable if neither accepts it.
    """
    services = state.services
    attempt = 1
    while True:
        try:
            services.database.check()
            return await _in_database(services, command, record)
        except Conflict as conflict:  # taken for dead meanwhile, and charged in full: the response is paid for
            with best_effort("the log"):
                log.error("charge refused", log_id=state.call.log_id, account=state.call.account_id, why=str(conflict))
            return None
        except DatabaseUnavailable as error:
            services.database.suspect(error)
            try:
                await _in_journal(services, command, record, now)
                return None
            except JournalUnwritable as full:
                with best_effort("the log"):
                    log.error("journal unwritable", why=str(full))
            if not isinstance(command, Settle):  # no money is taken: the call need not wait for the disk
                if _keep_in_memory(state, command, record, now):
                    return None
                raise
            if attempt == PERSIST_ATTEMPTS:
                _keep_in_memory(state, command, record, now)
                raise
        await services.clock.sleep(backoff.doubling(attempt, *PERSIST_WAITS_MS) / 1000)
        attempt += 1


def _keep_in_memory(state: CallState, command: Settle | Release | None, record: CallRecord, now: int) -> bool:
    """Neither database nor journal takes the end of the call: whether it is kept in mind, and ends the hold as soon as
    one of them does. A response whose charge is kept no better than this is not completed; it is in doubt, as after a
    crash, and charged or not by the same rule."""
    services = state.services
    if isinstance(command, Settle) and services.settings.in_doubt == "release":
        command = Release(account_id=command.account_id, hold_id=command.hold_id, at=now, record=None)
        ended = replace(record.ended, outcome="released", status=DATABASE_UNAVAILABLE.status, error=NOT_DURABLE)
        record = replace(record, ended=ended)
    kept = services.journal is not None and services.journal.remember(_entry(command, record, now))
    with best_effort("the log"):
        say = log.error if kept else log.critical
        say("hold left open", log_id=state.call.log_id, account=state.call.account_id, kept_in_memory=kept)
    return kept


async def _in_database(services: Services, command: Settle | Release | None, record: CallRecord) -> Verdict:
    """The same command again is harmless."""
    verdict = Verdict(Outcome.UNKNOWN) if command is None else await services.ledger.do(command)
    if verdict.outcome is Outcome.UNKNOWN:  # nothing was to be held; or the wait for it broke off, and it was refused
        await services.ledger.record(record.call.account_id, record)
    return verdict


async def _in_journal(services: Services, command: Settle | Release | None, record: CallRecord, now: int) -> None:
    if services.journal is None:
        raise JournalUnwritable("this process keeps no journal")
    await services.journal.add(_entry(command, record, now))


def _entry(command: Settle | Release | None, record: CallRecord, at: int) -> Entry:
    """The entry of a call that ended at `at` with this command and record."""
    settle = command if isinstance(command, Settle) else None
    return Entry(
        ends="nothing" if command is None else "release" if settle is None else "settle",
        at=at if command is None else command.at,
        amount=0 if settle is None else settle.amount,
        note="" if settle is None else settle.note,
        call=replace(record.row(_NO_VERDICT), receipt=None),
        receipt=record.receipt(_NO_VERDICT),
    )
