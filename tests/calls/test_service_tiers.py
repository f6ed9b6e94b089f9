"""A requested tier has its own price, and the hold covers the more expensive of that tier and the standard one."""

from collections.abc import Iterator

import httpx
import pytest

from farebox.money import parse_usd
from tests.calls.kit import set_provider
from tests.support import Customer, Farebox, running_farebox


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("tiers")) as served:
        set_provider(served, "openai")
        yield served


def charge_and_hold(customer: Customer, **more: str) -> tuple[int, int, str]:
    """Charge, hold and price version of a call with 2 input and 1,000 output tokens."""
    response = httpx.post(
        f"{customer.gateway_url}/openai/chat/completions",
        json={
            "model": "gpt-5-mini",
            "max_completion_tokens": 1000,
            "messages": [{"role": "user", "content": "Hello there"}],
            **more,
        },
        headers=customer.headers | {"x-demo": "tokens=1000"},
    )
    assert response.status_code == 200, response.text
    receipt = customer.receipt(response.headers["cf-aig-log-id"])
    return receipt["charge_nanos"], receipt["hold_nanos"], receipt["price_version"]


def test_tiers_have_their_own_price(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    standard, hold, _ = charge_and_hold(customer)
    flex, flex_hold, version = charge_and_hold(customer, service_tier="flex")
    priority, priority_hold, _ = charge_and_hold(customer, service_tier="priority")
    auto, _, _ = charge_and_hold(customer, service_tier="auto")
    assert flex < standard < priority
    assert auto == standard
    assert "service_tier=flex" in version
    assert flex_hold >= hold, "the provider may not grant the cheaper tier"
    assert priority_hold > flex_hold
    assert customer.balance.posted == parse_usd("5") - standard - flex - priority - auto
