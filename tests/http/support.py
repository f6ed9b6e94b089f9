"""Helpers for the tests of the control plane."""

import atexit
import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from farebox.billing import cards
from farebox.http.router import Route
from tests.support import Customer, Farebox

http = httpx.Client()
"""One client for all tests, because creating one costs more than a request."""
atexit.register(http.close)

GATEWAY_FIELDS: dict[str, Any] = {
    "cache_invalidate_on_update": False,
    "cache_ttl": None,
    "collect_logs": True,
    "rate_limiting_interval": None,
    "rate_limiting_limit": None,
}
"""The fields that Cloudflare requires for a new gateway, besides its ID."""


def errors(response: httpx.Response) -> list[tuple[int, str]]:
    """The codes and messages of an error; checks that it is in the envelope."""
    body = response.json()
    assert body["success"] is False
    assert body["result"] is None
    assert body["messages"] == []
    assert body["errors"]
    return [(error["code"], error["message"]) for error in body["errors"]]


def result(response: httpx.Response) -> Any:
    """The result of a success; checks the envelope."""
    assert response.status_code in (200, 201), response.text
    body = response.json()
    assert body["success"] is True
    assert body["errors"] == []
    return body["result"]


def url(farebox: Farebox, route: Route, account_id: str, **parameters: str) -> str:
    """A URL of the route; a parameter that is not named is `default` for a gateway, else `demo`."""
    values = {"account_id": account_id, "gateway_id": "default"} | parameters
    return farebox.url + re.sub(r"\{(\w+)\}", lambda found: values.get(found.group(1), "demo"), route.path)


STRIPE_KEY = {"authorization": "Bearer sk_test_demo"}


def attach_card(customer: Customer, stripe_url: str, token: str = "pm_card_visa") -> str:
    """Save one of the fake Stripe's test cards on the account, as its hosted page would; returns the card's id."""
    services = customer.farebox.services
    customer_id = customer.farebox.run(cards.customer_of(services, customer.account_id))
    response = http.post(
        f"{stripe_url}/v1/payment_methods/{token}/attach", data={"customer": customer_id}, headers=STRIPE_KEY
    )
    assert response.status_code == 200, response.text
    card_id: str = response.json()["id"]
    return card_id


def make_default(customer: Customer, stripe_url: str, card_id: str) -> None:
    """Make the card the one to charge, with notices."""
    services = customer.farebox.services
    customer_id = customer.farebox.run(cards.customer_of(services, customer.account_id))
    data = {"invoice_settings[default_payment_method]": card_id}
    response = http.post(f"{stripe_url}/v1/customers/{customer_id}", data=data, headers=STRIPE_KEY)
    assert response.status_code == 200, response.text
    customer.farebox.run(cards.refresh(services, customer.account_id))


def save_card(customer: Customer, token: str = "pm_card_visa") -> str:
    """A saved card that is the default; returns its id."""
    card_id = attach_card(customer, customer.farebox.stripe_url, token)
    make_default(customer, customer.farebox.stripe_url, card_id)
    return card_id


def soon(holds: Callable[[], bool]) -> bool:
    """Whether the condition becomes true within the time that the worker and the processor's events take."""
    deadline = time.monotonic() + 10
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
