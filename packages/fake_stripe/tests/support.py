"""A fake Stripe for tests, on its own event loop, with the official SDK in front of it."""

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import stripe
import uvloop

from fake_stripe import start_fake_stripe

KEY = "sk_test_0123456789abcdef"
SECRET = "whsec_test_secret"


class Fake:
    """A running fake Stripe."""

    def __init__(self, url: str) -> None:
        self.url = url
        addresses: Any = {"api": url}
        self.sdk_http = stripe.RequestsClient()
        self.sdk = stripe.StripeClient(KEY, http_client=self.sdk_http, base_addresses=addresses, max_network_retries=0)
        self.v1 = self.sdk.v1
        self.http = httpx2.Client(base_url=url, timeout=10)

    def close(self) -> None:
        """Close the connections: those that are left to the garbage collector fail a later test."""
        self.http.close()
        self.sdk_http.close()  # type: ignore[no-untyped-call]

    def control(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """A call to the tester's interface."""
        response = self.http.request(method, f"/_fake/{path}", json=values)
        assert response.status_code == 200, response.text
        return cast(dict[str, Any], response.json())

    def call(self, method: str, path: str, data: Any = None, **headers: str) -> httpx2.Response:
        """A call to the API without the SDK."""
        sent = {"authorization": f"Bearer {KEY}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.request(method, path, data=data, headers=sent)

    def advance(self, seconds: int) -> None:
        self.control("POST", "clock", advance_seconds=seconds)

    def customer(self, card: str | None = None, **values: Any) -> "Customer":
        made = self.v1.customers.create(cast(Any, {"email": "owner@example.com", "name": "Owner", **values}))
        method = None
        if card is not None:
            method = self.v1.payment_methods.attach(card, {"customer": made.id}).id
            self.v1.customers.update(made.id, {"invoice_settings": {"default_payment_method": method}})
        return Customer(self, made.id, method)

    def types(self, **filters: Any) -> list[str]:
        """The types of the latest events, oldest first."""
        events = self.v1.events.list(cast(Any, {"limit": 100, **filters})).data
        return [event.type for event in reversed(events)]


class Customer:
    """A customer with a saved card."""

    def __init__(self, fake: Fake, customer_id: str, method: str | None) -> None:
        self.fake = fake
        self.id = customer_id
        self.method = method or ""

    def charge(self, amount: int = 1000, **values: Any) -> stripe.PaymentIntent:
        """Charge the card off session, like a top-up."""
        asked = {
            "amount": amount,
            "currency": "usd",
            "customer": self.id,
            "payment_method": self.method,
            "off_session": True,
            "confirm": True,
        }
        return self.fake.v1.payment_intents.create(cast(Any, asked | values))

    def invoice(self, amount: int = 1000, **values: Any) -> stripe.Invoice:
        """A finalized invoice with one line."""
        v1 = self.fake.v1
        made = v1.invoices.create(cast(Any, {"customer": self.id, "auto_advance": False, **values}))
        item = {"customer": self.id, "invoice": made.id, "amount": amount, "currency": "usd", "description": "Credits"}
        v1.invoice_items.create(cast(Any, item))
        return v1.invoices.finalize_invoice(made.id)


@contextlib.contextmanager
def running_fake(**options: Any) -> Iterator[Fake]:
    """Serve a fake Stripe for a while."""
    ready = threading.Event()
    box: dict[str, Any] = {}

    async def serve() -> None:
        stop = asyncio.Event()
        async with await start_fake_stripe(**options) as fake:
            box.update(url=fake.url, stop=stop, loop=asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        fake = Fake(box["url"])
        yield fake
        fake.close()
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(10)


class Receiver:
    """A webhook endpoint that checks every signature with the SDK."""

    def __init__(self) -> None:
        self.events: list[stripe.Event] = []
        self.responses: list[int] = []
        """Statuses of the next responses; 200 if none is left."""
        self._changed = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event = stripe.Webhook.construct_event(body, self.headers["stripe-signature"], SECRET)
                with receiver._changed:
                    receiver.events.append(event)
                    status = receiver.responses.pop(0) if receiver.responses else 200
                    receiver._changed.notify_all()
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhooks?from=fake"

    def wait_for(self, count: int, kind: str | None = None) -> list[stripe.Event]:
        """Wait until `count` events (of a kind) have arrived."""

        def enough() -> bool:
            return len(self.of(kind)) >= count

        with self._changed:
            assert self._changed.wait_for(enough, 5), [event.type for event in self.events]
        return self.of(kind)

    def of(self, kind: str | None) -> list[stripe.Event]:
        return [event for event in self.events if kind is None or event.type == kind]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def state_file(folder: Path) -> Path:
    return folder / "state" / "fake-stripe.jsonl"
