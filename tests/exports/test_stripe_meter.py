"""Meter events for the account's own Stripe, counted by the fake Stripe."""

import json
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
import stripe

from farebox.calls.exports import delivering, meter_events
from farebox.metrics.families import METER_EVENTS
from farebox.storage.gateways import find_gateway
from farebox.storage.notices import list_notices
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.http.support import GATEWAY_FIELDS, http, result, soon
from tests.sdks import cloudflare
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

KEY = "sk_test_of_the_account_0001"


@pytest.fixture(autouse=True)
def _at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_events, "EVERY_MS", 0)
    monkeypatch.setattr(delivering, "_PAUSES_MS", (0, 0))


class Meter:
    """A meter at the fake Stripe, through the official SDK."""

    def __init__(self, sdk: stripe.StripeClient, name: str) -> None:
        self.sdk = sdk
        self.name = name
        self.customer = self.sdk.v1.customers.create({"name": "End user"}).id
        self.id = self.make()

    def make(self) -> str:
        meter: Any = {"display_name": "m", "event_name": self.name, "default_aggregation": {"formula": "sum"}}
        return self.sdk.v1.billing.meters.create(meter).id

    @property
    def total(self) -> float:
        found = self.sdk.v1.billing.meters.event_summaries.list(
            self.id, {"customer": self.customer, "start_time": 0, "end_time": 4_000_000_000}
        ).data
        return found[0].aggregated_value if found else 0.0


@pytest.fixture
def sdk(farebox: Farebox) -> Iterator[stripe.StripeClient]:
    """Its connection is closed: one that is left to the garbage collector fails a later test."""
    addresses: Any = {"api": farebox.stripe_url}
    client = stripe.RequestsClient()
    yield stripe.StripeClient(KEY, http_client=client, base_addresses=addresses, max_network_retries=0)
    client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def meter(farebox: Farebox, sdk: stripe.StripeClient) -> Meter:
    return Meter(sdk, f"tokens_{farebox.services.ids.account_id()}")


def event(name: str, value: str, customer: str = "$metadata_customerId") -> dict[str, str]:
    payload = {"stripe_customer_id": customer, "value": value, "model": "$provider/$model"}
    return {"payload": json.dumps({"event_name": name, "payload": payload})}


def configure(customer: Customer, *events: dict[str, str], key: str = KEY, **more: Any) -> httpx.Response:
    body = GATEWAY_FIELDS | {"stripe": {"authorization": key, "usage_events": list(events)}} | more
    url = f"{customer.api_url}/ai-gateway/gateways"
    if http.get(f"{url}/default", headers=customer.headers).status_code == 404:
        return http.post(url, json=body | {"id": "default"}, headers=customer.headers)
    return http.put(f"{url}/default", json=body, headers=customer.headers)


def chat(customer: Customer, meter: Meter, **more: Any) -> dict[str, Any]:
    response = customer.chat(headers={"cf-aig-metadata": json.dumps({"customerId": meter.customer})}, **more)
    assert response.status_code == 200
    return cast(dict[str, Any], response.json())


def state(customer: Customer) -> dict[str, Any]:
    return dict(result(http.get(f"{customer.api_url}/farebox/gateways/default/meter-events", headers=customer.headers)))


def all_sent(customer: Customer) -> bool:
    found = state(customer)
    return found["waiting"] == 0 and found["delivered_at"] is not None


def counted(farebox: Farebox) -> dict[str, int]:
    place = farebox.services.metrics.place
    return {result: place.counter(METER_EVENTS, result).value for result in ("sent", "rejected", "skipped")}


def test_usage_is_counted(customer: Customer, meter: Meter) -> None:
    tokens = Meter(meter.sdk, f"{meter.name}_cost")
    configure(customer, event(meter.name, "$input_tokens"), event(meter.name, "$output_tokens"),
              event(tokens.name, "$cost", tokens.customer))  # fmt: skip
    usages = [chat(customer, meter)["usage"] for _ in range(3)]
    customer.chat(
        headers={"cf-aig-metadata": json.dumps({"other": 1})}
    )  # without a customer: two of its events are skipped
    customer.farebox.script("status=500")
    assert customer.chat().status_code == 500
    assert soon(lambda: all_sent(customer))
    assert meter.total == sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)
    logs = result(http.get(f"{customer.api_url}/ai-gateway/gateways/default/logs", headers=customer.headers))
    assert tokens.total == pytest.approx(sum(log["cost"] for log in logs), abs=1e-12)
    assert tokens.total > 0


def test_a_key_of_the_callers_own_is_counted_too(customer: Customer, meter: Meter) -> None:
    configure(customer, event(meter.name, "$output_tokens", meter.customer))
    response = httpx.post(
        f"{customer.gateway_url}/demo/v1/chat/completions",
        json={"model": "demo-1", "messages": [{"role": "user", "content": "Hi"}]},
        headers={"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer demo"},
    )
    assert response.status_code == 200
    assert soon(lambda: all_sent(customer))
    assert meter.total == response.json()["usage"]["completion_tokens"]


def test_an_event_with_a_lost_response_counts_once(customer: Customer, meter: Meter) -> None:
    """Stripe received the event but Farebox does not know, so it resends it with the same identifier."""
    configure(customer, event(meter.name, "$output_tokens", meter.customer))
    fault = {"match": "POST /v1/billing/meter_events", "kind": "reset_after_commit"}
    http.post(f"{customer.farebox.stripe_url}/_fake/faults", json=fault).raise_for_status()
    before = counted(customer.farebox)
    usage = chat(customer, meter)["usage"]
    assert soon(lambda: all_sent(customer))
    assert meter.total == usage["completion_tokens"]
    assert counted(customer.farebox) == {**before, "sent": before["sent"] + 1}


def test_nothing_is_lost_while_a_meter_is_missing(customer: Customer, meter: Meter) -> None:
    configure(customer, event("no_such_meter_" + meter.name, "$output_tokens", meter.customer))
    usage = chat(customer, meter)["usage"]
    assert soon(lambda: state(customer)["failures"] >= delivering.TOLD_AFTER)
    found = state(customer)
    assert (found["waiting"], found["error"]) == (1, "Stripe answered 400")
    notices, _ = read_now(
        customer.farebox.services.database, lambda connection: list_notices(connection, customer.account_id, 0, 10)
    )
    assert [(notice.kind, notice.content["what"]) for notice in notices] == [("export_failing", "stripe")]
    configure(customer, event(meter.name, "$output_tokens", meter.customer))
    assert soon(lambda: all_sent(customer))
    assert meter.total == usage["completion_tokens"]


def test_a_refused_stripe_key(customer: Customer, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(customer, event(meter.name, "1", meter.customer), key="sk_live_of_the_account")
    chat(customer, meter)
    assert soon(lambda: state(customer)["failures"] > 0)
    assert state(customer)["error"].startswith("Stripe answered 401")
    assert "sk_live" not in str(state(customer))
    configure(customer, event(meter.name, "1", meter.customer))
    assert soon(lambda: all_sent(customer))
    assert meter.total == 1


def test_the_key_is_sealed_and_shown_masked(customer: Customer, meter: Meter) -> None:
    of_stripe: Any = {"authorization": f"Bearer {KEY}", "usage_events": [event(meter.name, "1", meter.customer)]}
    account_id, base_url = customer.account_id, f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as client:
        made = client.ai_gateway.create(account_id=account_id, id="default", stripe=of_stripe, **GATEWAY_FIELDS)
    assert made.stripe is not None
    assert made.stripe.authorization == "…0001"
    row = read_now(
        customer.farebox.services.database, lambda connection: find_gateway(connection, customer.account_id, "default")
    )
    assert row is not None
    assert KEY.encode() not in row.config + (row.sealed or b"")
    shown = result(http.get(f"{customer.api_url}/ai-gateway/gateways/default", headers=customer.headers))
    written = http.put(f"{customer.api_url}/ai-gateway/gateways/default", json=shown, headers=customer.headers)
    assert result(written)["stripe"] == shown["stripe"]
    chat(customer, meter)
    assert soon(lambda: all_sent(customer))
    assert meter.total == 1
    assert result(http.put(
        f"{customer.api_url}/ai-gateway/gateways/default", json=GATEWAY_FIELDS, headers=customer.headers
    ))["stripe"] is None  # fmt: skip


@pytest.mark.parametrize(
    ("key", "payload", "place", "message"),
    [
        ("authorization", '{"event_name": "a", "payload": {"value": "1"}}', ["authorization"], "sk_ or rk_"),
        (KEY, "payload", ["usage_events", 0, "payload"], "not JSON"),
        (KEY, '{"event_name": "a", "properties": {}}', ["usage_events", 0, "payload"], "event_name"),
        (KEY, '{"event_name": "a", "payload": {}}', ["usage_events", 0, "payload"], "payload"),
        (KEY, '{"event_name": "a", "payload": {"v": "$tokens"}}', ["usage_events", 0, "payload"], "$input_tokens"),
        (KEY, '{"event_name": "a", "payload": {"v": null}}', ["usage_events", 0, "payload"], "neither"),
        (KEY, '{"event_name": "", "payload": {"v": 1}}', ["usage_events", 0, "payload"], "1 to 100"),
    ],
)
def test_an_invalid_template_is_refused(
    customer: Customer, key: str, payload: str, place: list[Any], message: str
) -> None:
    refused = configure(customer, {"payload": payload}, key=key)
    assert refused.status_code == 400
    [error] = refused.json()["errors"]
    assert error["path"] == ["body", "stripe", *place]
    assert message in error["message"]


def test_the_state_of_a_gateway_that_does_not_exist(customer: Customer) -> None:
    url = f"{customer.api_url}/farebox/gateways/none/meter-events"
    assert http.get(url, headers=customer.headers).status_code == 404
