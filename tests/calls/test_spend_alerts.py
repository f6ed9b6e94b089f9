"""Alerts at 50, 80 and 100 % of limits, once per window and threshold; and windows in the account's time zone."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest

from farebox.calendar import DAY_MS
from farebox.calls.spending import spend_alerts, spending_limit
from farebox.calls.spending.rules import window_of
from farebox.gateway import SpendRule
from farebox.ledger.commands import Budget, Hold, Settle
from farebox.money import NANOS_PER_USD
from farebox.periods import ZoneChange, window
from farebox.storage.account_settings import read_settings, set_zone
from farebox.storage.spending import SpendingLimit, set_limit
from farebox.storage.sql import Connection
from tests.calls.kit import differences, forget, set_gateway, spend_rule
from tests.calls.test_policy_limits import add
from tests.calls.test_spend_rules import left, limit_to
from tests.calls.wire import chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("alerts"), hold_wait_ms=100) as served:
        yield served


def alerts(customer: Customer) -> list[dict[str, Any]]:
    services = customer.farebox.services
    sql = "SELECT content FROM notices WHERE account_id = ? AND kind = 'spend_alert' ORDER BY notice_id"
    found = customer.farebox.run(services.database.scan(lambda c: c.execute(sql, (customer.account_id,)).fetchall()))
    return [json.loads(content) for (content,) in found]


def look(customer: Customer) -> None:
    """Run the job for this account now, regardless of the server's own job."""
    customer.farebox.run(spend_alerts._alert(customer.farebox.services, customer.account_id))


def seen(customer: Customer, of: str) -> list[int]:
    return sorted(alert["percent"] for alert in alerts(customer) if alert["of"] == of)


def put(customer: Customer, **settings: Any) -> httpx.Response:
    return httpx.put(f"{customer.api_url}/farebox/settings", json=settings, headers=customer.headers)


async def test_each_threshold_is_reported_once(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    set_gateway(customer)
    body = chat_body(max_tokens=20, user="ann")
    probe = customer.receipt((await post(customer, body)).log_id)
    cost, hold = probe["charge_nanos"], probe["hold_nanos"]
    limit = 8 * hold
    limit_to(
        customer,
        spend_rule("each", limit, technique="fixed", user={"mode": "partition"}),
        spend_rule("wide", NANOS_PER_USD),
        spend_rule("sliding", limit * 5 // 4),
    )
    add(customer, "everybody", limit, "daily", actor="user:{user}")
    calls = 0
    while calls * cost * 10 < limit * 6:
        assert (await post(customer, body)).status == 200
        calls += 1
    await asyncio.gather(*(asyncio.to_thread(look, customer) for _ in range(3)))
    assert seen(customer, "policy") == [50]
    assert {found.get("rule_id", found.get("actor")) for found in alerts(customer)} <= {"each", "sliding", "user:ann"}
    while (await post(customer, body)).status == 200:
        await asyncio.to_thread(look, customer)
    await asyncio.to_thread(spend, customer, limit)  # the credit that the holds of calls leave
    await asyncio.gather(*(asyncio.to_thread(look, customer) for _ in range(3)))
    reported = alerts(customer)
    await asyncio.to_thread(look, customer)
    assert alerts(customer) == reported, "nothing is reported again"
    keys = [(found["of"], found.get("rule_id", found.get("actor")), found["percent"]) for found in reported]
    assert len(keys) == len(set(keys))
    assert {key for key in keys if key[1] != "sliding"} == {
        (of, name, percent) for of, name in (("rule", "each"), ("policy", "user:ann")) for percent in (50, 80, 100)
    }
    assert all(found["spent_nanos"] * 100 >= found["limit_nanos"] * found["percent"] for found in reported)
    each = next(found for found in reported if found.get("rule_id") == "each")
    assert (each["partition"], each["gateway_id"], each["technique"]) == ({"user": "ann"}, "default", "fixed")
    assert each["window_end"] > farebox.services.clock.now_ms()
    policy = next(found for found in reported if found["of"] == "policy")
    assert (policy["period"], policy["limit_nanos"]) == ("daily", limit)
    assert differences(farebox) == []


def spend(customer: Customer, limit: int) -> None:
    """Use up every budget of the account that has this limit."""
    services, at = customer.farebox.services, customer.farebox.services.clock.now_ms()
    sql = "SELECT scope, start, spent, ends_at FROM budgets WHERE account_id = ? AND most = ?"
    found = customer.farebox.run(
        services.database.scan(lambda c: c.execute(sql, (customer.account_id, limit)).fetchall())
    )
    for place, (scope, start, spent, ends_at) in enumerate(found):
        budget = Budget(scope, limit, start, start, ends_at)
        name, left = f"rest-{place}", limit - spent
        hold = Hold(
            account_id=customer.account_id, hold_id=name, amount=left, at=at, expires_at=at + DAY_MS, budgets=(budget,)
        )
        assert customer.farebox.run(services.ledger.do(hold)).ok
        settle = Settle(account_id=customer.account_id, hold_id=name, amount=left, at=at)
        assert customer.farebox.run(services.ledger.do(settle)).ok


@pytest.mark.parametrize("of", ["account", "rule"])
async def test_a_sliding_window_is_reported_once_in_its_length(farebox: Farebox, of: str) -> None:
    """However time is divided: otherwise the same spending would be reported before and after midnight."""
    customer = farebox.funded("5")
    services, midnight = farebox.services, (farebox.services.clock.now_ms() // DAY_MS + 1) * DAY_MS
    set_gateway(customer)
    cost = customer.receipt((await post(customer, chat_body())).log_id)["charge_nanos"]
    if of == "account":
        sliding = SpendingLimit(cost * 3 // 2, "daily", "sliding")
        limited = services.database.write(lambda c: set_limit(c, customer.account_id, sliding))
        await asyncio.to_thread(farebox.run, limited)
    else:
        limit_to(customer, spend_rule("day", 10**9, window=86_400, technique="sliding"))
        assert (await post(customer, chat_body())).status == 200
        await asyncio.to_thread(spend, customer, 10**9)

    def alerted(at: int) -> list[int]:
        """The percentages that are reported at that time."""

        def write(connection: Connection) -> list[int]:
            due = [each for each in spend_alerts._due(connection, customer.account_id, at) if each[0].slides]
            spend_alerts._write(connection, customer.account_id, due, at)
            return [percent for _, percent in due]

        return farebox.run(services.database.write(write))

    assert await asyncio.to_thread(alerted, midnight - 60_000)
    assert await asyncio.to_thread(alerted, midnight - 59_000) == []
    assert await asyncio.to_thread(alerted, midnight) == []
    assert await asyncio.to_thread(alerted, midnight + 60_000) == []


async def test_alerts_about_the_spending_limit_can_be_switched_off_and_on(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    services = farebox.services
    assert put(customer, spend_alerts=False).json()["result"] == {"time_zone": "UTC", "spend_alerts": False}
    charged = customer.receipt((await post(customer, chat_body(max_tokens=20))).log_id)["charge_nanos"]
    limit = SpendingLimit(charged * 10 // 9, "monthly", "fixed")
    await asyncio.to_thread(farebox.run, services.database.write(lambda c: set_limit(c, customer.account_id, limit)))
    await asyncio.to_thread(look, customer)
    assert alerts(customer) == []
    assert put(customer, spend_alerts=True).status_code == 200
    await asyncio.to_thread(look, customer)
    await asyncio.to_thread(look, customer)
    assert seen(customer, "account") == [50, 80]
    found = alerts(customer)[0]
    assert (found["duration"], found["spent_nanos"], found["limit_nanos"]) == ("monthly", charged, limit.amount)
    url = f"{customer.api_url}/farebox/messages"
    messages = await asyncio.to_thread(httpx.get, url, headers=customer.headers)
    assert [message["type"] for message in messages.json()["result"]] == ["spend_alert"] * 2


async def test_a_spending_limit_is_examined_only_if_more_is_spent(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = farebox.funded("5")
    services, examined = farebox.services, list[str]()
    await asyncio.to_thread(
        farebox.run,
        services.database.write(lambda c: set_limit(c, customer.account_id, SpendingLimit(1_000, "daily", "fixed"))),
    )

    async def alert(_: object, account_id: str) -> None:
        examined.append(account_id)

    monkeypatch.setattr(spend_alerts, "_alert", alert)
    for name, nanos, times in (("one", 600, 1), ("two", 0, 1), ("three", 100, 2)):
        assert await charge(customer, services.clock.now_ms(), nanos, name) == "done"
        for _ in range(2):
            await asyncio.to_thread(farebox.run, spend_alerts._alert_limited(services))
        assert examined.count(customer.account_id) == times, name


async def test_after_the_alerts_of_a_day_an_account_is_not_examined(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = farebox.funded("5")
    services, due, examined = farebox.services, spend_alerts._due, list[int]()
    limit = SpendingLimit(1_000, "daily", "fixed")
    await asyncio.to_thread(farebox.run, services.database.write(lambda c: set_limit(c, customer.account_id, limit)))
    assert await charge(customer, services.clock.now_ms(), 900, "most of it") == "done"

    def counted(connection: Connection, account_id: str, at: int) -> Any:
        examined.extend([at] * (account_id == customer.account_id))
        return due(connection, account_id, at)

    monkeypatch.setattr("farebox.limits.spend_watch.ALERTS_A_DAY", 1)
    monkeypatch.setattr(spend_alerts, "_due", counted)
    for _ in range(3):
        await asyncio.to_thread(look, customer)
    assert (seen(customer, "account"), len(examined)) == ([50], 1)


async def charge(customer: Customer, at: int, nanos: int, name: str, *budgets: Budget) -> str:
    """Make a hold at that time and settle it at once; the outcome of the verdict."""
    ledger = customer.farebox.services.ledger
    hold = Hold(
        account_id=customer.account_id, hold_id=name, amount=nanos, at=at, expires_at=at + DAY_MS, counted_at=at,
        budgets=budgets,
    )  # fmt: skip

    async def do() -> str:
        verdict = await ledger.do(hold)
        if verdict.ok:
            await ledger.do(Settle(account_id=customer.account_id, hold_id=name, amount=nanos, at=at))
        return str(verdict.outcome)

    return await asyncio.to_thread(customer.farebox.run, do())


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "America/New_York", "UTC"])
async def test_the_spending_limit_counts_days_of_the_accounts_time_zone(farebox: Farebox, zone: str) -> None:
    """Through the fast paths of both engines and the rules in Python, across clock changes."""
    customer, services = farebox.funded("5"), farebox.services
    limit = SpendingLimit(100, "daily", "fixed")

    def prepare(connection: Any) -> None:
        set_zone(connection, customer.account_id, zone, 0)
        set_limit(connection, customer.account_id, limit)

    await asyncio.to_thread(farebox.run, services.database.write(prepare))
    for year, month, day in ((2027, 3, 28), (2027, 10, 31), (2027, 11, 7)):
        start = int(datetime(year, month, day, tzinfo=ZoneInfo(zone)).timestamp()) * 1000
        span = window("daily", start, (ZoneChange(0, zone),))
        assert span.start == start
        name = f"{year}-{month}-{day}"
        assert await charge(customer, span.start, 60, f"{name}a") == "done"
        assert await charge(customer, span.end - 1, 40, f"{name}b") == "done"
        assert await charge(customer, span.end - 1, 1, f"{name}c") == "limited"
        assert await charge(customer, span.end, 100, f"{name}d") == "done"
        assert await charge(customer, span.end, 1, f"{name}e") == "limited"
    assert differences(farebox) == []


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "America/Sao_Paulo", "America/New_York", "UTC"])
async def test_a_rule_counts_periods_of_the_accounts_calendar(farebox: Farebox, zone: str) -> None:
    """Exactly, including the days on which the clocks change."""
    customer, zones = farebox.funded("5"), (ZoneChange(0, zone),)
    for period, first in (
        ("daily", (2027, 4, 4)),
        ("daily", (2018, 11, 4)),
        ("weekly", (2027, 10, 31)),
        ("monthly", (2027, 2, 9)),
    ):
        rule = SpendRule(id=f"{first}", limit=1e-7, limit_type="cost", period=period)  # type: ignore[arg-type]
        counts = window_of("default", rule, zones)
        span = window(period, int(datetime(*first, tzinfo=ZoneInfo(zone)).timestamp()) * 1000, zones)  # type: ignore[arg-type]
        name = f"{period}-{span.start}"
        tries = (span.start - 1, 100, True), (span.start, 60, True), (span.end - 1, 40, True)
        others = (span.start + 1, 1, False), (span.end - 1, 1, False), (span.end, 100, True), (span.end, 1, False)
        for at, nanos, fits in (*tries, *others):
            budget = counts.budget(counts.name, at)
            ended = await charge(customer, at, nanos, f"{name}-{at}-{nanos}", budget)
            assert ended == ("done" if fits else "limited")
    assert differences(farebox) == []


async def test_a_rule_of_the_calendar_follows_the_time_zone(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    zone = ZoneInfo("Pacific/Kiritimati")
    always = farebox.services.database.write(lambda connection: set_zone(connection, customer.account_id, zone.key, 0))
    await asyncio.to_thread(farebox.run, always)
    rule = {"id": "day", "limit": 1, "limitType": "cost", "period": "daily"}
    url = f"{customer.api_url}/ai-gateway/gateways/default"
    body = {"spend_limits": {"enabled": True, "rules": [rule]}}
    await asyncio.to_thread(httpx.get, f"{customer.gateway_url}/compat/models", headers=customer.headers)
    made = await asyncio.to_thread(lambda: httpx.patch(url, json=body, headers=customer.headers))
    assert made.status_code == 200, made.text
    (kept,) = made.json()["result"]["spend_limits"]["rules"]
    assert (kept["period"], kept["window"], kept["technique"]) == ("daily", 86_400, "fixed")
    forget(farebox)
    assert (await post(customer, chat_body())).status == 200
    (state,) = await asyncio.to_thread(left, customer)
    start, end = (datetime.fromisoformat(state[name]) for name in ("window_start", "resets_at"))
    assert state["spent_nanos"] > 0
    assert start.astimezone(zone).strftime("%H:%M") == "00:00"
    last = [spend_alerts.described(budget) for budget in await asyncio.to_thread(scopes, customer)]
    assert last == [({"of": "rule", "gateway_id": "default", "rule_id": "day", "period": "daily"}, None)]
    limit = {"spend_limits": {"enabled": True, "rules": [rule | {"limit": state["spent_nanos"] / 10**9}]}}
    await asyncio.to_thread(lambda: httpx.patch(url, json=limit, headers=customer.headers))
    forget(farebox)
    refused = json.loads((await post(customer, chat_body(max_tokens=1))).body)
    assert (refused["internalCode"], refused["rule_id"]) == (2045, "day")
    assert "daily)" in refused["message"]
    await asyncio.to_thread(put, customer, time_zone="America/New_York")
    forget(farebox)
    (state,) = await asyncio.to_thread(left, customer)
    assert datetime.fromisoformat(state["resets_at"]) == end, "the day in progress ends as it would have"


def scopes(customer: Customer) -> list[str]:
    sql = "SELECT scope FROM budgets WHERE account_id = ?"
    database = customer.farebox.services.database
    found = customer.farebox.run(database.scan(lambda c: c.execute(sql, (customer.account_id,)).fetchall()))
    return [scope for (scope,) in found]


async def test_a_new_time_zone_shortens_the_next_window_and_loses_nothing(farebox: Farebox) -> None:
    customer, services = farebox.funded("5"), farebox.services
    limit = SpendingLimit(100, "daily", "fixed")
    await asyncio.to_thread(farebox.run, services.database.write(lambda c: set_limit(c, customer.account_id, limit)))
    now = services.clock.now_ms()
    assert await charge(customer, now, 60, "before") == "done"
    assert (await asyncio.to_thread(put, customer, time_zone="Asia/Tokyo")).json()["result"][
        "time_zone"
    ] == "Asia/Tokyo"
    state = await asyncio.to_thread(farebox.run, spending_limit.state(services, customer.account_id))
    assert state is not None
    assert state.window_end == now - now % DAY_MS + DAY_MS, "the day ends as it would have"
    assert await charge(customer, now, 41, "too much") == "limited"
    assert await charge(customer, now, 40, "rest") == "done"
    stored = await asyncio.to_thread(
        farebox.run, services.database.scan(lambda c: read_settings(c, customer.account_id))
    )
    assert stored is not None
    following = window("daily", state.window_end, stored.zones)
    assert following.end % DAY_MS == 15 * 3_600_000, "midnight in Tokyo"
    assert await charge(customer, following.start, 100, "next") == "done"
    assert await charge(customer, following.end - 1, 1, "next too") == "limited"
    assert await charge(customer, following.end, 100, "the day after") == "done"
    wrong = await asyncio.to_thread(put, customer, time_zone="Mars/Olympus")
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (400, ["body", "time_zone"])
    assert differences(farebox) == []


async def test_usage_by_day_follows_the_time_zone(farebox: Farebox) -> None:
    customer, services = farebox.funded("5"), farebox.services
    zone = "Australia/Sydney"
    await asyncio.to_thread(farebox.run, services.database.write(lambda c: set_zone(c, customer.account_id, zone, 0)))
    start = int(datetime(2027, 10, 3, tzinfo=ZoneInfo(zone)).timestamp()) * 1000  # of 23 hours
    end = int(datetime(2027, 10, 4, tzinfo=ZoneInfo(zone)).timestamp()) * 1000
    for place, at in enumerate((start - 1, start, end - 1, end)):
        assert await charge(customer, at, 10_000_000, f"u{place}") == "done"
    response = await asyncio.to_thread(
        httpx.get,
        f"{customer.api_url}/ai-gateway/billing/usage-history",
        params={"value_grouping_window": "day", "start_time": start, "end_time": end},
        headers=customer.headers,
    )
    history = response.json()["result"]["history"]
    assert [(day["start_time"], day["end_time"], day["aggregated_value"]) for day in history] == [(start, end, 2)]
    assert msgspec.json.encode(history)
