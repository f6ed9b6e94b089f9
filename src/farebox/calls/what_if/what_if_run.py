"""Running a what-if in a server: one at a time for each account, in steps, off the event loop, and cancelable."""

import asyncio
from functools import partial
from typing import Final

import msgspec
import structlog

from farebox.calendar import HOUR_MS
from farebox.calls.what_if.replay import PAGE, Replay, Report, Scenario, since
from farebox.errors import VALIDATION_FAILED, WHAT_IF_RUNNING, Problem, not_found
from farebox.periods import UTC_NAME
from farebox.runtime.services import Services
from farebox.storage import what_ifs as store
from farebox.storage.account_settings import read_settings
from farebox.storage.call_reports import usage_by_window
from farebox.storage.corrections import count_calls, page_of_calls
from farebox.storage.gateways import can_have_calls
from farebox.storage.what_ifs import WhatIfRow

GONE_MS: Final = 60_000
"""A what-if that was not renewed for this long ended with its process."""
RENEWED_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 10.0
"""How long the request that starts it waits for the report."""
BODY_PAGE: Final = 20
"""Number of calls read at once with the bodies of their requests."""

log = structlog.get_logger("farebox.what_if")


async def begin(services: Services, account_id: str, scenario: Scenario) -> WhatIfRow:
    """Begin a what-if, and wait a moment for its report. Raises Problem: WHAT_IF_RUNNING if the account has one
    running; VALIDATION_FAILED if the gateway of its rules does not exist and has no calls in its log."""
    gateway_id = scenario.gateway_id
    known = partial(can_have_calls, account_id=account_id, gateway_id=gateway_id)
    if scenario.rules and not await services.database.scan(known):
        raise Problem(
            VALIDATION_FAILED,
            f"There is no gateway '{gateway_id[:64]}'",
            path=("body", "gateway_id"),
        )
    what_if_id, at = services.ids.log_id(), services.clock.now_ms()
    put = partial(
        store.begin_what_if,
        account_id=account_id,
        what_if_id=what_if_id,
        scenario=msgspec.json.encode(scenario).decode(),
        at=at,
        gone_before=at - GONE_MS,
    )
    if not await services.database.write(put):
        raise Problem(WHAT_IF_RUNNING, "A what-if of this account is running.", retry_after=int(WAIT_SECONDS))
    task = services.tasks.begin(
        ("what-if", account_id, what_if_id), partial(_run, services, account_id, what_if_id, scenario)
    )
    await asyncio.wait([task], timeout=WAIT_SECONDS)
    return await latest(services, account_id)


async def latest(services: Services, account_id: str) -> WhatIfRow:
    """The account's latest what-if. Raises Problem (NOT_FOUND) if it never had one."""
    found = await services.database.get(partial(store.find_what_if, account_id=account_id))
    if found is None:
        raise not_found()
    if found.state == "running" and found.seen_at < services.clock.now_ms() - GONE_MS:
        return found._replace(state="failed")
    return found


async def cancel(services: Services, account_id: str) -> WhatIfRow:
    """Cancel the account's what-if, if it is running. Raises Problem (NOT_FOUND)."""
    found = await latest(services, account_id)
    end = partial(store.end_what_if, account_id=account_id, what_if_id=found.what_if_id, state="cancelled")
    await services.database.write(end)
    return await latest(services, account_id)


async def _run(services: Services, account_id: str, what_if_id: str, scenario: Scenario) -> None:
    try:
        report = await _replayed(services, account_id, what_if_id, scenario)
    except Exception:
        log.exception("a what-if failed", account=account_id)
        await services.database.write(
            partial(store.end_what_if, account_id=account_id, what_if_id=what_if_id, state="failed")
        )
        raise
    if report is not None:
        shown = msgspec.json.encode(report).decode()
        end = partial(store.end_what_if, account_id=account_id, what_if_id=what_if_id, state="done", report=shown)
        await services.database.write(end)


async def _replayed(services: Services, account_id: str, what_if_id: str, scenario: Scenario) -> Report | None:
    """The report; None if it was canceled."""
    database, clock = services.database, services.clock
    settings = await database.scan(partial(read_settings, account_id=account_id))
    zone = UTC_NAME if settings is None else settings.zone
    first = since(scenario, zone)
    total = await database.scan(partial(count_calls, account_id=account_id, start=scenario.start, end=scenario.end))
    start_hour, end_hour = scenario.start - scenario.start % HOUR_MS, scenario.end
    before = await database.scan(
        partial(usage_by_window, account_id=account_id, start=first, end=start_hour, window_ms=HOUR_MS)
    )
    replay = await asyncio.to_thread(Replay, scenario, account_id, services.configuration.prices, before, zone)
    read = partial(
        page_of_calls, account_id=account_id, start=scenario.start, end=scenario.end, bodies=scenario.reads_bodies,
        limit=BODY_PAGE if scenario.reads_bodies else PAGE,
    )  # fmt: skip
    after, replayed, renewed = "", 0, clock.monotonic() - RENEWED_SECONDS
    while True:
        if clock.monotonic() - renewed >= RENEWED_SECONDS:
            renew = partial(
                store.renew_what_if, account_id=account_id, what_if_id=what_if_id, replayed=replayed, total=total,
                at=clock.now_ms(),
            )  # fmt: skip
            if not await database.write(renew):
                return None
            renewed = clock.monotonic()
        calls = await database.scan(partial(read, after=after))
        if not calls:
            break
        began = clock.monotonic()
        await asyncio.to_thread(replay.feed, calls)
        after, replayed = calls[-1].log_id, replayed + len(calls)
        await clock.sleep(clock.monotonic() - began)  # pause as long as it ran, for everyone else
    spent = await database.scan(
        partial(usage_by_window, account_id=account_id, start=start_hour, end=end_hour, window_ms=HOUR_MS)
    )
    await database.write(
        partial(
            store.renew_what_if, account_id=account_id, what_if_id=what_if_id, replayed=replayed, total=total,
            at=clock.now_ms(),
        )
    )  # fmt: skip
    return await asyncio.to_thread(replay.report, sum(hour.charge for hour in spent))
