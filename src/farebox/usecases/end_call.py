"""The end of a call: what it costs, the end of its hold, its record; one commit, on every path."""

from dataclasses import replace

from farebox.errors import Problem
from farebox.ledger.commands import Outcome, Release, Settle, Verdict
from farebox.pricing.estimate import estimate
from farebox.providers.formats.base import Observed
from farebox.storage.accounts import find_account
from farebox.storage.calls import insert_call
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.usecases.price_answer import NOTHING, REPORTED_FAILURE, Priced, price_answer
from farebox.usecases.record_call import CallRecord, Ended, log
from farebox.usecases.ride import CLIENT_GONE, Ride

CLIENT_CLOSED_STATUS = 499
PERSIST_ATTEMPTS = 5
_STANDARD = ("default", "standard", "auto")
"""Tiers and speeds that are the standard price."""


async def settle_call(
    ride: Ride, observed: Observed, cut: str | None, *, broken_status: int | None = None
) -> Verdict | None:
    """End a call whose answer had begun, by what the answer showed. `cut` says why it broke off, or is None;
    `broken_status` is what the client is answered in that case, where not what the provider answered.

    Returns the ledger's verdict, or None where nothing was held. Raises DatabaseUnavailable: the hold then stays open
    and is resolved by policy when it expires.
    """
    call = ride.call
    ended = Ended(
        outcome="own_key" if call.own_key else "free",
        status=_status(ride, cut, broken_status),
        duration_ms=ride.elapsed_ms(),
        first_byte_ms=ride.first_byte_ms,
        answer_type=ride.answer_type,
        answer_size=ride.size,
        answer_body=ride.kept_body(),
        request_body=ride.kept_request(),
        model=observed.model or "",
        error=cut or (REPORTED_FAILURE if observed.failed else ""),
    )
    priced = NOTHING
    if ride.status < 300 and call.parsed is not None and ride.price is not None and ride.markup is not None:
        priced = _price(ride, observed, cut)
        if ride.held is not None and (priced.charge or cut is None):
            ended.outcome = "charged"
    return await _end(ride, ended, priced)


def _status(ride: Ride, cut: str | None, broken_status: int | None) -> int:
    if cut == CLIENT_GONE:
        return CLIENT_CLOSED_STATUS
    return broken_status if cut is not None and broken_status is not None else ride.status


async def end_without_charge(ride: Ride, outcome: str, problem: Problem | None = None, error: str = "") -> None:
    """End a call that got no answer, or none that is passed on: its hold is given back."""
    ended = Ended(
        outcome=outcome,
        status=problem.kind.status if problem else ride.status or CLIENT_CLOSED_STATUS,
        duration_ms=ride.elapsed_ms(),
        first_byte_ms=ride.first_byte_ms,
        request_body=ride.kept_request(),
        error=problem.kind.name if problem else error,
    )
    await _end(ride, ended, NOTHING)


def _price(ride: Ride, observed: Observed, cut: str | None) -> Priced:
    assert ride.call.parsed is not None
    assert ride.price is not None
    assert ride.markup is not None
    parsed = ride.call.parsed
    demand = parsed.demand
    applied = {**parsed.context, **observed.context}
    standard = ride.price
    if applied:
        ride.price = ride.price_for(applied) or standard
    bound = ride.bound or estimate(demand, ride.price, ride.markup)
    policy = ride.services.settings.cut_stream
    priced = price_answer(observed, demand, ride.price, ride.markup, bound, cut=cut, cut_policy=policy)
    unlisted = [f"{key}={value}" for key, value in applied.items() if value not in _STANDARD]
    if unlisted and ride.price.version == standard.version:
        note = f"the price list has no price for {', '.join(unlisted)}: charged at the standard price"
        priced = replace(priced, notes=(*priced.notes, note))
    if priced.notes:
        log.warning("usage in question", log_id=ride.call.log_id, provider=ride.call.provider, notes=list(priced.notes))
    return priced


async def _end(ride: Ride, ended: Ended, priced: Priced) -> Verdict | None:
    call, services = ride.call, ride.services
    record = CallRecord(call, ended, priced, ride.price, ride.markup, ride.bound)
    if not ride.hold_asked:
        await services.database.write(lambda connection: _insert_alone(connection, record))
        record.say(0)
        return None
    now = services.clock.now_ms()
    command: Settle | Release
    if ended.outcome == "charged":
        command = Settle(account_id=call.account_id, hold_id=call.log_id, amount=priced.charge, at=now, record=record)
    else:
        command = Release(account_id=call.account_id, hold_id=call.log_id, at=now, record=record)
    verdict = await _persist(ride, command)
    if verdict.outcome is Outcome.UNKNOWN:  # the wait for the hold was interrupted, and it was refused
        await services.database.write(lambda connection: _insert_alone(connection, record))
        record.say(0)
        return None
    services.waiters.wake(call.account_id)
    overrun = ride.bound is not None and verdict.amount > ride.bound.amount
    if overrun or verdict.written_off or verdict.late or not verdict.ok:
        log.warning(
            "hold ended unusually",
            log_id=call.log_id,
            verdict=verdict.outcome,
            overrun=overrun,
            written_off_nanos=verdict.written_off,
            late=verdict.late,
            over_limit_nanos=verdict.over_limit,
        )
    record.say(verdict.amount)
    return verdict


async def _persist(ride: Ride, command: Settle | Release) -> Verdict:
    """Send the command until the database takes it. The same command again is harmless."""
    attempt = 1
    while True:
        try:
            return await ride.services.ledger.do(command)
        except DatabaseUnavailable:
            if attempt == PERSIST_ATTEMPTS:
                log.exception("hold left open", log_id=ride.call.log_id, account=ride.call.account_id)
                raise
        await ride.services.clock.sleep(0.1 * 2**attempt)
        attempt += 1


def _insert_alone(connection: Connection, record: CallRecord) -> None:
    account = find_account(connection, record.call.account_id)
    if account is not None:
        insert_call(connection, account.bucket, record.row(Verdict(Outcome.UNKNOWN)))
