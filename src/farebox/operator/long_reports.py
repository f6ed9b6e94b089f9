"""Reports that take long: each is computed in its own process and kept in the database with its progress."""

import asyncio
import contextlib
import sys
from functools import partial
from typing import Final

import msgspec
import structlog

from farebox.model import Operator
from farebox.operator.report_process import Kind, ReportLine, ReportTask
from farebox.runtime.services import Services
from farebox.storage import operator_reports as store
from farebox.storage.operator_actions import record_action
from farebox.storage.operator_reports import ReportRow
from farebox.storage.sql import Connection, DatabaseUnavailable

SEEN_SECONDS: Final = 1.0
"""How often a running report renews its row."""
GONE_MS: Final = 30_000
"""A report that has not been renewed for this long is no longer running."""
LINE_MAX: Final = 16 * 2**20
ENDS_MAX: Final = 60
AGAIN_SECONDS: Final = 5.0
"""While the database is unavailable, writing the result is retried after this long, up to that many times."""

log = structlog.get_logger("farebox.reports")


async def begin(services: Services, kind: Kind, by: Operator) -> bool:
    """Begin a report, unless one of its kind is running; returns whether it was begun."""
    at, report_id = services.clock.now_ms(), services.ids.log_id()

    def job(connection: Connection) -> bool:
        begun = ReportRow(kind, report_id, "running", by.who, 0, 0, None, at, at)
        if not store.begin_report(connection, begun, gone_before=at - GONE_MS):
            return False
        record_action(connection, by, "report.begin", at, subject=kind)
        return True

    if not await services.database.write(job):
        return False
    services.tasks.begin_long(("report", report_id), partial(_run, services, kind, report_id))
    return True


async def latest(services: Services, kind: Kind) -> tuple[ReportRow | None, bool]:
    """The latest report of its kind, and whether it was interrupted: its process is gone."""
    found = await services.database.get(partial(store.find_report, kind=kind))
    gone = services.clock.now_ms() - GONE_MS
    return found, found is not None and found.state == "running" and found.seen_at < gone


async def _run(services: Services, kind: Kind, report_id: str) -> None:
    try:
        ended = await _compute(services, kind, report_id)
    except asyncio.CancelledError:
        try:
            await _end(services, report_id, ReportLine(failure="The server that computed it stopped."))
        except DatabaseUnavailable:
            log.warning("end of a report not saved", kind=kind, why="the database is unavailable and the server stops")
        raise
    except (OSError, ValueError) as error:  # no process could be started, or it wrote something invalid
        ended = ReportLine(failure=f"It could not be computed: {error}")
    if ended.failure:
        log.warning("report failed", kind=kind, why=ended.failure)
    try:
        for _ in range(ENDS_MAX):
            try:
                await _end(services, report_id, ended)
            except DatabaseUnavailable:
                await services.clock.sleep(AGAIN_SECONDS)
            else:
                return
    except asyncio.CancelledError:
        log.warning("report not saved", kind=kind, why="the server stops before the database can be written to")
        raise
    log.warning("report not saved", kind=kind, why="the database cannot be written to")


async def _end(services: Services, report_id: str, ended: ReportLine) -> None:
    state = "failed" if ended.failure else "done"
    text = ended.failure or msgspec.json.encode(ended.report).decode()
    at = services.clock.now_ms()
    await services.database.write(partial(store.end_report, report_id=report_id, state=state, report=text, at=at))


async def _compute(services: Services, kind: Kind, report_id: str) -> ReportLine:
    """Run the process to its end. Raises OSError, ValueError."""
    settings = services.settings
    task = ReportTask(kind, services.clock.now_ms(), settings.data_dir, settings.database_url, settings.buckets)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "farebox.operator.report_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_MAX,
    )
    try:
        return await _watch(services, process, report_id, msgspec.json.encode(task))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _watch(services: Services, process: asyncio.subprocess.Process, report_id: str, task: bytes) -> ReportLine:
    """Store the progress until the last line, and return that line; if the process ends without one, what is known
    about it."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    stdin.write(task)
    stdin.close()
    latest, noted = ReportLine(), services.clock.monotonic()
    reading = asyncio.ensure_future(stdout.readline())
    try:
        while True:
            await asyncio.wait([reading], timeout=SEEN_SECONDS)
            if reading.done():
                if not (text := reading.result()):
                    return ReportLine(failure="The process that computed it ended before it was done.")
                latest = msgspec.json.decode(text, type=ReportLine)
                if latest.report is not None or latest.failure:
                    return latest
                reading = asyncio.ensure_future(stdout.readline())
            if services.clock.monotonic() - noted >= SEEN_SECONDS:
                noted = services.clock.monotonic()
                renew = partial(
                    store.renew_report,
                    report_id=report_id,
                    done=latest.done,
                    total=latest.total,
                    at=services.clock.now_ms(),
                )
                with contextlib.suppress(DatabaseUnavailable):  # the next write reports it
                    await services.database.write(renew)
    finally:
        reading.cancel()
