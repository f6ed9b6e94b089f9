"""The composition root: settings become services, services become a server, and everything is shut down in order."""

import asyncio
import contextlib
import fcntl
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any
from urllib.parse import urlsplit

import structlog

from farebox import logs
from farebox.clock import Clock, RandomIds, SystemClock
from farebox.host_resources import (
    GRACE_SECONDS,
    AlreadyRunning,
    HostResources,
    say_listening,
    stop_on_signals,
    surrounded,
)
from farebox.http.application import Application
from farebox.http.client_address import Clients
from farebox.http.data_plane import DataPlane
from farebox.http.metrics import at_own_port
from farebox.http.server import RunningServer
from farebox.http.server import serve as listen
from farebox.jobs import Jobs
from farebox.ledger.ledger import ledger_of
from farebox.limits.concurrent import CallsInFlight
from farebox.limits.held import ByteBudget
from farebox.limits.rate import RateLimiter
from farebox.metrics.metrics import Beat, Metrics
from farebox.offload import BeginHelper, HelperProcess, Pool
from farebox.payments.processor import Processor
from farebox.pricing.unseen import Rules, parse_rules
from farebox.providers.http1.pool import PooledUpstream
from farebox.providers.reading import Refused, parse_refusals
from farebox.runtime import operator_alarms
from farebox.runtime.configuration import Configuration
from farebox.runtime.instances import present
from farebox.runtime.journal import Journal
from farebox.runtime.samples import sample_services
from farebox.runtime.services import Services
from farebox.runtime.waiters import LOOK_SECONDS, Waiters
from farebox.settings import Settings, SettingsError, proxies, secret_key
from farebox.storage.config import installation_id
from farebox.storage.database import open_database
from farebox.vault import Vault
from farebox.worker import run_periodic_jobs

GC_ALLOCATIONS = 20_000
log = structlog.get_logger("farebox")


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that listens."""

    services: Services
    base_url: str
    port: int
    demo_url: str | None
    background: "asyncio.Future[None]"
    """The periodic jobs; finished only when they have ended for good, and then the server must stop, too."""
    fake_stripe_url: str | None = None


class JobsEnded(RuntimeError):
    """What must run beside the calls runs no more: the process ends rather than serving on without it."""


async def serve(settings: Settings, *, demo: bool, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises SettingsError, AlreadyRunning, http.server.AddressInUse or storage.sql.SchemaMismatch at start, JobsEnded.
    """
    logs.configure(settings)
    stop = stop_on_signals()
    async with running(settings, demo=demo) as ready:
        say_listening(settings, ready.base_url, ready.demo_url, ready.fake_stripe_url)
        if on_ready is not None:
            on_ready(ready)
        await _stopped(stop, ready)
        log.info("stopping", grace_seconds=GRACE_SECONDS)


async def serve_as_worker(around: HostResources, *, orphaned: int, on_ready: Callable[[Ready], None]) -> None:
    """Serve as one of several processes (farebox.cli.workers), until SIGINT or SIGTERM, or until the process that
    started us is gone: then the file `orphaned` ends. It may be killed, and must not leave us behind on its port.

    Raises SettingsError or storage.sql.DatabaseUnavailable at start, JobsEnded.
    """
    logs.configure(around.settings)
    stop = stop_on_signals()
    asyncio.get_running_loop().add_reader(orphaned, stop.set)
    async with gateway(around, clock=SystemClock(), port_shared=True) as ready:
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

    `demo` adds the demo provider and, if no Stripe key is set, the fake Stripe. `begin_helper`: for whoever has
    helpers to spare.
    """
    clock = clock or SystemClock()
    with _sole_server(settings):
        async with (
            surrounded(settings, demo=demo, clock=clock) as around,
            gateway(around, clock=clock, begin_helper=begin_helper) as ready,
        ):
            yield ready


@asynccontextmanager
async def gateway(
    around: HostResources, *, clock: Clock, port_shared: bool = False, begin_helper: BeginHelper = HelperProcess
) -> AsyncIterator[Ready]:
    """One gateway process: everything started in order, and taken down in the opposite order on the way out.

    `port_shared`: other processes of ours listen on the same port.
    """
    settings = around.settings
    async with AsyncExitStack() as stack:
        ids = RandomIds(clock)
        vault = Vault(secret_key(settings))
        metrics, jobs = Metrics(around.sheet, around.place), Jobs()
        database = await open_database(settings, metrics.activity(), failed=jobs.failed)
        stack.push_async_callback(database.close)
        named = partial(installation_id, new_id=ids.account_id()[:12])
        processor = open_processor(settings, await database.write(named))
        if processor is not None:
            stack.push_async_callback(processor.close)
        upstream = _upstream_of(settings, jobs)
        stack.push_async_callback(upstream.close)
        helpers = Pool(settings.helper_processes, body_bytes=settings.body_limit_bytes, begin=begin_helper)
        stack.push_async_callback(helpers.close)
        shared = database.engine == "postgres"
        instance = ids.log_id()
        ledger = ledger_of(database, instance)
        waiters = Waiters(look_seconds=LOOK_SECONDS if shared else None)
        journal = Journal(settings.data_dir, instance, database=database, ledger=ledger, waiters=waiters)
        services = Services(
            settings=settings,
            clock=clock,
            ids=ids,
            vault=vault,
            database=database,
            ledger=ledger,
            configuration=await Configuration.load(database, vault, clock, demo_url=around.demo_url),
            upstream=upstream,
            processor=processor,
            waiters=waiters,
            base_url=around.base_url,
            instance=instance,
            unseen_rules=_unseen_rules(settings),
            journal=journal,
            helpers=helpers,
            refusals=_refusals(settings),
            held=ByteBudget(settings.held_bytes_max, settings.account_held_bytes_max),
            calls=CallsInFlight(settings.calls_max, settings.account_calls_max),
            jobs=jobs,
            gateway_rates=RateLimiter(shared=shared),
            metrics=metrics,
        )
        await journal.take_over()  # charges that were kept come before anything is decided about their holds
        await stack.enter_async_context(present(services))
        stack.push_async_callback(ledger.close)
        stack.push_async_callback(operator_alarms.keep_last, services)
        stack.push_async_callback(journal.close)
        stack.push_async_callback(services.tasks.drain, GRACE_SECONDS)
        data_plane = DataPlane(services)
        server = await _listening(services, around, data_plane, port_shared=port_shared)
        stack.push_async_callback(server.close)
        await stack.enter_async_context(_measured(services, around, port_shared=port_shared))
        stack.push_async_callback(data_plane.drain, GRACE_SECONDS)
        background = await stack.enter_async_context(_background(run_periodic_jobs(services)))
        _collect_less_often()
        yield Ready(services, around.base_url, server.port, around.demo_url, background, around.fake_stripe_url)


async def _listening(
    services: Services, around: HostResources, data_plane: DataPlane, *, port_shared: bool
) -> RunningServer:
    settings = services.settings
    return await listen(
        Application(services, data_plane.handle),
        settings.host,
        reserved=around.reserved,
        header_limit=settings.header_limit_bytes,
        shared=port_shared,
        budget=services.held,
        prefaced=Clients(settings).trusts if settings.proxy_protocol == "on" else None,
        failed=services.jobs.failed,
    )


def _collect_less_often() -> None:
    """What lives by now lives to the end, and calls make few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


@asynccontextmanager
async def _measured(services: Services, around: HostResources, *, port_shared: bool) -> AsyncIterator[None]:
    """Samples are taken, and the metrics shown at their own port, where they have one."""
    sample_services(services)
    async with AsyncExitStack() as stack:
        stack.callback(Beat(services.metrics).stop)
        if around.metrics_reserved is not None:
            host, port = around.settings.metrics_host, around.metrics_reserved
            own = await listen(at_own_port(services), host, reserved=port, shared=port_shared)
            stack.push_async_callback(own.close)
        yield


def _unseen_rules(settings: Settings) -> Rules:
    """Raises SettingsError."""
    try:
        return parse_rules(settings.unseen_input, settings.unseen_prior_tokens)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_UNSEEN_INPUT: {error}") from error


def _refusals(settings: Settings) -> Mapping[str, Refused]:
    """Raises SettingsError."""
    try:
        return parse_refusals(settings.refused_fields, settings.refused_tools)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_REFUSED_FIELDS, FAREBOX_REFUSED_TOOLS: {error}") from error


def _upstream_of(settings: Settings, jobs: Jobs) -> PooledUpstream:
    return PooledUpstream(connect_seconds=settings.connect_timeout_ms / 1000, proxies=proxies(), failed=jobs.failed)


def open_processor(settings: Settings, installation: str) -> Processor | None:
    """Stripe, where it is switched on. Its client is large and loaded only then."""
    if not settings.stripe_secret_key:
        return None
    from farebox.payments.stripe import StripeProcessor

    return StripeProcessor(
        settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_base=settings.stripe_api_base,
        installation=installation,
        proxy=_proxy_to(settings.stripe_api_base),
    )


def _proxy_to(url: str) -> str | None:
    """Raises SettingsError."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_STRIPE_API_BASE is not a URL: {error}") from error
    return proxies().for_origin(parts.scheme, parts.hostname or "", port)


@contextlib.contextmanager
def _sole_server(settings: Settings) -> Iterator[None]:
    """Hold the lock of an SQLite database for as long as the server runs; the system lets go of it when the process
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
