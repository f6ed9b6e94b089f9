"""The application: API, hosted pages and control of one fake Stripe, behind any ASGI server."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable
from pathlib import Path

from fake_stripe import invoice_collection, jobs
from fake_stripe.api import Api, ApiResponse, Request, rate_limited
from fake_stripe.clock import Clock
from fake_stripe.control import Control
from fake_stripe.errors import Json, StripeError
from fake_stripe.events import DEFAULT_ENDPOINT, new_endpoint
from fake_stripe.exchange import BodyTooLarge, ClientGone, Exchange, Message, Receive, Send
from fake_stripe.faults import Fault, Faults
from fake_stripe.pages import Pages
from fake_stripe.store import Store
from fake_stripe.webhooks import Deliverer
from fake_stripe.world import World

_BODY_LIMIT = 4 << 20
_REQUESTS_KEPT = 10_000


class FakeStripe:
    """One account's world, and everything that serves it. Create it in a running event loop; `await close()` ends
    it."""

    def __init__(self, clock: Clock, state: Path | None = None) -> None:
        self.world = World(Store(state), clock)
        self.api = Api(self.world)
        self.faults = Faults()
        self.requests: deque[Json] = deque(maxlen=_REQUESTS_KEPT)
        self.deliverer = Deliverer(self.world, lambda: jobs.run_due(self.world))
        self.pages = Pages(self.world)
        self.control = Control(self.world, self.faults, self.requests, self.deliverer)
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.world.on_event = self.deliverer.take
        self.world.on_payment = invoice_collection.follow
        self._background = asyncio.ensure_future(self.deliverer.run())

    def send_webhooks_to(self, url: str | None, secret: str | None) -> None:
        """Send all events to the endpoint named at startup, and none to the one of an earlier start."""
        earlier = self.world.store.find("webhook_endpoint", DEFAULT_ENDPOINT)
        if url is not None:
            secret = secret or "whsec_fake_stripe"
            self.world.store.add(new_endpoint(self.world, url, ["*"], secret, DEFAULT_ENDPOINT))
        elif earlier is not None:
            self.world.store.remove(earlier)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request: the ASGI application."""
        exchange = Exchange(scope, receive, send)
        try:
            response = await self._respond(exchange, await exchange.body(_BODY_LIMIT))
        except BodyTooLarge:
            response = _plain(413, b"The request body is too large.")
        except ClientGone:
            return
        self.world.store.flush()
        if response is None:
            await exchange.break_off()
        else:
            await exchange.respond(response.status, response.headers, response.body)

    async def _respond(self, exchange: Exchange, body: bytes) -> ApiResponse | None:
        request_id = self.world.new_id("req", 14)
        request = Request(exchange.method, exchange.path, exchange.query, exchange.headers, body, request_id)
        jobs.run_due(self.world)
        if request.path.startswith(("/_fake/", "/_config/")):
            if "origin" in exchange.headers:  # a web page, not a tool
                return _plain(403, b"Web pages may not steer the fake Stripe.")
            return await self.control.respond(request)
        if request.path.startswith("/v1/"):
            return await self._serve(exchange, request)
        return self.pages.respond(request)

    async def _serve(self, exchange: Exchange, request: Request) -> ApiResponse | None:
        """Handle an API call, with the fault that was queued for it. None if there must be no response."""
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
                response = await self._carry_out(exchange, request, fault)
        except StripeError as error:
            response = self.api.error_response(request, error)
        if response is not None:
            entry.update(status=response.status, replayed=response.replayed)
        return response

    async def _carry_out(self, exchange: Exchange, request: Request, fault: Fault | None) -> ApiResponse | None:
        if fault is None:
            return self.api.respond(request)
        if fault.milliseconds:
            await self._unless_closing(self.world.clock.real.sleep(fault.milliseconds / 1000))
        match fault.kind:
            case "rate_limit_429":
                raise rate_limited()
            case "error_500_before":
                return self.api.failure(request, save=fault.saved)
            case "error_500_after_commit":
                return self.api.respond(request, fail=True, save_failure=fault.saved)
            case "timeout_before":
                await self._unless_closing(exchange.gone())
                return None
            case "timeout_after_commit":
                self.api.respond(request)
                self.world.store.flush()
                await self._unless_closing(exchange.gone())
                return None
            case "reset_before":
                return None
            case "reset_after_commit":
                self.api.respond(request)
                return None
        return self.api.respond(request)

    async def _unless_closing(self, other: Awaitable[None]) -> None:
        task = asyncio.ensure_future(other)
        try:
            await asyncio.wait([task, self._closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()

    async def close(self) -> None:
        """Release all waiting requests, and stop sending webhooks."""
        if not self._closing.done():
            self._closing.set_result(None)
        self._background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._background
        await self.deliverer.close()


def _plain(status: int, text: bytes) -> ApiResponse:
    return ApiResponse(status, text, [("content-type", "text/plain")])
