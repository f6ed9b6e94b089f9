"""Meters: the rules for their events, and their sums."""

from typing import Any

import pytest
import stripe

from support import Fake


def meter(fake: Fake, name: str = "tokens", formula: str = "sum") -> str:
    fields: Any = {"display_name": name, "event_name": name, "default_aggregation": {"formula": formula}}
    return fake.v1.billing.meters.create(fields).id


def send(fake: Fake, value: str, customer: str, **more: Any) -> Any:
    payload = {"stripe_customer_id": customer, "value": value}
    event: Any = {"event_name": "tokens", "payload": payload, **more}
    return fake.v1.billing.meter_events.create(event)


def total(fake: Fake, meter_id: str, customer: str) -> float | None:
    asked: Any = {"customer": customer, "start_time": 0, "end_time": 4_000_000_000}
    found = fake.v1.billing.meters.event_summaries.list(meter_id, asked).data
    return found[0].aggregated_value if found else None


@pytest.mark.parametrize(("formula", "expected"), [("sum", 4.5), ("count", 2), ("last", 3)])
def test_events_are_counted_for_their_customer(fake: Fake, formula: str, expected: float) -> None:
    meter_id, one, other = meter(fake, formula=formula), fake.customer().id, fake.customer().id
    assert total(fake, meter_id, one) is None
    for value in ("1.5", "3", "none", "0.1234567890123", "-1"):
        send(fake, value, one)
    send(fake, "10", other)
    send(fake, "10", "cus_unknown")
    assert total(fake, meter_id, one) == expected


def test_an_identifier_is_taken_once_a_day(fake: Fake) -> None:
    meter_id, customer = meter(fake), fake.customer().id
    assert send(fake, "1", customer, identifier="call-1").identifier == "call-1"
    with pytest.raises(stripe.InvalidRequestError, match="An event already exists with identifier call-1") as caught:
        send(fake, "1", customer, identifier="call-1")
    assert caught.value.code is None
    assert total(fake, meter_id, customer) == 1
    fake.advance(24 * 3600)
    send(fake, "1", customer, identifier="call-1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"event_name": "none"}, "No active meter found for event name none"),
        ({"event_name": "x" * 101}, "at most 100"),
        ({"identifier": "x" * 101}, "at most 100"),
        ({"payload": ""}, "Missing required param: payload"),
        ({"timestamp": 1_000_000_000}, "35 calendar days"),
        ({"timestamp": 4_000_000_000}, "35 calendar days"),
        ({"colour": "red"}, "Received unknown parameter"),
    ],
)
def test_events_that_are_refused(fake: Fake, fields: dict[str, Any], message: str) -> None:
    meter(fake)
    good = {"event_name": "tokens", "payload[value]": "1", "payload[stripe_customer_id]": fake.customer().id}
    if "payload" in fields:
        good = {"event_name": "tokens"}
    response = fake.call("POST", "/v1/billing/meter_events", data=good | fields)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_an_event_name_has_one_meter(fake: Fake) -> None:
    meter(fake)
    with pytest.raises(stripe.InvalidRequestError, match="exists already"):
        meter(fake)
    assert len(fake.v1.billing.meters.list().data) == 1
