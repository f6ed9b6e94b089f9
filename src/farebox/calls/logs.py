"""What an account's owner can read about calls: log rows, stored bodies, receipts."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from farebox.calendar import HOUR_MS
from farebox.calls.model import Call
from farebox.errors import not_found
from farebox.gateway import DEFAULT_GATEWAY
from farebox.pricing.receipt import Receipt
from farebox.pricing.stored_receipt import whole, with_corrections
from farebox.runtime.services import Services
from farebox.storage import log_totals
from farebox.storage.call_reports import LogPage, LogQuery, find_log, find_log_ids, list_logs
from farebox.storage.calls import CallDetail, CallRow, edit_log, find_receipt, forget_logs
from farebox.storage.corrections import corrections_of
from farebox.storage.sql import Connection, DatabaseUnavailable

_DELETED_AT_ONCE = 200
"""Logs that are deleted in one transaction: calls have to wait for it."""
_LATE_MS = HOUR_MS
"""Added to the longest duration of a call: the hold's extra minute, and a database outage of some length."""


async def exists(services: Services, account_id: str, gateway_id: str) -> bool:
    """Whether calls can go through this gateway; `default` always can be used: its first call creates it."""
    if gateway_id == DEFAULT_GATEWAY:
        return True
    return await services.configuration.gateway(account_id, gateway_id, create=False) is not None


async def check_gateway(services: Services, account_id: str, gateway_id: str) -> None:
    """Raises Problem (NOT_FOUND) if there is no such gateway."""
    if not await exists(services, account_id, gateway_id):
        raise not_found()


async def page(services: Services, account_id: str, gateway_id: str, query: LogQuery) -> LogPage:
    """One page of the gateway's log. Raises Problem (NOT_FOUND): no such gateway."""
    await check_gateway(services, account_id, gateway_id)
    found = await services.database.scan(partial(list_logs, account_id=account_id, gateway_id=gateway_id, query=query))
    if found.counted >= log_totals.KEEP_FROM:
        await _keep_total(services, account_id, gateway_id)
    return found


async def with_room(services: Services, call: Call) -> Call:
    """The call, without logging if the log is full and its gateway has it accept no more."""
    most, key = call.gateway.log_management, (call.account_id, call.gateway_id)
    if most is None or not call.logged:
        return call
    room, now = services.log_room, services.clock.monotonic()
    if room.due(key, now):
        try:
            await services.tasks.shared(("log room", *key), partial(_count_room, services, *key))
        except DatabaseUnavailable:
            return call  # the hourly job removes what is too much
    return call if room.admit(key, most) else replace(call, logged=False)


async def _count_room(services: Services, account_id: str, gateway_id: str) -> None:
    count = partial(log_totals.log_total, account_id=account_id, gateway_id=gateway_id)
    calls, counted = await services.database.scan(count)
    services.log_room.learn((account_id, gateway_id), calls, services.clock.monotonic())
    if counted >= log_totals.KEEP_FROM:
        await _keep_total(services, account_id, gateway_id)


async def _keep_total(services: Services, account_id: str, gateway_id: str) -> None:
    """Store the number of logs that are old enough to be complete, for later reads."""
    database, now = services.database, services.clock.now_ms()
    before = now - services.settings.call_timeout_ms - _LATE_MS
    was, new = await database.scan(
        partial(log_totals.new_total, account_id=account_id, gateway_id=gateway_id, before=before, now=now)
    )
    if new != was:
        keep = partial(log_totals.keep_total, account_id=account_id, gateway_id=gateway_id, was=was, now=new)
        with suppress(DatabaseUnavailable):  # the page is complete without it
            await database.write(keep)


async def one(services: Services, account_id: str, gateway_id: str, log_id: str) -> CallRow:
    """One log row with its stored bodies. Raises Problem (NOT_FOUND)."""
    found = await services.database.scan(partial(find_log, account_id=account_id, gateway_id=gateway_id, log_id=log_id))
    if found is None:
        raise not_found()
    return found


async def edit(
    services: Services, account_id: str, gateway_id: str, log_id: str, changed: Callable[[CallDetail], CallDetail]
) -> CallRow:
    """Replace a log row's detail with what `changed` returns for it, and return the row. Raises Problem (NOT_FOUND)."""

    def write(connection: Connection) -> CallRow | None:
        edit_log(connection, account_id, gateway_id, log_id, changed)
        return find_log(connection, account_id, gateway_id, log_id)

    row = await services.database.write(write)
    if row is None:
        raise not_found()
    return row


async def delete(services: Services, account_id: str, gateway_id: str, query: LogQuery) -> int:
    """Delete the logs that match the query from the gateway's log, and return their number; the receipts stay. Raises
    Problem (NOT_FOUND): no such gateway."""
    await check_gateway(services, account_id, gateway_id)
    find = partial(find_log_ids, account_id=account_id, gateway_id=gateway_id, query=query)
    found = await services.database.scan(find)
    deleted = 0
    for start in range(0, len(found), _DELETED_AT_ONCE):
        some = found[start : start + _DELETED_AT_ONCE]
        forget = partial(forget_logs, account_id=account_id, gateway_id=gateway_id, log_ids=some)
        deleted += await services.database.write(forget)
    services.log_room.forget(account_id, gateway_id)
    return deleted


async def receipt(services: Services, account_id: str, log_id: str) -> Receipt:
    """The receipt of one call; it exists even if the call was not logged. Raises Problem (NOT_FOUND)."""
    found = await services.database.scan(partial(find_receipt, log_id=log_id, account_id=account_id))
    if found is None:
        raise not_found()
    corrected = await services.database.scan(partial(corrections_of, account_id=account_id, log_id=log_id))
    return with_corrections(whole(found), corrected)
