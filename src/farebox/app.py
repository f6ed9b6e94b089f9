"""The composition root: settings become services, services become a server, and all of it is taken down again."""

import asyncio
import contextlib
import fcntl
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import IO

import structlog

from farebox import logs
from farebox.clock import RandomIds, SystemClock
from farebox.demo.provider import start_provider
from farebox.http.application import Application
from farebox.http.data_plane import DataPlane
from farebox.http.server import serve as listen
from farebox.ledger.ledger import SqliteLedger
from farebox.ledger.recovery import resolve_left_open
from farebox.providers.upstream import WreqUpstream
from farebox.settings import Settings, secret_key
from farebox.storage.database import Database
from farebox.usecases.configuration import Configuration
from farebox.usecases.services import Services
from farebox.usecases.waiting import Waiters
from farebox.vault import Vault
from farebox.worker import run_periodic_jobs

GC_ALLOCATIONS = 20_000
GRACE_SECONDS = 10.0
"""How long calls in flight may go on after the request to stop."""

log = structlog.get_logger("farebox")


class AlreadyRunning(RuntimeError):
    """Another server has the data folder; an SQLite database is served by one process."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that listens."""

    services: Services
    base_url: str
    port: int
    demo_url: str | None


async def serve(settings: Settings, *, demo: bool, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises SettingsError, AlreadyRunning, http.server.AddressInUse or storage.sqlite.SchemaMismatch at start.
    """
    logs.configure(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, demo=demo) as ready:
        log.info("listening", url=ready.base_url, demo=ready.demo_url, database=str(settings.database_path))
        if on_ready is not None:
            on_ready(ready)
        await stop.wait()
        log.info("stopping", grace_seconds=GRACE_SECONDS)


@asynccontextmanager
async def running(settings: Settings, *, demo: bool) -> AsyncIterator[Ready]:
    """Everything started in order; taken down in the opposite order on the way out."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_sole_server(settings))
        clock = SystemClock()
        ids = RandomIds(clock)
        vault = Vault(secret_key(settings))
        database = Database(settings.database_path)
        stack.push_async_callback(database.close)
        demo_url = None
        if demo:
            demo_server = await start_provider(port=0)
            stack.push_async_callback(demo_server.close)
            demo_url = f"http://127.0.0.1:{demo_server.port}"
        upstream = WreqUpstream(connect_seconds=settings.connect_timeout_ms / 1000)
        stack.push_async_callback(upstream.close)
        services = Services(
            settings=settings,
            clock=clock,
            ids=ids,
            vault=vault,
            database=database,
            ledger=SqliteLedger(database.writer),
            configuration=Configuration(database, vault, clock, demo_url=demo_url),
            upstream=upstream,
            waiters=Waiters(),
            instance=ids.log_id(),
        )
        await resolve_left_open(
            services.ledger, database, instance=services.instance, policy=settings.in_doubt, at=clock.now_ms(), log=log
        )
        data_plane = DataPlane(services)
        server = await listen(
            Application(services, data_plane.handle),
            settings.host,
            settings.port,
            header_limit=settings.header_limit_bytes,
        )
        stack.push_async_callback(server.close)
        stack.push_async_callback(data_plane.drain, GRACE_SECONDS)
        await stack.enter_async_context(_background(run_periodic_jobs(services)))
        base_url = settings.base_url if settings.port else f"http://{settings.host}:{server.port}"
        # What lives by now lives to the end, and calls make few cycles: look for them less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        yield Ready(services, base_url, server.port, demo_url)


@contextlib.contextmanager
def _sole_server(settings: Settings) -> Iterator[None]:
    """Hold the lock of the database for as long as the server runs; the system lets go of it when the process dies."""
    path = settings.database_path.with_suffix(".lock")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file: IO[str] = open(path, "a")  # noqa: SIM115 - closed below
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AlreadyRunning(
            f"another Farebox serves {settings.database_path}: an SQLite database is served by one process. "
            "Stop it, or set another FAREBOX_DATA_DIR."
        ) from error
    try:
        yield
    finally:
        file.close()


@asynccontextmanager
async def _background(job: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(job)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
