"""Long calls: work that a provider continues after it has answered, such as a response in the background.

Their hold outlives the request and the process. How it ends is a table (docs/adr/0026-long-calls.md). The first to see
that the work has ended settles it: the worker, or a request of the account that passes through here. A second time
changes nothing, because the ID of the charge is derived from its cause.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from farebox import backoff
from farebox.calendar import DAY_MS, HOUR_MS
from farebox.calls.admit import HOLD_GRACE_MS
from farebox.calls.endings import CANCELLED
from farebox.calls.long_calls.batches import settle_batch
from farebox.calls.long_calls.work import BatchTerms, as_responded, own_request, stored_work, work_of
from farebox.calls.model import Call
from farebox.calls.ownership import description, objects_of
from farebox.calls.settle import settle_call
from farebox.calls.stages import Admitted, Held, Responded
from farebox.errors import DATABASE_UNAVAILABLE, OBJECT_BUSY, UPSTREAM_INVALID, UPSTREAM_TIMEOUT, Problem
from farebox.ledger.commands import Conflict, Release, Settle
from farebox.ledger.long_holds import adopt_hold, hold_is_open
from farebox.providers.batch_forms import FORMS
from farebox.providers.descriptions import facts_of
from farebox.providers.formats.base import Observed, with_stated
from farebox.providers.formats.readers import BodyReader
from farebox.providers.predictions import FORMS as PREDICTIONS
from farebox.providers.predictions import KINDS as POLLED
from farebox.providers.skimmer import Skimmer
from farebox.providers.upstream import UpstreamFailed
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.runtime.tasks import gather_all
from farebox.storage.account_keys import key_of
from farebox.storage.long_calls import (
    LongCall,
    add_long_call,
    claim_long_call,
    due_long_calls,
    end_long_call,
    find_long_call,
    hasten_long_call,
    list_long_calls,
    postpone_long_call,
    run_long_call,
)
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.stored_objects import find_object, keep_objects

ENDED: Final = frozenset({"completed", "failed", "incomplete", "cancelled"})
"""States in which a response uses nothing more."""
LONG: Final = ("response", "batch", *POLLED)
"""Kinds of objects that can belong to a long call."""
RUNS_MAX_MS: Final = {"response": DAY_MS, "batch": 3 * DAY_MS, **dict.fromkeys(POLLED, DAY_MS)}
"""Time after which Farebox asks the provider to cancel the work. OpenAI ends a batch after a day, and then writes its
output."""
FIRST_POLL_MS: Final = 2_000
POLL_MS: Final = (2_000, 60_000)
"""The pauses between polls: the first, which doubles, and the longest."""
LEASE_MS: Final = 90_000
POLL_SECONDS: Final = 60.0
AT_ONCE: Final = 16
GONE_MS: Final = 10 * 60_000
"""How long a provider may respond that it does not know work that it has accepted."""
REJECTED: Final = frozenset({400, 422})
"""Statuses of a result which show that the model has rejected the request; others, such as 429, are only about fetching
it."""
DOCUMENT_MAX: Final = 64 * 2**20
RESPONSE_MAX: Final = 2**30
"""Maximum bytes of a description, including any videos in it."""

log = structlog.get_logger("farebox.calls")


async def begin(stage: Admitted, held: Held, kind: str, batch: BatchTerms | None = None) -> None:
    """Turn its hold into that of a long call, before the provider is called. Raises Problem (OBJECT_BUSY if another
    request is changing the object that this call changes, or it has changed since the call was priced;
    DATABASE_UNAVAILABLE if the hold has ended, because this process was declared dead), DatabaseUnavailable."""
    context = stage.context
    services, call, now = context.services, context.call, context.services.clock.now_ms()
    ends_at = now + RUNS_MAX_MS[kind]
    long = LongCall(
        call.account_id,
        call.log_id,
        call.gateway_id,
        call.provider,
        kind,
        "",
        call.key_id,
        "asked",
        stored_work(stage, held, batch),
        now,
        ends_at,
        now + services.settings.call_timeout_ms + HOLD_GRACE_MS,
    )

    def job(connection: Connection) -> None:
        _check_unchanged(connection, call, now)
        if not adopt_hold(connection, call.account_id, call.log_id, ends_at + DAY_MS):
            raise Problem(DATABASE_UNAVAILABLE, "The call's hold ended before the provider was asked.")
        add_long_call(connection, long)

    await services.database.write(job)
    context.watch.stay()


def _check_unchanged(connection: Connection, call: Call, now: int) -> None:
    """Raises Problem (OBJECT_BUSY) if the object that the call changes has changed or is being changed: two calls would
    both be priced by its earlier state."""
    if call.parsed is None or not call.parsed.source:
        return
    ((kind, object_id),) = call.parsed.references
    changing = any(
        long.object_id == object_id or (not long.object_id and work_of(long).path.rpartition("/")[2] == object_id)
        for long in list_long_calls(connection, call.account_id)
        if (long.provider, long.kind) == (call.provider, kind)
    )
    kept = find_object(connection, call.account_id, call.gateway_id, call.provider, kind, object_id, now)
    if changing or kept is None or call.parsed.source not in description(kept.content or b"{}").values():
        raise Problem(OBJECT_BUSY, f"{quoted(object_id)} is being changed by another request.")


async def record_accepted(stage: Responded, kind: str, body: bytes) -> LongCall:
    """The provider has accepted the work: record the ID that it gives. Raises Problem (UPSTREAM_INVALID),
    DatabaseUnavailable: the ID is unknown then, and the hold is ended like that of a call in doubt."""
    context = stage.context
    services, call = context.services, context.call
    described = description(body)
    facts = facts_of(call.provider, kind, described, body)
    if facts is None:
        raise Problem(UPSTREAM_INVALID, f"{call.provider} did not return the ID of the work.")
    object_id = facts.object_id
    objects = objects_of(services, call, stage.key_id, kind, described, facts)
    next_at = services.clock.now_ms() + FIRST_POLL_MS

    def job(connection: Connection) -> LongCall | None:
        run_long_call(
            connection, call.account_id, call.log_id, object_id=object_id, key_id=stage.key_id, next_at=next_at
        )
        keep_objects(connection, objects)
        return find_long_call(connection, call.account_id, call.provider, object_id)

    long = await services.database.write(job)
    if long is None:
        raise Problem(UPSTREAM_TIMEOUT, f"{call.provider} took too long to begin; Farebox abandoned it.")
    return long


async def record_refused(stage: Responded) -> None:
    """The provider has not accepted the work, and the hold has ended. If the database is not available, the worker ends
    the row."""
    with suppress(DatabaseUnavailable):
        await end(stage.context.services, stage.context.call.account_id, stage.context.call.log_id)


async def end(services: Services, account_id: str, log_id: str) -> None:
    """The hold has ended: stop polling the work. Raises DatabaseUnavailable."""
    await services.database.write(partial(end_long_call, account_id=account_id, log_id=log_id))


async def long_call_of(services: Services, account_id: str, provider: str, object_id: str) -> LongCall | None:
    """The long call that a provider's object belongs to, if it has not ended. Raises DatabaseUnavailable."""
    return await services.database.get(
        partial(find_long_call, account_id=account_id, provider=provider, object_id=object_id)
    )


async def check_ended(services: Services, account_id: str, provider: str, object_id: str) -> None:
    """Raises Problem (OBJECT_BUSY) if an object that is to be deleted has not been paid for."""
    if await long_call_of(services, account_id, provider, object_id) is not None:
        raise Problem(OBJECT_BUSY, f"{quoted(object_id)} is still being worked on.")


async def process_description(services: Services, long: LongCall, body: bytes) -> bool:
    """Process the provider's description of the work: if it has ended, settle it. Returns whether it had ended. Raises
    DatabaseUnavailable."""
    described = description(body)
    status = described.get("status")
    if long.kind == "batch":
        return await _seen_batch(services, long, described, body)
    if long.kind in POLLED:
        return await _seen_prediction(services, long, described, body)
    if status not in ENDED:
        return False
    stage = await as_responded(services, long, 200, body)
    assert stage.terms is not None
    reader = stage.terms.wire.reader(stage.terms.parsed, streaming=False, hide_usage=False)
    assert isinstance(reader, BodyReader)
    observed = reader.whole(body)
    stage.logged.keep(body)
    stopped = status == "cancelled" and observed.usage is None
    await settle_call(stage, observed, CANCELLED if stopped else None)
    await end(services, long.account_id, long.log_id)
    return True


async def _seen_batch(services: Services, long: LongCall, described: dict[str, Any], body: bytes) -> bool:
    ended = FORMS[long.provider].ended(described) and await settle_batch(services, long, described)
    facts = facts_of(long.provider, "batch", described, body)
    objects = [] if facts is None else objects_of(services, long, long.key_id, "batch", described, facts)

    def job(connection: Connection) -> None:
        keep_objects(connection, objects)
        if ended:
            end_long_call(connection, long.account_id, long.log_id)

    await services.database.write(job)
    return ended


async def _seen_prediction(services: Services, long: LongCall, described: dict[str, Any], body: bytes) -> bool:
    form = PREDICTIONS[long.provider, long.kind]
    if not form.has_ended(described):
        return False
    found = _Found(200, [], body)
    if form.result_apart:
        result = await _fetch(services, long, "GET", _place(long))
        if result is None or not (result.status < 300 or result.status in REJECTED or described.get("error")):
            return False  # the request may have succeeded, and its result may still be available
        found = result
    stage = await as_responded(services, long, found.status, found.body)
    assert stage.terms is not None
    stage.logged.keep(found.body)
    observed = Observed(complete=True, failed=True)
    if found.status < 300:
        parsed = with_stated(stage.terms.parsed, stage.terms.wire, found.headers)
        reader = stage.terms.wire.reader(parsed, streaming=False, hide_usage=False)
        assert isinstance(reader, BodyReader)
        observed = reader.whole(found.body)
    await settle_call(stage, observed, None)
    await end(services, long.account_id, long.log_id)
    return True


def _place(long: LongCall) -> str:
    return PREDICTIONS[long.provider, long.kind].place(work_of(long).path, long.object_id)


async def check_soon(services: Services, long: LongCall) -> None:
    """The work may just have ended: poll it soon. Raises DatabaseUnavailable."""
    await services.database.write(partial(hasten_long_call, call=long, at=services.clock.now_ms()))


async def work(services: Services) -> None:
    """Poll the long calls that are due. Raises DatabaseUnavailable."""
    due = await services.database.scan(partial(due_long_calls, at=services.clock.now_ms(), limit=AT_ONCE))
    if due:
        await gather_all(_claim_and_poll(services, long) for long in due)


async def _claim_and_poll(services: Services, long: LongCall) -> None:
    until = services.clock.now_ms() + LEASE_MS
    claimed = await services.database.write(partial(claim_long_call, call=long, until=until))
    if claimed is not None:
        await poll(services, claimed)


async def poll(services: Services, claimed: LongCall) -> None:
    """Poll once a call that this process has claimed. Raises DatabaseUnavailable."""
    if not await _is_open(services, claimed):
        await end(services, claimed.account_id, claimed.log_id)
        return
    if claimed.state == "asked":  # whether the provider has accepted it is unknown
        await _in_doubt(services, claimed, "the process ended during the request to the provider")
        return
    now = services.clock.now_ms()
    found = await _ask(services, claimed, cancel=now >= claimed.ends_at)
    if found is not None and found.status == 404 and now - claimed.created_at > GONE_MS:
        await _in_doubt(services, claimed, "the provider no longer knows it")
        return
    if found is not None and found.status < 300 and await process_description(services, claimed, found.body):
        return
    if now >= claimed.ends_at + HOUR_MS:
        await _in_doubt(services, claimed, "it took longer than allowed, and could neither be canceled nor settled")
        return
    pause = backoff.doubling(claimed.looks, *POLL_MS)
    await services.database.write(partial(postpone_long_call, claimed=claimed, next_at=now + pause))


class _Found(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


async def _ask(services: Services, long: LongCall, *, cancel: bool) -> _Found | None:
    """The provider's description of the work. `cancel`: ask the provider to cancel it. None if there is no answer."""
    if long.kind in POLLED:
        form, place = PREDICTIONS[long.provider, long.kind], _place(long)
        if cancel and form.cancel is not None:
            await _fetch(services, long, form.cancel[0], place + form.cancel[1])
        if form.asked is not None:
            path, body = form.asked(work_of(long).path, long.object_id)
            return await _fetch(services, long, "POST", path, body)
        return await _fetch(services, long, "GET", place + form.status)
    batch = FORMS[long.provider] if long.kind == "batch" else None
    folder, canceling = ("responses", "/cancel") if batch is None else (batch.folder, batch.cancel)
    path = f"{folder}/{long.object_id}"
    if cancel:
        found = await _fetch(services, long, "POST", path + canceling)
        if found is None or not 400 <= found.status < 500:
            return found
    return await _fetch(services, long, "GET", path)  # also of work that cannot be canceled because it has ended


async def _fetch(services: Services, long: LongCall, method: str, path: str, body: bytes = b"") -> _Found | None:
    """The response to a request of our own, without images and videos in it; None if there is none that can be read."""
    try:
        request = await own_request(services, long.provider, long.key_id, method, path, body)
        async with asyncio.timeout(POLL_SECONDS):
            response = await services.upstream.send(request)
            try:
                skimmer = Skimmer(DOCUMENT_MAX)
                while (chunk := await response.chunk()) is not None:
                    skimmer.feed(chunk)
                    if skimmer.size > RESPONSE_MAX or skimmer.over:
                        log.warning(
                            "long call could not be polled", log_id=long.log_id, provider=long.provider, why="too large"
                        )
                        return None
            finally:
                await response.close()
    except (UpstreamFailed, TimeoutError, Problem) as error:
        log.warning("long call could not be polled", log_id=long.log_id, provider=long.provider, why=str(error))
        return None
    if response.status >= 400:
        log.warning("long call could not be polled", log_id=long.log_id, provider=long.provider, status=response.status)
    return _Found(response.status, response.headers, skimmer.skeleton() or b"")


async def _is_open(services: Services, long: LongCall) -> bool:
    def read(connection: Connection) -> bool:
        key = key_of(connection, long.account_id)
        return hold_is_open(connection, key.bucket, long.account_id, long.log_id)

    return await services.database.get(read)


async def _in_doubt(services: Services, long: LongCall, why: str) -> None:
    """End the hold by the operator's policy, as after a crash."""
    policy, now = services.settings.in_doubt, services.clock.now_ms()
    command: Release | Settle = Release(account_id=long.account_id, hold_id=long.log_id, at=now)
    if policy == "charge":
        held = (await as_responded(services, long, 200, b"")).held
        command = Settle(account_id=long.account_id, hold_id=long.log_id, amount=held.estimate.amount, at=now, note=why)
    try:
        await services.ledger.do(command)
    except Conflict as conflict:  # it has just been settled by the provider's description
        log.warning("charge refused", log_id=long.log_id, why=str(conflict))
    log.warning("call_in_doubt_resolved", account_id=long.account_id, hold_id=long.log_id, policy=policy, why=why)
    await end(services, long.account_id, long.log_id)
