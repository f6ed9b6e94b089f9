"""The operator's pages: each action works, is refused with a reason, and is in the audit log with its author."""

import asyncio
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from farebox.calendar import DAY_MS
from farebox.http.pages import price_list
from farebox.identity import membership
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.operator import long_reports, messages, remaining_credit
from farebox.operator.remaining_credit import ASKED
from farebox.storage import margin_sums
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.config import list_markups, list_prices, note_change
from farebox.storage.deliveries import add_delivery, given_up
from farebox.storage.findings import Finding, add_finding, open_findings
from farebox.storage.log_totals import id_at
from farebox.storage.margin_sums import stated_costs
from farebox.storage.notices import add_notice
from farebox.storage.operator_actions import OperatorAction, list_actions
from farebox.storage.operator_alarms import Alarm, open_alarms, put_alarm
from farebox.storage.operator_reports import ReportRow, begin_report
from farebox.storage.sql import Connection, DatabaseUnavailable
from tests.engines import TESTER
from tests.http.support import save_card
from tests.pages.people import Person, person
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import pauses, until

ROOT = "root@operators.example"
KEY = "sk-0123456789abcdef"
HOSTILE = """"><script>alert(1)</script>"""


@pytest.fixture(scope="module")
def operator(farebox: Farebox) -> Person:
    """An operator with an e-mail address, which the audit log shows."""
    farebox.run(membership.add(farebox.services, "", ROOT, Role.OPERATOR))
    return Person(farebox, LinkHolder(email=ROOT))


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def actions_on(farebox: Farebox, account_id: str) -> list[OperatorAction]:
    return farebox.run(
        farebox.services.database.scan(lambda connection: list_actions(connection, account_id=account_id, limit=50))
    )


def latest(farebox: Farebox) -> OperatorAction:
    return farebox.run(farebox.services.database.scan(lambda connection: list_actions(connection, limit=1)))[0]


@pytest.mark.both_engines
def test_a_form_with_a_used_key_says_what_was_made_with_it(
    farebox: Farebox, operator: Person, customer: Customer
) -> None:
    page = f"/ui/accounts/{customer.account_id}"
    made = {"amount": "5", "key": "used-before"}
    assert "Granted 5.00 USD" in operator.submit(f"{page}/grant", **made)
    for other in ({"amount": "6"}, {"expires": "2099-01-31"}):
        said = operator.submit(f"{page}/grant", **made | other)
        assert "This grant has already been made, of 5.00 USD: open the page again to make another." in said
    assert "at most 1,000,000,000 US dollars." in operator.submit(f"{page}/grant", amount="2000000000")
    made = {"amount": "2", "key": "used-too", "direction": "take", "reason": "test"}
    assert "Charged 2.00 USD" in operator.submit(f"{page}/correct", **made)
    for other in ({"amount": "1"}, {"direction": "give"}):
        said = operator.submit(f"{page}/correct", **made | other)
        assert "This correction has already been made, of 2.00 USD: open the page again to make another." in said


@pytest.mark.both_engines
def test_an_account_is_created_found_and_given_credit(farebox: Farebox, operator: Person) -> None:
    name = f"Ünlikely {HOSTILE} GmbH"
    made = operator.send("/ui/accounts", name=name)
    path = made.headers["location"]
    account_id = path.rpartition("/")[2]
    for wanted in ("Ünlikely", "nLIKELY", account_id[5:20].upper()):
        found = operator.get("/ui/accounts", find=wanted).text
        assert path in found
        assert "<script>alert" not in found
    assert path not in operator.get("/ui/accounts", find="%_%").text
    assert "No matching account" in operator.get("/ui/accounts", find="nobody-has-this").text
    assert "already exists" in unescape(operator.submit("/ui/accounts", name="Again", id=account_id))
    page = operator.get(path).text
    key = re.search(r'name="key" value="([^"]+)"', page)
    assert key is not None
    for said in ("Granted 12.50 USD", "already been made"):
        assert said in operator.submit(f"{path}/grant", amount="12.5", note="Welcome", key=key[1])
    corrected = operator.submit(f"{path}/correct", amount="2.5", direction="take", reason="missed")
    assert "10.00 USD is available" in corrected
    assert farebox.balance(account_id).available == 10 * 10**9
    for fields, said in (
        ({"amount": "100", "direction": "take", "reason": "x"}, "does not cover it"),
        ({"amount": "1", "direction": "take"}, "needs a reason"),
        ({"amount": "-1", "direction": "give", "reason": "x"}, "“-1” is not an amount"),
        ({"amount": "1", "reason": "x"}, "to give it back or to charge it"),
    ):
        assert said in unescape(operator.submit(f"{path}/correct", **fields))
    assert "write it as" in unescape(operator.submit(f"{path}/grant", amount="1", expires="tomorrow"))
    actions = actions_on(farebox, account_id)
    assert [action.act for action in actions] == ["credit.correct", "credit.grant", "account.create"]
    assert {(action.who, action.way) for action in actions} == {(ROOT, "page")}
    assert json.loads(actions[0].before or "") == {"posted_usd": "12.50"}
    assert json.loads(actions[0].after or "")["posted_usd"] == "10.00"
    log = unescape(operator.get("/ui/audit", of=account_id).text)
    assert "Welcome" in log
    assert "credit.grant" not in operator.get("/ui/audit", of=account_id, before=str(actions[1].number)).text
    assert "credit.grant" in operator.get("/ui/audit", of=account_id, before="9" * 5000).text


def test_a_link_to_an_account_opens_it_and_is_logged(farebox: Farebox, operator: Person, customer: Customer) -> None:
    page = operator.send(f"/ui/accounts/{customer.account_id}/link", role="viewer").text
    link = re.search(r"http://\S+/ui/open\?link=[\w-]+", page)
    assert link is not None
    assert (action := actions_on(farebox, customer.account_id)[0]).act == "link.create"
    assert link[0].rpartition("=")[2] not in f"{action}"
    assert "Choose one of the roles" in operator.submit(f"/ui/accounts/{customer.account_id}/link", role="operator")


def test_a_frozen_account_makes_no_calls_holds_and_purchases(
    farebox: Farebox, operator: Person, customer: Customer
) -> None:
    path, balance = f"/ui/accounts/{customer.account_id}", farebox.balance(customer.account_id)
    assert customer.chat("Hello", headers={"connection": "close"}).status_code == 200
    after = farebox.balance(customer.account_id)
    assert after != balance
    assert "needs a reason" in operator.submit(f"{path}/freeze", do="freeze")
    assert "is now frozen: its calls" in operator.submit(f"{path}/freeze", do="freeze", reason="stolen card")
    assert "already frozen" in operator.submit(f"{path}/freeze", do="freeze", reason="again")
    assert "Choose whether" in operator.submit(f"{path}/freeze", reason="nothing was chosen")
    assert ">frozen<" in operator.get("/ui/accounts", find=customer.account_id).text
    owner = person(farebox, Role.OWNER, customer.account_id)
    for page in ("/ui/overview", "/billing", "/ui/try"):
        assert "is frozen: calls and purchases are refused. Ask the operator" in owner.get(page).text
    both = Person(farebox, LinkHolder(account_id=customer.account_id, role=Role.OWNER, operator=True))
    assert f'<a href="{path}#freeze">Unfreeze it</a>' in both.get("/ui/overview").text
    for who in (owner, both):
        refused = who.submit("/ui/try", model="demo/demo-1", text="Hello", gateway="default")
        assert "The account tester is frozen, so nothing was done: calls and purchases are refused." in refused
        assert refused.count("frozen") == 1, "it is said once"
    holds = f"{customer.api_url}/farebox/holds"
    buying = {"amount": 1000}
    for response in (
        customer.chat("Hello"),
        customer.chat("Hello", headers={"authorization": "Bearer sk-own", "cf-aig-authorization": customer.token}),
        httpx.post(holds, headers=customer.headers, json={"hold_id": "h", "amount_nanos": 5}),
        httpx.post(f"{customer.api_url}/ai-gateway/billing/topup", headers=customer.headers, json=buying),
    ):
        assert response.status_code == 403, response.text
        assert "account_frozen" in response.text or "2954" in response.text
    assert httpx.get(f"{customer.api_url}/farebox/balance", headers=customer.headers).status_code == 200
    assert farebox.balance(customer.account_id) == after
    assert "no longer frozen" in operator.submit(f"{path}/freeze", do="unfreeze")
    assert "is frozen" not in owner.get("/ui/overview").text
    assert customer.chat("Hello").status_code == 200
    assert [action.act for action in actions_on(farebox, customer.account_id)] == ["account.unfreeze", "account.freeze"]


def test_money_needs_a_recent_proof(farebox: Farebox, operator: Person, customer: Customer) -> None:
    services, clock = farebox.services, farebox.services.clock.now_ms()
    old = clock - DAY_MS
    session = operator.session
    assert session is not None
    named = session.sign_in.session_id
    sql = "UPDATE sessions SET confirmed_at = ? WHERE session_id = ?"

    def confirmed(moment: int) -> None:
        farebox.run(services.database.write(lambda connection: connection.execute(sql, (moment, named)).fetchall()))

    confirmed(old)
    try:
        for form in ("grant", "correct", "refund", "link"):
            asked = operator.send(f"/ui/accounts/{customer.account_id}/{form}", amount="1")
            assert asked.headers["location"].startswith("/ui/confirm?next="), form
    finally:
        confirmed(clock)
    assert actions_on(farebox, customer.account_id) == []


def test_a_purchase_is_refunded(farebox: Farebox, operator: Person, customer: Customer) -> None:
    card = save_card(customer)
    owner = person(farebox, Role.OWNER, customer.account_id)
    buys = {"amount": "20", "card": card, "request_key": "k" * 20}
    bought = owner.submit("/billing/buy", **buys)
    assert "Bought" in bought
    for other in ({"amount": "30"}, {"card": "another"}):
        again = owner.submit("/billing/buy", **buys | other)
        assert "This purchase has already been made, of 20.00 USD: open the page again to make another." in again
    listed = operator.get("/ui/money").text
    assert customer.account_id in listed
    path = f"/ui/accounts/{customer.account_id}"
    top_up = re.search(r'name="top_up" value="([^"]+)"', operator.get(path).text)
    assert top_up is not None
    refused = unescape(operator.submit(f"{path}/refund", top_up=top_up[1], amount="20.01"))
    assert "20.00 USD" in refused
    assert "whole number of cents" in operator.submit(f"{path}/refund", top_up=top_up[1], amount="0.001")
    done = operator.submit(f"{path}/refund", top_up=top_up[1], amount="8", reason="bought twice", key="once")
    assert "Took 8.00 USD of credit" in done
    assert farebox.balance(customer.account_id).available == 17 * 10**9
    (action,) = actions_on(farebox, customer.account_id)
    assert (action.act, action.who, json.loads(action.after or "")["credit_cents"]) == ("credit.refund", ROOT, 800)
    assert "bought twice" in operator.get("/ui/money", view="refunds").text
    assert operator.get("/ui/money", view="nothing").status_code == 404


def test_findings_are_accepted_or_corrected(farebox: Farebox, operator: Person, customer: Customer) -> None:
    services, at = farebox.services, farebox.services.clock.now_ms()

    def found(name: str, cents: int) -> bool:
        finding = Finding(
            finding_id=f"test:{name}:{customer.account_id}",
            kind="test",
            account_id=customer.account_id,
            amount_cents=cents,
            detail=f"differs {HOSTILE}",
            found_at=at,
        )
        return farebox.run(services.database.write(lambda connection: add_finding(connection, finding)))

    def still_open() -> list[str]:
        each = farebox.run(services.database.scan(open_findings))
        return [finding.finding_id.split(":")[1] for finding in each if finding.account_id == customer.account_id]

    assert found("a", 150)
    assert found("b", -300)
    page = operator.get("/ui/money", view="findings").text
    assert "<script>alert" not in page
    named = {name: f"test:{name}:{customer.account_id}" for name in ("a", "b", "c")}
    assert 'name="seen" value="-300"' in page
    assert "say why" in operator.submit("/ui/money/accept", finding=named["a"], seen="150").lower()
    assert "This finding is no longer open: reload the page" in operator.submit(
        "/ui/money/accept", finding=named["c"], seen="1", note="x"
    )
    assert "has changed in the meantime" in operator.submit(
        "/ui/money/accept", finding=named["a"], seen="149", note="x"
    )
    assert "out of date" in operator.submit("/ui/money/accept", finding=named["a"], note="x")
    assert "Accepted the finding" in operator.submit("/ui/money/accept", finding=named["a"], seen="150", note="the fee")
    fields = {"finding": named["b"], "direction": "take", "amount": "3"}
    assert "has changed in the meantime" in operator.submit("/ui/money/correct", **fields, seen="-299")
    fields["seen"] = "-300"
    assert "2.00 USD is available" in operator.submit("/ui/money/correct", **fields)
    assert still_open() == []
    assert not found("a", 150), "the same amount does not reopen it"
    assert still_open() == []
    assert found("a", 151)
    assert still_open() == ["a"]
    actions = [action.act for action in actions_on(farebox, customer.account_id)]
    assert actions == ["finding.correct", "credit.correct", "finding.accept"]


def test_prices_and_markups_are_previewed_and_set(
    farebox: Farebox, operator: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_list, "SHOWN", 10_000)  # other tests set prices, too
    customer.chat("Hello")
    scope = {"provider": "demo", "model": "demo-1", "account": customer.account_id}
    price = scope | {"input_mtok": "3", "output_mtok": "0.0000001"}
    page = unescape(operator.send("/ui/prices", do="preview", **price).text)
    assert "Preview: demo/demo-1" in page
    assert "1 call with" in page
    assert 'value="0.0000001"' in page
    assert list_own(farebox, customer.account_id) == (0, 0), "a preview sets nothing"
    preview = unescape(operator.send("/ui/prices/markup", do="preview", percent="50", **scope).text)
    assert "+50 %" in preview
    monkeypatch.setattr("farebox.storage.past_usage.LOOKED_AT", 1)
    everybody = operator.send("/ui/prices", do="preview", **price | {"account": ""}).text
    assert "hourly sums and accounts were read" in unescape(everybody)
    assert "has the new price" in operator.submit("/ui/prices", do="set", **price, **{"from": "2099-01-31"})
    assert ">scheduled<" in operator.get("/ui/prices").text
    assert "12.5 % is charged" in operator.submit("/ui/prices/markup", do="set", percent="12.5", **scope)
    assert list_own(farebox, customer.account_id) == (1, 1)
    for path, fields, said in (
        ("", {"provider": "demo", "model": "x"}, "at least one price"),
        ("", {"provider": "nobody", "model": "x", "input_mtok": "1"}, "no provider"),
        ("", {"provider": "demo", "model": "x", "input_mtok": "1e5"}, "enter US dollars"),
        ("", {"provider": "demo", "model": "x", "input_mtok": "1", "account": "nobody"}, "see the Accounts page"),
        ("", {"provider": "", "model": "x", "input_mtok": "1"}, "Choose a provider"),
        ("", {"do": "preview", "provider": "", "model": "x", "input_mtok": "1"}, "Choose a provider"),
        ("", {"do": "preview", "provider": "nobody", "model": "x", "input_mtok": "1"}, "charged: there is no provider"),
        ("/markup", {"do": "preview", "percent": "1", "provider": "nobody"}, "There is no provider “nobody”: use"),
        ("/markup", {"percent": "much"}, "Enter a percentage"),
        ("/markup", {"percent": "-200"}, "at least -100 and at most 99,900 percent"),
    ):
        page = unescape(operator.submit(f"/ui/prices{path}", **fields))
        note = re.search(r'<p class="note bad".*?</p>', page, re.DOTALL)
        assert note is not None, fields
        assert said in note[0], fields
        assert not re.search("`|<code>|ideogram", note[0])
    actions = actions_on(farebox, customer.account_id)
    assert [action.act for action in actions] == ["markup.set", "price.set"]


def list_own(farebox: Farebox, account_id: str) -> tuple[int, int]:
    """The number of prices and markups of the account."""
    scan = farebox.services.database.scan
    prices, markups = farebox.run(scan(list_prices)), farebox.run(scan(list_markups))
    return sum(row.account_id == account_id for row in prices), sum(row.account_id == account_id for row in markups)


def test_messages_are_sent_again_and_alarms_closed(farebox: Farebox, operator: Person, customer: Customer) -> None:
    write, at = farebox.services.database.write, farebox.services.clock.now_ms()
    alarm = Alarm(kind="overrun", about=customer.account_id, content={"model": HOSTILE}, first_at=at, last_at=at)
    farebox.run(write(lambda c: add_notice(c, 0, customer.account_id, "low", "low_balance", {}, at) and None))
    farebox.run(write(lambda c: put_alarm(c, alarm)))
    page = operator.get("/ui/messages", of=customer.account_id).text
    assert "low_balance" in page
    fields = {"of": customer.account_id, "message": "low"}
    assert "This message has no recipient" in operator.submit("/ui/messages", **fields)
    assert latest(farebox).act == "message.resend"
    assert "message does not exist" in operator.submit("/ui/messages", **fields | {"message": "none"})
    assert "scheduled again" in operator.submit("/ui/messages/failed")
    system = operator.get("/ui/system").text
    assert customer.account_id in system
    assert "<script>alert" not in system
    assert "<code>farebox overruns</code>" in system
    closed = {"kind": "overrun", "about": customer.account_id}
    assert "Closed the alarm" in operator.submit("/ui/system/alarm", **closed)
    assert "No such alarm is open" in operator.submit("/ui/system/alarm", **closed)
    assert (latest(farebox).act, latest(farebox).who) == ("alarm.resolve", ROOT)
    still = farebox.run(farebox.services.database.scan(open_alarms))
    assert customer.account_id not in [each.about for each in still]


def test_abandoned_deliveries_are_counted_and_resent_in_parts(
    farebox: Farebox, operator: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = customer.account_id

    def give_up(connection: Connection) -> None:
        for number in range(5):
            add_delivery(connection, 0, account_id, "low", f"we_{number}", 1)
        connection.execute("UPDATE deliveries SET next_at = NULL WHERE account_id = ?", (account_id,))

    operator.submit("/ui/messages/failed")  # given up in other tests
    farebox.run(farebox.services.database.write(give_up))
    assert "5 deliveries were given up" in operator.get("/ui/messages").text
    monkeypatch.setattr("farebox.http.pages.messages.COUNTED", 4)
    assert "More than 4 deliveries" in operator.get("/ui/messages").text
    monkeypatch.setattr("farebox.operator.messages.AGAIN_AT_ONCE", 2)
    with monkeypatch.context() as patched:
        replay = messages.replay_given_up

        def away(connection: Connection, *arguments: Any, **named: Any) -> int:
            if len(given_up(connection, account_id, 5)) < 5:  # not by counting, because a transaction may be retried
                raise DatabaseUnavailable("away")
            return replay(connection, *arguments, **named)

        patched.setattr(messages, "replay_given_up", away)
        assert operator.send("/ui/messages/failed").status_code == 303
        # On PostgreSQL the database counts as away until the watch has looked at it; the note is shown after that.
        note = "2 deliveries are scheduled again. The rest was not scheduled"
        until(lambda: note in operator.get("/ui/messages").text, note)
    farebox.run(farebox.services.database.write(give_up))
    assert "4 deliveries are scheduled again" in operator.submit("/ui/messages/failed")
    assert "1 delivery is scheduled again" in operator.submit("/ui/messages/failed")
    assert latest(farebox).after == '{"deliveries": 1}'
    assert "given up" not in operator.get("/ui/messages").text


def test_the_system_and_its_settings_are_shown_without_secrets(farebox: Farebox, operator: Person) -> None:
    system = operator.get("/ui/system").text
    engine = "PostgreSQL" if farebox.services.database.engine == "postgres" else "SQLite"
    assert engine in system
    assert "configuration" in system
    assert farebox.services.instance in system
    page = unescape(operator.get("/ui/settings").text)
    secret = farebox.services.settings.stripe_secret_key
    assert secret
    assert secret not in page
    assert "a secret is set" in page
    for name in ("FAREBOX_LOG_DAYS", "FAREBOX_DATABASE_URL", "FAREBOX_SECRET_KEY"):
        assert name in page


def finished(operator: Person, path: str) -> str:
    """The page of a report, once the report is complete."""
    for pause in pauses(f"the report of {path}"):
        page = unescape(operator.get(path).text)
        if 'http-equiv="refresh"' not in page:
            return page
        time.sleep(pause)
    raise AssertionError


def test_the_books_are_checked_by_a_separate_process(farebox: Farebox, operator: Person, customer: Customer) -> None:
    assert "It has been started" in operator.submit("/ui/check")
    assert (latest(farebox).act, latest(farebox).subject) == ("report.begin", "check")
    page = finished(operator, "/ui/check")
    assert customer.account_id not in page
    assert f"started by {ROOT}" in page
    write = farebox.services.database.write
    sql = "UPDATE balances SET posted = posted + ? WHERE bucket = 0 AND account_id = ?"
    farebox.run(write(lambda c: c.execute(sql, (1, customer.account_id)).fetchall()))
    try:
        operator.submit("/ui/check")
        page = finished(operator, "/ui/check")
    finally:
        farebox.run(write(lambda c: c.execute(sql, (-1, customer.account_id)).fetchall()))
    assert f"account {customer.account_id}: `posted` is not" in page


def test_a_server_that_stops_ends_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(long_reports, "SEEN_SECONDS", 0.01)
    with running_farebox(tmp_path / "data") as stopping:
        services = stopping.services
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(slow))
            assert stopping.run(long_reports.begin(services, "check", TESTER))
            for pause in pauses("the report says that it runs"):
                row, _ = stopping.run(long_reports.latest(services, "check"))
                if row is not None and row.seen_at > row.started_at:
                    break
                time.sleep(pause)
    with running_farebox(tmp_path / "data") as again:
        row, interrupted = again.run(long_reports.latest(again.services, "check"))
        assert (row is not None and row.state, interrupted) == ("failed", False)


def test_a_report_is_canceled_even_if_its_end_cannot_be_written(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(*_: Any) -> NoReturn:
        raise asyncio.CancelledError

    async def away(*_: Any) -> NoReturn:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(long_reports, "_compute", stopped)
    monkeypatch.setattr(long_reports, "_end", away)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(long_reports._run(farebox.services, "check", "none"))


def test_a_report_of_a_dead_process_can_be_restarted(farebox: Farebox, operator: Person) -> None:
    row = ReportRow("margins", "gone", "running", "somebody", 1, 2, None, 1, 1)
    assert farebox.run(farebox.services.database.write(lambda c: begin_report(c, row, gone_before=2**60)))
    assert "interrupted" in operator.get("/ui/margins").text
    fresh = row._replace(seen_at=farebox.services.clock.now_ms())
    assert farebox.run(farebox.services.database.write(lambda c: begin_report(c, fresh, gone_before=2)))
    assert "already running" in operator.submit("/ui/margins")
    assert farebox.run(farebox.services.database.write(lambda c: begin_report(c, row, gone_before=2**60)))


def test_margins_compare_cost_charge_and_stated_cost(
    farebox: Farebox, operator: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, at = farebox.services.database.write, farebox.services.clock.now_ms()
    model = f"model-{customer.account_id[:8]}"

    def call(number: int, cost: int, charge: int, receipt: bytes | None, *, own_key: bool = False) -> CallRow:
        return CallRow(
            account_id=customer.account_id,
            log_id=f"{id_at(at - 1000)[:-2]}{number:02d}",
            gateway_id="default",
            created_at=at - 1000,
            provider="openrouter",
            model=model,
            success=True,
            status_code=200,
            duration=1,
            tokens_in=1,
            tokens_out=1,
            cost=cost,
            charge=charge,
            detail=CallDetail(outcome="charged", own_key=own_key),
            receipt=receipt,
            logged=True,
        )

    calls = [
        call(1, 2 * 10**9, 3 * 10**9, b'{"stated_usd":"2","computed_nanos":"1600000000"}'),
        call(2, 10**9, 5 * 10**8, None),
        call(3, 10**12, 0, None, own_key=True),
        call(4, 0, 0, b'{"stated_usd":"0","computed_nanos":"0"}'),
    ]

    def insert(connection: Connection) -> None:
        for each in calls:
            insert_call(connection, 0, each)

    def remove(connection: Connection) -> None:  # they have no holds, so `farebox check` would report them
        for table in ("calls", "usage_hours"):
            connection.execute(f"DELETE FROM {table} WHERE bucket = 0 AND account_id = ?", (customer.account_id,))

    def stated(connection: Connection) -> list[tuple[str, str, int, str]]:
        return list(stated_costs(connection, customer.account_id, at - DAY_MS, at))

    farebox.run(write(insert))
    try:
        monkeypatch.setattr(margin_sums, "_RECEIPTS_AT_ONCE", 1)
        assert farebox.run(farebox.services.database.scan(stated)) == [
            ("openrouter", model, 2 * 10**9, "1600000000"),
            ("openrouter", model, 0, "0"),
        ]
        operator.submit("/ui/margins")
        page = finished(operator, "/ui/margins")
    finally:
        farebox.run(write(remove))
    row = re.search(rf"<tr>(?:(?!</tr>).)*openrouter/{model}.*?</tr>", page, re.DOTALL)
    assert row is not None, page
    cells = re.sub(r"<[^>]+>|\s+", " ", row[0]).split()
    assert cells == [f"openrouter/{model}", "3", "3.00", "3.50", "0.50", "+17", "%", "+25", "%"]


LEFT = {
    "openrouter": ("authorization", "Bearer ", "12.50 USD"),
    "deepseek": ("authorization", "Bearer ", "110.93 USD"),
    "moonshot": ("authorization", "Bearer ", "49.59 USD"),
    "vercel-ai-gateway": ("authorization", "Bearer ", "95.50 USD"),
    "elevenlabs": ("xi-api-key", "", "82,769 characters"),
    "deepgram": ("authorization", "Token ", "150.50 USD"),
    "fal": ("authorization", "Key ", "24.50 USD"),
    "stability": ("authorization", "Bearer ", "0.63 credits"),
}
"""Provider → header of the key, and remaining credit."""
CREDIT = {
    "/openrouter/key": (200, {"data": {"limit_remaining": 12.5, "usage": 1}}),
    "/deepseek/user/balance": (200, {"balance_infos": [{"currency": "USD", "total_balance": "110.93"}]}),
    "/moonshot/users/me/balance": (200, {"data": {"available_balance": 49.58894, "cash_balance": 3}}),
    "/vercel-ai-gateway/credits": (200, {"balance": "95.50", "total_used": "4.50"}),
    "/elevenlabs/v1/user/subscription": (200, {"character_count": 17_231, "character_limit": 100_000}),
    "/deepgram/v1/projects": (200, {"projects": [{"project_id": "one"}, {"project_id": "two"}]}),
    "/deepgram/v1/projects/one/balances": (200, {"balances": [{"amount": 150.5, "units": "usd"}]}),
    "/deepgram/v1/projects/two/balances": (200, {"balances": [{"amount": 7, "units": "hour"}]}),
    "/fal/v1/account/billing?expand=credits": (200, {"credits": {"current_balance": 24.5, "currency": "USD"}}),
    "/stability/v1/user/balance": (200, {"credits": 0.6336833840314097}),
    "/strange/user/balance": (200, {"balance_infos": "many"}),
    "/huge/user/balance": (200, {"balance_infos": [{"currency": "USD", "total_balance": "1e30000000"}]}),
    "/endless/user/balance": (200, {"balance_infos": [{"currency": "USD", "total_balance": "Infinity"}]}),
    "/nested/user/balance": (200, "[" * 60_000),
    "/elsewhere/v1/projects": (200, {"projects": [{"project_id": "\n../.."}]}),
    "/refusing/user/balance": (401, {"error": "bad key"}),
}

STRANGE = [
    ("deepseek", "strange", "does not have the form that the provider documents"),
    ("deepseek", "huge", "does not have the form that the provider documents"),
    ("deepseek", "endless", "does not have the form that the provider documents"),
    ("deepseek", "nested", "does not have the form that the provider documents"),
    ("deepgram", "elsewhere", "does not have the form that the provider documents"),
    ("deepseek", "refusing", "status 401"),
]
"""Provider, its base URL, and the message shown."""


class _Provider(BaseHTTPRequestHandler):
    """Reports the remaining credit to a client with the key."""

    def do_GET(self) -> None:
        status, body = CREDIT[self.path]
        at = "deepgram" if self.path.endswith("projects") else self.path.split("/")[1]
        header, scheme, _ = LEFT.get(at, LEFT["deepseek"])
        if self.headers[header] != scheme + KEY:
            status = 403
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


class _Providers(ThreadingHTTPServer):
    request_queue_size = 50


@pytest.fixture
def provider() -> Iterator[str]:
    with _Providers(("127.0.0.1", 0), _Provider) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _keys_share_calls(farebox: Farebox, operator: Person) -> None:
    """Add, change and remove another key."""
    second = {"provider": "deepseek", "name": "second"}
    assert "has no key" in unescape(operator.submit("/ui/provider-keys/key", **second, weight="2"))
    assert "now has weight 3" in operator.submit("/ui/provider-keys/key", **second, api_key=f"{KEY}2", weight="3")
    assert (latest(farebox).act, latest(farebox).subject) == ("provider_key.set", "deepseek/second")
    assert KEY not in f"{latest(farebox)}"
    page = operator.get("/ui/provider-keys").text
    assert KEY not in page
    assert "…" + KEY[-3:] + "2" in page
    assert "now has weight 0" in operator.submit("/ui/provider-keys/key", **second, weight="0")
    assert "now has weight 5" in operator.submit(
        "/ui/provider-keys/key", provider="deepseek", name="default", weight="5"
    )
    for weight in ("1001", "-1", "1.5", "many"):
        assert "whole number" in operator.submit("/ui/provider-keys/key", **second, weight=weight)
    assert "Removed" in operator.submit("/ui/provider-keys/key/remove", **second)
    assert latest(farebox).act == "provider_key.remove"
    assert "DeepSeek has no key “" in unescape(operator.submit("/ui/provider-keys/key/remove", **second))
    first = unescape(operator.submit("/ui/provider-keys/key/remove", **second | {"name": "default"}))
    assert "is the provider’s first key" in first
    assert "farebox provider" not in first


def test_keys_are_set_and_the_remaining_credit_is_queried(
    farebox: Farebox, operator: Person, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(connection: Connection) -> None:
        connection.execute("DELETE FROM providers WHERE name <> 'demo'")
        connection.execute("DELETE FROM provider_keys")
        note_change(connection)

    def saved(slug: str, place: str) -> str:
        fields = {"provider": slug, "base_url": f"{provider}/{place}", "api_key": KEY}
        return operator.submit("/ui/provider-keys", **fields)

    try:
        assert LEFT.keys() == ASKED.keys()
        for slug in (*LEFT, "groq"):
            assert "is now called at" in saved(slug, slug)
        assert (latest(farebox).act, latest(farebox).subject) == ("provider.set", "groq")
        assert KEY not in f"{latest(farebox)}"
        page = operator.get("/ui/provider-keys").text
        assert KEY not in page
        assert "…" + KEY[-4:] in page
        assert "not checked yet" in page
        assert "not reported" in page
        asked = operator.submit("/ui/provider-keys/credit")
        for slug, (_, _, left) in LEFT.items():
            assert left in asked, slug
        _keys_share_calls(farebox, operator)
        for slug, place, said in STRANGE:
            saved(slug, place)
            assert said in operator.submit("/ui/provider-keys/credit"), place
            saved(slug, slug)
        now, most = [0], [0]

        async def counted(*arguments: Any) -> Any:
            now[0] += 1
            most[0] = max(most[0], now[0])
            try:
                return await asked_json(*arguments)
            finally:
                now[0] -= 1

        asked_json = remaining_credit._json
        monkeypatch.setattr(remaining_credit, "_json", counted)
        monkeypatch.setattr(remaining_credit, "AT_ONCE", 3)
        assert "24.50 USD" in operator.submit("/ui/provider-keys/credit")
        assert most == [3]
        assert "“x” is not a base URL" in unescape(operator.submit("/ui/provider-keys", provider="groq", base_url="x"))
    finally:
        farebox.run(farebox.services.database.write(remove))
        farebox.run(farebox.services.configuration.notice_changes())


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_grant_cannot_exceed_what_the_books_can_hold(farebox: Farebox) -> None:
    operator, account_id = person(farebox, Role.OPERATOR, ""), farebox.create_account("Rich")
    pages = [operator.submit(f"/ui/accounts/{account_id}/grant", amount="1000000000", note="much") for _ in range(12)]
    assert "more than 5,000,000,000 USD" in pages[-1]
    assert farebox.balance(account_id).posted == 5 * 10**18
