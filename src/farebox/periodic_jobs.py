"""Periodic jobs of a server: expire what is due, notice changed configuration, delete old logs."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import msgspec
import structlog

from farebox.billing import auto_top_up, processor_events, reconcile, refund, top_up
from farebox.calendar import DAY_MS, HOUR_MS
from farebox.calls import evaluations, usage_aggregates
from farebox.calls.exports import classify, log_push, meter_events, send_spans
from farebox.calls.long_calls import long_calls
from farebox.calls.spending import spend_alerts
from farebox.gateway import GatewayConfig
from farebox.ledger.budgets import accounts_to_forget, forget_slots
from farebox.ledger.recovery import expire_due
from farebox.limits.sharing import exchange, forget_old
from farebox.operator import custom_domains, messages
from farebox.operator.deliver import MESSAGES
from farebox.runtime import last_uses, operator_alarms
from farebox.runtime.instances import FailureDetector
from farebox.runtime.leases import LEASE_MS, run_exclusive
from farebox.runtime.observers import best_effort
from farebox.runtime.operator_alarms import raise_alarm
from farebox.runtime.queue_search import TICK_SECONDS
from farebox.runtime.services import Services
from farebox.storage.cached_responses import (
    accounts_with_responses,
    correct_sum,
    forget_expired,
    forget_leftovers,
    list_leftovers,
    sum_difference,
)
from farebox.storage.calls import forget_logs_above, forget_logs_before, forget_logs_beyond, gateways_with_logs
from farebox.storage.gateways import find_gateway
from farebox.storage.queues import QUEUES
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable
from farebox.storage.stored_objects import (
    accounts_beyond,
    accounts_with_expired,
    expiry_beyond,
    forget_expired_objects,
)

WATCH_SECONDS = 0.4
"""How soon a change of the configuration by another process is noticed."""

EXPIRE_EVERY_SECONDS = 5.0
ALARMS_EVERY_SECONDS = 1.0
DOMAINS_SECONDS = 15.0
"""How often to check which custom domains are due for a DNS lookup."""
SPEND_ALERTS_SECONDS = 3.0
"""How soon an owner is alerted that part of a limit is spent."""
LOG_PUSH_SECONDS = float(log_push.EVERY_SECONDS)
QUEUE_SECONDS = 1.0
"""How often work is fetched from queues that are less urgent than those with money and messages."""
SPANS_SECONDS = 0.5
"""How long spans are collected before they are sent."""
LAST_USES_SECONDS = 60.0
SWEEP_EVERY_SECONDS = 30.0
EXCLUSIVE_CHECK_SECONDS = 60.0
"""How often a process checks whether a job that one process runs for all is due."""
EXCLUSIVE_EVERY_MS = 45_000
"""Less than EXCLUSIVE_CHECK_SECONDS, because the processes do not check at the same time."""
JOURNAL_SECONDS = 0.5
"""How soon the journal is posted once the database is back."""
TAKE_OVER_SECONDS = 10.0
"""How often to look for journals of processes that have ended."""
SHARE_RATES_SECONDS = 0.5
"""How soon a process learns what others have counted against a rate limit."""
RECONCILED_DAYS = 3
"""How far back the nightly reconciliation looks: what it misses one night, it finds the next night."""
ROUND_SECONDS = 60.0
"""A round that takes longer is hanging: a database operation would have timed out earlier."""
LONG_ROUND_SECONDS = 900.0
"""The same, for jobs that call other services, one call after another."""
LATE_EVERY_SECONDS = 30.0
ALARM_STATES = frozenset({"full", "read_only", "failing", "damaged", "replaced"})
"""States of the database that only the operator can end."""
KEPT_MAX = 1_000_000
"""Maximum number of expiring IDs (of responses and their parts) that are remembered per account. The oldest are deleted
first."""
PAUSE_SECONDS = 0.05
"""Pause between the small steps of a large clean-up, so that it does not delay calls."""
SUM_AGAIN_SECONDS = 3.0
"""Time between two comparisons of the sum of cached responses: longer than a batch takes to be stored."""

log = structlog.get_logger("farebox.periodic_jobs")


@dataclass(frozen=True, slots=True)
class Periodic:
    """A job that runs repeatedly."""

    every_seconds: float
    """From the end of one round to the start of the next."""
    work: Callable[[Services], Awaitable[object]]
    at_most_seconds: float = ROUND_SECONDS
    """A round that takes longer is reported as late."""


def periodic_jobs(services: Services) -> dict[str, Periodic]:
    """All jobs of this process, by name.

    Any number of processes run them on one PostgreSQL database. A job works on rows that it claims, or is one of
    `_exclusive_jobs`.
    """
    jobs = {
        "configuration": Periodic(WATCH_SECONDS, _notice_changes),
        "expiry": Periodic(EXPIRE_EVERY_SECONDS, _expire),
        "queues": Periodic(TICK_SECONDS, lambda _: services.queue_search.search()),
        "top_ups": Periodic(TICK_SECONDS, top_up.work, LONG_ROUND_SECONDS),
        "processor_events": Periodic(TICK_SECONDS, processor_events.work, LONG_ROUND_SECONDS),
        "refunds": Periodic(TICK_SECONDS, refund.work, LONG_ROUND_SECONDS),
        MESSAGES: Periodic(TICK_SECONDS, messages.work, LONG_ROUND_SECONDS),
        "evaluations": Periodic(QUEUE_SECONDS, evaluations.work, LONG_ROUND_SECONDS),
        "log_push": Periodic(LOG_PUSH_SECONDS, log_push.work, LONG_ROUND_SECONDS),
        "meter_events": Periodic(QUEUE_SECONDS, meter_events.work, LONG_ROUND_SECONDS),
        "log_classification": Periodic(QUEUE_SECONDS, classify.work, LONG_ROUND_SECONDS),
        "long_calls": Periodic(QUEUE_SECONDS, long_calls.work, LONG_ROUND_SECONDS),
        "spans": Periodic(SPANS_SECONDS, send_spans.work),
        "spend_alerts": Periodic(SPEND_ALERTS_SECONDS, spend_alerts.work, LONG_ROUND_SECONDS),
        "custom_domains": Periodic(DOMAINS_SECONDS, _check_domains, LONG_ROUND_SECONDS),
        "operator_alarms": Periodic(ALARMS_EVERY_SECONDS, operator_alarms.work),
        "usage_values": Periodic(usage_aggregates.EVERY_SECONDS, usage_aggregates.work, LONG_ROUND_SECONDS),
        "last_uses": Periodic(LAST_USES_SECONDS, last_uses.write),
        "auto_top_up": Periodic(SWEEP_EVERY_SECONDS, auto_top_up.sweep, LONG_ROUND_SECONDS),
        "journal": Periodic(JOURNAL_SECONDS, _post_journal, LONG_ROUND_SECONDS),
        "journals_left": Periodic(TAKE_OVER_SECONDS, _take_over_journals, LONG_ROUND_SECONDS),
        "trouble": Periodic(ALARMS_EVERY_SECONDS, _report_failures),
        "jobs_late": Periodic(LATE_EVERY_SECONDS, _report_late),
    }
    if services.database.engine == "postgres":
        detector = FailureDetector(services)
        jobs["rates"] = Periodic(SHARE_RATES_SECONDS, _share_rates)
        jobs["instances"] = Periodic(detector.every_seconds, lambda _: detector.check(), LONG_ROUND_SECONDS)
    return jobs | _exclusive_jobs(services)


def _exclusive_jobs(services: Services) -> dict[str, Periodic]:
    """Jobs that one process runs for all: hourly the events that no webhook delivered, daily the reconciliation, and so
    on. One that fails does not delay the others."""
    jobs: dict[str, tuple[int, Callable[[Services], Awaitable[None]]]] = {
        "spend_alerts_sweep": (spend_alerts.SWEEP_EVERY_MS, spend_alerts.sweep),
        "expiring_cards": (DAY_MS, messages.daily),
        "logs": (HOUR_MS, _forget_logs),
        "cache": (EXCLUSIVE_EVERY_MS, _forget_responses),
        "kept_objects": (HOUR_MS, _forget_objects),
        "budgets": (EXCLUSIVE_EVERY_MS, _forget_slots),
    }
    if services.processor is not None:
        jobs |= {"undelivered": (HOUR_MS, processor_events.sweep_undelivered), "reconcile": (DAY_MS, _reconcile)}
    if services.database.engine == "postgres":
        jobs["rate_windows"] = (EXCLUSIVE_EVERY_MS, _forget_windows)
    return {
        name: Periodic(
            EXCLUSIVE_CHECK_SECONDS, partial(run_exclusive, name=name, every_ms=every_ms, job=job), LEASE_MS / 1000
        )
        for name, (every_ms, job) in jobs.items()
    }


async def run_periodic_jobs(services: Services) -> NoReturn:
    """Run all jobs until canceled, each restarted whenever something ends it (farebox.jobs)."""
    jobs = periodic_jobs(services)
    await services.jobs.keep({name: partial(_every, services, name, job) for name, job in jobs.items()})


async def _every(services: Services, name: str, job: Periodic) -> None:
    """One round after another, also while the database is unavailable. Any other exception ends the job."""
    logged = False
    """Whether the current outage has been logged: once per outage, not twice a second."""
    while True:
        await _pause(services, name, job)
        try:
            with services.jobs.round(name, job.at_most_seconds):
                await _work(services, name, job)
            logged = False
        except DatabaseUnavailable as error:
            logged, before = True, logged
            if not before:
                with best_effort("the log"):
                    log.warning("periodic job waits for the database", job=name, why=str(error))


async def _pause(services: Services, name: str, job: Periodic) -> None:
    """Wait until the next round; a job with a queue then waits for the end of a search."""
    if name in QUEUES:
        await services.clock.sleep(max(0.0, job.every_seconds - TICK_SECONDS))
        await services.queue_search.ticked()
    else:
        await services.clock.sleep(job.every_seconds)


async def _work(services: Services, name: str, job: Periodic) -> None:
    """One round; that of a job with a queue does nothing if nothing was found there."""
    if name not in QUEUES:
        await job.work(services)
    elif services.queue_search.take(name):
        try:
            await job.work(services)
        except BaseException:
            services.queue_search.give_back(name)
            raise


async def _report_failures(services: Services) -> None:
    """Raise alarms for problems that the operator must fix. A database outage that ends by itself is only logged."""
    for failure in services.database.take_failures():
        if failure.state in ALARM_STATES:
            raise_alarm(services, "database_trouble", failure.state, why=str(failure), remedy=failure.remedy)
    journal = services.journal
    if journal is not None and journal.unwritable is not None:
        raise_alarm(services, "journal_unwritable", services.instance, why=journal.unwritable)


async def _report_late(services: Services) -> None:
    """Log the jobs that hang. If this job hangs itself, /readyz still shows it."""
    ages = services.jobs.ages()
    for name in services.jobs.late():
        log.error("periodic job late", job=name, seconds=round(ages[name]))


async def _notice_changes(services: Services) -> None:
    await services.configuration.notice_changes()


async def _share_rates(services: Services) -> None:
    await exchange(services.gateway_rates, services.database)
    await exchange(services.route_rates, services.database)


async def _expire(services: Services) -> None:
    if services.database.engine == "sqlite":
        await _expire_due(services)
    else:
        every_ms = int(EXPIRE_EVERY_SECONDS * 1000) // 2
        await run_exclusive(services, "expire", every_ms=every_ms, lease_ms=60_000, retry_ms=0, job=_expire_due)


async def _expire_due(services: Services) -> None:
    await expire_due(services.ledger, services.database, at=services.clock.now_ms(), log=log)


async def _check_domains(services: Services) -> None:
    await run_exclusive(services, "custom_domains", every_ms=0, retry_ms=0, job=custom_domains.work)


async def _forget_windows(services: Services) -> None:
    await forget_old(services.database, at=services.clock.now_ms())


async def _forget_slots(services: Services) -> None:
    database, at = services.database, services.clock.now_ms()
    for account_id in await database.scan(partial(accounts_to_forget, at=at)):
        while await database.write(partial(forget_slots, account_id=account_id, at=at)):
            await services.clock.sleep(PAUSE_SECONDS)


async def _forget_responses(services: Services) -> None:
    """Delete cached responses that have expired or whose cache was emptied; then correct their sum."""
    database, at = services.database, services.clock.now_ms()
    for account_id, gateway_id in await database.scan(list_leftovers):
        while await database.write(partial(forget_leftovers, account_id=account_id, gateway_id=gateway_id)):
            await services.clock.sleep(PAUSE_SECONDS)
    for account_id in await database.scan(accounts_with_responses):
        while await database.write(partial(forget_expired, account_id=account_id, at=at)):
            await services.clock.sleep(PAUSE_SECONDS)
    await _correct_sum(services)


async def _correct_sum(services: Services) -> None:
    """Correct the sum of cached responses if it differs from the accounts' totals by the same amount twice."""
    database = services.database
    with suppress(NodeUnavailable):
        if difference := await database.scan(sum_difference):
            await services.clock.sleep(SUM_AGAIN_SECONDS)
            if await database.scan(sum_difference) == difference:
                await database.write(partial(correct_sum, difference=difference))


async def _forget_objects(services: Services) -> None:
    """Delete IDs of objects that providers kept for accounts: those that have expired, and those above an account's
    limit."""
    database, at = services.database, services.clock.now_ms()
    until = dict.fromkeys(await database.scan(partial(accounts_with_expired, at=at)), at)
    for account_id in await database.scan(partial(accounts_beyond, most=KEPT_MAX)):
        beyond = await database.scan(partial(expiry_beyond, account_id=account_id, most=KEPT_MAX))
        until[account_id] = max(at, beyond or 0)
    for account_id, expiry in until.items():
        while await database.write(partial(forget_expired_objects, account_id=account_id, at=expiry)):
            await services.clock.sleep(PAUSE_SECONDS)


async def _post_journal(services: Services) -> None:
    if services.journal is not None:
        await services.journal.post()


async def _take_over_journals(services: Services) -> None:
    if services.journal is not None:
        await services.journal.take_over()


async def _reconcile(services: Services) -> None:
    await reconcile.reconcile(services, since=services.clock.now_ms() - RECONCILED_DAYS * DAY_MS)


async def _forget_logs(services: Services) -> None:
    database = services.database
    before = services.clock.now_ms() - services.settings.log_days * DAY_MS
    for gateway in await database.scan(gateways_with_logs):
        while await database.write(partial(forget_logs_before, gateway=gateway, before=before)):
            await services.clock.sleep(PAUSE_SECONDS)
        stored = await database.get(partial(find_gateway, account_id=gateway[1], gateway_id=gateway[2]))
        if stored is None:
            continue
        config = msgspec.json.decode(stored.config, type=GatewayConfig)
        keep, stops = config.log_management, config.log_management_strategy == "STOP_INSERTING"
        forget = forget_logs_beyond if stops else forget_logs_above
        while keep and await database.write(partial(forget, gateway=gateway, keep=keep)):
            await services.clock.sleep(PAUSE_SECONDS)
