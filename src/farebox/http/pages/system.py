"""The operator's pages of the system: whether it is ready, alarms, jobs, processes, the database; and the settings."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from farebox.http.pages.operator_forms import run_action, text
from farebox.http.pages.table import Fields, Shown
from farebox.http.pages.visit import Visit
from farebox.messages.email_templates import TEXTS
from farebox.operator import installation
from farebox.operator.shown_settings import shown_settings
from farebox.storage.database_facts import DatabaseFacts, database_facts
from farebox.storage.instances import Instance, every_instance
from farebox.storage.leases import Lease, list_leases
from farebox.storage.operator_alarms import Alarm, open_alarms
from farebox.storage.sql import Connection

_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Job:
    """A background job of this process."""

    name: str
    age: int
    """Milliseconds since its latest round began."""
    late: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class _Stored:
    alarms: list[Alarm]
    instances: list[Instance]
    leases: list[Lease]
    database: DatabaseFacts


async def system(visit: Visit) -> Shown:
    """The state of this process and of the database."""
    services = visit.services

    def read(connection: Connection) -> _Stored:
        return _Stored(
            open_alarms(connection), every_instance(connection), list_leases(connection), database_facts(connection)
        )

    ready = await services.readiness.check()
    stored = await services.database.scan(read)
    late, restarts = services.jobs.late(), services.jobs.restarts
    jobs = [
        Job(name, round(age * 1000), name in late, sum(count for (job, _), count in restarts.items() if job == name))
        for name, age in sorted(services.jobs.ages().items())
    ]
    return {
        "failure": ready.failure,
        "journal": ready.journal,
        "waiting": None if services.journal is None else services.journal.depth,
        "stored": stored,
        "size": size_text(stored.database.size),
        "jobs": jobs,
        "own": services.instance,
        "now": services.clock.now_ms(),
        "remedies": TEXTS,
    }


def size_text(count: int) -> str:
    """`512 bytes`, `1.5 MB`."""
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{count:,} bytes" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


async def resolve(visit: Visit, form: Fields) -> str:
    """Close an alarm; it opens again if it is raised again."""
    close = partial(
        installation.resolve_alarms,
        at=visit.services.clock.now_ms(),
        kind=text(form, "kind"),
        about=text(form, "about"),
    )
    count = await run_action(visit, lambda connection, by: close(connection, by=by))
    return "Closed the alarm." if count else "No such alarm is open: it may have been closed before."


async def settings(visit: Visit) -> Shown:
    """The settings that this process was started with."""
    return {"settings": shown_settings(visit.services.settings)}
