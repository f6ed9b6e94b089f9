"""What past calls would have cost: through the API and the command line, on calls that a real server has served."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.calls.what_if import what_if_run
from farebox.money import NANOS_PER_USD
from tests.calls.kit import forget, set_gateway, set_price, set_provider, spend_rule
from tests.cli.conftest import Cli, commands_use
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

PERIOD = {"from": "2026-01-01", "to": "2026-12-31"}
CALLS = 6


@pytest.fixture(scope="module")
def folder(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("what-if")


@pytest.fixture(scope="module")
def farebox(folder: Path) -> Iterator[Farebox]:
    with running_farebox(folder) as served:
        yield served


@pytest.fixture
def data_dir(folder: Path, farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> Path:
    return commands_use(folder, monkeypatch)


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    """A customer with six calls of the same cost, by two users in turn, and one refused call."""
    customer = farebox.funded("5")
    for place in range(CALLS):
        user = ("ann", "bob")[place % 2]
        response = customer.chat(
            "one two demo:tokens=100",
            user=user,
            max_tokens=200,
            headers={"cf-aig-metadata": json.dumps({"team": user})},
        )
        assert response.status_code == 200, response.text
    poor = customer.chat("one two demo:tokens=100", model="demo/nothing-like-it")
    assert poor.status_code == 400
    return customer


def charge_of(customer: Customer) -> int:
    return (5 * NANOS_PER_USD - customer.balance.posted) // CALLS


def ask(customer: Customer, **body: Any) -> httpx.Response:
    body = {name.rstrip("_"): value for name, value in body.items()}
    url = f"{customer.api_url}/farebox/what-if"
    return httpx.post(url, headers=customer.headers, json={**period(customer), **body}, timeout=60)


def test_an_invalid_time_is_located(customer: Customer) -> None:
    refused = ask(customer, from_="yesterday")
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, ["body", "from"])


def period(customer: Customer) -> dict[str, str]:
    """A period of a day around the server's current time."""
    at = customer.farebox.services.clock.now_ms()
    day = 24 * 3_600_000
    return {"from": stamp(at - day), "to": stamp(at + day)}


def stamp(at: int) -> str:
    from farebox.http.control.wire import iso

    return iso(at)


def reported(customer: Customer, **body: Any) -> dict[str, Any]:
    response = ask(customer, **body)
    assert response.status_code == 200, response.text
    result = response.json()["result"]
    assert result["state"] == "done"
    assert (result["replayed"], result["total"]) == (CALLS + 1, CALLS + 1)
    report: dict[str, Any] = result["report"]
    return report


def limits(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"rules": list(rules)}


def test_a_rule_refuses_what_it_would_have_refused(customer: Customer) -> None:
    charge = charge_of(customer)
    report = reported(customer, spend_limits=limits(spend_rule("month", 4 * charge)))
    assert (report["calls"], report["refused"]) == (CALLS, 2)
    assert (report["charged_then_nanos"], report["charged_nanos"]) == (CALLS * charge, 4 * charge)
    first = report["first_refused"]
    assert (first["rule_id"], first["spent_nanos"], first["needed_nanos"]) == ("month", 4 * charge, charge)
    assert [(each["name"], each["calls"], each["refused"]) for each in report["models"]] == [("demo/demo-1", CALLS, 2)]
    assert [each["refused"] for each in report["days"]] == [2]
    assert {each["name"]: each["refused"] for each in report["groups"]} == {"ann": 1, "bob": 1}
    assert report["unknown"] == {"refused_then": 1}
    assert report["limited"] >= 1  # the fourth call's hold is more than what is left


@pytest.mark.parametrize("technique", ["fixed", "sliding"])
def test_the_same_rule_on_live_calls_agrees(farebox: Farebox, technique: str) -> None:
    """The replay of a rule matches the rule itself, provided that no call's output is limited."""
    text = "one two demo:tokens=400"
    before, live = farebox.funded("5"), farebox.funded("5")
    receipts = [before.receipt(before.chat(text, max_tokens=400).headers["cf-aig-log-id"]) for _ in range(CALLS)]
    ((charge, hold),) = {(receipt["charge_nanos"], receipt["hold_nanos"]) for receipt in receipts}
    assert charge < hold < 2 * charge
    rule = spend_rule("month", 3 * charge + hold, technique=technique)
    report = reported_of(before, spend_limits=limits(rule))
    set_gateway(live, spend_limits=msgspec_limits(rule))
    statuses = [live.chat(text, max_tokens=400).status_code for _ in range(CALLS)]
    assert statuses == [200] * 4 + [429] * (CALLS - 4)
    assert (report["refused"], report["limited"]) == (CALLS - 4, 0)
    assert report["charged_nanos"] == 5 * NANOS_PER_USD - live.balance.posted
    assert report["first_refused"]["log_id"] == receipts[4]["log_id"]


def reported_of(customer: Customer, **body: Any) -> dict[str, Any]:
    report: dict[str, Any] = ask(customer, **body).json()["result"]["report"]
    return report


def msgspec_limits(*rules: dict[str, Any]) -> Any:
    import msgspec

    from farebox.gateway import SpendLimits

    return msgspec.convert({"enabled": True, "rules": list(rules)}, SpendLimits)


@pytest.mark.parametrize(
    ("selector", "by"),
    [
        ({"user": {"mode": "partition"}}, "user"),
        ({"metadata": {"team": {"mode": "partition"}}}, "metadata.team"),
        ({"user": {"mode": "filter", "values": ["ann"]}}, "user"),
    ],
)
def test_rules_count_by_what_they_select(customer: Customer, selector: dict[str, Any], by: str) -> None:
    charge = charge_of(customer)
    rule = spend_rule("each", 2 * charge, **selector)
    report = reported(customer, spend_limits=limits(rule), by=by)
    partitions = next(iter(selector.values())).get("mode") == "partition" or "metadata" in selector
    expected = {"ann": 1, "bob": 1} if partitions else {"ann": 1, "bob": 0}
    assert {each["name"]: each["refused"] for each in report["groups"]} == expected


def test_by_token_and_by_account(customer: Customer) -> None:
    charge = charge_of(customer)
    rule = spend_rule("each", 3 * charge, token={"mode": "partition"}, model={"mode": "filter", "values": ["demo-1"]})
    report = reported(customer, spend_limits=limits(rule), by="token")
    assert (report["refused"], report["groups_total"]) == (3, 1)
    nothing = reported(customer, spend_limits=limits({**rule, "model": {"mode": "filter", "values": ["other"]}}))
    assert (nothing["refused"], nothing["first_refused"]) == (0, None)
    limited = reported(customer, spending_limit={"amount": 100, "duration": "monthly", "strategy": "fixed"})
    assert (limited["refused"], limited["charged_nanos"]) == (0, CALLS * charge)


def test_calls_that_were_cached_refused_or_failed(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    cached = {"cf-aig-cache-ttl": "60"}
    log_id = customer.chat(user="ann", headers=cached, max_tokens=20).headers["cf-aig-log-id"]
    charge = customer.receipt(log_id)["charge_nanos"]
    assert customer.chat(user="ann", headers=cached, max_tokens=20).headers["cf-aig-cache-status"] == "HIT"
    assert customer.chat("demo:status=400", user="bob", max_tokens=20).status_code == 400
    set_gateway(customer, spend_limits=msgspec_limits(spend_rule("live", charge)))
    assert customer.chat(user="ann", max_tokens=20).status_code == 402  # the hold is more than the whole limit
    unknown = {"cached": 1, "refused_then": 1}
    roomy = limits(spend_rule("roomy", 100 * charge))
    until(
        lambda: reported_of(customer, spend_limits=roomy)["unknown"] == unknown
    )  # a hit is written shortly afterwards
    assert reported_of(customer, spend_limits=roomy)["refused"] == 0
    spent = reported_of(customer, spend_limits=limits(spend_rule("spent", charge)))
    assert (spent["calls"], spent["refused"], spent["charged_nanos"]) == (2, 1, charge)
    assert {each["name"]: each["refused"] for each in spent["groups"]} == {"ann": 0, "bob": 1}


def test_another_model_has_its_own_price(farebox: Farebox, customer: Customer) -> None:
    set_provider(farebox, "groq")
    set_price(farebox, "groq", "dear", input_mtok="3")
    charge = charge_of(customer)
    report = reported(customer, models={"demo/demo-1": "groq/dear"})
    receipt_in = (report["charged_nanos"] - CALLS * charge) // CALLS
    assert report["charged_nanos"] > CALLS * charge
    assert receipt_in % 2_000 == 0  # two dollars more per million input tokens, and the same for output
    assert [each["name"] for each in report["models"]] == ["groq/dear"]


def test_invalid_requests_are_explained(customer: Customer) -> None:
    assert ask(customer).status_code == 400
    assert "what is different" in ask(customer).text
    assert ask(customer, models={"demo/demo-1": "demo/unpriced-model"}).status_code in (200, 400)
    assert ask(customer, models={"demo/demo-1": "nobody/x"}).status_code == 400
    assert ask(customer, by="colour", models={"demo/demo-1": "demo/demo-1"}).status_code == 400
    assert ask(customer, from_="2027-01-01", to="2026-01-01", models={"a/b": "demo/demo-1"}).status_code == 400
    assert ask(customer, spend_limits=limits({"limit": -1})).status_code == 400
    nowhere = ask(customer, spend_limits=limits(spend_rule("a", 1)), gateway_id="none").json()
    assert [error["path"] for error in nowhere["errors"]] == [["body", "gateway_id"]]
    assert "markup" in ask(customer, markup=1, models={"demo/demo-1": "demo/demo-1"}).text


def test_rules_may_count_calls_of_a_missing_gateway(farebox: Farebox, cli: Cli, tmp_path: Path) -> None:
    """`default` before its first call, and a deleted gateway, whose log stays."""
    customer = farebox.funded("5")
    rules = limits(spend_rule("a", 1))
    assert reported_of(customer, spend_limits=rules)["calls"] == 0
    set_gateway(customer, "old")
    body = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "hello"}]}
    url = f"{farebox.url}/v1/{customer.account_id}/old/compat/chat/completions"
    assert httpx.post(url, headers=customer.headers, json=body).status_code == 200
    gateway = f"{customer.api_url}/ai-gateway/gateways/old"
    assert httpx.delete(gateway, headers=customer.headers).status_code == 200
    assert httpx.get(gateway, headers=customer.headers).status_code == 404
    assert reported_of(customer, spend_limits=rules, gateway_id="old")["refused"] == 1
    path, at = tmp_path / "rules.json", period(customer)
    path.write_text(json.dumps(rules))
    mine = ("what-if", "--account", customer.account_id, "--from", at["from"], "--to", at["to"])
    assert cli(*mine, "--rules", str(path), "--gateway", "old", "--json").json["refused"] == 1
    forget(farebox)


def test_one_replay_runs_at_a_time_and_can_be_canceled(farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = farebox.funded("5")
    url = f"{customer.api_url}/farebox/what-if"
    assert httpx.get(url, headers=customer.headers).status_code == 404
    assert customer.chat("one").status_code == 200
    running: list[object] = []

    async def endless(*_: object, **__: object) -> None:
        running.append(1)
        while True:
            await farebox.services.clock.sleep(0.005)
            found = await what_if_run.latest(farebox.services, customer.account_id)
            if found.state != "running":
                return

    monkeypatch.setattr(what_if_run, "_replayed", endless)
    monkeypatch.setattr(what_if_run, "WAIT_SECONDS", 0.0)
    body = {"models": {"demo/demo-1": "demo/demo-1"}}
    assert ask(customer, **body).json()["result"]["state"] == "running"
    second = ask(customer, **body)
    assert (second.status_code, second.json()["errors"][0]["code"]) == (409, 2937)
    canceled = httpx.delete(url, headers=customer.headers).json()["result"]
    assert (canceled["state"], canceled["report"]) == ("cancelled", None)
    until(lambda: not farebox.services.tasks.running(("what-if", customer.account_id, canceled["id"])))
    monkeypatch.undo()
    assert ask(customer, **body).json()["result"]["state"] == "done"
    assert httpx.get(url, headers=customer.headers).json()["result"]["report"]["calls"] == 1


def test_the_command_replays_prices_and_markups_too(
    cli: Cli,
    customer: Customer,
    tmp_path: Path,
) -> None:
    charge = charge_of(customer)
    mine = ("what-if", "--account", customer.account_id, "--from", "2020-01-01", "--to", "2020-12-31")
    assert cli(*mine, "--markup", "100", "--json").json["calls"] == 0
    at = period(customer)
    mine = ("what-if", "--account", customer.account_id, "--from", at["from"], "--to", at["to"])
    assert cli(*mine, "--markup", "100", "--json").json["charged_nanos"] == 2 * CALLS * charge
    dearer = cli(*mine, "--price", "demo/demo-1:input_mtok=10,output_mtok=20,cache_read_mtok=1", "--json").json
    assert dearer["charged_nanos"] == 10 * CALLS * charge
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(limits(spend_rule("month", 4 * charge))))
    shown = cli(*mine, "--rules", str(rules))
    assert f"{CALLS} calls: 2 would have been refused" in shown.out
    assert "by the rule month" in shown.out
    assert "1 calls were refused then" in shown.err
    every = {"limit": 1, "limitType": "cost", "window": 30 * 86_400, "technique": "fixed"}
    red = {**every, "limit": 4 * charge / NANOS_PER_USD, "user": {"mode": "filter", "values": ["bob"]}}
    report = reported(customer, spend_limits=limits(every, red))
    rules.write_text(json.dumps(limits(every, red)))
    assert report["refused"] == cli(*mine, "--rules", str(rules), "--json").json["refused"] == 0
    rules.write_text(json.dumps(limits(every, {**red, "limit": 1e-9})))
    assert "by the rule rules.1:" in cli(*mine, "--rules", str(rules)).out
    assert "no gateway “none”" in cli(*mine, "--rules", str(rules), "--gateway", "none").err
    rules.write_text(json.dumps(limits(spend_rule("a", charge), spend_rule("a", charge))))
    assert "rules.1.id: Another rule has the id 'a' too" in cli(*mine, "--rules", str(rules)).err
    assert "this cannot be replayed" in cli(*mine, "--markup", "1", "--by", "colour").err
    assert cli(*mine).status == 2
    assert cli(*mine, "--price", "demo/demo-1").status == 2
    assert cli(*mine, "--limit", "99").status == 2
    assert cli(*mine, "--price", "demo/demo-1:nonsense=1").status == 1
    assert cli(*mine, "--model", "demo/demo-1=nobody/x").status == 1
    forget(customer.farebox)
