"""Probes for whoever runs the program, and the answer for what is not there yet."""

import asyncio
from typing import Literal, NoReturn

import msgspec

from farebox.errors import DATABASE_UNAVAILABLE, NOT_AVAILABLE, Problem
from farebox.http.envelope import Answer, plain
from farebox.http.request import Request
from farebox.logs import Dropped

READY_SECONDS = 2.0


class Health(msgspec.Struct, frozen=True):
    status: Literal["ok"] = "ok"


async def healthz(request: Request, _: None) -> Answer:
    """The process answers."""
    return plain(Health())


class Readiness(msgspec.Struct, frozen=True):
    journal: Literal["empty", "waiting"]
    """`waiting`: ends of calls that were kept while the database was away are being posted."""
    log_lines_dropped: int
    """Lines of this process's log that could not be written, since it started."""
    alarms_dropped: int
    """Operator alarms that this process let go of, since it started."""
    status: Literal["ok"] = "ok"


async def readyz(request: Request, _: None) -> Answer:
    """The database takes writes: an empty transaction goes through its writer."""
    journal = request.services.journal
    try:
        await asyncio.wait_for(request.services.database.write(lambda connection: None), READY_SECONDS)
    except TimeoutError as error:
        raise Problem(DATABASE_UNAVAILABLE, "The database does not answer in time", retry_after=1) from error
    waiting = journal is not None and not journal.empty
    return plain(
        Readiness(
            journal="waiting" if waiting else "empty",
            log_lines_dropped=Dropped.lines,
            alarms_dropped=request.services.alarms.dropped,
        )
    )


async def not_available(request: Request, _: None) -> NoReturn:
    raise Problem(NOT_AVAILABLE, "This part of the API is not available in this release of Farebox")
