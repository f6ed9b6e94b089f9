"""The fake Stripe as a server: API, hosted pages and control, in a process of its own or in the caller's loop."""

import argparse
import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from farebox.clock import Clock, SystemClock
from farebox.demo.stripe import collecting, jobs
from farebox.demo.stripe.api import Api, ApiResponse, Request, rate_limited
from farebox.demo.stripe.control import Control
from farebox.demo.stripe.errors import Json, StripeError
from farebox.demo.stripe.events import DEFAULT_ENDPOINT, new_endpoint
from farebox.demo.stripe.faults import Fault, Faults
from farebox.demo.stripe.pages import Pages
from farebox.demo.stripe.store import Store
from farebox.demo.stripe.webhooks import Deliverer
from farebox.demo.stripe.world import World
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import RunningServer, serve

_BODY_LIMIT = 4 << 20
_REQUESTS_KEPT = 10_000
_CLOSE_SECONDS = 2.0
_ENDLESS = ("content-length", str(10**12))


class FakeStripe:
    """The application: one account's world, and everything that serves it."""

    def __init__(self, clock: Clock, state: Path | None = None) -> None:
        self.world = World(Store(state), clock)
        self.api = Api(self.world)
        self.faults = Faults()
        self.requests: deque[Json] = deque(maxlen=_REQUESTS_KEPT)
        self.deliverer = Deliverer(self.world, lambda: jobs.run_due(self.world))
        self.pages = Pages(self.world)
        self.control = Control(self)
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.world.on_event = self.deliverer.take
        self.world.on_payment = collecting.follow
        self._background = asyncio.ensure_future(self.deliverer.run())

    def send_webhooks_to(self, url: str | None, secret: str | None) -> None:
        """The endpoint that is named at the start is told of everything; one of an earlier start no more."""
        earlier = self.world.store.find("webhook_endpoint", DEFAULT_ENDPOINT)
        if url is not None:
            secret = secret or "whsec_fake_stripe"
            self.world.store.add(new_endpoint(self.world, url, ["*"], secret, DEFAULT_ENDPOINT))
        elif earlier is not None:
            self.world.store.remove(earlier)

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request."""
        length = exchange.headers.get("content-length") or "0"
        if not length.isdigit() or int(length) > _BODY_LIMIT:
            exchange.answer(413, [("content-type", "text/plain")], b"The request body is too large.")
            return
        body = await exchange.body(_BODY_LIMIT)
        request_id = self.world.new_id("req", 14)
        request = Request(exchange.method, exchange.path, exchange.query, exchange.headers, body, request_id)
        jobs.run_due(self.world)
        if request.path.startswith(("/_fake/", "/_config/")):
            if exchange.headers.get("origin") is not None:  # a web page that somebody visits, not a tool
                exchange.answer(403, [("content-type", "text/plain")], b"Web pages may not steer the fake Stripe.")
                return
            answer: ApiResponse | None = await self.control.answer(request)
        elif request.path.startswith("/v1/"):
            answer = await self._serve(exchange, request)
        else:
            answer = self.pages.answer(request)
        self.world.store.flush()
        if answer is not None:
            exchange.answer(answer.status, answer.headers, answer.body)

    async def _serve(self, exchange: Exchange, request: Request) -> ApiResponse | None:
        """A call of the API, with the trouble that was queued for it. None where it is not to be answered."""
        fault = self.faults.take(request.method, request.path)
        entry: Json = {
            "request_id": request.request_id,
            "at": self.world.now(),
            "method": request.method,
            "path": request.path,
            "idempotency_key": request.key,
            "status": None,
            "replayed": False,
            "fault": fault.kind if fault is not None else None,
        }
        self.requests.append(entry)
        try:
            with self.api.keys.using(request.key):
                answer = await self._carry_out(exchange, request, fault)
        except StripeError as error:
            answer = self.api.told(request, error)
        if answer is not None:
            entry.update(status=answer.status, replayed=answer.replayed)
        return answer

    async def _carry_out(self, exchange: Exchange, request: Request, fault: Fault | None) -> ApiResponse | None:
        kind = fault.kind if fault is not None else ""
        if fault is not None and fault.milliseconds:
            await self._unless_closing(self.world.clock.real.sleep(fault.milliseconds / 1000))
        if kind == "rate_limit_429":
            raise rate_limited()
        if kind == "error_500_before":
            return self.api.failure(request, save=fault is not None and fault.saved)
        if kind == "timeout_before":
            await self._unless_closing(exchange.gone())
            return None
        if kind == "reset_before":
            await self._break_off(exchange)
            return None
        failing = kind == "error_500_after_commit"
        answer = self.api.answer(request, fail=failing, save_failure=fault is not None and fault.saved)
        if kind == "timeout_after_commit":
            self.world.store.flush()
            await self._unless_closing(exchange.gone())
            return None
        if kind == "reset_after_commit":
            await self._break_off(exchange)
            return None
        return answer

    async def _break_off(self, exchange: Exchange) -> None:
        # The server cannot reset a connection. It closes one whose answer is shorter than its content-length.
        with contextlib.suppress(ClientGone):
            await exchange.start(200, [("content-type", "application/json"), _ENDLESS]).send(b"{")

    async def _unless_closing(self, other: Awaitable[None]) -> None:
        task = asyncio.ensure_future(other)
        try:
            await asyncio.wait([task, self._closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()

    async def close(self) -> None:
        """Let go of every request that waits, and stop sending webhooks."""
        if not self._closing.done():
            self._closing.set_result(None)
        self._background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._background
        await self.deliverer.close()


@dataclass(slots=True)
class RunningFakeStripe:
    """A fake Stripe that is being served; closes at the end of an `async with`."""

    app: FakeStripe
    server: RunningServer

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        """Base URL of the API, without a path: what Stripe's clients call the API base."""
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"http://{host}:{self.server.port}"

    async def close(self) -> None:
        await self.app.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.server.close(), _CLOSE_SECONDS)
        self.app.world.store.close()

    async def __aenter__(self) -> "RunningFakeStripe":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def start_fake_stripe(
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    clock: Clock | None = None,
    state: Path | None = None,
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
    public_url: str | None = None,
) -> RunningFakeStripe:
    """Serve a fake Stripe in the running loop, on a port of the system's choice unless one is named.

    `state`: a file that keeps its objects. `public_url`: under which browsers reach it, where that is not its own
    address. Raises AddressInUse where the port is taken.
    """
    app = FakeStripe(clock or SystemClock(), state)
    running = RunningFakeStripe(app, await serve(app.handle, host, port))
    app.world.set_public_url((public_url or running.url).rstrip("/"))
    app.send_webhooks_to(webhook_url, webhook_secret)
    return running


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
    """Serve until the process is interrupted. `on_ready` is told the address."""
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
    """Run a fake Stripe alone until it is interrupted."""
    parser = argparse.ArgumentParser(prog="farebox.demo.stripe", description="A local Stripe for demo and tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=12111, help="0: any free port (printed)")
    parser.add_argument("--state", type=Path, help="file that keeps its objects")
    parser.add_argument("--webhook", help="URL that is told of every event")
    parser.add_argument("--webhook-secret", help="its signing secret")
    parser.add_argument("--public-url", help="under which browsers reach the hosted pages")
    options = parser.parse_args()
    uvloop.run(
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
