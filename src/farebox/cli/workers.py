"""`farebox serve --workers N`: this process starts N gateway processes on one port, and restarts those that die.

It keeps the port and, in the demo, the provider and the fake Stripe, and takes no calls itself. Each worker is a
separate process (farebox.cli.worker) that shares only the database with the others. If this process is killed, the
workers reach the end of their standard input, and stop.
"""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from farebox import logs
from farebox.cli.session import Stopped
from farebox.cli.worker import StartReport, WorkerStart
from farebox.clock import SystemClock
from farebox.counts import CounterSheet, new_file
from farebox.host_resources import (
    GRACE_SECONDS,
    HostResources,
    announce_listening,
    open_host_resources,
    stop_on_signals,
)
from farebox.metrics.families import LAYOUT, WORKER_DEATHS
from farebox.settings import Settings

STOP_SECONDS = 2 * GRACE_SECONDS + 5
"""Longest time for a worker to stop, until it is killed."""
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a worker that died is restarted: after the first death, the second in a row…"""
STEADY_SECONDS = 10.0
"""After a worker has run this long, its death counts as the first one again."""

log = structlog.get_logger("farebox.workers")


async def serve_with_workers(
    settings: Settings, count: int, *, demo: bool, on_ready: Callable[[HostResources], None]
) -> None:
    """Serve with this many processes until SIGINT or SIGTERM.

    Raises Stopped if a worker cannot start at first, SettingsError, http.server.AddressInUse.
    """
    logs.configure(settings)
    stop = stop_on_signals()
    async with open_host_resources(settings, demo=demo, clock=SystemClock()) as host:
        counts = new_file(LAYOUT, count)
        sheet = CounterSheet(LAYOUT, count, counts)
        workers = [Worker(number, host, counts, sheet) for number in range(1, count + 1)]
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_stop_all, workers)
            starting = asyncio.gather(*(worker.start() for worker in workers))
            if not await _before(stop, starting):
                return
            announce_listening(settings, host.base_url, host.demo_url, host.fake_stripe_url)
            on_ready(host)
            await _before(stop, asyncio.gather(*(worker.keep() for worker in workers)))
            log.info("stopping", grace_seconds=GRACE_SECONDS)


async def _before(stop: asyncio.Event, work: "asyncio.Future[list[None]]") -> bool:
    """Whether the work was completed before the stop; else it is canceled. Raises what the work raises."""
    stopping = asyncio.ensure_future(stop.wait())
    either: list[asyncio.Future[Any]] = [stopping, work]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        work.result()
        return True
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    return False


async def _stop_all(workers: "list[Worker]") -> None:
    await asyncio.gather(*(worker.stop() for worker in workers))


class Worker:
    """One worker: its row in the counts, and its current process."""

    def __init__(self, number: int, host: HostResources, counts: int, sheet: CounterSheet) -> None:
        """Numbers begin with 1. `counts` is the file descriptor of the memory mapped as `sheet`."""
        self._number = number
        self._host = host
        self._counts = counts
        self._places = sheet.places
        self._place = sheet.place(number - 1)
        self._process: Process | None = None
        self._clock = SystemClock()

    async def start(self) -> None:
        """Start a process; returns when it serves. Raises Stopped if it cannot."""
        start = self._start()
        passed = [start.reserved, start.sheet, *([] if start.metrics_reserved is None else [start.metrics_reserved])]
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farebox.cli.worker", stdin=PIPE, stdout=PIPE, pass_fds=passed,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        # Standard input stays open: the worker stops when it ends, because this process is gone.
        process.stdin.write(msgspec.json.encode(start) + b"\n")
        line = await process.stdout.readline()
        report = msgspec.json.decode(line, type=StartReport) if line else StartReport(error="it ended before it served")
        if report.error is not None:
            await process.wait()
            raise Stopped(report.error)
        log.info("worker_started", worker=self._number, pid=process.pid)

    def _start(self) -> WorkerStart:
        host = self._host
        return WorkerStart(
            host.settings,
            host.base_url,
            host.demo_url,
            host.fake_stripe_url,
            host.reserved.fileno(),
            None if host.metrics_reserved is None else host.metrics_reserved.fileno(),
            sheet=self._counts,
            places=self._places,
            layout=LAYOUT.digest,
            place=self._number - 1,
        )

    async def keep(self) -> None:
        """Restart the process whenever it has ended, until canceled."""
        deaths = 0
        while True:
            assert self._process is not None
            since = self._clock.monotonic()
            status = await self._process.wait()
            deaths = 0 if self._clock.monotonic() - since > STEADY_SECONDS else deaths
            self._place.clear()
            self._place.add(WORKER_DEATHS)
            log.error("worker_died", worker=self._number, pid=self._process.pid, status=status)
            deaths = await self._restart(deaths)

    async def _restart(self, deaths: int) -> int:
        """Restart the process after a pause, with as many tries as needed; returns how often one has died or failed to
        start.
        """
        while True:
            pause = PAUSES[min(deaths, len(PAUSES) - 1)]
            deaths += 1
            await self._clock.sleep(pause)
            try:
                await self.start()
            except (Stopped, OSError) as error:
                again_in = PAUSES[min(deaths, len(PAUSES) - 1)]
                log.error("worker_cannot_start", worker=self._number, why=str(error), again_in=again_in)  # noqa: TRY400
            else:
                return deaths

    async def stop(self) -> None:
        """Let the process complete what it has in flight; kill it if that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.error("worker_killed", worker=self._number, pid=process.pid)  # noqa: TRY400 - it is known
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
