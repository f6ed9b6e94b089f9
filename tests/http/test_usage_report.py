"""Usage by attributes of calls: every charge counts once, whatever is deleted, within bounds; pages and API agree."""

import csv
import io
import re
from collections import Counter
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.calls import usage_aggregates
from farebox.model import Permission, Role
from farebox.storage import usage_values
from farebox.storage.calls import forget_logs
from tests.engines import ON_BOTH_ENGINES
from tests.pages.people import person
from tests.support import Customer, Farebox
from tests.waiting import start_of_window

pytestmark = ON_BOTH_ENGINES

BY = ("model", "provider", "gateway", "token", "user", "metadata.team")


def report(customer: Customer, by: str, **query: str) -> dict[str, Any]:
    response = httpx.get(f"{customer.api_url}/farebox/usage", headers=customer.headers, params={"by": by, **query})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


def by_value(customer: Customer, by: str, **query: str) -> dict[str, tuple[int, int]]:
    """Number of calls and nano-dollars by value."""
    sums = Counter[str](), Counter[str]()
    for each in report(customer, by, **query)["usage"]:
        sums[0][each["value"]] += each["calls"]
        sums[1][each["value"]] += each["charge_nanos"]
    return {value: (sums[0][value], sums[1][value]) for value in sums[0]}


def own(customer: Customer, method: str, path: str, body: dict[str, object]) -> dict[str, Any]:
    response = httpx.request(method, f"{customer.api_url}/{path}", headers=customer.headers, json=body)
    assert response.status_code < 300, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.fixture
def varied(farebox: Farebox) -> Customer:
    """An account whose calls, of today, differ in every attribute of usage reports. The first charge draws on two
    lots."""
    start_of_window(86_400)  # reports by the hour are of one day
    account_id = farebox.create_account()
    farebox.grant(account_id, "0.000001")
    farebox.grant(account_id, "5")
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    other = Customer(farebox, account_id, farebox.create_token(account_id, Permission.RUN))
    settings = {"cache_invalidate_on_update": False, "cache_ttl": 0, "collect_logs": True}
    limits = {"rate_limiting_interval": 0, "rate_limiting_limit": 0}
    own(customer, "POST", "ai-gateway/gateways", {"id": "second", **settings, **limits})
    customer.chat("one", headers={"cf-aig-metadata": '{"team": "Research", "n": 7}', "farebox-end-user": "ada"})
    other.chat("two", user="grace", headers={"cf-aig-metadata": '{"team": "=1+1"}'})
    other.gateway_url = other.gateway_url.replace("default", "second")
    other.chat("three words here", user="grace")
    customer.chat("four", model="demo/none")  # refused, so not charged
    own(customer, "POST", "farebox/holds", {"hold_id": "h", "amount_nanos": 1_000})
    own(customer, "POST", "farebox/holds/h/settle", {"amount_nanos": 1_000})
    return customer


def test_every_charge_is_counted_once_by_each(varied: Customer) -> None:
    spent = 5_000_001_000 - varied.balance.posted
    for by in BY:
        for per in ("hour", "day", "month"):
            found = by_value(varied, by, per=per)
            assert sum(calls for calls, _ in found.values()) == 4, by
            assert sum(charge for _, charge in found.values()) == spent, by
    assert {value: calls for value, (calls, _) in by_value(varied, "gateway").items()} == {
        "default": 2,
        "second": 1,
        "": 1,
    }
    assert {value: calls for value, (calls, _) in by_value(varied, "user").items()} == {"ada": 1, "grace": 2, "": 1}
    assert by_value(varied, "metadata.team").keys() == {"Research", "=1+1", ""}
    assert by_value(varied, "metadata.n")["7"][0] == 1
    assert by_value(varied, "token")[""][0] == 1, "the hold has no token"
    refused = httpx.get(f"{varied.api_url}/farebox/usage?by=metadata.", headers=varied.headers)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, ["query", "by"])


@pytest.mark.parametrize(
    ("per", "start", "end", "said"),
    [
        ("day", "2025-01-01", "2026-02-06", "A report has at most 400 days"),
        ("hour", "2026-01-01", "2026-01-17T16:00:01Z", "A report has at most 400 hours"),
        ("month", "2020-12-31", "2026-01-01", "A report has at most 60 months"),
        ("month", "0001-01-01", None, "A report has at most 60 months"),
        ("day", "2026-02-01", "2026-02-01", "before `to`, which is not included"),
        ("day", "2026-02-02", "2026-02-01", "before `to`, which is not included"),
        ("day", "9000-01-01", None, "not in the future"),
        ("day", "2025-01-02", "2026-02-06", ""),
        ("hour", "2026-01-01", "2026-01-17T16:00:00Z", ""),
        ("month", "2021-01-01", "2026-01-01", ""),
        ("day", "1969-12-30", "1970-01-03", ""),
    ],
)
def test_a_period_is_reported_in_full_or_not_at_all(
    customer: Customer, per: str, start: str, end: str | None, said: str
) -> None:
    query = {"per": per, "from": start} | ({} if end is None else {"to": end})
    response = httpx.get(f"{customer.api_url}/farebox/usage", headers=customer.headers, params=query)
    if not said:
        assert response.status_code == 200
        assert response.json()["result"]["from"][:7] == max(start, "1970-01-01")[:7]
        return
    [error] = response.json()["errors"]
    assert (response.status_code, error["code"], error["path"]) == (400, 7001, ["query", "from"])
    assert said in error["message"]


def test_calls_deleted_from_the_log_stay_counted(farebox: Farebox, varied: Customer) -> None:
    before = {by: by_value(varied, by) for by in BY}
    logs = httpx.get(f"{varied.api_url}/ai-gateway/gateways/default/logs", headers=varied.headers).json()["result"]
    names = [each["id"] for each in logs]
    farebox.run(farebox.services.database.write(lambda c: forget_logs(c, varied.account_id, "default", names)))
    varied.chat("five")
    after = {by: by_value(varied, by) for by in BY}
    assert {by: sum(calls for calls, _ in found.values()) for by, found in after.items()} == dict.fromkeys(BY, 5)
    assert after["user"]["ada"] == before["user"]["ada"]


def test_the_job_catches_up_from_far_behind(
    farebox: Farebox, varied: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_aggregates, "STEP", 1)
    monkeypatch.setattr(usage_aggregates, "STEPS_OF_A_READ", 2)
    first = report(varied, "gateway")
    assert first["as_of"] is not None, "two grants: no charge is counted yet"
    assert first["usage"] == []
    monkeypatch.setattr(usage_aggregates, "BEHIND", 1)
    monkeypatch.setattr(usage_aggregates, "STEP", 500)
    monkeypatch.setattr(usage_aggregates, "_ACCOUNTS", 10_000)  # the server also has those of other tests
    farebox.run(usage_aggregates.work(farebox.services))
    assert sum(calls for calls, _ in by_value(varied, "user").values()) == 4
    assert report(varied, "user")["as_of"] is None


def test_callers_cannot_fill_the_sums(varied: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_values, "VALUES_MAX", 1)
    monkeypatch.setattr(usage_values, "KEYS_MAX", 1)
    assert {value: calls for value, (calls, _) in by_value(varied, "user").items()} == {
        "ada": 1,
        "(other)": 2,
        "": 1,
    }
    varied.chat("x", user="another", headers={"cf-aig-metadata": '{"a": 1, "z": "\\u001fother"}'})
    assert by_value(varied, "user")["(other)"][0] == 3
    assert by_value(varied, "metadata.z").keys() == {""}, "only one key of a day is counted by its values"
    page = person(varied.farebox, Role.VIEWER, varied.account_id).get("/ui/usage", by="user").text
    assert "All others" in page


@pytest.mark.parametrize("by", BY)
def test_every_number_links_to_its_calls(farebox: Farebox, varied: Customer, by: str) -> None:
    owner = person(farebox, Role.OWNER, varied.account_id)
    page = owner.get("/ui/usage", by=by, compare="on").text
    table = page.partition('id="sums"')[2]
    lines = re.findall(r'<a href="([^"]+)" class="name">([^<]*)</a>.*?data-of="Calls"><div>(\d+)<', table, re.DOTALL)
    assert sum(int(calls) for _, _, calls in lines) == 4
    for path, name, calls in lines:
        if name.startswith(("No ", "Without", "application")):
            continue
        listed = owner.get(unescape(path)).text
        assert len(re.findall(r'href="/ui/calls/[0-9a-f-]{36}"', listed)) == int(calls), name
    bars = re.findall(r'<a href="([^"]+)">[^<]*<span class="unseen"> in ', page)
    assert len(re.findall(r'href="/ui/calls/[0-9a-f-]{36}"', owner.get(unescape(bars[-1])).text)) == 3


def test_the_overview_names_the_tokens_with_the_highest_charges(farebox: Farebox, varied: Customer) -> None:
    page = person(farebox, Role.VIEWER, varied.account_id).get("/ui/overview").text.partition('id="tokens"')[2]
    expected = by_value(varied, "token")
    rows = re.findall(r'data-of="Token"><div>([^<]+)</div>.*?data-of="Calls"><div>(\d+)<', page, re.DOTALL)
    assert sorted(int(calls) for _, calls in rows) == sorted(calls for token, (calls, _) in expected.items() if token)


def test_files_match_the_page(farebox: Farebox, varied: Customer) -> None:
    owner = person(farebox, Role.OWNER, varied.account_id)
    of_page = owner.get("/ui/usage.csv", by="metadata.team", compare="on").text
    for to, status in (("9998-12-31T23:59:59Z", 200), ("9999-12-31T23:59:59Z", 400)):
        last = httpx.get(f"{varied.api_url}/farebox/usage", headers=varied.headers, params={"per": "month", "to": to})
        assert last.status_code == status, last.text
    query = {"by": "metadata.team", "format": "csv"}
    of_api = httpx.get(f"{varied.api_url}/farebox/usage", headers=varied.headers, params=query).text
    assert of_page == of_api
    rows = list(csv.DictReader(io.StringIO(of_api)))
    assert [row["metadata.team"] for row in rows] == ["", "'=1+1", "Research"]
    assert owner.get("/ui/usage.json", by="metadata.team").json()[1]["metadata.team"] == "=1+1"
