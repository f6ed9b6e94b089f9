"""One row per call: what is kept of it, what is not, and who decides that."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.limits import logged_bytes
from farebox.storage.accounts import read_balance
from farebox.storage.sql import Connection, rows
from tests.calls.kit import log_row, log_rows, price_of, set_gateway
from tests.calls.wire import WireResponse, native_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

NATIVE = "demo/chat/completions"
KEPT = 5_000


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that keeps bodies of up to KEPT bytes."""
    with running_farebox(tmp_path_factory.mktemp("logs"), log_body_limit_bytes=KEPT) as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def stored(customer: Customer, log_id: str, which: str) -> httpx.Response:
    return httpx.get(f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}/{which}", headers=customer.headers)


def rows_in_database(customer: Customer) -> list[tuple[Any, ...]]:
    """Log id and `logged` of each call of the account, also of those that no log shows."""

    def read(connection: Connection) -> list[tuple[Any, ...]]:
        return rows(
            connection, "SELECT log_id, logged FROM calls WHERE account_id = ? ORDER BY log_id", (customer.account_id,)
        )

    return customer.farebox.run(customer.farebox.services.database.scan(read))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_call_has_one_complete_log_row(customer: Customer, stream: bool) -> None:
    body = native_body(stream=stream)
    response = await post(customer, body, NATIVE, demo="tokens=4 delay=60", user_agent="test/1", cf_aig_event_id="ev-1")
    assert response.headers["cf-aig-event-id"] == "ev-1"
    [row] = log_rows(customer)
    assert row["id"] == response.log_id
    assert (row["provider"], row["model"], row["path"]) == ("demo", "demo-1", "v1/chat/completions")
    assert (row["status_code"], row["success"], row["cached"], row["step"]) == (200, True, False, 0)
    assert (row["tokens_in"], row["tokens_out"]) == (2, 4)
    assert row["cost"] == price_of(2, 4) / 10**9
    assert row["request_type"] == "openai_chat"
    assert row["request_content_type"] == "application/json"
    assert row["response_content_type"] == ("text/event-stream" if stream else "application/json")
    assert row["event_id"] == "ev-1"
    assert row["authentication"] is True
    assert row["farebox"]["first_byte_ms"] >= 55
    assert row["duration"] >= row["farebox"]["first_byte_ms"]
    detail = log_row(customer, response.log_id)
    if stream:
        # Farebox requested the stream's usage, so both bodies are slightly larger than the caller's.
        assert json.loads(stored(customer, response.log_id, "request").content)["stream"] is True
        assert detail["response_size"] > len(response.body)
    else:
        assert stored(customer, response.log_id, "request").content == body
        assert stored(customer, response.log_id, "response").content == response.body
        assert (detail["request_size"], detail["response_size"]) == (len(body), len(response.body))
        assert detail["request_head"] == body.decode()
        assert detail["request_head_complete"] is True


async def test_every_call_has_its_own_log_row(customer: Customer) -> None:
    made = [
        (await post(customer, native_body(), NATIVE, demo=demo)).log_id
        for demo in ("", "status=500", "cut=1", "usage=none", "garbage=1", "tokens=0")
    ]
    made.append((await post(customer, native_body().replace(b"demo-1", b"demo-9"), NATIVE)).log_id)
    assert sorted(row["id"] for row in log_rows(customer)) == sorted(made)
    assert [log_id for log_id, _ in rows_in_database(customer)] == sorted(made)


async def test_a_response_that_is_too_large_is_not_kept_and_its_row_is(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, demo=f"big={2 * KEPT} tokens=9")
    assert len(response.body) > KEPT
    assert stored(customer, response.log_id, "request").status_code == 200
    assert stored(customer, response.log_id, "response").status_code == 404
    detail = log_row(customer, response.log_id)
    assert detail["response_size"] == len(response.body)
    assert "response_head" not in detail
    assert detail["tokens_out"] == 9


async def test_large_bodies_are_kept_at_a_rate(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_bytes, "LARGE_BYTES", 1000)
    monkeypatch.setattr(logged_bytes, "BURST_BYTES", 5_000)
    monkeypatch.setattr(logged_bytes, "BYTES_PER_SECOND", 0)
    monkeypatch.setattr(farebox.services.logged_bytes, "_taken", {})
    large, small = native_body("word " * 400), native_body("word " * 40)
    log_ids = [(await post(customer, body, NATIVE)).log_id for body in (large, large, large, small)]
    assert [stored(customer, log_id, "request").status_code for log_id in log_ids] == [200, 200, 404, 200]
    other = farebox.funded("5")
    assert stored(other, (await post(other, large, NATIVE)).log_id, "request").status_code == 200


async def test_a_request_that_is_too_large_is_not_kept_and_its_row_is(customer: Customer) -> None:
    body = native_body("word " * KEPT)
    response = await post(customer, body, NATIVE)
    assert stored(customer, response.log_id, "request").status_code == 404
    assert stored(customer, response.log_id, "response").status_code == 200
    detail = log_row(customer, response.log_id)
    assert detail["request_size"] == len(body)
    assert detail["tokens_in"] == KEPT


async def test_the_caller_may_ask_for_a_row_without_bodies(customer: Customer) -> None:
    response = await post(customer, native_body("a secret"), NATIVE, cf_aig_collect_log_payload="false")
    [row] = log_rows(customer)
    assert row["id"] == response.log_id
    assert row["tokens_in"] == 2
    for which in ("request", "response"):
        assert stored(customer, response.log_id, which).status_code == 404
    assert "secret" not in json.dumps(log_row(customer, response.log_id))
    found = customer.farebox.run(
        customer.farebox.services.database.scan(
            lambda connection: rows(
                connection, "SELECT request, response FROM calls WHERE log_id = ?", (response.log_id,)
            )
        )
    )
    assert found == [(None, None)]


@pytest.mark.parametrize(
    ("collects", "asked", "logged"),
    [(True, None, True), (True, "false", False), (False, None, False), (False, "true", True), (True, "FALSE", False)],
)
async def test_the_caller_may_ask_for_no_row_or_for_one(
    customer: Customer, collects: bool, asked: str | None, logged: bool
) -> None:
    set_gateway(customer, "default", collect_logs=collects)
    headers = {} if asked is None else {"cf_aig_collect_log": asked}
    response = await post(customer, native_body(), NATIVE, **headers)
    assert [row["id"] for row in log_rows(customer)] == ([response.log_id] if logged else [])
    assert stored(customer, response.log_id, "request").status_code == (200 if logged else 404)
    # There is a receipt nevertheless: there is no charge without one.
    charge = customer.receipt(response.log_id)["charge_nanos"]
    assert charge > 0
    balance = customer.farebox.run(
        customer.farebox.services.database.scan(lambda connection: read_balance(connection, customer.account_id))
    )
    assert balance is not None
    assert balance.posted == 5 * 10**9 - charge


METADATA: dict[str, tuple[str, dict[str, Any] | None]] = {
    "flat": ('{"team": "x", "n": 3, "r": 1.5, "on": true}', {"team": "x", "n": 3, "r": 1.5, "on": True}),
    "five at most": (
        '{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}',
        {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
    ),
    "Cloudflare's own": ('{"cf.x": 1, "team": "x"}', {"team": "x"}),
    "null voids all": ('{"team": "x", "nothing": null}', None),
    "nested voids all": ('{"team": "x", "deep": {"a": 1}}', None),
    "a list voids all": ('{"team": "x", "deep": [1]}', None),
    "no object": ('["team"]', None),
    "no JSON": ("team=x", None),
    "nothing": ("{}", None),
}


@pytest.mark.parametrize("case", METADATA)
async def test_metadata(customer: Customer, case: str) -> None:
    text, expected = METADATA[case]
    response = await post(customer, native_body(), NATIVE, cf_aig_metadata=text)
    assert response.status == 200, "bad metadata never fails a call"
    assert log_row(customer, response.log_id).get("metadata") == expected
    assert "cf-aig-metadata" not in customer.farebox.demo_journal(1)[-1]["headers"]


async def test_refused_calls_are_logged_and_cost_nothing(customer: Customer) -> None:
    poor = Customer(customer.farebox, *_account(customer.farebox))
    refused: dict[str, WireResponse] = {
        "no_credit": await post(poor, native_body(), NATIVE),
        "model_unpriced": await post(poor, native_body().replace(b"demo-1", b"demo-9"), NATIVE),
    }
    found = {row["farebox"]["error"]: row for row in log_rows(poor)}
    assert found.keys() == refused.keys()
    for error, response in refused.items():
        row = found[error]
        assert row["id"] == response.log_id
        assert row["status_code"] == response.status
        assert (row["success"], row["cost"]) == (False, 0)
        assert row["farebox"]["outcome"] == "refused"
        assert (row["tokens_in"], row["tokens_out"]) == (None, None)
        assert poor.receipt(response.log_id)["charge_nanos"] == 0
        assert stored(poor, response.log_id, "request").status_code == 200, "the request is kept"


async def test_a_call_with_another_accounts_token_is_not_logged(customer: Customer) -> None:
    other = customer.farebox.funded("5")
    response = await post(Customer(customer.farebox, customer.account_id, other.token), native_body(), NATIVE)
    assert response.status == 401
    assert rows_in_database(customer) == []
    assert rows_in_database(other) == []


def test_rows_of_other_accounts_are_not_readable(customer: Customer) -> None:
    log_id = customer.chat().headers["cf-aig-log-id"]
    other = customer.farebox.funded("5")
    assert other.chat().status_code == 200
    logs = "ai-gateway/gateways/default/logs"
    for path in (f"{logs}/{log_id}", f"{logs}/{log_id}/request", f"{logs}/{log_id}/response"):
        assert httpx.get(f"{customer.api_url}/{path}", headers=customer.headers).status_code == 200
        assert httpx.get(f"{other.api_url}/{path}", headers=other.headers).status_code == 404
    assert httpx.get(f"{other.api_url}/farebox/receipts/{log_id}", headers=other.headers).status_code == 404


async def test_keys_are_in_no_row_and_no_body(customer: Customer) -> None:
    response = await post(customer, native_body(), NATIVE, x_api_key="sk-own-key-of-the-caller")
    assert response.status == 200
    everything = json.dumps(log_row(customer, response.log_id)) + json.dumps(customer.receipt(response.log_id))
    for which in ("request", "response"):
        everything += stored(customer, response.log_id, which).text
    assert customer.token not in everything
    assert "sk-own-key" not in everything


async def test_a_key_in_the_query_is_in_no_row_either(customer: Customer) -> None:
    """Even if the call fails: the HTTP client's error may contain the whole URL."""
    body = b'{"contents": [{"parts": [{"text": "Hello there"}]}]}'
    path = "demo/v1beta/models/demo-1:streamGenerateContent?alt=sse&key=sk-own-key"
    for demo in ("", "cut=3", "status=500"):
        response = await post(customer, body, path, demo=demo)
        assert customer.farebox.demo_journal(1)[-1]["query"] == "alt=sse&key=sk-own-key"
        everything = response.body.decode() + json.dumps(log_row(customer, response.log_id))
        assert "sk-own-key" not in everything + json.dumps(customer.receipt(response.log_id))


def _account(farebox: Farebox) -> tuple[str, str]:
    account_id = farebox.create_account()
    return account_id, farebox.create_token(account_id)
