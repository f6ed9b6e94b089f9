"""The owner's pages over HTTP: what they show and do, and hostile names on them."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from html import unescape

import httpx
import pytest
from msgspec.structs import replace

from farebox.http.pages import labels, limit_trial, overview, try_call
from farebox.http.pages.fields import words_of
from farebox.http.pages.routes import PAGE_ROWS
from farebox.http.quotas import Quota
from farebox.model import Balance, Permission, Role
from farebox.runtime.settle_times import SettleTimes
from farebox.storage.call_lists import find_call
from farebox.storage.call_reports import UsageWindow
from farebox.storage.calls import add_usage, encode_detail
from farebox.storage.sql import Connection
from tests.pages.people import Person, person
from tests.pages.valid import faults_of
from tests.support import Customer, Farebox
from tests.waiting import start_of_window

HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(1)>'"""
DAY = 86_400_000


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    return person(farebox, Role.OWNER, customer.account_id)


def _log_id(response: httpx.Response) -> str:
    return response.headers["cf-aig-log-id"]


# --- calls ------------------------------------------------------------------------------------------------------------


def test_filters_find_calls(farebox: Farebox, owner: Person, customer: Customer) -> None:
    answered = _log_id(customer.chat("one", headers={"cf-aig-metadata": '{"team": "Research"}'}))
    refused = _log_id(customer.chat("two", model="demo/none"))
    token = farebox.create_token(customer.account_id, Permission.RUN)
    other = _log_id(Customer(farebox, customer.account_id, token).chat("three"))
    every = owner.get("/ui/calls").text
    token_id = re.findall(r'<option value="(\w[\w-]+)">test</option>', every)[-1]

    def found(**query: str) -> set[str]:
        return {log_id for log_id in (answered, refused, other) if log_id in owner.get("/ui/calls", **query).text}

    (states,) = re.findall(r'<select[^>]* name="outcome".*?</select>', every, re.DOTALL)
    for shown in ("answered", "from the cache", "failed", "refused"):  # the states in the list
        assert len(re.findall(f">[^<]*{shown}[^<]*</option>", states)) == 1, shown
    assert found() == {answered, refused, other}
    assert found(outcome="ok") == {answered, other}
    assert found(outcome="refused") == {refused}
    assert found(outcome="failed") == set()
    assert found(model="none") == {refused}
    assert found(provider="openai") == set()
    assert found(metadata="research") == {answered}
    assert found(gateway="default", model="demo-1") == {answered, other}
    assert len(found(token=token_id)) in (1, 2)
    assert found(to="2020-01-01") == set()
    assert found(**{"from": "2020-01-01T10:00"}) == {answered, refused, other}
    assert "is not a time" in unescape(owner.get("/ui/calls", to="yesterday").text)
    assert "No matching calls" in owner.get("/ui/calls", provider=HOSTILE).text


def test_a_receipt_is_explained_line_by_line(owner: Person, customer: Customer) -> None:
    log_id = _log_id(customer.chat("one two three"))
    receipt = customer.receipt(log_id)
    page = unescape(re.sub(r"<[^>]*>", " ", owner.get(f"/ui/calls/{log_id}").text))
    for line in receipt["lines"]:
        assert line["meter"].replace("_", " ") in page
    assert "1.00 per million" in page
    assert f"{receipt['charge_nanos'] / 10**9:.9f}".rstrip("0") in page
    assert "one two three" in page


def test_the_parts_of_a_calls_time_are_drawn_and_listed(
    farebox: Farebox, owner: Person, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_id = _log_id(customer.chat("one two demo:delay=60"))
    row = farebox.run(farebox.services.database.scan(lambda c: find_call(c, customer.account_id, log_id)))
    assert row is not None
    hold, first = row.detail.hold_ms, row.detail.first_byte_ms
    assert hold is not None
    assert first is not None
    assert 0 <= hold <= first - 55

    def took() -> dict[str, str]:
        found = owner.get(f"/ui/calls/{log_id}").text
        assert found.count("<title>") - found.count("<title>Call of") == 4
        cells = re.findall(r'<span class="part \w+">(.*?)</span>.*?data-of="Time"><div>(.*?)</div>', found, re.DOTALL)
        return {name: unescape(re.sub(r"<[^>]*>", "", text)).strip() for name, text in cells}

    shown = took()
    assert shown["Waiting for the hold"] == f"{hold} ms"
    assert shown["Provider, until the first byte"] == f"{first - hold} ms"
    assert shown["Rest of the response"] == f"{row.duration - first} ms"
    assert re.fullmatch(r"[\d.]+ ms", shown["Settling the charge"])
    monkeypatch.setattr(SettleTimes, "of", lambda _, log_id: None)  # later calls have arrived
    detail = encode_detail(replace(row.detail, hold_ms=None))  # the format of an earlier release

    def change(connection: Connection) -> None:
        connection.execute("UPDATE calls SET detail = ? WHERE log_id = ?", (detail, log_id))

    farebox.run(farebox.services.database.write(change))
    shown = took()
    assert shown["Waiting for the hold"].startswith("unknown")
    assert shown["Provider, until the first byte"] == f"{first} ms"
    detail = encode_detail(replace(row.detail, hold_ms=None, outcome="free"))
    farebox.run(farebox.services.database.write(change))
    assert took()["Waiting for the hold"] == "unknown"
    assert shown["Settling the charge"].startswith("unknown")


def test_the_default_period_is_marked_however_it_was_chosen(owner: Person) -> None:
    page = owner.get("/ui/usage").text
    assert 'aria-current="true">30 days' in page
    fields = {name: re.findall(rf'name="{name}" value="([^"]*)"', page)[0] for name in ("from", "to")}
    assert 'aria-current="true">30 days' in owner.get("/ui/usage", per="day", by="model", **fields).text
    other = owner.get("/ui/usage", per="day", by="model", **fields | {"from": "2026-01-01"}).text
    assert 'aria-current="true">30 days' not in other


def test_a_refused_call_says_why(owner: Person, customer: Customer) -> None:
    page = owner.get(f"/ui/calls/{_log_id(customer.chat('x', model='demo/none'))}").text
    assert "<strong>Model unpriced.</strong> Ask the operator" in page
    assert "refused" in page


def test_the_snippets_of_a_call_repeat_it(owner: Person, customer: Customer) -> None:
    log_id = _log_id(customer.chat('It\'s "quoted" $HOME `x` \\n'))
    page = owner.get(f"/ui/calls/{log_id}").text
    texts = {
        name: unescape(text) for name, text in re.findall(r'aria-label="(curl|Python)">(.*?)</pre>', page, re.DOTALL)
    }
    environment = {"TOKEN": customer.token, "PATH": "/usr/bin:/bin"}
    curl = texts["curl"].replace("curl ", "curl -s ", 1)
    for command in (["bash", "-c", curl], [sys.executable, "-c", texts["Python"]]):
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert ran.returncode == 0, ran.stderr
        assert "$HOME `x`" in json.loads(ran.stdout)["choices"][0]["message"]["content"]


def test_roles_without_access_to_contents_see_none(farebox: Farebox, customer: Customer) -> None:
    log_id = _log_id(customer.chat("a secret plan"))
    for role, sees in ((Role.DEVELOPER, True), (Role.BILLING, False), (Role.VIEWER, False)):
        page = person(farebox, role, customer.account_id).get(f"/ui/calls/{log_id}").text
        assert ("a secret plan" in page) is sees


def test_keys_in_texts_are_masked(owner: Person, customer: Customer) -> None:
    log_id = _log_id(customer.chat("my key is sk-abcdefghijklmnop and fbx_0123456789"))
    page = owner.get(f"/ui/calls/{log_id}").text
    assert "sk-…" in page
    assert "abcdefghijklmnop" not in page
    assert "0123456789" not in page


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("AKIAABCDEFGHIJKLMNOP", "AKIA…"),
        ("github_pat_11ABCDEFG0abcdefghijKLMNOP", "github_…"),
        ("gsk_abcdefghijKLMNOP", "gsk_…"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.KLMNOP", "eyJh…"),
        ("-----BEGIN RSA PRIVATE KEY-----\nKLMNOP\n-----END RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----…"),
        ("-----BEGIN PRIVATE KEY-----\nKLMNOP, and no end", "-----BEGIN PRIVATE KEY-----…"),
    ],
)
def test_keys_of_any_kind_are_masked(owner: Person, customer: Customer, secret: str, shown: str) -> None:
    page = unescape(owner.get(f"/ui/calls/{_log_id(customer.chat(f'my key: {secret}', user='after it'))}").text)
    assert f"my key: {shown}" in page
    assert "KLMNOP" not in page
    assert page.count("after it") == 4, "in the request, and in the three snippets that repeat it"


def test_words_that_start_like_keys_are_shown(owner: Person, customer: Customer) -> None:
    page = owner.get(f"/ui/calls/{_log_id(customer.chat('sk-learn, hf_hub, npm_token, eyJ.x'))}").text
    assert "sk-learn, hf_hub, npm_token, eyJ.x" in page


def test_a_call_is_made_from_the_page(owner: Person, customer: Customer) -> None:
    made = owner.send("/ui/try", model="demo/demo-1", text="Hello there", gateway="default")
    page = owner.get(made.headers["location"]).text
    assert "You said: “Hello there”" in unescape(page)
    assert "farebox pages" in page
    again = owner.send("/ui/try", model="demo/demo-1", text="Hello again")
    assert again.headers["location"] != made.headers["location"]
    assert customer.balance.held == 0
    refused = owner.send("/ui/try", model="demo/none", text="Hello")
    page = owner.get(refused.headers["location"]).text
    assert "Model unpriced" in page
    assert "Prices page, or <code>farebox price set</code>" in page
    assert "gateway does not exist" in owner.submit("/ui/try", model="demo/demo-1", text="x", gateway="nowhere")
    tokens = owner.get("/ui/tokens").text
    (token_id,) = set(
        re.findall(r'name="token" value="(\w+)">\s*<button[^>]*>Revoke for good<span class="unseen"> Test', tokens)
    )
    owner.send("/ui/tokens/revoke", token=token_id)
    assert "has been revoked" in owner.submit("/ui/try", model="demo/demo-1", text="x")


# --- usage ------------------------------------------------------------------------------------------------------------


Used = Callable[[str, int, int], None]


def test_refused_forms_do_not_use_up_a_quota(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"window": "day", "technique": "sliding", "gateway": "default"}
    call = {"gateway": "nowhere", "model": "demo/demo-1", "text": "Hi"}
    monkeypatch.setattr(limit_trial, "WHAT_IFS", Quota("what-ifs", 1, 3600))
    monkeypatch.setattr(try_call, "TEST_CALLS", Quota("test calls", 1, 60))
    for _ in range(2):
        assert "Enter the limit" in owner.submit("/ui/limits/try", **rule, limit="much")
        assert "does not exist" in owner.submit("/ui/try", **call)
        assert "does not exist" in owner.submit("/ui/try/price", **call)
    owner.get("/ui/gateways")
    start_of_window(3600)
    start_of_window(60)
    assert "Too many" not in owner.submit("/ui/limits/try", **rule, limit="1")
    assert "Too many what-ifs: at most 1 in 1 hour. Try again in " in owner.submit("/ui/limits/try", **rule, limit="1")
    assert "Too many" not in owner.submit("/ui/try", **call | {"gateway": "default"})
    assert "Too many test calls: at most 1 in 1 minute." in owner.submit("/ui/try", **call | {"gateway": "default"})


@pytest.fixture
def used(farebox: Farebox, owner: Person) -> Iterator[Used]:
    """Adds usage of a model at a time, with a charge, but without a call; it is removed from the shared books
    afterwards."""
    account_id, write = owner.holder.account_id, farebox.services.database.write

    def add(model: str, at: int, charge: int) -> None:
        farebox.run(write(lambda c: add_usage(c, 0, account_id, at, "demo", model, charge, 2, 3)))

    yield add
    farebox.run(write(lambda c: c.execute("DELETE FROM usage_hours WHERE account_id = ?", (account_id,))))


def test_usage_is_summed_and_compared(farebox: Farebox, owner: Person, used: Used) -> None:
    now = farebox.services.clock.now_ms()
    used("a", now, 1_000_000_000)
    used("a", now - 40 * DAY, 500_000_000)
    page = unescape(owner.get("/ui/usage", compare="on").text)
    assert "+100 %" in page
    for query in ({}, {"per": "hour"}, {"per": "month"}, {"by": "provider"}, {"per": "x", "from": "x", "to": HOSTILE}):
        assert owner.get("/ui/usage", **query).status_code == 200
    rows = json.loads(owner.get("/ui/usage.json", per="month").text)
    assert sum(float(row["charge_usd"]) for row in rows) == 1.5


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"from": "abc"}, "“abc” is not a time: write it as 2026-11-30 or 2026-11-30T18:00."),
        ({"to": "2026-02-30"}, "“2026-02-30” is not a time"),
        ({"from": "9999-12-31"}, "“9999-12-31” is not between 1970 and 2099."),
        ({"from": "2099-12-31"}, "“From” must not be in the future."),
        ({"from": "2026-11-30", "to": "2026-11-01"}, "“From” must be before “To”"),
        ({"from": "2026-11-30", "to": "2026-11-30"}, "“From” must be before “To”"),
        (
            {"per": "hour", "from": "2026-10-01", "to": "2026-11-01"},
            "at most 400 hours can be shown. Only its end",
        ),
        ({"per": "day", "from": "2024-10-01", "to": "2026-11-01"}, "at most 400 days can be shown"),
        ({"per": "week"}, "Usage is by hour, day or month, not by “week”."),
        ({"by": HOSTILE}, "Usage cannot be grouped by “"),
    ],
)
def test_a_period_that_cannot_be_shown_is_explained_and_no_other_one_exported(
    owner: Person, query: dict[str, str], said: str
) -> None:
    response = owner.get("/ui/usage", **query)
    page = unescape(response.text)
    assert response.status_code == 200
    assert said in page
    assert "/ui/usage.csv" not in page
    for name in ("from", "to"):
        assert name not in query or f'name="{name}" value="{query[name]}"' in page, "what was typed is kept"
    for path in ("/ui/usage.csv", "/ui/usage.json"):
        refused = owner.get(path, **query)
        assert refused.status_code == 400
        assert said.rstrip(".") in unescape(refused.text)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", HOSTILE])
def test_names_are_neither_formulas_in_csv_nor_markup_on_pages(
    farebox: Farebox, owner: Person, used: Used, name: str
) -> None:
    used(name, farebox.services.clock.now_ms(), 1)
    response = owner.get("/ui/usage.csv")
    assert response.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    (row,) = list(csv.reader(io.StringIO(response.text)))[1:]
    assert row[2].lstrip("'") == name
    assert row[2][0] not in "=+-@\t"
    for path in ("/ui/usage", "/ui/overview"):
        page = owner.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page


@pytest.mark.parametrize("name", ["\x02", "\x03", "\x04", "\x02a\x03b\x04", "<\x02a<\x03b<\x04", "&lt;\x02"])
def test_names_do_not_forge_the_marks_that_align_numbers(
    farebox: Farebox, owner: Person, customer: Customer, used: Used, name: str
) -> None:
    customer.chat("x", model=f"demo/{name}", headers={"cf-aig-metadata": json.dumps({name: name})}, user=name)
    used(name, farebox.services.clock.now_ms(), 1)
    for path in ("/ui/calls", "/ui/usage", "/ui/overview"):
        page = owner.get(path).text
        tables = re.findall(r"<thead><tr>(.*?)</tr></thead>\s*<tbody>(.*?)</tbody>", page, re.DOTALL)
        assert tables
        for head, body in tables:
            rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
            assert {row.count("<td") for row in rows} == {head.count("<th ") + head.count("<td")}
        assert faults_of(page) == []


# --- limits, tokens, members ------------------------------------------------------------------------------------------


def test_a_limit_is_previewed_set_and_removed(farebox: Farebox, owner: Person, customer: Customer) -> None:
    customer.chat("one")
    rule = {"limit": "0.00001", "window": "day", "technique": "sliding", "partition": "user", "gateway": "default"}
    assert "There is no gateway “none”." in unescape(owner.submit("/ui/limits/try", **rule | {"gateway": "none"}))
    tried = unescape(owner.submit("/ui/limits/try", **rule))
    assert "The only call would not have been refused." in tried  # a call without a user is not counted
    tried = unescape(owner.submit("/ui/limits/try", **rule | {"partition": ""}))
    assert "The only call would have been refused" in tried
    assert '<caption class="unseen">By model</caption>' in tried
    days = re.findall(r'<rect class="hit".*?<title>(.*?): ', tried)
    now = farebox.services.clock.now_ms()
    assert days == [labels.day(now - number * DAY) for number in reversed(range(31))], "days without calls, too"
    assert "Calls without an end user: 1." in tried
    assert "Set the limit: 0.00001 USD per day." in owner.submit("/ui/limits", **rule | {"partition": ""})
    assert customer.chat("two").status_code == 402
    page = owner.get("/ui/limits").text
    (rule_id,) = re.findall(r'name="rule" value="(\w+)"', page)
    assert "Removed the limit." in owner.submit("/ui/limits/remove", gateway="default", rule=rule_id)
    assert "This limit does not exist" in owner.submit("/ui/limits/remove", gateway="default", rule=rule_id)
    monthly = rule | {"limit": "1", "window": "30 days", "technique": "calendar", "partition": ""}
    tried = owner.submit("/ui/limits/try", **monthly)
    assert "USD per month" in tried
    assert 'name="technique" value="calendar"' in tried, "the limit can be set from there"
    assert "USD per month." in owner.submit("/ui/limits", **monthly)
    assert "by your calendar" in owner.get("/ui/limits").text
    assert customer.chat("three").status_code == 200


def test_calls_are_counted_in_good_english(owner: Person, customer: Customer) -> None:
    tiny, huge = (
        {"limit": limit, "window": "day", "technique": "sliding", "partition": "", "gateway": "default"}
        for limit in ("0.00001", "100")
    )
    owner.get("/ui/gateways")
    assert "There are no past calls to try this limit on." in owner.submit("/ui/limits/try", **tiny)
    for refused, none in (
        ("The only call would have been refused", "The only call would not have been refused."),
        ("All 2 calls would have been refused", "None of the 2 calls would have been refused."),
    ):
        customer.chat("one")
        assert refused in owner.submit("/ui/limits/try", **tiny)
        assert none in owner.submit("/ui/limits/try", **huge)


def test_the_bars_of_limits_show_what_is_left(owner: Person, customer: Customer) -> None:
    def bars(path: str) -> list[tuple[int, int]]:
        found = re.findall(r'<meter min="0" max="(\d+)" low="\d+" optimum="\d+" value="(\d+)"', owner.get(path).text)
        return [(int(most), int(left)) for most, left in found]

    owner.submit("/billing/limit", **{"limit-amount": "20", "duration": "monthly", "strategy": "fixed"})
    token_id = httpx.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers).json()["result"][0]["id"]
    rule = {"limit": "5", "window": "day", "technique": "sliding", "gateway": "default", "only_token": token_id}
    owner.submit("/ui/limits", **rule)
    full = [(20 * 10**9, 20 * 10**9), (5 * 10**9, 5 * 10**9)]
    paths = ("/billing", "/ui/limits", f"/ui/tokens/{token_id}")
    assert [bars(path) for path in paths] == [full[:1], full, full[1:]], "untouched: full"
    charge = customer.receipt(_log_id(customer.chat("one")))["charge_nanos"]
    less = [(most, left - charge) for most, left in full]
    assert [bars(path) for path in paths] == [less[:1], less, less[1:]]
    assert "USD left this month" in owner.get("/billing").text


def test_limits_say_what_they_count_from_when(owner: Person, customer: Customer) -> None:
    """The account's limit counts what was charged before it was set, a gateway's does not."""
    charge = labels.exact_usd(customer.receipt(_log_id(customer.chat("before")))["charge_nanos"])
    owner.submit("/billing/limit", **{"limit-amount": "1", "duration": "monthly", "strategy": "fixed"})
    for path in ("/billing", "/ui/limits"):
        page = owner.get(path).text
        assert re.search(rf"{charge} USD charged since <time[^>]*>1 \w+ \d+, 00:00 UTC</time>", page)
        assert "Charges from before the limit was set count too." in page
    rule = {"limit": "1", "window": "day", "technique": "sliding", "gateway": "default"}
    assert "It counts calls from now on." in owner.submit("/ui/limits", **rule)
    page = owner.get("/ui/limits").text
    assert "1.00 of 1.00 USD left" in page
    assert "counts the calls made since it was set" in page


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"limit": "much"}, "Enter the limit"),
        ({"limit": "-1"}, "Enter the limit"),
        ({"limit": "0"}, "Enter the limit"),
        ({"limit": "nan"}, "Enter the limit"),
        ({"limit": "1e5"}, "Enter the limit"),
        ({"limit": "٣"}, "Enter the limit"),
        ({"limit": "1000000001"}, "at most 1,000,000,000"),
        ({"window": "year"}, "Choose the period: hour; day; week; 30 days."),
        ({"technique": "x"}, "Choose how spending is counted: over a sliding window; by the clock"),
        ({"technique": ""}, "Choose how spending is counted"),
        ({"partition": "x"}, "Choose what has separate limits"),
        ({"models": "demo/" + "x" * 300}, "at most 256 characters"),
        ({"partition": "model", "models": "demo/demo-1"}, "Choose either"),
        ({"models": "demo/demo-1 foo"}, "“foo” is not a model: write provider/model."),
        ({"models": "nope/x"}, "“nope/x” is not a model: there is no provider “nope”."),
        ({"models": "demo/*"}, "name each"),
        ({"only_token": "nope"}, "Choose one of the account’s access tokens"),
        ({"only_token": "a b"}, "Choose one of the account’s access tokens"),
        ({"gateway": "nowhere"}, "gateway does not exist"),
    ],
)
def test_invalid_limits_are_explained(owner: Person, changed: dict[str, str], said: str) -> None:
    rule = {"limit": "1", "window": "day", "technique": "sliding", "gateway": "default"} | changed
    assert said in owner.submit("/ui/limits", **rule)
    if "gateway" not in changed:
        owner.get("/ui/gateways")
        assert said in owner.submit("/ui/limits/try", **rule)
    assert 'name="rule"' not in owner.get("/ui/limits").text


def test_a_limit_names_a_token_of_the_account_and_no_other(farebox: Farebox, owner: Person, customer: Customer) -> None:
    rule = {"limit": "1", "window": "day", "technique": "sliding", "gateway": "default", "models": "google/gemini-x"}
    (own,) = httpx.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers).json()["result"]
    other = farebox.funded("1")
    (foreign,) = httpx.get(f"{other.api_url}/farebox/tokens", headers=other.headers).json()["result"]
    refused = owner.submit("/ui/limits", **rule, only_token=foreign["id"])
    assert "Choose one of the account’s access tokens: this one does not exist." in refused
    said = owner.submit("/ui/limits", **rule, only_token=own["id"])
    assert f"per day, model google-ai-studio/gemini-x, token {own['name']}." in said


def test_a_token_is_shown_once_and_has_its_permissions(farebox: Farebox, owner: Person, customer: Customer) -> None:
    made = owner.send("/ui/tokens", name=HOSTILE, run="on", models="demo/demo-1", expires="7")
    assert "<script>alert" not in made.text
    secret = re.findall(r"fbx_[\w-]{43}", made.text)[0]
    assert secret not in owner.get("/ui/tokens").text
    caller = Customer(farebox, customer.account_id, secret)
    assert caller.chat("x").status_code == 200
    assert caller.chat("x", model="demo/other").status_code == 403
    read = httpx.get(f"{customer.api_url}/ai-gateway/gateways", headers=caller.headers)
    assert read.status_code == 403
    developer = person(farebox, Role.DEVELOPER, customer.account_id)
    assert "money" not in developer.get("/ui/tokens").text
    assert "at least one permission" in developer.submit("/ui/tokens", name="x", read="on", write="on")
    for form, said in (
        ({"name": "x"}, "at least one permission"),
        ({"run": "on", "expires": "x"}, "when the token expires"),
        ({"run": "on", "models": "nonsense"}, "nonsense"),
    ):
        assert said in owner.submit("/ui/tokens", **form)
    assert words_of("a/b, c/d\ne/*") == ["a/b", "c/d", "e/*"]


def test_a_developer_makes_no_token_that_spends_on_cards(farebox: Farebox, customer: Customer) -> None:
    developer = person(farebox, Role.DEVELOPER, customer.account_id)
    everything = {permission.name.lower(): "on" for permission in Permission}
    made = developer.send("/ui/tokens", **everything, expires="")
    token = re.findall(r"fbx_[\w-]{43}", made.text)[0]
    bought = httpx.post(
        f"{customer.api_url}/ai-gateway/billing/topup",
        json={"amount": 1000},
        headers={"authorization": f"Bearer {token}"},
    )
    assert bought.status_code == 403


def test_members_are_invited_and_removed(farebox: Farebox, owner: Person) -> None:
    assert "has been invited as viewer" in owner.submit("/ui/members", email="Ada@Example.com", role="viewer")
    for form in ({"email": "nobody", "role": "viewer"}, {"email": "a@b.example", "role": "operator"}):
        assert 'class="note bad"' in owner.submit("/ui/members", **form)
    link = re.findall(r"/ui/open\?link=([\w-]{43})", owner.send("/ui/members/link", email="ada@example.com").text)[0]
    with httpx.Client(base_url=farebox.url) as ada:
        assert ada.post("/ui/open", data={"link": link}).status_code == 303
        assert ada.get("/ui/calls").status_code == 200
        assert ada.get("/ui/members").status_code == 403
        assert "no longer a member" in owner.submit("/ui/members/remove", email="ada@example.com")
        assert ada.get("/ui/calls").status_code == 303
    assert "member does not exist" in owner.submit("/ui/members/link", email="ada@example.com")


# --- the overview -----------------------------------------------------------------------------------------------------


def test_how_long_the_money_lasts_is_shown_after_three_days() -> None:
    def days(*charges: int) -> list[UsageWindow]:
        return [UsageWindow(number * DAY, 1, charge) for number, charge in enumerate(charges) if charge]

    ten = Balance(10_000_000_000, 0)
    assert overview.runway(ten, days(1, 1), 2 * DAY) is None
    assert overview.runway(ten, [], 9 * DAY) is None
    steady = overview.runway(ten, days(*[10**9] * 5), 5 * DAY)
    assert steady is not None
    assert (steady.text, steady.bounds) == ("10 days", "about 10 days")
    uneven = overview.runway(Balance(12_000_000_000, 0), days(4 * 10**9, 0, 0), 3 * DAY)
    assert uneven is not None
    assert (uneven.text, uneven.bounds) == ("9.0 days", "at least 4.5 days")


def test_problems_are_shown_with_their_remedy(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    assert "There is no credit left" in person(farebox, Role.OWNER, account_id).get("/ui/overview").text
    viewer = person(farebox, Role.VIEWER, account_id).get("/ui/overview").text
    assert "There is no credit left" not in viewer
    assert "/billing" not in viewer


@pytest.mark.parametrize("role", [Role.OWNER, Role.BILLING, Role.DEVELOPER, Role.VIEWER])
def test_every_role_sees_the_balance_which_calls_say_too(customer: Customer, farebox: Farebox, role: Role) -> None:
    said = Decimal(customer.chat("Hello").headers["farebox-balance-usd"])
    page = person(farebox, role, customer.account_id).get("/ui/overview").text
    posted = re.search(r'data-figure="posted">([^<]*)<', page)
    assert posted is not None
    assert Decimal(posted[1].replace(",", "")) == said
    payments = ("/billing", "Buy credit")
    assert all((text in page) == (role in (Role.OWNER, Role.BILLING)) for text in payments)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [row for row in PAGE_ROWS if "{" not in row.path], ids=lambda row: row.path)
def test_no_page_may_be_framed_or_kept(farebox: Farebox, owner: Person, page: object) -> None:
    path = page.path  # type: ignore[attr-defined]
    response = owner.get(path)
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert (response.headers["x-frame-options"], response.headers["cache-control"]) == (
        "DENY",
        "no-store, no-transform",
    )
    assert response.headers["x-content-type-options"] == "nosniff"
