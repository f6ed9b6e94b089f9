"""Periodic jobs of a server: what is due is expired, changed configuration is noticed, old logs go."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog

from farebox.gateway import GatewayConfig
from farebox.ledger.recovery import expire_due
from farebox.storage.calls import forget_logs_above, forget_logs_before, gateways_with_logs
from farebox.storage.gateways import find_gateway
from farebox.usecases.services import Services

WATCH_SECONDS = 0.4
"""How soon a change of the configuration by another process is noticed."""

EXPIRE_EVERY_SECONDS = 5.0
FORGET_LOGS_EVERY_SECONDS = 3600.0
DAY_MS = 86_400_000
PAUSE_SECONDS = 0.05
"""Between small pieces of a large clean-up, so that no call is kept waiting by it."""

log = structlog.get_logger("farebox.worker")


async def run_periodic_jobs(services: Services) -> None:
    """Run all jobs until cancelled. A job that fails is logged and tried again at its next turn."""
    await asyncio.gather(
        _every(services, WATCH_SECONDS, _notice_changes),
        _every(services, EXPIRE_EVERY_SECONDS, _expire),
        _every(services, FORGET_LOGS_EVERY_SECONDS, _forget_logs),
    )


async def _every(services: Services, seconds: float, job: Callable[[Services], Awaitable[None]]) -> None:
    while True:
        await services.clock.sleep(seconds)
        try:
            await job(services)
        except Exception:
            log.exception("periodic job failed", job=job.__name__)


async def _notice_changes(services: Services) -> None:
    services.configuration.notice_changes()


async def _expire(services: Services) -> None:
    await expire_due(services.ledger, services.database, at=services.clock.now_ms(), log=log)


async def _forget_logs(services: Services) -> None:
    database = services.database
    before = services.clock.now_ms() - services.settings.log_days * DAY_MS
    for gateway in await database.scan(gateways_with_logs):
        while await database.write(partial(forget_logs_before, gateway=gateway, before=before)):
            await services.clock.sleep(PAUSE_SECONDS)
        stored = database.get(partial(find_gateway, account_id=gateway[1], gateway_id=gateway[2]))
        keep = None if stored is None else msgspec.json.decode(stored.config, type=GatewayConfig).log_management
        while keep and await database.write(partial(forget_logs_above, gateway=gateway, keep=keep)):
            await services.clock.sleep(PAUSE_SECONDS)
