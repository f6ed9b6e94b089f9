"""Endpoints and messages over HTTP, and a message that a real server delivers by itself."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.model import Permission
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from tests.messages.kit import Receiver, bucket_of, verified
from tests.messages.test_cli import receiver
from tests.support import Customer, Farebox, running_farebox

__all__ = ["receiver"]  # fixture


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("messages"), webhook_private="allow") as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded()


def call(customer: Customer, method: str, path: str, status: int = 200, **body: Any) -> Any:
    response = httpx.request(method, f"{customer.api_url}/farebox/{path}", headers=customer.headers, json=body or None)
    assert response.status_code == status, response.text
    return response.json()["result"] if status < 400 else response.json()["errors"]


def notify(customer: Customer, notice_id: str) -> None:
    services = customer.farebox.services

    def job(connection: Connection) -> None:
        bucket = bucket_of(connection, customer.account_id)
        at = services.clock.now_ms()
        add_notice(connection, bucket, customer.account_id, notice_id, "refunded", {"amount_cents": 5}, at)

    customer.farebox.run(services.database.write(job))


def wait_for(receiver: Receiver, count: int) -> None:
    import time

    for _ in range(1_000):
        if len(receiver.received) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"{len(receiver.received)} of {count} messages arrived")


def test_a_server_delivers_messages_by_itself(customer: Customer, receiver: Receiver) -> None:
    made = call(customer, "POST", "webhooks", 201, url=receiver.url, kinds=["refunded"])
    secret = made.pop("secret")
    assert call(customer, "GET", "webhooks") == [made]

    notify(customer, "refunded:re_1 é")
    wait_for(receiver, 1)
    (got,) = receiver.received
    assert verified(secret, got.headers, got.body)
    assert json.loads(got.body)["data"] == {"amount_cents": 5}

    (listed,) = call(customer, "GET", "messages")
    assert (listed["message_id"], listed["type"]) == ("refunded:re_1 é", "refunded")
    assert listed["webhook_id"] == got.headers["webhook-id"]
    assert [(item["target"], item["error"]) for item in listed["deliveries"]] == [(made["endpoint_id"], None)]

    replayed = call(customer, "POST", "messages/refunded%3Are_1%20%C3%A9/replay")
    assert replayed == {"message_id": "refunded:re_1 é", "deliveries": 1}
    wait_for(receiver, 2)
    assert receiver.received[1].headers["webhook-id"] == got.headers["webhook-id"]

    assert call(customer, "DELETE", f"webhooks/{made['endpoint_id']}") == made
    assert call(customer, "GET", "webhooks") == []


def test_a_test_message(customer: Customer, receiver: Receiver) -> None:
    made = call(customer, "POST", "webhooks", 201, url=receiver.url)
    path = f"webhooks/{made['endpoint_id']}/test"
    assert call(customer, "POST", path) == {"delivered": True, "status": 204, "error": None}
    receiver.responses = [302]
    assert call(customer, "POST", path) == {"delivered": False, "status": 302, "error": "answered 302"}


def test_errors_name_the_field(customer: Customer) -> None:
    (error,) = call(customer, "POST", "webhooks", 400, url="ftp://example.com/")
    assert error["path"] == ["body", "url"]
    (error,) = call(customer, "POST", "webhooks", 400, url="https://example.com/", kinds=["nope"])
    assert error["path"] == ["body", "kinds"]
    call(customer, "POST", "webhooks", 400, kinds=[])
    call(customer, "POST", "messages/none/replay", 404)


def test_endpoints_belong_to_their_account(customer: Customer, farebox: Farebox) -> None:
    made = call(customer, "POST", "webhooks", 201, url="https://example.com/")
    other = farebox.funded()
    call(other, "DELETE", f"webhooks/{made['endpoint_id']}", 404)
    call(other, "POST", f"webhooks/{made['endpoint_id']}/test", 404)
    assert call(other, "GET", "webhooks") == []
    reader = Customer(farebox, customer.account_id, farebox.create_token(customer.account_id, Permission.READ))
    assert len(call(reader, "GET", "webhooks")) == 1
    call(reader, "POST", "webhooks", 403, url="https://example.com/")
