"""`fake-stripe`: the fake Stripe in its own process."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fake_stripe.server import AddressInUse, start_fake_stripe


async def serve_until_stopped(
    *,
    host: str,
    port: int,
    state: Path | None,
    webhook_url: str | None,
    webhook_secret: str | None,
    public_url: str | None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until the process is interrupted. `on_ready` receives the address. Raises AddressInUse."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    started = start_fake_stripe(
        host=host,
        port=port,
        state=state,
        webhook_url=webhook_url,
        webhook_secret=webhook_secret,
        public_url=public_url,
    )
    async with await started as fake:
        on_ready(fake.url)
        await stopped.wait()


def main() -> None:
    """Run only a fake Stripe until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="fake-stripe", description="A local server that speaks Stripe's API, for demos and tests. No money moves."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; anyone who can reach it controls it")
    parser.add_argument("--port", type=int, default=12111, help="port to listen on (12111); 0: any free one, printed")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="file that keeps all objects; without it they are in memory"
    )
    parser.add_argument("--webhook", metavar="URL", help="endpoint that receives every event, signed")
    parser.add_argument("--webhook-secret", metavar="SECRET", help="secret that signs the events: whsec_…")
    parser.add_argument("--public-url", metavar="URL", help="URL at which browsers reach its pages, if not its own")
    options = parser.parse_args()
    if options.webhook is not None and options.webhook_secret is None:
        parser.error("--webhook needs --webhook-secret: the secret that its receiver checks")
    try:
        asyncio.run(
            serve_until_stopped(
                host=options.host,
                port=options.port,
                state=options.state,
                webhook_url=options.webhook,
                webhook_secret=options.webhook_secret,
                public_url=options.public_url,
                on_ready=lambda url: print(f"fake Stripe on {url}", flush=True),
            )
        )
    except AddressInUse as error:
        sys.exit(f"fake-stripe: {error}")
