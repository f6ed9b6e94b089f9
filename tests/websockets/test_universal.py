"""Cloudflare's universal WebSocket: each message is a call of its own, answered under its event ID."""

import socket
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from farebox.errors import ACCOUNT_BYTES_FULL
from farebox.limits.byte_budget import ByteLease
from tests.calls.kit import differences, log_rows, price_of, set_gateway
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer
from tests.waiting import until
from tests.websockets.kit import opened, receive, send

pytestmark = ON_BOTH_ENGINES


def create(connection: Any, event_id: str, text: str = "Hello there", **more: Any) -> None:
    query = {"model": "demo-1", "messages": [{"role": "user", "content": text}], **more}
    request = {
        "eventId": event_id,
        "provider": "demo",
        "endpoint": "v1/chat/completions",
        "headers": {},
        "query": query,
    }
    send(connection, type="universal.create", request=request)


def test_a_message_is_a_call(customer: Customer) -> None:
    before = customer.balance.posted
    with opened(customer, "") as connection:
        create(connection, "first")
        created = receive(connection)
        assert (created["type"], created["metadata"]["eventId"]) == ("universal.created", "first")
        assert created["metadata"]["contentType"] == "application/json"
        assert created["metadata"]["step"] == "0"
        usage = created["response"]["usage"]
        cost = price_of(usage["prompt_tokens"], usage["completion_tokens"])
        assert customer.balance.posted == before - cost
        assert customer.receipt(created["metadata"]["logId"])["charge_nanos"] == cost
    assert not differences(customer.farebox)


def test_a_stream_is_messages_and_an_end(customer: Customer) -> None:
    with opened(customer, "") as connection:
        create(connection, "s", stream=True, stream_options={"include_usage": True})
        messages = [receive(connection)]
        while messages[-1]["type"] != "universal.done":
            messages.append(receive(connection))
    assert messages[0]["type"] == "universal.created"
    assert "response" not in messages[0]
    events = [message["response"] for message in messages[1:-1]]
    assert {message["type"] for message in messages[1:-1]} == {"universal.stream"}
    assert events[0]["object"] == "chat.completion.chunk"
    assert any(event["usage"] for event in events if isinstance(event, dict) and event.get("usage"))
    assert events[-1] == "[DONE]"
    assert customer.balance.held == 0
    assert len(log_rows(customer)) == 1


def test_messages_are_served_at_once_and_errors_have_their_place(customer: Customer) -> None:
    with opened(customer, "") as connection:
        for number in range(20):
            create(connection, f"e{number}", max_tokens="many" if number == 7 else 50)
        found = {message["metadata"]["eventId"]: message for message in (receive(connection) for _ in range(20))}
        assert set(found) == {f"e{number}" for number in range(20)}
        statuses = {event: message["metadata"]["status"] for event, message in found.items()}
        assert statuses.pop("e7") == 400
        assert set(statuses.values()) == {200}
        connection.send("no JSON")
        assert receive(connection)["type"] == "error"
        create(connection, "again")
        assert receive(connection)["metadata"]["eventId"] == "again"
    until(lambda: customer.balance.held == 0)
    assert not differences(customer.farebox)


def test_messages_are_screened(customer: Customer) -> None:
    set_gateway(customer, dlp={"enabled": True, "action": "BLOCK", "profiles": ["payment_cards"]})
    with opened(customer, "") as connection:
        create(connection, "card", "It is 4111 1111 1111 1111")
        blocked = receive(connection)
        assert (blocked["metadata"]["status"], blocked["response"]["errors"][0]["code"]) == (400, 2029)


def test_it_takes_a_token(customer: Customer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened(customer, "", {})
    assert refused.value.response.status_code == 401


def test_a_client_that_leaves_ends_its_calls(customer: Customer) -> None:
    connection = opened(customer, "")
    create(connection, "slow", stream=True)
    assert receive(connection)["type"] == "universal.created"
    connection.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: customer.balance.held == 0)
    until(lambda: not customer.farebox.services.calls.by_account.get(customer.account_id))
    assert len(log_rows(customer)) == 1


def test_a_response_for_which_there_is_no_room_is_given_up_and_charged(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses that are sent in one message are buffered only up to the account's memory limit."""
    monkeypatch.setattr("farebox.calls.relaying.relay.WHOLE_BODY_MAX", 64)  # so that it is relayed as it arrives
    monkeypatch.setattr("farebox.calls.relaying.whole.FREE", 0)
    monkeypatch.setattr(ByteLease, "room_for", lambda _self, _more: False)
    before = customer.balance.posted
    with opened(customer, "") as connection:
        create(connection, "large", "word " * 200)
        refused = receive(connection)
        assert (refused["type"], refused["metadata"]["eventId"]) == ("error", "large")
        assert refused["error"]["code"] == ACCOUNT_BYTES_FULL.code
    until(lambda: customer.balance.held == 0)
    assert customer.balance.posted < before
    assert not differences(customer.farebox)
