"""Shared by the tests of calls: the demo provider's prices, the operator's set-up, logs and books."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import httpx
import msgspec

from farebox.gateway import GatewayConfig, SpendLimits
from farebox.ledger.audit import audit
from farebox.money import NANOS_PER_USD
from farebox.operator import administer, prices
from farebox.storage.gateways import GatewayRow, put_gateway
from farebox.storage.sql import Connection
from tests.engines import TESTER, looking
from tests.support import Customer, Farebox
from tests.waiting import SECONDS, until

INPUT_NANOS = 1_000
"""Nano-dollars per input token of the demo provider; one token is one word."""
OUTPUT_NANOS = 2_000
"""Nano-dollars per output token."""

OPERATOR_KEY = "operator-key-of-the-test"


def price_of(input_tokens: int, output_tokens: int) -> int:
    """The cost of a call of the demo provider's model, in nano-dollars."""
    return input_tokens * INPUT_NANOS + output_tokens * OUTPUT_NANOS


def log_row(customer: Customer, log_id: str, gateway_id: str = "default") -> dict[str, Any]:
    """The detail of one log row."""
    response = _logs(customer, gateway_id, f"/{log_id}")
    assert response.status_code == 200, response.text
    row: dict[str, Any] = response.json()["result"]
    return row


def later_row(customer: Customer, log_id: str) -> dict[str, Any]:
    """The detail of a log row that is written after the client has left, or after the response."""
    until(lambda: log_id in [row["id"] for row in log_rows(customer)], "its row")
    return log_row(customer, log_id)


def log_rows(customer: Customer, gateway_id: str = "default") -> list[dict[str, Any]]:
    """The gateway's log, newest first."""
    response = _logs(customer, gateway_id, "?per_page=50")
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["result"]
    return rows


def _logs(customer: Customer, gateway_id: str, rest: str) -> httpx.Response:
    return httpx.get(f"{customer.api_url}/ai-gateway/gateways/{gateway_id}/logs{rest}", headers=customer.headers)


def set_provider(farebox: Farebox, slug: str, *, base_url: str | None = None, api_key: str = OPERATOR_KEY) -> None:
    """Set the operator's key and base URL for a provider; by default the demo provider serves it."""
    services, base_url = farebox.services, base_url or farebox.demo_url
    farebox.run(
        services.database.write(
            lambda connection: administer.set_provider(
                connection,
                services.vault,
                by=TESTER,
                name=slug,
                at=services.clock.now_ms(),
                base_url=base_url,
                api_key=api_key,
            )
        )
    )
    forget(farebox)


def set_price(farebox: Farebox, provider: str, model: str, *, output_max: int = 4096, input_mtok: str = "1") -> None:
    """Set the demo provider's price for any model of any provider."""
    set_rates(farebox, (provider, model, {"input_mtok": input_mtok, "output_mtok": "2"}, output_max))


def set_rates(farebox: Farebox, *priced: tuple[str, str, Mapping[str, str], int | None]) -> None:
    """Set prices, each given as provider, model, rates and, if known, maximum output."""
    services = farebox.services

    def job(connection: Connection) -> None:
        at = services.clock.now_ms() - 1000
        for provider, model, rates, most in priced:
            prices.set_price(
                connection,
                services.ids,
                by=TESTER,
                provider=provider,
                model=model,
                rates=rates,
                output_max=most,
                at=at,
            )

    farebox.run(services.database.write(job))
    forget(farebox)


def set_gateway(customer: Customer, gateway_id: str = "default", **config: Any) -> None:
    """Create or reconfigure the gateway."""
    farebox = customer.farebox
    services = farebox.services
    at = services.clock.now_ms()
    row = GatewayRow(customer.account_id, gateway_id, msgspec.json.encode(GatewayConfig(**config)), at, at)
    farebox.run(services.database.write(lambda connection: put_gateway(connection, row)))
    forget(farebox)


def caching(farebox: Farebox) -> Customer:
    """A customer with 5 USD whose gateway keeps responses for ten minutes."""
    made = farebox.funded("5")
    set_gateway(made, cache_ttl=600)
    return made


def spend_rule(rule_id: str, nanos: int, **more: Any) -> dict[str, Any]:
    """A rule of spend limits: this many nano-dollars in thirty days."""
    fields = {"id": rule_id, "limit": nanos / NANOS_PER_USD, "limitType": "cost", "window": 30 * 86_400}
    return {**fields, "technique": "fixed", **more}


def put_rules(connection: Connection, account_id: str, at: int, *rules: dict[str, Any]) -> None:
    """Give the account's default gateway these spend limits."""
    limits = msgspec.convert({"enabled": True, "rules": rules}, SpendLimits)
    config = msgspec.json.encode(GatewayConfig(spend_limits=limits))
    put_gateway(connection, GatewayRow(account_id, "default", config, at, at))


def forget(farebox: Farebox) -> None:
    """Have the server notice a change at once rather than within half a second."""

    async def now() -> None:
        await farebox.services.configuration.notice_changes()

    farebox.run(now())


def differences(farebox: Farebox) -> list[str]:
    """What `farebox check` would report about all accounts."""
    with looking(farebox.services.settings) as connection:
        return [difference.message for difference in audit(connection)]


async def within(work: Awaitable[Any]) -> Any:
    """The result of the work; fails the test if it takes too long."""
    return await asyncio.wait_for(work, SECONDS)
