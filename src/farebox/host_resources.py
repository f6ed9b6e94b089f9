"""What the gateway processes of one machine share: the port and, in the demo, the demo provider and the fake Stripe.

There is one of each, however many processes serve: every process is given the addresses, and listens on the same port.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from farebox.clock import Clock, RandomIds
from farebox.counts import CounterSheet
from farebox.http.metrics_access import check_settings, is_loopback
from farebox.http.server import AddressInUse, reserve
from farebox.settings import Settings, proxies

GRACE_SECONDS = 10.0
"""How long calls in flight may continue after the request to stop."""

log = structlog.get_logger("farebox")


class AlreadyRunning(RuntimeError):
    """Another server uses the data folder; an SQLite database is served by one process."""


@dataclass(frozen=True, slots=True)
class HostResources:
    """What a gateway process is started with."""

    settings: Settings
    """In the demo, they name the fake Stripe as the payment processor."""
    base_url: str
    demo_url: str | None
    fake_stripe_url: str | None
    reserved: socket.socket
    """Bound to the port that the serving processes share, but not listening."""
    metrics_reserved: socket.socket | None = None
    """The same for the port of the metrics, if they have one."""
    sheet: CounterSheet | None = None
    """The counters that serving processes share; None for a single process."""
    place: int = 0
    """This process's row of the sheet."""

    @property
    def port(self) -> int:
        number: int = self.reserved.getsockname()[1]
        return number


@asynccontextmanager
async def open_host_resources(settings: Settings, *, demo: bool, clock: Clock) -> AsyncIterator[HostResources]:
    """Reserve the port; with `demo`, start the demo provider and, if no Stripe key is set, the fake Stripe.

    Raises AddressInUse. Raises SettingsError, before anything is started, if the metrics would be open to everyone or a
    proxy in the environment is unusable.
    """
    check_settings(settings)
    proxies()
    async with AsyncExitStack() as stack:
        demo_url = None
        if demo:
            from farebox.demo_provider.provider import start_provider

            demo_server = await start_provider(port=0)
            stack.push_async_callback(demo_server.close)
            demo_url = f"http://127.0.0.1:{demo_server.port}"
        reserved = reserve(settings.host, settings.port)
        stack.callback(reserved.close)
        base_url = (
            settings.base_url
            if settings.port or settings.public_url
            else f"http://{settings.host}:{reserved.getsockname()[1]}"
        )
        metrics_reserved = None
        if settings.metrics_port:
            metrics_reserved = reserve(settings.metrics_host, settings.metrics_port, setting="FAREBOX_METRICS_PORT")
            stack.callback(metrics_reserved.close)
        fake_stripe_url = None
        if demo and not settings.stripe_secret_key:
            settings, fake_stripe_url = await _with_fake_stripe(settings, base_url, clock, stack)
        yield HostResources(settings, base_url, demo_url, fake_stripe_url, reserved, metrics_reserved)


async def _with_fake_stripe(
    settings: Settings, base_url: str, clock: Clock, stack: AsyncExitStack
) -> tuple[Settings, str]:
    """Start the fake Stripe, which keeps its state in the data folder. Returns settings that use it, and its
    address."""
    from fake_stripe import start_fake_stripe

    webhook_secret = f"whsec_{RandomIds(clock).secret()}"
    fake = await start_fake_stripe(
        port=_fake_stripe_port(settings),
        clock=clock,
        state=Path(settings.data_dir) / "fake-stripe.jsonl",
        webhook_url=f"{base_url}/webhooks/stripe",
        webhook_secret=webhook_secret,
    )
    stack.push_async_callback(fake.close)
    used = replace(
        settings,
        stripe_secret_key="sk_test_demo",  # noqa: S106 - the fake accepts any key
        stripe_webhook_secret=webhook_secret,
        stripe_api_base=fake.url,
    )
    return used, fake.url


def _fake_stripe_port(settings: Settings) -> int:
    """The port after ours, so that links to hosted pages survive a restart; 0 (any free port) if that port is taken."""
    if not 0 < settings.port < 65535:
        return 0
    try:
        reserve("127.0.0.1", settings.port + 1).close()
    except AddressInUse:
        return 0
    return settings.port + 1


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def announce_listening(settings: Settings, base_url: str, demo_url: str | None, fake_stripe_url: str | None) -> None:
    """Log the first line, and a warning if others can reach a demo."""
    log.info("listening", url=base_url, demo=demo_url, fake_stripe=fake_stripe_url, database=settings.database_shown)
    if fake_stripe_url is not None and _open_to_others(settings):
        log.warning(
            "the demo is reachable from other machines: its payments are not real, and credit bought with them pays "
            "for any provider that has a key here. Serve without --demo, or on 127.0.0.1",
            host=settings.host,
            public_url=settings.public_url or None,
        )


def _open_to_others(settings: Settings) -> bool:
    """Whether the server is meant to be reached from other machines."""
    return bool(settings.public_url) or not is_loopback(settings.host)
