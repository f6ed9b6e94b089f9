"""Every page of the table in light and dark mode, on small and large screens: axe-core finds nothing, nothing
overflows, and the console stays empty."""

import json
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Page

from farebox.billing import cards
from farebox.calls.what_if import what_if_run
from farebox.calls.what_if.replay import Scenario
from farebox.gateway import SpendRule
from farebox.http.pages.routes import PAGE_ROWS
from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Operator, Role
from farebox.storage.accounts import add_token, list_tokens
from farebox.storage.customers import CustomerProfile
from farebox.storage.deliveries import add_delivery
from farebox.storage.findings import Finding, add_finding
from farebox.storage.notices import add_notice
from farebox.storage.operator_actions import record_action
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.sql import Connection
from tests.browser.axe import faults_of
from tests.browser.conftest import Watch
from tests.http.support import save_card
from tests.pages.people import person
from tests.pages.test_matrix import GATEWAY, ROUTE
from tests.support import Customer, Farebox

pytestmark = pytest.mark.slow

_VIEWS: tuple[tuple[Literal["light", "dark"], tuple[int, ...]], ...] = (("light", (1440,)), ("dark", (360, 320, 3840)))
"""In each mode, the width at which everything is checked, and others."""
_WIDTH = "document.documentElement.scrollWidth"
_SMALL = (
    "[...document.querySelectorAll('button, .button, input:not([type=hidden]):not([type=radio]):not([type=checkbox]), "
    "select')].filter(it => it.checkVisibility() && it.getBoundingClientRect().height < 32).map(it => it.outerHTML)"
)
LONG = "An account whose name is longer than anybody would think, and-has-no-space-where-one-is-needed-most"


def furnished(farebox: Farebox) -> tuple[Customer, dict[str, str]]:
    """An account with content for every page, and the IDs of its objects by path parameter."""
    account_id = farebox.create_account(LONG)
    farebox.grant(account_id, "123456789")
    customer = Customer(farebox, account_id, farebox.create_token(account_id))
    log_id = customer.chat("Hello", headers={"cf-aig-metadata": json.dumps({"k" * 64: "v" * 64})}).headers[
        "cf-aig-log-id"
    ]
    customer.chat("x" * 300, model="demo/no-such-model")
    rule = SpendRule(id="tried", limit=5, limit_type="cost", window=86_400)
    scenario = Scenario(start=1, end=2**40, rules=(rule,), at=2**40)
    farebox.run(what_if_run.begin(farebox.services, account_id, scenario))
    names = _own(customer)
    save_card(customer)
    details = cards.set_profile(farebox.services, account_id, CustomerProfile(name="N" * 200))
    farebox.run(details)
    farebox.run(membership.add(farebox.services, account_id, f"{'long' * 12}@{'example' * 5}.com", Role.VIEWER))
    tokens = farebox.run(farebox.services.database.scan(lambda connection: list_tokens(connection, account_id)))
    limited = replace(tokens[0], token_id=uuid4().hex, name="n" * 100, gateways=(names["gateway_id"], "default"))
    gone = replace(limited, token_id=uuid4().hex, gateways=())
    for token in (limited, gone):
        add = partial(add_token, token=token, token_hash=token.token_id.encode())
        farebox.run(farebox.services.database.write(add))
    farebox.run(farebox.services.database.write(lambda connection: _trouble(connection, account_id)))
    return customer, names | {"account_id": account_id, "log_id": log_id, "token_id": tokens[0].token_id}


def _trouble(connection: Connection, account_id: str) -> None:
    """Add problems for the operator, and actions in the audit log."""
    long = "x" * 120
    add_finding(
        connection,
        Finding(finding_id=long, kind="test", account_id=account_id, amount_cents=-(10**14), detail=long, found_at=1),
    )
    put_alarm(connection, Alarm(kind="overrun", about=long, content={"why": long}, times=10**12, first_at=1, last_at=1))
    add_notice(connection, 0, account_id, long, "low_balance", {}, 1)
    add_delivery(connection, 0, account_id, long, f"mailto:{long}@example.com", 2**60)
    by = Operator(f"{'long' * 12}@{'example' * 5}.com", "page")
    record_action(connection, by, "account.set", 1, account_id=account_id, before={"name": long}, after={"name": LONG})


def _own(customer: Customer) -> dict[str, str]:
    """A gateway with a stored key, and a custom provider."""

    def made(path: str, body: dict[str, object]) -> str:
        response = httpx.post(f"{customer.api_url}/ai-gateway/{path}", headers=customer.headers, json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["result"]["id"])

    gateway_id, key = "g" * 64, {"alias": "a" * 64, "default_config": True, "provider_slug": "openai", "secret": "sk-1"}
    rule: dict[str, object] = {"limit": 1e9, "limitType": "cost", "window": 86_400, "token": {"mode": "partition"}}
    of_model = rule | {"model": {"mode": "filter", "values": ["m" * 256]}, "limit": 0.000000001}
    limits = {"enabled": True, "rules": [rule, of_model, rule | {"user": {"mode": "partition"}}]}
    otel = [{"url": f"https://x.example/{'v' * 200}", "headers": {}}]
    made("gateways", GATEWAY | {"id": gateway_id, "otel": otel, "spend_limits": limits})
    key_id = made(f"gateways/{gateway_id}/provider_configs", key)
    base_url = f"https://llm.example.com/{'v' * 200}"
    provider_id = made("custom-providers", {"name": "N" * 200, "slug": "s" * 64, "base_url": base_url})
    made("custom-providers/costs", {"account_provider_id": provider_id, "model": "m" * 200, "cost_in": 0.0000001})
    route_id = made(f"gateways/{gateway_id}/routes", {"name": "r" * 64, "elements": ROUTE})
    targets = {"targets": [{"model": f"demo/{'m' * 200}", "weight": 1}]}
    alias = f"{customer.api_url}/farebox/gateways/{gateway_id}/model-aliases/{'a' * 64}"
    assert httpx.put(alias, headers=customer.headers, json=targets).status_code == 200
    domain = {"domain": f"{'d' * 60}.{'e' * 60}.example.com"}
    url = f"{customer.api_url}/ai-gateway/gateways/{gateway_id}/custom-domains"
    assert httpx.post(url, headers=customer.headers, json=domain).status_code == 200
    policy: dict[str, object] = {
        "name": "p" * 128,
        "actor": "a" * 256,
        "resource": {"model": "m" * 256},
        "action": {"type": "no-limit"},
    }
    made(f"gateways/{gateway_id}/policies", policy)
    profile: dict[str, object] = {"name": "P" * 128, "entries": [{"name": "e" * 128, "keyword": "k" * 128}]}
    url = f"{customer.api_url}/farebox/dlp-profiles"
    profile_id = httpx.post(url, headers=customer.headers, json=profile).json()["result"]["id"]
    return {
        "key_id": key_id,
        "profile_id": profile_id,
        "route_id": route_id,
        "gateway": gateway_id,
        "gateway_id": gateway_id,
        "provider_id": provider_id,
    }


def sign_in(farebox: Farebox, page: Page, account_id: str) -> None:
    """Sign in as the account's owner and as an operator."""
    holder = LinkHolder(account_id=account_id, role=Role.OWNER, operator=True)
    page.goto(farebox.run(sessions.make_link(farebox.services, holder)))
    page.get_by_role("button", name="Open").click()
    page.wait_for_url(f"{farebox.url}/ui/overview")


def test_every_page_is_accessible(farebox: Farebox, page: Page, watch: Watch) -> None:
    customer, names = furnished(farebox)
    sign_in(farebox, page, customer.account_id)
    queries: dict[str, str] = {"/billing/buy": "?amount=50", "/ui/money": "?view=findings"}
    skipped = {"/billing/top-up"}  # no report is running
    seen: Any = []
    texts: set[str] = set()
    forth = True
    for row in PAGE_ROWS:
        if not row.template or row.path in skipped:
            continue
        page.goto(farebox.url + row.path.format_map(names) + queries.get(row.path, ""))
        page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
        # Back and forth: a page is laid out first as the one before it was last.
        for mode, widths in _VIEWS if forth else _VIEWS[::-1]:
            page.emulate_media(color_scheme=mode)
            for width in widths if forth else widths[::-1]:
                page.set_viewport_size({"width": width, "height": 900 if width == widths[0] else 300})
                if width == widths[0]:
                    assert faults_of(page, texts) == [], (row.path, mode, width)
                assert page.evaluate(_WIDTH) <= width, (row.path, width)
                if width == 360:
                    assert page.evaluate(_SMALL) == [], "too small for a finger"
        forth = not forth
        seen.append(row.path)
    assert len(seen) >= 12


def test_long_names_push_nothing_out_of_view_and_code_has_room(farebox: Farebox, page: Page, watch: Watch) -> None:
    account_id = farebox.create_account()
    farebox.create_token(account_id)
    (token,) = farebox.run(farebox.services.database.scan(partial(list_tokens, account_id=account_id)))
    models = (f"demo/{'m' * 80}", f"openai/{'g' * 80}")
    limited = replace(token, token_id=uuid4().hex, name="n" * 80, models=models)
    add = partial(add_token, token=limited, token_hash=limited.token_id.encode())
    farebox.run(farebox.services.database.write(add))
    sign_in(farebox, page, account_id)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{farebox.url}/ui/tokens")
    assert page.evaluate("(it => it.scrollWidth - it.clientWidth)(document.querySelector('.table'))") <= 0
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{farebox.url}/ui/overview")
    code = page.locator(".code pre")
    style = "(it => it.clientWidth - parseFloat(getComputedStyle(it).paddingRight))"
    assert code.evaluate(style) > code.evaluate("it => it.clientWidth") - 20
    assert code.evaluate("it => parseFloat(getComputedStyle(it).paddingTop)") >= 40, "the button is above the text"
    form = {"limit": "5", "window": "day", "technique": "sliding", "gateway": "default"}
    assert "Set the limit" in person(farebox, Role.OWNER, account_id).submit("/ui/limits", **form)
    page.goto(f"{farebox.url}/ui/limits")
    left = page.locator("td:has(.left)")
    assert left.evaluate("it => getComputedStyle(it).display") == "block", "the label is above the bar"


def test_pages_without_a_session_are_accessible(farebox: Farebox, page: Page, watch: Watch) -> None:
    watch.refusals |= {403}
    holder = LinkHolder(account_id=farebox.create_account(LONG), role=Role.OWNER)
    link = farebox.run(sessions.make_link(farebox.services, holder))
    page.set_viewport_size({"width": 360, "height": 800})
    for address in ("/ui/sign-in", "/ui/signed-out", "/ui/open?link=used", link.removeprefix(farebox.url)):
        page.goto(farebox.url + address)
        for mode, _ in _VIEWS:
            page.emulate_media(color_scheme=mode)
            assert faults_of(page) == [], (address, mode)
            assert page.evaluate(_WIDTH) <= 360, (address, mode)
