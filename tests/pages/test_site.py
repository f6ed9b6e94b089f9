"""The pages over HTTP, as a program would call them: who gets in, form tokens, headers."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import quote

import httpx
import pytest

from farebox.billing import cards
from farebox.clock import SystemClock
from farebox.http.envelope import Response
from farebox.http.pages import labels, view, visit
from farebox.http.pages.routes import FORM_ROWS, OPEN, PAGES
from farebox.http.pages.table import OPERATOR
from farebox.http.pages.view import TRANSFERS_READ
from farebox.http.public_path import at_root
from farebox.http.request import Request
from farebox.http.router import Route
from farebox.identity import sessions
from farebox.identity.sessions import SignInSession
from farebox.model import Role
from farebox.storage.sessions import SignIn
from farebox.storage.transfer_statement import TransferRow
from tests.pages.people import person
from tests.pages.valid import faults_of
from tests.support import Farebox, running_farebox
from tests.waiting import start_of_window

SEALED = [route for route in PAGES if route.method == "POST" and route not in OPEN]
"""The forms that need a session."""
OF_OPERATORS = {form.path for form in FORM_ROWS if form.roles == OPERATOR}


@dataclass
class Visitor:
    """A headless browser on the page of a new account."""

    farebox: Farebox
    account_id: str
    http: httpx.Client

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.http.get("/billing").text)
        assert found is not None
        return found.group(1)

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form of the page, and follow the redirect."""
        return self.http.post(path, data={"csrf": self.csrf, **fields}, follow_redirects=True)


def _link(farebox: Farebox, account_id: str) -> str:
    return farebox.run(sessions.billing_link(farebox.services, account_id))


def _open(link: str, http: httpx.Client | None = None, site: str | None = None) -> httpx.Response:
    """Press the button of the page that the link leads to."""
    with httpx.Client() if http is None else nullcontext(http) as client:
        url = httpx.URL(link)
        headers = {} if site is None else {"sec-fetch-site": site}
        return client.post(url.copy_with(query=None), data={"link": url.params["link"]}, headers=headers)


def _visitor(farebox: Farebox, name: str) -> Visitor:
    account_id = farebox.create_account(name)
    visitor = Visitor(farebox, account_id, httpx.Client(base_url=farebox.url))
    assert _open(_link(farebox, account_id), visitor.http).headers["location"] == "/billing"
    return visitor


@pytest.fixture
def visitor(farebox: Farebox) -> Iterator[Visitor]:
    made = _visitor(farebox, "<b>Acme</b>")
    yield made
    made.http.close()


@pytest.fixture
def other(farebox: Farebox) -> Iterator[Visitor]:
    made = _visitor(farebox, "Other")
    yield made
    made.http.close()


def test_the_page_shows_the_account(visitor: Visitor) -> None:
    visitor.farebox.grant(visitor.account_id, "12.345")
    response = visitor.http.get("/billing")
    assert response.status_code == 200
    assert "&lt;b&gt;Acme&lt;/b&gt;" in response.text
    assert "<b>" not in response.text
    assert '<strong id="available">12.34<small> USD</small></strong>' in response.text
    assert '<span id="posted">12.345</span>' in response.text


def test_a_transfer_from_several_lots_is_shown_as_one(visitor: Visitor) -> None:
    def transfer(number: int, kind: str, source: str, target: str, amount: int) -> TransferRow:
        name = "charge:a" + (f"/{number}" if number > 1 else "")
        return TransferRow(number, name, kind, source, target, amount, None, 1_795_338_245_678, None)

    charge = [transfer(2, "charge", "credit", "revenue", 35_000_000_000)]
    charge.append(transfer(1, "charge", "granted", "revenue", 5_000_000_000))
    grown = [*charge, *(_grant(number) for number in range(3))]
    assert [[labels.signed(view._movement(parts)) for parts in view._by_cause(rows)] for rows in (charge, grown)] == [
        ["−40.00"],
        ["−40.00", "+1.00", "+1.00", "+1.00"],
    ]
    full = [*charge, *(_grant(number) for number in range(TRANSFERS_READ - 2))]
    assert len(view._by_cause(full)) == TRANSFERS_READ - 2  # parts of the oldest may be on the next page


def _grant(number: int) -> TransferRow:
    return TransferRow(number, f"grant:{number}", "grant", "promotion", "granted", 1_000_000_000, None, 0, None)


def test_every_response_carries_the_headers(visitor: Visitor) -> None:
    responses = [
        visitor.http.get("/billing"),
        visitor.http.get("/billing/buy?amount=50"),
        visitor.http.get("/ui/signed-out"),
        visitor.http.get("/billing/open?link=x"),
        visitor.http.get("/billing/done?checkout=x"),
        visitor.http.post("/billing/auto", data={}),
        visitor.http.post("/billing/auto", content=b"{}", headers={"content-type": "application/json"}),
        httpx.get(f"{visitor.farebox.url}/billing"),
    ]
    assert [response.status_code for response in responses] == [200, 200, 200, 403, 404, 400, 400, 303]
    for response in responses:
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["cache-control"] == "no-store, no-transform"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! type=\"module\" src=\"/ui/assets/)|style=|\son\w+=", response.text)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ui/nosuch", 404),
        ("GET", "/billing/", 404),
        ("GET", "/nosuch", 404),
        ("GET", "/ui/sign-out", 405),
        ("POST", "/ui/nosuch", 404),
        ("GET", "/documents/x.pdf?account=x&expires=1&signature=x", 403),
        ("GET", "/documents/x.pdf", 400),
    ],
)
def test_browsers_get_an_error_page_and_programs_do_not(farebox: Farebox, method: str, path: str, status: int) -> None:
    seen = httpx.request(method, f"{farebox.url}{path}", headers={"accept": "text/html,*/*;q=0.8"})
    assert (seen.status_code, seen.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in seen.headers["content-security-policy"]
    assert 'href="/ui/overview"' in seen.text
    assert faults_of(seen.text) == []
    response = httpx.request(method, f"{farebox.url}{path}", headers={"accept": "*/*"})
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert seen.headers.get("allow") == response.headers.get("allow")


def test_the_api_answers_browsers_in_json(farebox: Farebox) -> None:
    response = httpx.get(f"{farebox.url}/client/v4/nosuch", headers={"accept": "text/html"})
    assert (response.status_code, response.headers["content-type"]) == (404, "application/json")


def test_characters_that_html_does_not_allow_are_replaced(farebox: Farebox) -> None:
    customer = farebox.funded("1")
    unfit = "\x1b[31m\x00\x85\ufffe\U0001ffffred\t\u200fיש"
    customer.chat(headers={"cf-aig-metadata": json.dumps({"team": unfit})})
    owner = person(farebox, Role.OWNER, customer.account_id)
    page = owner.get("/ui/calls").text
    assert "\ufffd[31m\ufffd\ufffd\ufffd\ufffdred\t\u200fיש" in page
    assert faults_of(page) == []


def test_pages_require_a_session(farebox: Farebox) -> None:
    with httpx.Client(base_url=farebox.url) as visitor:
        for route in PAGES:
            if route.path in ("/", "/ui", "/ui/", "/ui/assets/{name}", "/ui/sign-in", "/ui/signed-out"):
                continue
            path = re.sub(r"{\w+}", "x", route.path)
            response = visitor.request(route.method, path, data={"link": "x"} if route.method == "POST" else None)
            assert "set-cookie" not in response.headers
            if response.status_code == 303:
                assert response.headers["location"] == f"/ui/sign-in?next={quote(path, safe='')}"
            else:
                assert response.status_code in (403, 404), route.path


def test_a_link_is_used_up_by_its_use_and_by_time(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    link = _link(farebox, account_id)
    first, second = _open(link), _open(link)
    assert (first.status_code, second.status_code) == (303, 403)
    assert httpx.get(link).status_code == 403
    cookie = first.headers["set-cookie"]
    assert re.fullmatch(
        r"farebox_sid=[\w-]{43}; Path=/; Max-Age=43(200|199); HttpOnly; SameSite=Lax", cookie
    )  # Secure where the base URL is https
    assert "set-cookie" not in second.headers

    late = _link(farebox, account_id)
    _pass(farebox, sessions.LINK_MS)
    assert (httpx.get(late).status_code, _open(late).status_code) == (403, 403)
    assert httpx.get(f"{farebox.url}/billing/open?link=guessed").status_code == 403
    assert _open(f"{farebox.url}/billing/open?link=guessed").status_code == 403


def test_a_link_preview_does_not_use_up_the_link(farebox: Farebox) -> None:
    """Mail and chat programs fetch the links in messages, some with HEAD first."""
    link = _link(farebox, farebox.create_account("<i>Acme</i>"))
    for response in (httpx.head(link), httpx.get(link), httpx.get(link)):
        assert response.status_code == 200
        assert "set-cookie" not in response.headers
    assert "&lt;i&gt;Acme&lt;/i&gt;" in response.text
    assert _open(link).status_code == 303


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_sign_an_owner_in(farebox: Farebox, site: str) -> None:
    """For example, to the attacker's account, to which the owner would then add their card."""
    link = _link(farebox, farebox.create_account())
    response = _open(link, site=site)
    assert response.status_code == 400
    assert "set-cookie" not in response.headers
    assert _open(link, site="same-origin").status_code == 303


def test_anonymous_clients_cannot_use_up_the_processors_rate_limit(tmp_path: Path) -> None:
    with (
        running_farebox(tmp_path, trusted_proxies="127.0.0.1") as farebox,
        httpx.Client(base_url=farebox.url) as visitor,
    ):
        requested = f"{farebox.stripe_url}/_fake/requests"
        before = len(httpx.get(requested).json()["requests"])
        pages = [
            visitor.get(
                f"/billing/done?checkout=cs_test_{number:020d}", headers={"x-forwarded-for": f"192.0.2.{number % 4}"}
            )
            for number in range(70)
        ]
        assert [page.status_code for page in pages] == [404] * 60 + [200] * 10
        assert "cannot be checked at the moment" in pages[-1].text
        assert len(httpx.get(requested).json()["requests"]) - before == 60
        with closing(_visitor(farebox, "Acme").http) as owner:
            page = owner.get(f"/billing/done?checkout=cs_test_{0:020d}", follow_redirects=True)
        assert "Checkout not found" in page.text


def test_an_owners_page_requests_are_limited(tmp_path: Path) -> None:
    with running_farebox(tmp_path) as farebox:
        visitor = _visitor(farebox, "Acme")
        form = {"csrf": visitor.csrf}
        with closing(visitor.http) as owner:
            start_of_window(3600)
            opened = [owner.post("/billing/cards", data=form).status_code for _ in range(101)]
            assert opened == [200] * 100 + [303]
            said = (
                r"Too many pages of the payment processor: at most 100 in 1 hour\. Try again in \d+ (minutes|seconds)\."
            )
            assert re.search(said, owner.get("/billing").text)


def test_a_session_ends_by_itself(visitor: Visitor) -> None:
    assert visitor.http.get("/billing").status_code == 200
    _pass(visitor.farebox, sessions.SESSION_MS)
    assert visitor.http.get("/billing").status_code == 303


def test_an_idle_session_ends(visitor: Visitor) -> None:
    _pass(visitor.farebox, sessions.IDLE_MS - 30_000, "seen_at")
    assert visitor.http.get("/billing").status_code == 200  # and counts as activity
    _pass(visitor.farebox, sessions.IDLE_MS - 30_000, "seen_at")
    assert visitor.http.get("/billing").status_code == 200
    _pass(visitor.farebox, sessions.IDLE_MS, "seen_at")
    assert visitor.http.get("/billing").status_code == 303


def _pass(farebox: Farebox, ms: int, column: str = "expires_at") -> None:
    """Make all links and sessions older."""
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute(f"UPDATE sessions SET {column} = {column} - ?", (ms,))
        )
    )


def test_a_form_after_the_end_of_the_session_leads_to_the_sign_in_page(farebox: Farebox) -> None:
    response = httpx.post(f"{farebox.url}/ui/tokens", data={"csrf": "0" * 64, "name": "typed for long"})
    assert (response.status_code, 'href="/ui/sign-in"' in response.text) == (403, True)


def test_expired_links_and_sessions_are_deleted(farebox: Farebox) -> None:
    _link(farebox, farebox.create_account())
    _pass(farebox, 10**12)
    _link(farebox, farebox.create_account())
    left = farebox.services.database.scan(
        lambda connection: connection.execute("SELECT count(*) FROM sessions").fetchall()
    )
    assert farebox.run(left) == [(1,)]


def test_the_session_cookie_is_not_stored_in_the_database(visitor: Visitor) -> None:
    secret = visitor.http.cookies["farebox_sid"]
    stored = visitor.farebox.services.database.scan(
        lambda connection: connection.execute("SELECT hash FROM sessions").fetchall()
    )
    hashes = [found for (found,) in visitor.farebox.run(stored)]
    assert visitor.farebox.services.vault.hash_token(secret) in hashes
    assert secret.encode() not in hashes


@pytest.mark.parametrize("route", SEALED, ids=lambda route: route.path)
def test_a_form_without_the_token_of_this_session_does_nothing(visitor: Visitor, other: Visitor, route: Route) -> None:
    signed_in = person(visitor.farebox, Role.OPERATOR, "") if route.path in OF_OPERATORS else visitor
    path = route.path.replace("{account_id}", visitor.account_id)
    for seal in ("", "0" * 64, other.csrf, "é" * 64):
        response = signed_in.http.post(path, data={"csrf": seal, "limit-amount": "5"})
        assert response.status_code == 400
        assert "has expired" in response.text
    assert visitor.http.get("/billing").status_code == 200
    assert "Calls may spend all available credit" in visitor.http.get("/billing").text


def test_notes_are_shown_once_and_cannot_be_injected(visitor: Visitor, other: Visitor) -> None:
    response = visitor.http.post(
        "/billing/limit",
        data={"csrf": visitor.csrf, "limit-amount": "5", "duration": "daily", "strategy": "sliding"},
    )
    assert (response.status_code, response.headers["location"]) == (303, "/billing")
    note = visitor.http.cookies["farebox_note"]
    assert "The spending limit is 5.00 USD per day." in visitor.http.get("/billing").text
    assert "The spending limit is" not in visitor.http.get("/billing").text

    for forged in (note, "x", "", note[:-3], "Ww", "A" * 3000):
        cookie = f"farebox_sid={other.http.cookies['farebox_sid']}; farebox_note={forged}"
        page = httpx.get(f"{visitor.farebox.url}/billing", headers={"cookie": cookie})
        assert page.status_code == 200
        assert 'class="note' not in page.text


def test_other_cookies_of_the_host_do_no_harm(visitor: Visitor) -> None:
    session = visitor.http.cookies["farebox_sid"]
    odd = f'seen={{"a":[1]}}; flag; farebox_sid={session}; x="un"quoted'
    assert httpx.get(f"{visitor.farebox.url}/billing", headers={"cookie": odd}).status_code == 200


@pytest.mark.parametrize("named", ["nope", "", "'\"<b>"])
def test_a_purchase_that_does_not_exist_is_reported_in_words(visitor: Visitor, named: str) -> None:
    response = visitor.http.get("/billing/top-up", params={"id": named})
    assert response.status_code == 404
    assert "This purchase does not exist." in response.text


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/billing/limit", {"limit-amount": "-5", "duration": "daily", "strategy": "fixed"}, "Enter the limit"),
        (
            "/billing/limit",
            {"limit-amount": "5", "duration": "yearly", "strategy": "fixed"},
            "Choose a period: day, week or month.",
        ),
        (
            "/billing/limit",
            {"limit-amount": "5", "duration": "daily"},
            "Choose how spending is counted: by the calendar or",
        ),
        ("/billing/auto", {"threshold": "10"}, "Enter the amount to buy"),
        ("/billing/auto", {"threshold": "1", "auto-amount": "50"}, "threshold must be from 5.00 USD"),
        ("/billing/auto", {"threshold": "٣", "auto-amount": "50"}, "Enter the threshold"),
        (
            "/billing/auto",
            {"threshold": "10", "auto-amount": "50", "cap": "10"},
            "The monthly cap must be at least 50.00 USD, one purchase.",
        ),
        (
            "/billing/auto",
            {"threshold": "10", "auto-amount": "50", "cap": "9" * 15},
            "The monthly cap must be from 0.00 USD to 1,000,000,000.00 USD.",
        ),
        ("/billing/auto", {"threshold": "9" * 15, "auto-amount": "50"}, "to 999,999.99 USD."),
        ("/billing/buy", {"amount": "50", "request_key": ""}, "has expired"),
        ("/billing/buy", {"amount": "1e9", "request_key": "k" * 32}, "Enter the amount"),
        ("/billing/buy", {"amount": "50", "request_key": "k" * 32, "card": "pm_of_somebody"}, "no saved card"),
        ("/billing/buy", {"amount": "0.50", "request_key": "k" * 32}, "amount must be"),
        ("/billing/cards/default", {"card": "pm_of_somebody"}, "no card"),
        ("/billing/cards/remove", {"card": "pm_of_somebody"}, "no card"),
        ("/billing/details", {"name": "Acme", "country": "Germany"}, "country"),
        ("/billing/details", {"name": "x" * 5_000, "country": "DE"}, "at most 1,000 characters"),
    ],
)
def test_invalid_input_is_explained_and_changes_nothing(
    visitor: Visitor, path: str, fields: dict[str, str], said: str
) -> None:
    response = visitor.post(path, **fields)
    assert response.status_code == 200
    found = re.search(r'<p class="note bad" role="alert">(.*?)</p>', response.text)
    assert found is not None
    assert said.lower() in found.group(1).lower()
    assert visitor.farebox.balance(visitor.account_id).posted == 0


def test_an_auto_top_up_that_buys_nothing_yet_says_why(visitor: Visitor) -> None:
    form = {"threshold": "10", "auto-amount": "50"}
    said = "The auto top-up has been saved, but nothing is bought yet: "
    assert f"{said}there is no card to charge. Save one." in visitor.post("/billing/auto", **form).text
    path = f"/ui/accounts/{visitor.account_id}/freeze"
    person(visitor.farebox, Role.OPERATOR, "").submit(path, do="freeze", reason="stolen card")
    assert f"{said}the account is frozen." in visitor.post("/billing/auto", **form).text


def test_the_fields_of_the_invoice_details_take_what_the_api_takes(visitor: Visitor) -> None:
    page = visitor.http.get("/billing").text
    of = {
        name: re.search(rf'name="{name}"[^>]*maxlength="(\d+)"', page)
        for name in ("name", "email", "address", "tax_id")
    }
    most = {name: int(found[1]) for name, found in of.items() if found}
    assert most == {"name": 200, "email": 254, "address": 1000, "tax_id": 64}


def test_a_card_of_another_account_is_not_found(visitor: Visitor, other: Visitor) -> None:
    form = {"csrf": other.csrf}
    hosted = re.search(r'href="(http[^"]+/c/pay/[^"]+)"', other.http.post("/billing/cards", data=form).text)
    assert hosted is not None
    typed = {"card-number": "4242424242424242", "card-expiry": "12/34", "card-cvc": "123", "card-name": "Test"}
    back = httpx.post(hosted.group(1), data=typed).headers["location"]
    assert other.http.get(back, follow_redirects=True).status_code == 200
    (card,) = other.farebox.run(cards.cards(other.farebox.services, other.account_id))
    for path in ("/billing/cards/default", "/billing/cards/remove"):
        assert "no card" in visitor.post(path, card=card.card_id).text
    response = visitor.post("/billing/buy", amount="50", request_key="k" * 32, card=card.card_id)
    assert "no saved card" in response.text
    assert "Checkout not found" in visitor.http.get(back, follow_redirects=True).text
    assert [card.card_id for card in other.farebox.run(cards.cards(other.farebox.services, other.account_id))] == [
        card.card_id
    ]


def test_invoice_details_are_kept(visitor: Visitor) -> None:
    given = {"name": "Acme GmbH", "email": "pay@acme.example", "address": "Street 1\r\n10115 Berlin", "country": "de"}
    assert (
        "The invoice details have been saved." in visitor.post("/billing/details", **given, tax_id="DE123456789").text
    )
    kept = visitor.farebox.run(cards.profile(visitor.farebox.services, visitor.account_id))
    assert (kept.name, kept.country, kept.address) == ("Acme GmbH", "DE", "Street 1\n10115 Berlin")
    assert "Acme GmbH" in visitor.http.get("/billing").text


def test_assets_are_cached_under_urls_that_change_with_them(farebox: Farebox, visitor: Visitor) -> None:
    page = visitor.http.get("/billing").text
    for name, kind in (("style.css", "text/css"), ("app.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        found = re.search(rf'(?:href|src)="(/ui/assets/{name}\?v=\w+)"', page)
        assert found is not None
        response = visitor.http.get(found[1])
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["content-encoding"] == "gzip"
        old = httpx.get(f"{farebox.url}/ui/assets/{name}", headers={"accept-encoding": "identity"})
        assert (old.text, old.headers["cache-control"]) == (response.text, "no-cache")
        assert "content-encoding" not in old.headers
    assert httpx.get(f"{farebox.url}/ui/assets/..%2frender.py").status_code == 404


@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        ("https://ai.example", "__Host-farebox_sid"),
        ("https://ai.example/ai", "__Secure-farebox_sid"),
        ("http://127.0.0.1:8787", "farebox_sid"),
    ],
)
def test_over_https_the_cookie_is_secure(public_url: str, name: str) -> None:
    services = SimpleNamespace(
        base_url=public_url, settings=SimpleNamespace(public_url=public_url), clock=SystemClock()
    )
    request = cast(Request, SimpleNamespace(services=services, encrypted=False))
    session = SignInSession(
        SignIn(session_id="x", account_id="acme", created_at=0, confirmed_at=0, seen_at=0, expires_at=2**53),
        frozenset(),
        "Acme",
        "secret",
    )
    _, cookie = visit.session_cookie(request, session)
    assert cookie.startswith(f"{name}=secret; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax")
    assert cookie.endswith("; Secure") is public_url.startswith("https")
    _, attempt = visit.attempt_cookie(request, "secret")
    assert attempt.startswith(f"{name.replace('sid', 'attempt')}=secret; Path=/; Max-Age=600; HttpOnly; SameSite=Lax")
    below = at_root(Response(b"{}", headers=(("set-cookie", attempt),)), "/ai").headers
    assert below == (("set-cookie", attempt.replace("Path=/;", "Path=/ai/;")),)
    _, gone = visit.session_cookie(request, None)
    assert gone.startswith(f"{name}=; Path=/; Max-Age=0;")
