from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.support import Customer, Farebox
from tests.waiting import start_of_window


class Gateways:
    """The gateways of one customer."""

    def __init__(self, customer: Customer) -> None:
        self._customer = customer

    def __call__(self, method: str, gateway_id: str = "", body: object = None, **query: Any) -> httpx.Response:
        url = f"{self._customer.api_url}/ai-gateway/gateways{'/' if gateway_id else ''}{gateway_id}"
        return http.request(method, url, json=body, params=query, headers=self._customer.headers)

    def create(self, gateway_id: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = result(self("POST", body={"id": gateway_id} | GATEWAY_FIELDS | fields))
        return made

    def ids(self, **query: Any) -> list[str]:
        return [gateway["id"] for gateway in result(self("GET", **query))]


@pytest.fixture
def gateways(customer: Customer) -> Gateways:
    return Gateways(customer)


def test_a_gateway_lives(gateways: Gateways) -> None:
    made = gateways.create("my-gateway", rate_limiting_interval=60, rate_limiting_limit=10)
    assert made["id"] == "my-gateway"
    assert made["cache_ttl"] == 0  # null is kept as 0
    assert made["created_at"] == made["modified_at"]
    assert made["is_default"] is False
    assert result(gateways("GET", "my-gateway")) == made

    changed = result(gateways("PATCH", "my-gateway", {"collect_logs": False}))
    assert changed == made | {"collect_logs": False, "modified_at": changed["modified_at"]}

    replaced = result(gateways("PUT", "my-gateway", GATEWAY_FIELDS))
    assert (replaced["rate_limiting_limit"], replaced["collect_logs"]) == (None, True)
    assert replaced["created_at"] == made["created_at"]

    assert result(gateways("DELETE", "my-gateway")) == replaced
    for method in ("GET", "DELETE"):
        gone = gateways(method, "my-gateway")
        assert (gone.status_code, errors(gone)) == (404, [(7002, "Not Found")])
    for method, body in (("PUT", GATEWAY_FIELDS), ("PATCH", {})):
        assert gateways(method, "my-gateway", body).status_code == 404


def test_a_read_gateway_can_be_written_back(gateways: Gateways) -> None:
    made = gateways.create("round")
    sent_back = result(gateways("PUT", "round", made))
    assert sent_back == made | {"modified_at": sent_back["modified_at"]}


def test_an_id_is_taken_once(gateways: Gateways) -> None:
    gateways.create("once")
    again = gateways("POST", body={"id": "once"} | GATEWAY_FIELDS)
    assert again.status_code == 400
    (error,) = again.json()["errors"]
    assert (error["code"], error["path"]) == (7001, ["body", "id"])
    assert "already exists" in error["message"]


def test_one_of_concurrent_creations_gets_the_id(gateways: Gateways) -> None:
    body = {"id": "contested"} | GATEWAY_FIELDS
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda _: gateways("POST", body=body).status_code, range(16)))
    assert sorted(responses) == [200, *[400] * 15]


def test_all_invalid_fields_are_reported_at_once(gateways: Gateways) -> None:
    response = gateways(
        "POST",
        body={
            "id": "Not This",
            "collect_logs": "yes",
            "rate_limiting_limit": -1,
            "rate_limiting_interval": 2**60,
            "rate_limiting_technique": "loose",
            "retry_delay": 60_001,
            "colour": "red",
        },
    )
    assert response.status_code == 400
    assert {tuple(error["path"]): error["message"] for error in response.json()["errors"]} == {
        ("body", "cache_invalidate_on_update"): "Required",
        ("body", "cache_ttl"): "Required",
        ("body", "collect_logs"): "Expected boolean, received string",
        ("body", "id"): "Invalid: must match ^[a-z0-9_]+(?:-[a-z0-9_]+)*$",
        ("body", "rate_limiting_interval"): "Number must be less than or equal to 9007199254740991",
        ("body", "rate_limiting_limit"): "Number must be greater than or equal to 0",
        ("body", "rate_limiting_technique"): "Invalid enum value. Expected 'fixed' | 'sliding', received 'loose'",
        ("body", "retry_delay"): "Number must be less than or equal to 60000",
        ("body",): "Unrecognized key(s) in object: 'colour'",
    }
    assert {error["code"] for error in response.json()["errors"]} == {7001}


def test_what_the_server_cannot_do_is_refused_not_ignored(gateways: Gateways) -> None:
    gateways.create("plain", log_classification=False)
    for response in (
        gateways("POST", body={"id": "more"} | GATEWAY_FIELDS | {"log_classification": True}),
        gateways("PUT", "plain", GATEWAY_FIELDS | {"log_classification": True}),
        gateways("PATCH", "plain", {"log_classification": True}),
    ):
        assert response.status_code == 400
        (error,) = response.json()["errors"]
        assert error["path"] == ["body", "log_classification"]
        assert "FAREBOX_CLASSIFIER_URL" in error["message"]


def test_lists_are_searched_and_paged(gateways: Gateways) -> None:
    for gateway_id in ("a-1", "a-2", "a-3", "b-1"):
        gateways.create(gateway_id)
    assert sorted(gateways.ids()) == ["a-1", "a-2", "a-3", "b-1"]
    assert gateways.ids(search="a-", per_page=2) == ["a-1", "a-2"]
    assert gateways.ids(search="a-", per_page=2, page=2) == ["a-3"]
    past = gateways("GET", page=3, per_page=2)
    assert result(past) == []
    assert past.json()["result_info"] == {"page": 3, "per_page": 2, "count": 0, "total_count": 4}
    clamped = gateways("GET", page=0, per_page=100_000)
    assert clamped.json()["result_info"] == {"page": 1, "per_page": 100, "count": 4, "total_count": 4}
    assert errors(gateways("GET", page="x")) == [(7001, "Expected number, received string")]


def test_the_default_gateway_is_created_by_its_first_call(customer: Customer, gateways: Gateways) -> None:
    assert gateways("GET", "default").status_code == 404
    assert customer.chat().status_code == 200
    assert result(gateways("GET", "default"))["is_default"] is True


def test_a_change_applies_to_the_next_call(customer: Customer, gateways: Gateways) -> None:
    customer.chat()
    gateways("PATCH", "default", {"rate_limiting_interval": 3600, "rate_limiting_limit": 1})
    start_of_window(3600)
    statuses = [customer.chat().status_code for _ in range(3)]
    assert statuses.count(429) >= 2


def test_urls(farebox: Farebox, customer: Customer, gateways: Gateways) -> None:
    base = f"{farebox.services.base_url}/v1/{customer.account_id}"
    gateways.create("mine")
    assert result(gateways("GET", "mine/url/openai")) == f"{base}/mine/openai"
    assert result(gateways("GET", "default/url/compat")) == f"{base}/default/compat"
    assert gateways("GET", "none/url/openai").status_code == 404
    unknown = gateways("GET", "mine/url/nobody")
    assert (unknown.status_code, errors(unknown)) == (400, [(2902, "There is no such provider")])


def test_an_account_has_so_many_gateways_and_no_more(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    gateways.create("first")
    monkeypatch.setattr("farebox.http.control.gateways.GATEWAYS_MAX", len(gateways.ids()))
    refused = gateways("POST", body={"id": "one-more"} | GATEWAY_FIELDS)
    assert refused.status_code == 400
    assert "the maximum" in refused.json()["errors"][0]["message"]
