import json
from typing import Any

import httpx
import pytest

from farebox.http.control.log_query import LogsQuery, log_query
from farebox.http.validation import InvalidInput
from farebox.storage.call_reports import LogCondition
from tests.http.support import errors, http, result
from tests.support import Customer, Farebox


def logs(customer: Customer, path: str = "", **query: Any) -> httpx.Response:
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs{path}"
    return http.get(url, params=query, headers=customer.headers)


@pytest.fixture
def calls(customer: Customer) -> list[str]:
    """Log IDs of three calls, the oldest first: two successful ones with metadata, one of an unknown model."""
    tagged = [{"team": "red", "seats": 3}, {"team": "blue", "trial": True}]
    responses = [customer.chat("one two", headers={"cf-aig-metadata": json.dumps(metadata)}) for metadata in tagged]
    responses.append(customer.chat(model="demo/none-such"))
    return [response.headers["cf-aig-log-id"] for response in responses]


def test_a_log_row(customer: Customer) -> None:
    response = customer.chat("hello", headers={"cf-aig-metadata": '{"team":"red"}', "cf-aig-event-id": "mine"})
    (row,) = result(logs(customer))
    assert row["id"] == response.headers["cf-aig-log-id"]
    assert (row["provider"], row["model"], row["path"]) == ("demo", "demo-1", "v1/chat/completions")
    assert (row["success"], row["status_code"], row["cached"], row["step"]) == (True, 200, False, 0)
    usage = response.json()["usage"]
    assert (row["tokens_in"], row["tokens_out"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["cost"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)
    assert row["farebox"]["charge_nanos"] == 5_000_000_000 - customer.balance.posted
    assert row["metadata"] == {"team": "red"}
    assert row["event_id"] == "mine"
    assert (row["wholesale"], row["authentication"], row["custom_cost"]) == (True, True, False)
    assert row["created_at"].endswith("Z")


def test_the_detail_shows_the_beginnings_of_the_bodies(customer: Customer) -> None:
    long = "word " * 2000
    response = customer.chat(long)
    log_id = response.headers["cf-aig-log-id"]
    detail = result(logs(customer, f"/{log_id}"))
    assert detail["request_head"].startswith('{"model":"demo-1"')
    assert detail["request_head_complete"] is False
    assert detail["request_size"] > len(long)
    assert detail["response_head"].startswith('{"id":')
    request = logs(customer, f"/{log_id}/request")
    assert long in request.json()["messages"][0]["content"]
    kept = logs(customer, f"/{log_id}/response")
    assert kept.json() == response.json()
    for raw in (request, kept):
        assert raw.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in raw.headers["content-security-policy"]


def test_a_body_that_was_not_kept_is_not_found(customer: Customer) -> None:
    log_id = customer.chat(headers={"cf-aig-collect-log-payload": "false"}).headers["cf-aig-log-id"]
    detail = result(logs(customer, f"/{log_id}"))
    assert "request_head" not in detail
    for body in ("request", "response"):
        response = logs(customer, f"/{log_id}/{body}")
        assert (response.status_code, errors(response)) == (404, [(7002, "Not Found")])


def test_an_unlogged_call_has_only_a_receipt(customer: Customer) -> None:
    log_id = customer.chat(headers={"cf-aig-collect-log": "false"}).headers["cf-aig-log-id"]
    assert result(logs(customer)) == []
    assert logs(customer, f"/{log_id}").status_code == 404
    assert customer.receipt(log_id)["charge_nanos"] > 0


def test_a_missing_log_is_not_found(farebox: Farebox, customer: Customer) -> None:
    assert logs(customer, "/none").status_code == 404
    url = f"{customer.api_url}/ai-gateway/gateways/none/logs"
    assert http.get(url, headers=customer.headers).status_code == 404
    receipt = http.get(f"{customer.api_url}/farebox/receipts/none", headers=customer.headers)
    assert (receipt.status_code, errors(receipt)) == (404, [(7002, "Not Found")])


def test_pages_end(customer: Customer, calls: list[str]) -> None:
    pages = [logs(customer, page=page, per_page=2) for page in (1, 2, 3)]
    assert [len(result(page)) for page in pages] == [2, 1, 0]
    assert [row["id"] for page in pages for row in result(page)] == calls[::-1]
    assert pages[1].json()["result_info"] == {"page": 2, "per_page": 2, "count": 1, "total_count": 3}
    assert logs(customer, per_page=1000).json()["result_info"]["per_page"] == 50
    assert [row["id"] for row in result(logs(customer, order_by_direction="asc"))] == calls
    assert [row["id"] for row in result(logs(customer, direction="asc"))] == calls
    assert result(logs(customer, order_by="success", order_by_direction="asc"))[0]["id"] == calls[2]


@pytest.mark.parametrize(
    ("key", "operator", "values", "found"),
    [
        ("success", "eq", [True], {0, 1}),
        ("success", "eq", ["false"], {2}),
        ("cached", "eq", [True], set()),
        ("provider", "eq", ["demo"], {0, 1, 2}),
        ("provider", "eq", ["openai", "demo"], {0, 1, 2}),
        ("provider", "neq", ["demo"], set()),
        ("model", "contains", ["DEMO-"], {0, 1}),
        ("cost", "gt", [0], {0, 1}),
        ("cost", "lt", ["0.000001"], {2}),
        ("tokens", "gt", [1], {0, 1}),
        ("feedback", "eq", [1], set()),
        ("feedback", "neq", [1], {0, 1, 2}),
        ("metadata.key", "eq", ["seats"], {0}),
        ("metadata.key", "neq", ["seats"], {1, 2}),
        ("metadata.value", "eq", ["3"], {0}),
        ("metadata.value", "eq", [3], {0}),
        ("metadata.value", "eq", [True], {1}),
        ("metadata.value", "contains", ["RE"], {0}),
        ("created_at", "gt", ["2026-01-01T00:00:00Z"], {0, 1, 2}),
        ("created_at", "lt", [1_000], set()),
        ("user_agent", "contains", ["httpx"], {0, 1, 2}),
        ("wholesale", "eq", [True], {0, 1, 2}),
        ("id", "eq", [], set()),
    ],
)
def test_filters(
    customer: Customer, calls: list[str], key: str, operator: str, values: list[object], found: set[int]
) -> None:
    filters = json.dumps([{"key": key, "operator": operator, "value": values}])
    assert {row["id"] for row in result(logs(customer, filters=filters))} == {calls[index] for index in found}


def test_several_filters_must_all_match(customer: Customer, calls: list[str]) -> None:
    filters = [
        {"key": "metadata.key", "operator": "eq", "value": ["team"]},
        {"key": "metadata.value", "operator": "eq", "value": ["blue"]},
    ]
    assert [row["id"] for row in result(logs(customer, filters=json.dumps(filters)))] == [calls[1]]


def test_search_and_older_parameters(customer: Customer, calls: list[str]) -> None:
    def found(**query: Any) -> set[int]:
        return {calls.index(row["id"]) for row in result(logs(customer, **query))}

    assert found(search="blu") == {1}
    assert found(search="nothing") == set()
    assert found(success="true") == {0, 1}
    assert found(model="demo-1", min_cost=0) == {0, 1}
    assert found(min_total_tokens=1, max_tokens_in=1000) == {0, 1}
    assert found(start_date="2026-01-01T00:00:00Z", end_date="9999-01-01T00:00:00Z") == {0, 1, 2}
    assert found(feedback=1) == set()


def test_meta_info_reports_the_extremes(customer: Customer, calls: list[str]) -> None:
    info = logs(customer, meta_info="true", per_page=1).json()["result_info"]
    assert info["min_cost"] == 0
    assert info["max_cost"] > 0
    assert info["max_total_tokens"] == info["max_tokens_in"] + info["max_tokens_out"]
    assert info["total_count"] == 3


@pytest.mark.parametrize(
    "query",
    [
        {"filters": "["},
        {"filters": "{}"},
        {"filters": "[1]"},
        {"filters": '[{"key":"metadata.team","operator":"eq","value":["x"]}]'},
        {"filters": '[{"key":"cost","operator":"about","value":[1]}]'},
        {"filters": '[{"key":"cost","operator":"gt","value":["much"]}]'},
        {"filters": '[{"key":"cost","operator":"gt","value":["1e99"]}]'},
        {"filters": '[{"key":"success","operator":"eq","value":["maybe"]}]'},
        {"filters": '[{"key":"created_at","operator":"gt","value":["soon"]}]'},
        {"filters.value": "1"},
        {"order_by": "colour"},
        {"min_cost": "nan"},
        {"start_date": "soon"},
        {"meta_info": "perhaps"},
    ],
)
def test_wrong_queries(customer: Customer, query: dict[str, str]) -> None:
    response = logs(customer, **query)
    assert response.status_code == 400
    assert all(error["code"] == 7001 and error["path"][0] == "query" for error in response.json()["errors"])


@pytest.mark.parametrize(
    "flat",
    [
        "key=cost operator=gt value=1 key=model operator=eq value=demo-1",
        "key=cost key=model operator=gt operator=eq value=1 value=demo-1",
        "operator=gt key=cost value=1 operator=eq key=model value=demo-1",
    ],
)
def test_the_flat_spellings_of_the_official_clients(flat: str) -> None:
    pairs = [("page", "1"), *((f"filters.{name}", text) for name, text in (part.split("=") for part in flat.split()))]
    assert log_query(LogsQuery(), pairs).conditions == [
        LogCondition("cost", "gt", (1e9,)),
        LogCondition("model", "eq", ("demo-1",)),
    ]


def test_one_flat_filter_may_have_many_values() -> None:
    pairs = [("filters.key", "model"), ("filters.operator", "eq"), ("filters.value", "a"), ("filters.value", "b")]
    assert log_query(LogsQuery(), pairs).conditions == [LogCondition("model", "eq", ("a", "b"))]


def test_ambiguous_flat_filters_are_refused() -> None:
    flat = "key=cost key=model operator=gt operator=eq value=1 value=2 value=demo-1"
    pairs = [(f"filters.{name}", text) for name, text in (part.split("=") for part in flat.split())]
    with pytest.raises(InvalidInput, match="JSON array"):
        log_query(LogsQuery(), pairs)


def test_the_number_of_filters_is_limited() -> None:
    many = json.dumps([{"key": "cost", "operator": "gt", "value": [1]}] * 51)
    with pytest.raises(InvalidInput, match="At most 50"):
        log_query(LogsQuery(filters=many), [])


def test_a_nul_in_a_callers_value_does_not_break_lists(customer: Customer) -> None:
    assert customer.chat(headers={"cf-aig-metadata": '{"a":"x\\u0000y"}'}).status_code == 200
    assert customer.chat(model="demo/a\0b").status_code == 400
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs"
    found = result(http.get(url, params={"search": "x"}, headers=customer.headers))
    assert [row["model"] for row in found] == ["demo-1"]
    assert len(result(http.get(url, headers=customer.headers))) == 2


def test_an_unknown_parameter_is_refused(customer: Customer) -> None:
    """Otherwise the caller would take all logs for the selected ones."""
    for query in ({"modle": "demo-1"}, {"filter": "[]"}, {"filters.name": "model"}, {"page": 1, "limit": 5}):
        response = logs(customer, **query)
        unknown = list(query)[-1]
        assert (response.status_code, errors(response)) == (
            400,
            [(7001, f"Unrecognized key(s) in object: '{unknown}'")],
        )
    assert logs(customer, page=1, per_page=5, meta_info="true", direction="asc").status_code == 200


def test_a_call_that_failed_has_a_receipt_that_says_what_it_cost(customer: Customer) -> None:
    response = customer.chat(headers={"x-demo": "status=500"})
    receipt = customer.receipt(response.headers["cf-aig-log-id"])
    assert response.status_code == 500
    assert (receipt["outcome"], receipt["charge_nanos"], receipt["cost_nanos"]) == ("free", 0, "0")
