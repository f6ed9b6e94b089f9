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
from farebox.usecases import auto_top_up, messages, payment_news, reconcile, refund, top_up
from farebox.usecases.leases import alone
from farebox.usecases.services import Services

WATCH_SECONDS = 0.4
"""How soon a change of the configuration by another process is noticed."""

EXPIRE_EVERY_SECONDS = 5.0
MONEY_EVERY_SECONDS = 0.5
"""How soon a request for an auto top-up is taken up, and news of the processor is acted on."""
SWEEP_EVERY_SECONDS = 30.0
ALONE_EVERY_SECONDS = 60.0
"""How often it is asked whether a job that one process does for all is due."""
HOUR_MS = 3_600_000
RECONCILED_DAYS = 3
"""How far back the nightly reconciliation looks: what it missed one night, it finds the next."""
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
        _every(services, MONEY_EVERY_SECONDS, top_up.work),
        _every(services, MONEY_EVERY_SECONDS, payment_news.work),
        _every(services, MONEY_EVERY_SECONDS, refund.work),
        _every(services, MONEY_EVERY_SECONDS, messages.work),
        _every(services, SWEEP_EVERY_SECONDS, auto_top_up.sweep),
        _every(services, ALONE_EVERY_SECONDS, _do_alone),
    )


async def _every(services: Services, seconds: float, job: Callable[[Services], Awaitable[object]]) -> None:
    while True:
        await services.clock.sleep(seconds)
        try:
            await job(services)
        except Exception:
            log.exception("periodic job failed", job=job.__name__)


async def _notice_changes(services: Services) -> None:
    await services.configuration.notice_changes()


async def _expire(services: Services) -> None:
    await expire_due(services.ledger, services.database, at=services.clock.now_ms(), log=log)


async def _do_alone(services: Services) -> None:
    """What one process does for all: hourly what webhooks left out, daily the books against the processor's."""
    if services.processor is not None:
        await alone(services, "undelivered", every_ms=HOUR_MS, job=payment_news.sweep_undelivered)
        await alone(services, "reconcile", every_ms=DAY_MS, job=_reconcile)
    await alone(services, "messages", every_ms=DAY_MS, job=messages.daily)


async def _reconcile(services: Services) -> None:
    await reconcile.reconcile(services, since=services.clock.now_ms() - RECONCILED_DAYS * DAY_MS)


async def _forget_logs(services: Services) -> None:
    database = services.database
    before = services.clock.now_ms() - services.settings.log_days * DAY_MS
    for gateway in await database.scan(gateways_with_logs):
        while await database.write(partial(forget_logs_before, gateway=gateway, before=before)):
            await services.clock.sleep(PAUSE_SECONDS)
        stored = await database.get(partial(find_gateway, account_id=gateway[1], gateway_id=gateway[2]))
        keep = None if stored is None else msgspec.json.decode(stored.config, type=GatewayConfig).log_management
        while keep and await database.write(partial(forget_logs_above, gateway=gateway, keep=keep)):
            await services.clock.sleep(PAUSE_SECONDS)
