"""Health checks for operators, and the response for what is not available yet."""

from typing import Literal

import msgspec

from farebox.http.envelope import Response, plain
from farebox.http.request import Request
from farebox.logs import DroppedLines
from farebox.runtime.readiness import JournalState


class Health(msgspec.Struct, frozen=True):
    status: Literal["ok"] = "ok"


async def healthz(request: Request, _: None) -> Response:
    """The process answers."""
    return plain(Health())


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok", "unavailable"] = "ok"
    """`unavailable` has the status 503: calls are refused."""
    database: str
    """`ok`, or what is wrong with it; docs/operating.md, "Readiness", has each state."""
    remedy: str | None = None
    """What the operator can do about it."""
    journal: JournalState
    """`waiting`: ends of calls kept during a database outage are being posted. `unwritable`: it accepts no lines, so
    charges could not be kept if the database failed now."""
    jobs_late: list[str]
    """Periodic jobs of this process that hang."""
    log_lines_dropped: int
    """Lines of this process's log that could not be written, since it started."""
    alarms_dropped: int
    """Operator alarms that this process has dropped since it started."""


async def readyz(request: Request, _: None) -> Response:
    """Whether the database accepts writes: at most once a second, a write is committed for which there must be room."""
    services = request.services
    found = await services.readiness.check()
    failure = found.failure
    body = Readiness(
        status="ok" if failure is None else "unavailable",
        database="ok" if failure is None else failure.state,
        remedy=None if failure is None else failure.remedy,
        journal=found.journal,
        jobs_late=services.jobs.late(),
        log_lines_dropped=DroppedLines.lines,
        alarms_dropped=services.alarms.dropped,
    )
    if failure is None:
        return plain(body)
    return msgspec.structs.replace(plain(body, 503), headers=(("retry-after", "1"),))
