import asyncio
import queue
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from farebox.storage.credit import Credit, read_credit
from farebox.storage.sql import DatabaseUnavailable
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http, result
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

HOUR_MS = 3_600_000


def billing(customer: Customer, path: str, **parameters: Any) -> httpx.Response:
    return http.get(f"{customer.api_url}/ai-gateway/billing/{path}", params=parameters, headers=customer.headers)


def test_balance_is_in_cents_with_its_fractions(customer: Customer) -> None:
    assert result(billing(customer, "credit-balance")) == {
        "balance": 500,
        "has_default_payment_method": False,
        "payment_method": None,
        "topup_config": {
            "amount": None,
            "threshold": None,
            "disabledReason": None,
            "error": None,
            "lastFailedAt": None,
        },
        "first_topup_success": False,
    }
    customer.chat()
    assert result(billing(customer, "credit-balance"))["balance"] == customer.balance.posted / 10_000_000
    assert customer.balance.posted < 5_000_000_000


def test_each_balance_on_a_connection_is_current(farebox: Farebox, customer: Customer) -> None:
    """The connection caches the route to the balance, not its value."""
    with httpx.Client(headers=customer.headers) as client:
        url = f"{customer.api_url}/ai-gateway/billing/credit-balance"
        for cents in range(600, 1200, 100):
            farebox.grant(customer.account_id, "1")
            assert [result(client.get(url))["balance"] for _ in range(2)] == [cents, cents]
        assert len({client.get(url).headers["cf-ray"] for _ in range(3)}) == 3


def test_a_balance_that_cannot_be_read_on_an_open_connection(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseUnavailable("a secret of the host")

    with httpx.Client(headers=customer.headers) as client:
        url = f"{customer.api_url}/ai-gateway/billing/credit-balance"
        assert [result(client.get(url))["balance"] for _ in range(2)] == [500, 500]
        with monkeypatch.context() as patch:
            patch.setattr(farebox.services.database, "get_shared", away)
            refused = client.get(url)
        assert (refused.status_code, refused.json()["success"]) == (503, False)
        assert "secret" not in refused.text
        assert result(client.get(url))["balance"] == 500


async def read_now(farebox: Farebox, customer: Customer) -> Credit | None:
    return await farebox.services.database.get_shared(read_credit, customer.account_id)


async def resolve(future: asyncio.Future[Any], outcome: object) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def test_a_balance_that_must_be_waited_for(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response is sent once the read is done, or has failed; others are served meanwhile."""
    waiting: queue.SimpleQueue[asyncio.Future[Any]] = queue.SimpleQueue()

    def later(*_: object) -> asyncio.Future[Any]:
        waiting.put(future := asyncio.get_running_loop().create_future())
        return future

    url = f"{customer.api_url}/ai-gateway/billing/credit-balance"
    with httpx.Client(headers=customer.headers) as client, ThreadPoolExecutor(1) as others:
        assert [result(client.get(url))["balance"] for _ in range(2)] == [500, 500]
        found = farebox.run(read_now(farebox, customer))
        for outcome in ("found", "failed"):
            with monkeypatch.context() as patch:
                patch.setattr(farebox.services.database, "get_shared", later)
                asked = others.submit(client.get, url)
                future = waiting.get(timeout=10)
            assert result(httpx.get(customer.api_url, headers=customer.headers))["id"] == customer.account_id
            assert not asked.done()
            if outcome == "found":
                farebox.run(resolve(future, found))
                assert result(asked.result(10))["balance"] == 500
            else:
                farebox.run(resolve(future, DatabaseUnavailable("a secret of the host")))
                assert asked.result(10).status_code == 503
        assert result(client.get(url))["balance"] == 500


def test_top_up_is_not_set_up(customer: Customer) -> None:
    assert set(result(billing(customer, "topup/config")).values()) == {None}
    limits = result(billing(customer, "topup/limits"))
    assert limits["min_cents"] == 1000
    assert limits["max_cents"] > 1000
    assert limits["currency"] == "USD"


def test_usage_history_sums_what_was_charged(farebox: Farebox, customer: Customer) -> None:
    assert result(billing(customer, "usage-history", value_grouping_window="day")) == {"history": []}
    customer.chat()
    customer.chat()
    spent = (5_000_000_000 - customer.balance.posted) / 10_000_000
    now = farebox.services.clock.now_ms()
    for window, length in (("hour", HOUR_MS), ("day", 24 * HOUR_MS)):
        (entry,) = result(billing(customer, "usage-history", value_grouping_window=window))["history"]
        assert entry["aggregated_value"] == pytest.approx(spent)
        assert entry["end_time"] - entry["start_time"] == length
        assert entry["start_time"] % length == 0
        assert now - length - 60_000 < entry["start_time"] <= now


def test_usage_history_has_bounds(farebox: Farebox, customer: Customer) -> None:
    customer.chat()
    now = farebox.services.clock.now_ms()

    def entries(**bounds: float) -> int:
        return len(result(billing(customer, "usage-history", value_grouping_window="hour", **bounds))["history"])

    assert entries(start_time=now - 60_000, end_time=now + 60_000) == 1
    assert entries(start_time=now + HOUR_MS * 2) == 0
    assert entries(end_time=now - HOUR_MS * 2) == 0
    assert entries(start_time=now, end_time=now - HOUR_MS * 3) == 0
    assert entries(start_time=float(now), end_time=4e15) == 1


@pytest.mark.parametrize(
    ("parameters", "path", "message"),
    [
        ({}, "value_grouping_window", "Required"),
        (
            {"value_grouping_window": "week"},
            "value_grouping_window",
            "Invalid enum value. Expected 'day' | 'hour', received 'week'",
        ),
        ({"value_grouping_window": "day", "start_time": "x"}, "start_time", "Expected number, received string"),
        (
            {"value_grouping_window": "day", "end_time": "-1"},
            "end_time",
            "Number must be greater than or equal to 0",
        ),
    ],
)
def test_usage_history_errors_name_the_field(
    customer: Customer, parameters: dict[str, str], path: str, message: str
) -> None:
    response = billing(customer, "usage-history", **parameters)
    assert response.status_code == 400
    assert response.json()["errors"] == [{"code": 7001, "message": message, "path": ["query", path]}]


def test_the_running_month_has_a_line_for_each_model(customer: Customer) -> None:
    assert result(billing(customer, "invoice-preview"))["invoice_lines"] == []
    customer.chat()
    customer.chat()
    preview = result(billing(customer, "invoice-preview"))
    (line,) = preview["invoice_lines"]
    assert line["description"] == "demo/demo-1"
    assert line["quantity"] == 2
    assert line["amount"] == preview["amount_due"] == preview["amount_paid"]
    assert line["amount"] == pytest.approx((5_000_000_000 - customer.balance.posted) / 10_000_000)
    assert (preview["amount_remaining"], preview["status"], preview["currency"]) == (0, "draft", "USD")
    start, end = (datetime.fromtimestamp(preview[key], UTC) for key in ("period_start", "period_end"))
    assert (start.day, end.day, start.hour, end.hour) == (1, 1, 0, 0)
    assert (end - start).days in (28, 29, 30, 31)
    assert line["period"] == {"start": preview["period_start"], "end": preview["period_end"]}


@pytest.mark.parametrize("kind", ["all", "auto", "manual", None])
def test_without_purchases_there_are_no_invoices(customer: Customer, kind: str | None) -> None:
    response = billing(customer, "invoice-history", **({} if kind is None else {"type": kind}))
    assert result(response) == {
        "invoices": [],
        "pagination": {"has_more": False, "page": 1, "per_page": 20, "total_count": 0},
    }


def test_the_balance_in_nano_dollars_is_exact(customer: Customer) -> None:
    answered = customer.chat()
    assert answered.status_code == 200, answered.text
    spent_by = answered.headers["cf-aig-log-id"]
    money = result(http.get(f"{customer.api_url}/farebox/balance", headers=customer.headers))
    assert money == {
        "posted_nanos": customer.balance.posted,
        "held_nanos": 0,
        "available_nanos": customer.balance.available,
        "owed_nanos": 0,
    }
    receipt = customer.receipt(spent_by)
    assert receipt["charge_nanos"] == 5_000_000_000 - money["posted_nanos"]


def test_the_statement_adds_up_page_by_page(customer: Customer) -> None:
    for _ in range(4):
        customer.chat()
    found = []
    for page in range(1, 5):
        response = http.get(
            f"{customer.api_url}/farebox/transfers", params={"page": page, "per_page": 2}, headers=customer.headers
        )
        found += result(response)
        count = len(response.json()["result"])
        assert response.json()["result_info"] == {"page": page, "per_page": 2, "count": count, "total_count": 5}
    assert [transfer["version"] for transfer in found] == [5, 4, 3, 2, 1]
    own = ("granted", "credit")
    sums = [transfer["amount_nanos"] * (1 if transfer["to_book"] in own else -1) for transfer in found]
    assert sum(sums) == customer.balance.posted
