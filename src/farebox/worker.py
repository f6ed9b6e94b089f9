"""Periodic jobs of a server: what is due is expired, changed configuration is noticed, old logs go."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog

from farebox.gateway import GatewayConfig
from farebox.ledger.recovery import expire_due
from farebox.limits.sharing import exchange, forget_old
from farebox.storage.calls import forget_logs_above, forget_logs_before, gateways_with_logs
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import DatabaseUnavailable
from farebox.usecases import auto_top_up, messages, operator_alarms, payment_news, reconcile, refund, top_up
from farebox.usecases.instances import Judge
from farebox.usecases.leases import alone
from farebox.usecases.services import Services

WATCH_SECONDS = 0.4
"""How soon a change of the configuration by another process is noticed."""

EXPIRE_EVERY_SECONDS = 5.0
MONEY_EVERY_SECONDS = 0.5
"""How soon a request for an auto top-up is taken up, and news of the processor is acted on."""
ALARMS_EVERY_SECONDS = 1.0
SWEEP_EVERY_SECONDS = 30.0
ALONE_EVERY_SECONDS = 60.0
"""How often it is asked whether a job that one process does for all is due."""
ALONE_EVERY_MS = 45_000
"""Less than the above: the processes do not ask at the same time."""
JOURNAL_SECONDS = 0.5
"""How soon the journal is posted once the database is back."""
TAKE_OVER_SECONDS = 10.0
"""How often journals of processes that have ended are looked for."""
SHARE_RATES_SECONDS = 0.5
"""How soon a process learns what others have counted towards a rate limit."""
HOUR_MS = 3_600_000
RECONCILED_DAYS = 3
"""How far back the nightly reconciliation looks: what it missed one night, it finds the next."""
DAY_MS = 86_400_000
PAUSE_SECONDS = 0.05
"""Between small pieces of a large clean-up, so that no call is kept waiting by it."""

log = structlog.get_logger("farebox.worker")


async def run_periodic_jobs(services: Services) -> None:
    """Run all jobs until cancelled. A job that fails is logged and tried again at its next turn.

    Any number of processes do this on one PostgreSQL database. A job works at rows that it claims, or is done `alone`.
    """
    jobs = [
        _every(services, WATCH_SECONDS, _notice_changes),
        _every(services, EXPIRE_EVERY_SECONDS, _expire),
        _every(services, MONEY_EVERY_SECONDS, top_up.work),
        _every(services, MONEY_EVERY_SECONDS, payment_news.work),
        _every(services, MONEY_EVERY_SECONDS, refund.work),
        _every(services, MONEY_EVERY_SECONDS, messages.work),
        _every(services, ALARMS_EVERY_SECONDS, operator_alarms.work, name="operator_alarms"),
        _every(services, SWEEP_EVERY_SECONDS, auto_top_up.sweep),
        _every(services, ALONE_EVERY_SECONDS, _do_alone),
        _every(services, JOURNAL_SECONDS, _post_journal),
        _every(services, TAKE_OVER_SECONDS, _take_over_journals),
    ]
    if services.database.engine == "postgres":
        judge = Judge(services)
        jobs.append(_every(services, SHARE_RATES_SECONDS, _share_rates))
        jobs.append(_every(services, judge.every_seconds, lambda _: judge.look(), name="instances"))
    await asyncio.gather(*jobs)


async def _every(
    services: Services, seconds: float, job: Callable[[Services], Awaitable[object]], *, name: str = ""
) -> None:
    name = name or job.__name__
    told = False
    """That the database is away: once an outage, not twice a second."""
    while True:
        await services.clock.sleep(seconds)
        with contextlib.suppress(Exception):  # nor does a job end because telling of its failure failed
            try:
                await job(services)
                told = False
            except DatabaseUnavailable as error:
                told, before = True, told
                if not before:
                    log.warning("periodic job waits for the database", job=name, why=str(error))
            except Exception:
                log.exception("periodic job failed", job=name)


async def _notice_changes(services: Services) -> None:
    await services.configuration.notice_changes()


async def _share_rates(services: Services) -> None:
    await exchange(services.gateway_rates, services.database)


async def _expire(services: Services) -> None:
    if services.database.engine == "sqlite":
        await _expire_due(services)
    else:
        every_ms = int(EXPIRE_EVERY_SECONDS * 1000) // 2
        await alone(services, "expire", every_ms=every_ms, lease_ms=60_000, retry_ms=0, job=_expire_due)


async def _expire_due(services: Services) -> None:
    await expire_due(services.ledger, services.database, at=services.clock.now_ms(), log=log)


async def _forget_windows(services: Services) -> None:
    await forget_old(services.database, at=services.clock.now_ms())


async def _post_journal(services: Services) -> None:
    if services.journal is not None:
        await services.journal.post()


async def _take_over_journals(services: Services) -> None:
    if services.journal is not None:
        await services.journal.take_over()


async def _do_alone(services: Services) -> None:
    """What one process does for all: hourly what webhooks left out, daily the books against the processor's."""
    if services.processor is not None:
        await alone(services, "undelivered", every_ms=HOUR_MS, job=payment_news.sweep_undelivered)
        await alone(services, "reconcile", every_ms=DAY_MS, job=_reconcile)
    await alone(services, "messages", every_ms=DAY_MS, job=messages.daily)
    await alone(services, "logs", every_ms=HOUR_MS, job=_forget_logs)
    if services.database.engine == "postgres":
        await alone(services, "rate_windows", every_ms=ALONE_EVERY_MS, job=_forget_windows)


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
