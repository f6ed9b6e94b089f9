"""An account's own DLP profiles through the API: validation and life cycle."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS, http
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

KEYWORD = {"name": "falcon", "keyword": "project falcon"}
DLP = {"enabled": True, "action": "FLAG"}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("profiles")) as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def call(customer: Customer, method: str, path: str = "", body: Any = None) -> httpx.Response:
    url = f"{customer.api_url}/farebox/dlp-profiles{path}"
    return http.request(method, url, json=body, headers=customer.headers, timeout=60)


def made(customer: Customer, *entries: dict[str, Any]) -> dict[str, Any]:
    response = call(customer, "POST", body={"name": "Secrets", "entries": entries or [KEYWORD]})
    assert response.status_code == 200, response.text
    profile: dict[str, Any] = response.json()["result"]
    return profile


def fault(response: httpx.Response) -> tuple[int, int, list[Any]]:
    error = response.json()["errors"][0]
    return response.status_code, error["code"], error["path"]


def test_a_profile_is_created_read_listed_changed_and_deleted(farebox: Farebox, customer: Customer) -> None:
    profile = made(customer)
    assert (profile["type"], profile["name"], profile["description"]) == ("custom", "Secrets", None)
    (entry,) = profile["entries"]
    assert entry == {"id": entry["id"], "name": "falcon", "keyword": "project falcon"}
    assert call(customer, "GET", f"/{profile['id']}").json()["result"] == profile
    listed = call(customer, "GET", "?per_page=50").json()
    built_in = ["payment_cards", "iban", "email_addresses", "api_keys", "us_ssn", "phone_numbers"]
    assert [one["id"] for one in listed["result"]] == [*built_in, profile["id"]]
    assert listed["result"][0]["type"] == "predefined"
    changed = {
        "name": "More",
        "description": "of it",
        "entries": [entry, {"name": "two", "pattern": {"regex": "x{3}"}}],
    }
    after = call(customer, "PUT", f"/{profile['id']}", changed).json()["result"]
    assert (after["name"], after["entries"][0], after["created_at"]) == ("More", entry, profile["created_at"])
    other = farebox.funded("1")
    assert call(other, "GET", f"/{profile['id']}").status_code == 404
    assert call(other, "DELETE", f"/{profile['id']}").status_code == 404
    assert call(customer, "DELETE", f"/{profile['id']}").json()["result"]["id"] == profile["id"]
    assert call(customer, "GET", f"/{profile['id']}").status_code == 404
    assert call(customer, "PUT", f"/{profile['id']}", changed).status_code == 404


def test_a_profile_in_use_stays_and_a_change_of_it_applies_at_once(customer: Customer) -> None:
    profile = made(customer)
    gateways = f"{customer.api_url}/ai-gateway/gateways"
    config = GATEWAY_FIELDS | {"id": "default", "dlp": DLP | {"profiles": [profile["id"]]}}
    assert http.post(gateways, json=config, headers=customer.headers).status_code == 200
    refused = call(customer, "DELETE", f"/{profile['id']}")
    assert fault(refused) == (400, 7001, ["path", "profile_id"])
    assert "default" in refused.json()["errors"][0]["message"]
    assert "cf-aig-dlp" in customer.chat("On Project Falcon").headers
    assert "cf-aig-dlp" not in customer.chat("On Project Eagle").headers
    renamed = {"name": "Secrets", "entries": [KEYWORD | {"keyword": "project eagle"}, KEYWORD | {"enabled": False}]}
    assert call(customer, "PUT", f"/{profile['id']}", renamed).status_code == 200
    assert "cf-aig-dlp" in customer.chat("On Project Eagle").headers
    assert "cf-aig-dlp" not in customer.chat("On Project Falcon").headers
    assert http.delete(f"{gateways}/default", headers=customer.headers).status_code == 200
    assert call(customer, "DELETE", f"/{profile['id']}").status_code == 200


def test_invalid_profiles_are_refused(customer: Customer) -> None:
    entries = ["body", "entries"]
    for wrong, path in (
        ({"name": "x"}, [*entries, 0]),
        (KEYWORD | {"pattern": {"regex": "x"}}, [*entries, 0]),
        ({"name": "x", "keyword": "  "}, [*entries, 0, "keyword"]),
        ({"name": "x", "pattern": {"regex": "(a"}}, [*entries, 0, "pattern", "regex"]),
        ({"name": "x", "pattern": {"regex": "a*"}}, [*entries, 0, "pattern", "regex"]),
        ({"name": "x", "pattern": {"regex": r"(\pL{200}){200}"}}, [*entries, 0, "pattern", "regex"]),
        ({"name": "x", "pattern": {"regex": r"\Qa"}}, [*entries, 0, "pattern", "regex"]),
        ({"name": "x", "pattern": {"regex": "(?=a)b"}}, [*entries, 0, "pattern", "regex"]),
        ({"name": "x", "pattern": {"regex": "x" * 513}}, [*entries, 0, "pattern", "regex"]),
    ):
        refused = call(customer, "POST", body={"name": "x", "entries": [wrong]})
        assert fault(refused) == (400, 7001, path), refused.text
    twice = {"name": "x", "entries": [KEYWORD | {"id": "a"}, KEYWORD | {"id": "a"}]}
    assert fault(call(customer, "POST", body=twice)) == (400, 7001, [*entries, 1, "id"])
    assert call(customer, "POST", body={"name": "x", "entries": []}).status_code == 400
    assert call(customer, "POST", body={"name": "x", "entries": [KEYWORD] * 51}).status_code == 400
    for method in ("PUT", "DELETE"):
        refused = call(customer, method, "/iban", {"name": "x", "entries": [KEYWORD]})
        assert fault(refused) == (400, 7001, ["path", "profile_id"])
    full = [{"name": "n", "keyword": f"word {number}"} for number in range(50)]
    for _ in range(4):
        made(customer, *full)
    assert fault(call(customer, "POST", body={"name": "x", "entries": [KEYWORD]})) == (400, 7001, entries)
