"""The composition root: settings become services, services become a server, and everything is shut down in order."""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any

import structlog

from farebox import logs
from farebox.calls.exports import send_spans
from farebox.clock import Clock, RandomIds, SystemClock
from farebox.helper_processes import BeginHelper, HelperProcess
from farebox.host_resources import (
    GRACE_SECONDS,
    AlreadyRunning,
    HostResources,
    announce_listening,
    open_host_resources,
    stop_on_signals,
)
from farebox.http.application import Application
from farebox.http.client_address import Clients
from farebox.http.data_plane import DataPlane
from farebox.http.metrics import at_own_port
from farebox.http.server import RunningServer
from farebox.http.server import serve as listen
from farebox.metrics.metrics import LoopMonitor, Metrics
from farebox.periodic_jobs import run_periodic_jobs
from farebox.runtime.opening import open_services
from farebox.runtime.samples import sample_services
from farebox.runtime.services import Services
from farebox.settings import Settings, secret_key
from farebox.vault import Vault

GC_ALLOCATIONS = 20_000
SWITCH_SECONDS = 0.000_5
"""How long a thread waits for the GIL before it demands it. The wait starts over whenever the loop releases the GIL,
which is once a turn. With Python's 5 ms, a thread beside a busy loop with shorter turns hardly ever gets it: reading a
hundred rows took seconds instead of 4 ms."""
_M_ARENA_MAX = -8
"""The number of the M_ARENA_MAX option in glibc's mallopt(3)."""
log = structlog.get_logger("farebox")


@dataclass(frozen=True, slots=True)
class Ready:
    """A listening server."""

    services: Services
    base_url: str
    port: int
    demo_url: str | None
    background: "asyncio.Future[None]"
    """The periodic jobs. Finished only if they have ended permanently; then the server must stop, too."""
    fake_stripe_url: str | None = None


class JobsEnded(RuntimeError):
    """The periodic jobs have ended: the process ends rather than serving without them."""


async def serve(settings: Settings, *, demo: bool, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises SettingsError, AlreadyRunning, http.server.AddressInUse or storage.sql.SchemaMismatch at start, JobsEnded.
    """
    logs.configure(settings)
    stop = stop_on_signals()
    async with running(settings, demo=demo) as ready:
        announce_listening(settings, ready.base_url, ready.demo_url, ready.fake_stripe_url)
        if on_ready is not None:
            on_ready(ready)
        await _stopped(stop, ready)
        log.info("stopping", grace_seconds=GRACE_SECONDS)


async def serve_as_worker(host_resources: HostResources, *, orphaned: int, on_ready: Callable[[Ready], None]) -> None:
    """Serve as one of several processes (farebox.cli.workers), until SIGINT or SIGTERM, or until the parent process
    ends, which the pipe `orphaned` signals by its end-of-file. A parent that is killed must not leave workers on its
    port.

    Raises SettingsError or storage.sql.DatabaseUnavailable at start, JobsEnded.
    """
    logs.configure(host_resources.settings)
    stop = stop_on_signals()
    asyncio.get_running_loop().add_reader(orphaned, stop.set)
    async with gateway(host_resources, clock=SystemClock(), port_shared=True) as ready:
        on_ready(ready)
        await _stopped(stop, ready)
        log.info("stopping", grace_seconds=GRACE_SECONDS, instance=ready.services.instance)


async def _stopped(stop: asyncio.Event, ready: Ready) -> None:
    """Wait for the request to stop. Raises JobsEnded."""
    stopping = asyncio.ensure_future(stop.wait())
    either: list[asyncio.Future[Any]] = [stopping, ready.background]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        stopping.cancel()
        cause = None if ready.background.cancelled() else ready.background.exception()
        raise JobsEnded("the periodic jobs have ended, and without them calls must not be served: restart") from cause


@asynccontextmanager
async def running(
    settings: Settings, *, demo: bool, clock: Clock | None = None, begin_helper: BeginHelper = HelperProcess
) -> AsyncIterator[Ready]:
    """A single server with everything it needs; shut down in reverse order.

    `demo` adds the demo provider and, if no Stripe key is set, the fake Stripe. `begin_helper`: starts a helper
    process; tests reuse theirs.
    """
    clock = clock or SystemClock()
    with _sole_server(settings):
        async with (
            open_host_resources(settings, demo=demo, clock=clock) as host_resources,
            gateway(host_resources, clock=clock, begin_helper=begin_helper) as ready,
        ):
            yield ready


@asynccontextmanager
async def gateway(
    host_resources: HostResources, *, clock: Clock, port_shared: bool = False, begin_helper: BeginHelper = HelperProcess
) -> AsyncIterator[Ready]:
    """One gateway process: everything is started in order, and shut down in reverse order.

    `port_shared`: other worker processes listen on the same port.
    """
    settings = host_resources.settings
    _share_heap()
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(
            open_services(
                settings,
                clock=clock,
                ids=RandomIds(clock),
                vault=Vault(secret_key(settings)),
                base_url=host_resources.base_url,
                grace_seconds=GRACE_SECONDS,
                serves=True,
                demo_url=host_resources.demo_url,
                metrics=Metrics(host_resources.sheet, host_resources.place),
                begin_helper=begin_helper,
            )
        )
        data_plane = DataPlane(services)
        server = await _listening(services, host_resources, data_plane, port_shared=port_shared)
        stack.push_async_callback(server.close)
        stack.callback(services.live_pages.stop)
        await stack.enter_async_context(_measured(services, host_resources, port_shared=port_shared))
        stack.push_async_callback(send_spans.flush, services)
        stack.push_async_callback(data_plane.drain, GRACE_SECONDS)
        background = await stack.enter_async_context(_background(run_periodic_jobs(services)))
        _collect_less_often()
        sys.setswitchinterval(SWITCH_SECONDS)
        yield Ready(
            services,
            host_resources.base_url,
            server.port,
            host_resources.demo_url,
            background,
            host_resources.fake_stripe_url,
        )


async def _listening(
    services: Services, host_resources: HostResources, data_plane: DataPlane, *, port_shared: bool
) -> RunningServer:
    settings = services.settings
    return await listen(
        Application(services, data_plane.handle),
        settings.host,
        reserved=host_resources.reserved,
        header_limit=settings.header_limit_bytes,
        shared=port_shared,
        budget=services.held,
        prefaced=Clients(settings).trusts if settings.proxy_protocol == "on" else None,
        failed=services.jobs.failed,
    )


def _share_heap() -> None:
    """Let the threads that start from now on share one heap. By default glibc gives each thread its own, which never
    shrinks below what its thread needed at its peak: the process grows until every thread has handled its largest
    report. The threads hardly compete for the shared heap, as only one of them runs Python at a time. Other C libraries
    have no such option."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _collect_less_often() -> None:
    """Run the garbage collector rarely: objects that exist after the start live until the end, and calls create few
    cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


@asynccontextmanager
async def _measured(services: Services, host_resources: HostResources, *, port_shared: bool) -> AsyncIterator[None]:
    """Sample the services, and serve the metrics on their own port if they have one."""
    sample_services(services)
    async with AsyncExitStack() as stack:
        stack.callback(LoopMonitor(services.metrics).stop)
        if host_resources.metrics_reserved is not None:
            host, port = host_resources.settings.metrics_host, host_resources.metrics_reserved
            own = await listen(at_own_port(services), host, reserved=port, shared=port_shared)
            stack.push_async_callback(own.close)
        yield


@contextlib.contextmanager
def _sole_server(settings: Settings) -> Iterator[None]:
    """Hold the lock of an SQLite database for as long as the server runs; the system releases it when the process
    dies. A PostgreSQL database may have any number of servers."""
    if settings.engine != "sqlite":
        yield
        return
    path = settings.database_path.with_suffix(".lock")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file: IO[str] = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AlreadyRunning(
            f"another Farebox is serving {settings.database_path}: an SQLite database is served by one process. "
            "Stop it, or set another FAREBOX_DATA_DIR."
        ) from error
    try:
        yield
    finally:
        file.close()


@asynccontextmanager
async def _background(job: Awaitable[None]) -> "AsyncIterator[asyncio.Future[None]]":
    task = asyncio.ensure_future(job)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("periodic jobs ended", exc_info=error)
