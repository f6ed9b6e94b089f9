"""What all kinds of deliveries have in common (calls.exports.log_push, calls.exports.meter_events,
calls.exports.classify): which gateways have something waiting, when a failed delivery is retried, and who is
notified."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Final

import structlog

from farebox import backoff
from farebox.calendar import MINUTE_MS, SECOND_MS
from farebox.runtime.leases import run_exclusive
from farebox.runtime.observers import best_effort
from farebox.runtime.services import Services
from farebox.storage.account_keys import key_of
from farebox.storage.exports import (
    ExportState,
    GatewayKey,
    Kind,
    delete_state,
    find_state,
    forget_waiting,
    gateways_waiting,
    put_state,
)
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection

ACCOUNTS_AT_ONCE: Final = 8
"""Each account has one delivery at a time, so that a destination that hangs occupies one of these places."""
TOLD_AFTER: Final = 5
"""Number of failures in a row after which the owner is notified: a few minutes."""
_PAUSES_MS: Final = (10 * SECOND_MS, 10 * MINUTE_MS)
_ROUND_SECONDS: Final = 60.0
"""Seconds after which a round starts no further delivery."""
_LEASE_MS: Final = 3 * MINUTE_MS
"""Longer than a round with its last deliveries. After a process dies, deliveries are delayed by this long."""

log = structlog.get_logger("farebox.exports")

Deliver = Callable[[Services, GatewayKey, float], Awaitable[bool]]
"""Delivers what waits for one gateway, until this time on the monotonic clock. Returns whether there was no failure."""


async def deliver_all(services: Services, kind: Kind, *, every_ms: int, deliver: Deliver) -> None:
    """Deliver what waits for all gateways, unless another process is doing it, or has just done it."""
    if not await services.database.scan(partial(gateways_waiting, kind=kind)):
        return

    async def job(_: Services) -> None:
        await _accounts(services, await services.database.scan(partial(gateways_waiting, kind=kind)), deliver)

    await run_exclusive(services, kind, every_ms=every_ms, job=job, lease_ms=_LEASE_MS, retry_ms=0)


async def _accounts(services: Services, gateways: Sequence[GatewayKey], deliver: Deliver) -> None:
    room, until = asyncio.Semaphore(ACCOUNTS_AT_ONCE), services.clock.monotonic() + _ROUND_SECONDS

    async def of_account(some: list[GatewayKey]) -> None:
        async with room:
            for gateway in some:
                with best_effort("exports"):
                    if not await deliver(services, gateway, until):
                        return  # the account's other gateways have the same destination

    by_account = groupby(gateways, key=lambda gateway: gateway.account_id)
    await asyncio.gather(*(of_account(list(some)) for _, some in by_account))


def record_success(connection: Connection, gateway: GatewayKey, kind: Kind, at: int, *, batch: str = "") -> None:
    """Record a successful delivery; `batch` is the batch under way now."""
    put_state(connection, gateway.account_id, ExportState(gateway.gateway_id, kind, delivered_at=at, batch=batch))


def record_failure(
    connection: Connection, gateway: GatewayKey, kind: Kind, error: str, at: int, *, retry_after: float = 0.0
) -> None:
    """Record a failed attempt; after TOLD_AFTER in a row the owner is notified. `retry_after`: seconds that the
    receiver asks to wait."""
    before = find_state(connection, gateway, kind)
    failures, since = before.failures + 1, before.failing_at or at
    pause = max(backoff.doubling(failures, *_PAUSES_MS), round(retry_after * 1000))
    state = replace(before, failures=failures, failing_at=since, next_at=at + pause, error=error)
    put_state(connection, gateway.account_id, state)
    if failures == TOLD_AFTER:
        content = {"gateway_id": gateway.gateway_id, "what": WHAT[kind], "error": error, "since_at": since}
        notice_id = f"export_failing:{kind}:{gateway.gateway_id}:{since}"
        add_notice(connection, *key_of(connection, gateway.account_id), notice_id, "export_failing", content, at)


WHAT: Final[dict[Kind, str]] = {"push": "logpush", "meter": "stripe", "classify": "log_classification"}
"""The gateway's field that configures each kind of delivery."""


async def forget(services: Services, gateway: GatewayKey, kind: Kind, pause: float) -> None:
    """Delete what waits, because the gateway no longer asks for deliveries or is gone."""
    while await services.database.write(partial(forget_waiting, gateway=gateway, kind=kind)):
        await services.clock.sleep(pause)
    await services.database.write(partial(delete_state, gateway=gateway, kind=kind))


def log_failure(gateway: GatewayKey, kind: Kind, error: str) -> None:
    """Log the failure for the operator."""
    account, gateway_id = gateway.account_id, gateway.gateway_id
    log.warning("export failed", account=account, gateway=gateway_id, what=WHAT[kind], why=error)
