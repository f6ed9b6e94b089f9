"""The composition root: settings become services, services become a server, and all of it is taken down again."""

import asyncio
import contextlib
import fcntl
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import structlog

from farebox import logs
from farebox.clock import Clock, RandomIds, SystemClock
from farebox.demo.provider import start_provider
from farebox.http.application import Application
from farebox.http.data_plane import DataPlane
from farebox.http.server import AddressInUse, reserve
from farebox.http.server import serve as listen
from farebox.ledger.ledger import ledger_of
from farebox.ledger.recovery import resolve_left_open
from farebox.payments.processor import Processor
from farebox.providers.http1.pool import PooledUpstream, Proxies
from farebox.settings import Settings, proxies, secret_key
from farebox.storage.config import installation_id
from farebox.storage.database import open_database
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
    fake_stripe_url: str | None = None


async def serve(settings: Settings, *, demo: bool, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises SettingsError, AlreadyRunning, http.server.AddressInUse or storage.sql.SchemaMismatch at start.
    """
    logs.configure(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, demo=demo) as ready:
        log.info("listening", url=ready.base_url, demo=ready.demo_url, database=settings.database_shown)
        if ready.fake_stripe_url is not None and _open_to_others(settings):
            log.warning(
                "the demo is open to others: its payments are not real, and credit bought with them pays for any "
                "provider that has a key here. Serve without --demo, or on 127.0.0.1",
                host=settings.host,
                public_url=settings.public_url or None,
            )
        if on_ready is not None:
            on_ready(ready)
        await stop.wait()
        log.info("stopping", grace_seconds=GRACE_SECONDS)


def _open_to_others(settings: Settings) -> bool:
    """Whether others than this machine are meant to reach the server."""
    try:
        here = settings.host == "localhost" or ip_address(settings.host).is_loopback
    except ValueError:
        here = False
    return bool(settings.public_url) or not here


@asynccontextmanager
async def running(settings: Settings, *, demo: bool, clock: Clock | None = None) -> AsyncIterator[Ready]:
    """Everything started in order; taken down in the opposite order on the way out.

    `demo` adds the demo provider and, where no Stripe key is set, the fake Stripe.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_sole_server(settings))
        clock = clock or SystemClock()
        ids = RandomIds(clock)
        vault = Vault(secret_key(settings))
        database = await open_database(settings)
        stack.push_async_callback(database.close)
        demo_url = None
        if demo:
            demo_server = await start_provider(port=0)
            stack.push_async_callback(demo_server.close)
            demo_url = f"http://127.0.0.1:{demo_server.port}"
        reserved = reserve(settings.host, settings.port)
        stack.callback(reserved.close)
        base_url = settings.base_url if settings.port else f"http://{settings.host}:{reserved.getsockname()[1]}"
        fake_stripe_url = None
        if demo and not settings.stripe_secret_key:
            settings, fake_stripe_url = await _with_fake_stripe(settings, base_url, clock, ids.secret(), stack)
        named = partial(installation_id, new_id=ids.account_id()[:12])
        processor = processor_of(settings, await database.write(named))
        if processor is not None:
            stack.push_async_callback(processor.close)
        upstream = PooledUpstream(connect_seconds=settings.connect_timeout_ms / 1000, proxies=Proxies(*proxies()))
        stack.push_async_callback(upstream.close)
        services = Services(
            settings=settings,
            clock=clock,
            ids=ids,
            vault=vault,
            database=database,
            ledger=ledger_of(database),
            configuration=await Configuration.load(database, vault, clock, demo_url=demo_url),
            upstream=upstream,
            processor=processor,
            waiters=Waiters(),
            base_url=base_url,
            instance=ids.log_id(),
        )
        stack.push_async_callback(services.tasks.drain, GRACE_SECONDS)
        await resolve_left_open(
            services.ledger, database, instance=services.instance, policy=settings.in_doubt, at=clock.now_ms(), log=log
        )
        data_plane = DataPlane(services)
        server = await listen(
            Application(services, data_plane.handle),
            settings.host,
            reserved=reserved,
            header_limit=settings.header_limit_bytes,
        )
        stack.push_async_callback(server.close)
        stack.push_async_callback(data_plane.drain, GRACE_SECONDS)
        await stack.enter_async_context(_background(run_periodic_jobs(services)))
        # What lives by now lives to the end, and calls make few cycles: look for them less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        yield Ready(services, base_url, server.port, demo_url, fake_stripe_url)


async def _with_fake_stripe(
    settings: Settings, base_url: str, clock: Clock, webhook_secret: str, stack: AsyncExitStack
) -> tuple[Settings, str]:
    """Start the fake Stripe; the settings that use it, and its address. It keeps its state in the data folder."""
    from farebox.demo.stripe.server import start_fake_stripe

    fake = await start_fake_stripe(
        port=_port_beside(settings),
        clock=clock,
        state=Path(settings.data_dir) / "fake-stripe.jsonl",
        webhook_url=f"{base_url}/webhooks/stripe",
        webhook_secret=f"whsec_{webhook_secret}",
    )
    stack.push_async_callback(fake.close)
    used = replace(
        settings,
        stripe_secret_key="sk_test_demo",  # noqa: S106 - the fake takes any
        stripe_webhook_secret=f"whsec_{webhook_secret}",
        stripe_api_base=fake.url,
    )
    return used, fake.url


def _port_beside(settings: Settings) -> int:
    """The port after ours, so that links to hosted pages outlive a restart; any free one where that is taken."""
    if not 0 < settings.port < 65535:
        return 0
    try:
        reserve("127.0.0.1", settings.port + 1).close()
    except AddressInUse:
        return 0
    return settings.port + 1


def processor_of(settings: Settings, installation: str) -> Processor | None:
    """Stripe, where it is switched on. Its client is large and loaded only then."""
    if not settings.stripe_secret_key:
        return None
    from farebox.payments.stripe import StripeProcessor

    return StripeProcessor(
        settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_base=settings.stripe_api_base,
        installation=installation,
    )


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
