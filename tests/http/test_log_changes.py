"""Logs are rated, searched and deleted with the official SDK; the ledger is not affected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.ledger.audit import audit
from farebox.periodic_jobs import _forget_logs
from farebox.storage.account_keys import key_of
from farebox.storage.sql import Connection
from tests.calls.kit import set_gateway
from tests.engines import ON_BOTH_ENGINES, looking, write_now
from tests.http.support import errors, http, result
from tests.sdks import cloudflare
from tests.support import Customer

pytestmark = ON_BOTH_ENGINES
LEAST = 10_000
"""The smallest limit of a log."""


@pytest.fixture
def client(customer: Customer) -> Iterator[cloudflare.Cloudflare]:
    base_url = f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as client:
        yield client


def url(customer: Customer, path: str = "") -> str:
    return f"{customer.api_url}/ai-gateway/gateways/default/logs{path}"


def ids(customer: Customer, **query: Any) -> list[str]:
    return [row["id"] for row in result(http.get(url(customer), params=query, headers=customer.headers))]


def only(key: str, operator: str, *values: object) -> Any:
    return [{"key": key, "operator": operator, "value": list(values)}]


def charges(customer: Customer, log_ids: list[str]) -> list[int]:
    return [customer.receipt(log_id)["charge_nanos"] for log_id in log_ids]


def test_rating_a_call(customer: Customer, client: cloudflare.Cloudflare) -> None:
    account_id, logs = customer.account_id, client.ai_gateway.logs
    good, bad, plain = (
        customer.chat(headers={"cf-aig-metadata": '{"team":"red"}'}).headers["cf-aig-log-id"] for _ in range(3)
    )
    where: Any = {"account_id": account_id, "gateway_id": "default"}
    logs.edit(good, **where, feedback=1, score=87.5)
    logs.edit(bad, **where, feedback=-1, metadata={"ticket": 12, "closed": False})
    row = result(http.get(url(customer, f"/{good}"), headers=customer.headers))
    assert (row["feedback"], row["score"], row["metadata"]) == (1, 87.5, {"team": "red"})
    row = result(http.get(url(customer, f"/{bad}"), headers=customer.headers))
    assert (row["feedback"], row["score"], row["metadata"]) == (-1, None, {"ticket": 12, "closed": False})
    listed = {log.id for log in logs.list("default", account_id=account_id, filters=only("feedback", "eq", 1))}
    assert listed == {good}
    assert ids(customer, feedback=1) == [good]
    assert ids(customer, filters=json.dumps(only("feedback", "lt", 0))) == [bad]
    assert ids(customer, filters=json.dumps(only("feedback", "eq", None))) == [plain]
    assert ids(customer, search="12") == [bad]
    logs.edit(good, **where, feedback=None)
    row = result(http.get(url(customer, f"/{good}"), headers=customer.headers))
    assert (row["feedback"], row["score"]) == (None, 87.5)
    with pytest.raises(cloudflare.NotFoundError) as gone:
        logs.edit("0193a7b2-0000-7000-8000-000000000000", **where, feedback=1)
    assert gone.value.errors[0].code == 7002
    assert customer.receipt(bad)["outcome"] == "charged"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"feedback": 1.5}, ["body", "feedback"]),
        ({"feedback": "good"}, ["body", "feedback"]),
        ({"score": -1}, ["body", "score"]),
        ({"score": 100.01}, ["body", "score"]),
        ({"metadata": {"a": {}}}, ["body", "metadata"]),
        ({"metadata": {"cf.a": 1}}, ["body", "metadata", "cf.a"]),
        ({"metadata": dict.fromkeys("abcdef", 1)}, ["body", "metadata"]),
        ({"metadata": [1]}, ["body", "metadata"]),
        ({"rating": 1}, ["body"]),
    ],
)
def test_wrong_ratings(customer: Customer, body: Any, path: list[str]) -> None:
    response = http.patch(url(customer, "/x"), json=body, headers=customer.headers)
    assert response.status_code == 400
    (error,) = response.json()["errors"]
    assert error["code"] == 7001
    assert error["path"][: len(path)] == path


def test_the_form_of_a_call_is_a_filter(customer: Customer) -> None:
    common = customer.chat().headers["cf-aig-log-id"]
    native = http.post(
        f"{customer.gateway_url}/demo/chat/completions",
        json={"model": "demo-1", "messages": [{"role": "user", "content": "Hello"}]},
        headers=customer.headers,
    ).headers["cf-aig-log-id"]
    assert ids(customer, filters=json.dumps(only("compatibilityMode", "eq", True))) == [common]
    assert ids(customer, filters=json.dumps(only("compatibilityMode", "eq", False))) == [native]
    assert ids(customer, filters=json.dumps(only("dlp_action", "eq", "BLOCK"))) == []


def test_deleting_logs_leaves_the_money_alone(customer: Customer, client: cloudflare.Cloudflare) -> None:
    account_id, logs = customer.account_id, client.ai_gateway.logs
    made = [customer.chat(text).headers["cf-aig-log-id"] for text in ("a", "b c d", "e f", "g", "h")]
    failed = customer.chat(model="demo/none-such").headers["cf-aig-log-id"]
    before, balance = charges(customer, made), customer.balance
    assert logs.delete("default", account_id=account_id, filters=only("success", "eq", False)).success is True
    assert ids(customer) == made[::-1]
    logs.delete("default", account_id=account_id, order_by="tokens_in", order_by_direction="desc", limit=2)
    assert ids(customer) == [made[4], made[3], made[0]]
    logs.delete("default", account_id=account_id, limit=1)  # the oldest first
    assert ids(customer) == [made[4], made[3]]
    one = {"filters": json.dumps(only("id", "eq", made[4]))}
    assert http.delete(url(customer), params=one, headers=customer.headers).json() == {"success": True}
    assert ids(customer) == [made[3]]
    assert http.get(url(customer), headers=customer.headers).json()["result_info"]["total_count"] == 1
    for log_id in (made[4], failed):
        assert http.get(url(customer, f"/{log_id}"), headers=customer.headers).status_code == 404
        assert http.get(url(customer, f"/{log_id}/request"), headers=customer.headers).status_code == 404
        assert http.patch(url(customer, f"/{log_id}"), json={"score": 1}, headers=customer.headers).status_code == 404
    assert (charges(customer, made), customer.balance) == (before, balance)
    assert sum(charges(customer, made)) == 5 * 10**9 - balance.posted
    with looking(customer.farebox.services.settings) as connection:
        assert not list(audit(connection))


def test_only_the_accounts_own_logs_are_deleted(customer: Customer, client: cloudflare.Cloudflare) -> None:
    other = customer.farebox.funded("1")
    log_id = other.chat().headers["cf-aig-log-id"]
    set_gateway(customer, "second")
    client.ai_gateway.logs.delete("default", account_id=customer.account_id)
    client.ai_gateway.logs.delete("second", account_id=customer.account_id)
    with pytest.raises(cloudflare.PermissionDeniedError):
        client.ai_gateway.logs.delete("default", account_id=other.account_id)
    assert ids(other) == [log_id]
    with pytest.raises(cloudflare.NotFoundError):
        client.ai_gateway.logs.delete("none", account_id=customer.account_id)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "all"},
        {"order_by": "charge"},
        {"order_by_direction": "down"},
        {"filters": '[{"key":"id","operator":"is","value":["x"]}]'},
        {"filters.key": "id", "filters.operator": "eq"},
        {"model": "none"},
        {"filter": "[]"},
        {"filters[0][key]": "id", "filters[0][operator]": "eq", "filters[0][value][0]": "none"},
    ],
)
def test_an_invalid_query_deletes_nothing(customer: Customer, query: dict[str, str]) -> None:
    log_id = customer.chat().headers["cf-aig-log-id"]
    response = http.delete(url(customer), params=query, headers=customer.headers)
    if query.get("filters.key"):  # no value: nothing matches
        assert response.json() == {"success": True}
    else:
        assert response.status_code == 400
        assert errors(response)[0][0] == 7001
    assert ids(customer) == [log_id]


def _fill(customer: Customer, calls: int, before: str) -> None:
    """Copies of the account's only call, with slightly older IDs."""

    def write(connection: Connection) -> None:
        digits = f"(VALUES {', '.join(f'({digit})' for digit in range(10))})"
        numbers = (  # not a common table expression: on Citus it could not be joined with an account's tables here
            "(SELECT 1 + a.column1 + 10 * b.column1 + 100 * c.column1 + 1000 * e.column1 AS n "
            f"FROM {digits} a, {digits} b, {digits} c, {digits} e) numbers"
        )
        connection.execute(
            "INSERT INTO calls (bucket, account_id, log_id, gateway_id, created_at, provider, model, success, "
            "status_code, duration, tokens_in, tokens_out, cost, charge, detail, receipt, logged) "
            "SELECT bucket, account_id, ? || '-0000-7000-8000-' || substr(CAST(1000000000000 + n AS TEXT), 2), "
            "gateway_id, created_at, provider, model, success, status_code, duration, tokens_in, tokens_out, 0, 0, "
            f"detail, receipt, 1 FROM calls, {numbers} WHERE bucket = ? AND account_id = ? AND n <= ?",
            (before[:8], *key_of(connection, customer.account_id), calls),
        )

    write_now(customer.farebox.services.settings, write)


def test_a_full_log_takes_no_more_or_loses_its_oldest(customer: Customer) -> None:
    first = customer.chat().headers["cf-aig-log-id"]
    _fill(customer, LEAST - 2, first)
    set_gateway(customer, log_management=LEAST, log_management_strategy="STOP_INSERTING")
    last = customer.chat().headers["cf-aig-log-id"]
    more = customer.chat()
    assert more.status_code == 200
    assert customer.receipt(more.headers["cf-aig-log-id"])["charge_nanos"] > 0
    assert ids(customer, per_page=2) == [last, first]
    http.delete(url(customer), params={"limit": 1}, headers=customer.headers)
    again = customer.chat().headers["cf-aig-log-id"]
    assert ids(customer, per_page=2) == [again, last]
    set_gateway(customer, log_management=LEAST)  # another process added one that this one did not count
    beyond = customer.chat().headers["cf-aig-log-id"]
    set_gateway(customer, log_management=LEAST, log_management_strategy="STOP_INSERTING")
    customer.farebox.run(_forget_logs_of(customer))
    assert ids(customer, per_page=1) == [again]
    assert customer.receipt(beyond)["charge_nanos"] > 0
    set_gateway(customer, log_management=LEAST)
    newest = customer.chat().headers["cf-aig-log-id"]
    customer.farebox.run(_forget_logs_of(customer))
    shown = http.get(url(customer), params={"per_page": 1}, headers=customer.headers).json()
    assert (shown["result"][0]["id"], shown["result_info"]["total_count"]) == (newest, LEAST)


async def _forget_logs_of(customer: Customer) -> None:
    await _forget_logs(customer.farebox.services)
