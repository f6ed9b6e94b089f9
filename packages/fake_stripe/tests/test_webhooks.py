"""Events and how endpoints are notified of them."""

from typing import Any

from support import SECRET, Fake, Receiver, running_fake


def test_an_event_is_signed_and_names_its_request(notified: Fake, receiver: Receiver) -> None:
    made = notified.v1.customers.create({"name": "x"}, {"idempotency_key": "k1"})
    event = receiver.wait_for(1)[0]
    assert event.type == "customer.created"
    assert event.data.object["id"] == made.id
    assert event.request is not None
    assert event.request.idempotency_key == "k1"
    assert (event.api_version, event.pending_webhooks, event.livemode) == ("2026-10-28.endive", 1, False)
    assert notified.v1.events.retrieve(event.id).type == "customer.created"


def test_updates_tell_what_was_before(notified: Fake, receiver: Receiver) -> None:
    made = notified.v1.customers.create({"name": "old"})
    notified.v1.customers.update(made.id, {"name": "new"})
    event = receiver.wait_for(1, "customer.updated")[0]
    assert event.data.object["name"] == "new"
    assert event.to_dict()["data"]["previous_attributes"] == {"name": "old"}


def test_a_failed_delivery_is_retried_three_times(notified: Fake, receiver: Receiver) -> None:
    receiver.responses = [500, 404, 200]
    notified.v1.customers.create({"name": "x"})
    for tries, wait in enumerate((61, 3601), 1):
        receiver.wait_for(tries)
        settled(notified, tries)
        assert [event.type for event in notified.v1.events.list({"delivery_success": False}).data] == [
            "customer.created"
        ]
        notified.advance(wait)
    receiver.wait_for(3)
    settled(notified, 3)
    assert notified.v1.events.list({"delivery_success": False}).data == []
    event = notified.v1.events.list({"delivery_success": True}).data[0]
    assert event.pending_webhooks == 0
    assert len({event.id for event in receiver.events}) == 1


def test_a_delivery_is_abandoned_in_the_end(notified: Fake, receiver: Receiver) -> None:
    receiver.responses = [500, 500, 500]
    notified.v1.customers.create({"name": "x"})
    for tries in (1, 2, 3):
        receiver.wait_for(tries)
        settled(notified, tries)
        notified.advance(3601)
    notified.advance(86_400)
    assert len(receiver.events) == 3
    assert len(notified.v1.events.list({"delivery_success": False}).data) == 1
    assert notified.control("GET", "webhooks")["waiting"] == 0


def settled(fake: Fake, tries: int) -> None:
    """Wait until the fake has recorded the outcome of `tries` attempts."""
    for _ in range(1000):
        if fake.control("GET", "webhooks")["tries"] >= tries:
            return
    raise AssertionError("the deliveries were not noted")


def test_held_events_are_sent_on_request_in_disorder_and_again(notified: Fake, receiver: Receiver) -> None:
    notified.control("POST", "webhooks", mode="hold")
    customer = notified.customer("pm_card_visa")
    customer.charge()
    waiting = notified.control("GET", "webhooks")["waiting"]
    assert waiting >= 6
    assert receiver.events == []
    assert notified.control("POST", "webhooks/flush", repeat=3, shuffle=7) == {"delivered": 3 * waiting}
    ids = [event.id for event in receiver.events]
    assert len(ids) == 3 * waiting
    assert len(set(ids)) == waiting
    order = [event.id for event in reversed(notified.v1.events.list({"limit": 100}).data)]
    assert list(dict.fromkeys(ids)) != order
    assert notified.v1.events.list({"delivery_success": False}).data == []


def test_dropped_and_doubled_events(notified: Fake, receiver: Receiver) -> None:
    notified.control("POST", "webhooks", mode="drop")
    notified.v1.customers.create({"name": "dropped"})
    notified.control("POST", "webhooks", mode="duplicate", times=3)
    notified.v1.customers.create({"name": "tripled"})
    assert {event.data.object["name"] for event in receiver.wait_for(3)} == {"tripled"}
    settled(notified, 3)  # the third event counts as failed until its response has been read
    assert len(notified.v1.events.list({"delivery_success": False}).data) == 1
    assert notified.control("POST", "webhooks/flush", dropped=True) == {"delivered": 1}
    assert receiver.events[-1].data.object["name"] == "dropped"
    assert notified.v1.events.list({"delivery_success": False}).data == []


def test_endpoints_of_the_api(fake: Fake, receiver: Receiver) -> None:
    made = fake.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["product.created"]})
    assert (made.secret or "").startswith("whsec_")
    assert "secret" not in fake.v1.webhook_endpoints.retrieve(made.id).to_dict()
    asked = {"url": receiver.url, "secret": SECRET, "events": ["product.created"]}
    fake.http.post(f"/_config/webhooks/{made.id}", json=asked)
    fake.v1.customers.create({"name": "x"})
    fake.v1.products.create({"name": "x"})
    assert [event.type for event in receiver.wait_for(1)] == ["product.created"]
    fake.v1.webhook_endpoints.update(made.id, {"disabled": True})
    assert fake.v1.webhook_endpoints.list().data[0].status == "disabled"
    assert fake.v1.webhook_endpoints.delete(made.id).deleted


def test_listing_events(fake: Fake) -> None:
    fake.v1.products.create({"name": "x"})
    made = fake.v1.customers.create({"name": "x"})
    fake.advance(1000)
    fake.v1.customers.update(made.id, {"name": "y"})
    assert fake.types(types=["customer.created", "customer.updated"]) == ["customer.created", "customer.updated"]
    assert fake.types(type="customer.*") == ["customer.created", "customer.updated"]
    now = fake.control("GET", "clock")["now"]
    assert fake.types(created={"gte": now - 500}) == ["customer.updated"]
    fake.advance(31 * 86400)
    assert fake.types() == []


def test_the_endpoint_of_the_command_line(receiver: Receiver) -> None:
    options: Any = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    with running_fake(**options) as fake:
        fake.v1.customers.create({"name": "x"})
        receiver.wait_for(1)
        fake.control("DELETE", "state")
        fake.v1.customers.create({"name": "y"})
        receiver.wait_for(2)
