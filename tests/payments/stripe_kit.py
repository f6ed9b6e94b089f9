"""Shared by the tests of the Stripe adapter: the real adapter in front of a fake Stripe."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import stripe

from fake_stripe import RunningFakeStripe, start_fake_stripe
from farebox.payments.stripe import StripeProcessor
from tests.waiting import SECONDS

WEBHOOK_SECRET = "whsec_of_the_tests"
KEY = "sk_test_of_the_tests"
TIMEOUT = 0.5
"""Timeout in seconds once the test plants a missing response: long enough for real responses, short enough to wait
for."""
FORM = {"card-expiry": "12/34", "card-cvc": "123", "card-name": "Ana", "email": "ana@example.com"}


def local_client(timeout: float) -> stripe.HTTPXClient:
    """A client for the fake over plain HTTP, without loading Stripe's certificates, which takes long."""
    return stripe.HTTPXClient(timeout=timeout, verify_ssl_certs=False)


class Stripe:
    """A fake Stripe, our adapter in front of it, and the SDK for what owners and operators do."""

    def __init__(self, fake: RunningFakeStripe, processor: StripeProcessor, control: httpx.AsyncClient) -> None:
        self.url = fake.url
        self.processor = processor
        self.control = control
        self.sdk_http = local_client(10)
        self.sdk = stripe.StripeClient(
            KEY, base_addresses={"api": fake.url}, http_client=self.sdk_http, max_network_retries=0
        ).v1

    async def customer(self, name: str = "acme") -> str:
        return await self.processor.create_customer(name, name=name, email=f"{name}@example.com", key=f"c:{name}")

    async def card(self, customer_id: str, token: str = "pm_card_visa") -> str:
        """Save a card like a hosted page."""
        method = await self.sdk.payment_methods.attach_async(token, {"customer": customer_id})
        return method.id

    async def fault(self, match: str, kind: str, **more: object) -> None:
        """Make the next request that matches, such as `POST /v1/invoices`, fail."""
        if kind.startswith("timeout"):
            client: Any = self.processor._http
            client._timeout = TIMEOUT
        response = await self.control.post("/_fake/faults", json={"match": match, "kind": kind, **more})
        assert response.status_code == 200, response.text

    async def behave(self, card_id: str, behave: str) -> None:
        """Make the card decline with this code from now on; `ok`: stop declining."""
        response = await self.control.post(f"/_fake/cards/{card_id}", json={"behave": behave})
        assert response.status_code == 200, response.text

    async def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.control.get("/_fake/requests")).json()["requests"]
        return found

    async def invoice_count(self, customer_id: str) -> int:
        return len((await self.sdk.invoices.list_async({"customer": customer_id})).data)

    async def submit(self, url: str, fields: Mapping[str, str]) -> httpx.Response:
        """Send a form of a hosted page, like the owner's browser."""
        return await self.control.post(url, data=dict(fields), follow_redirects=False)


@asynccontextmanager
async def running_stripe() -> AsyncIterator[Stripe]:
    async with await start_fake_stripe() as fake, httpx.AsyncClient(base_url=fake.url) as control:
        http_client = local_client(SECONDS)
        processor = StripeProcessor(KEY, webhook_secret=WEBHOOK_SECRET, api_base=fake.url, http_client=http_client)
        kit = Stripe(fake, processor, control)
        await kit.sdk.customers.list_async({"limit": 1})  # loads what both sides load on first use, which takes long
        try:
            yield kit
        finally:
            await processor.close()
            await kit.sdk_http.close_async()  # type: ignore[no-untyped-call]
