"""The state of this process that metrics sample, as its parts report it."""

from collections import Counter

from farebox.counts import OTHER, CounterRow
from farebox.jobs import Jobs
from farebox.ledger.ledger import Ledger
from farebox.limits.byte_budget import ByteBudget
from farebox.logs import DroppedLines
from farebox.metrics import families as of
from farebox.providers.upstream import Upstream
from farebox.runtime.services import Services


def sample_services(services: Services) -> None:
    """Register the samples of these services with its metrics."""
    services.metrics.samplers += [
        lambda place: place.put(of.CALLS_IN_FLIGHT, value=services.calls.total),
        lambda place: _held(services.held, place),
        lambda place: _journal(services, place),
        lambda place: _queues(services, place),
        lambda place: _jobs(services.jobs, place),
        lambda place: _upstreams((services.upstream, services.custom_upstream), place),
        lambda place: place.follow(of.RELOADS, total=services.configuration.loads),
        lambda place: place.follow(of.LOG_DROPPED, total=DroppedLines.lines),
        lambda place: place.follow(of.ALARMS_DROPPED, total=services.alarms.dropped),
    ]


def _held(budget: ByteBudget, place: CounterRow) -> None:
    place.put(of.HELD_BYTES, value=budget.held_bytes)
    for whose, times in budget.refused.items():
        place.follow(of.HELD_REFUSED, whose, total=times)


def _jobs(jobs: Jobs, place: CounterRow) -> None:
    restarts: Counter[str] = Counter()
    for (job, _), times in jobs.restarts.items():
        restarts[job if job in of.JOBS else OTHER] += times
    for job, times in restarts.items():
        place.follow(of.JOB_RESTARTS, job, total=times)
    place.put(of.JOBS_LATE, value=len(jobs.late()))


def _upstreams(upstreams: tuple[Upstream, ...], place: CounterRow) -> None:
    failures: Counter[str] = Counter()
    for upstream in upstreams:
        failures.update(upstream.failures)
    for cause, times in failures.items():
        place.follow(of.UPSTREAM_FAILURES, cause, total=times)
    place.follow(of.UPSTREAM_RESENT, total=sum(upstream.resent for upstream in upstreams))


def _queues(services: Services, place: CounterRow) -> None:
    place.put(of.SPANS_WAITING, value=services.spans.waiting)
    place.put(of.WRITE_QUEUE, value=services.database.waiting + waiting_for(services.ledger))


def waiting_for(ledger: Ledger) -> int:
    """The number of commands that wait in lanes; jobs wait in the database."""
    waiting: int = getattr(ledger, "waiting", 0)
    return waiting


def _journal(services: Services, place: CounterRow) -> None:
    if services.journal is None:
        return
    depth = services.journal.depth
    age = 0 if depth.since_ms is None else max(0, services.clock.now_ms() - depth.since_ms)
    place.follow(of.JOURNALED, total=services.journal.added)
    place.put(of.JOURNAL_ENTRIES, value=depth.entries)
    place.put(of.JOURNAL_BYTES, value=depth.bytes)
    place.put(of.JOURNAL_AGE, value=age)
    place.put(of.JOURNAL_REFUSED, value=depth.refused_bytes)
