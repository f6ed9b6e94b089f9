"""Signing in and out: links, sessions, proofs, and their possible abuse."""

from dataclasses import replace

import httpx
import pytest

from farebox.http.quotas import PROOFS
from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Permission, Role
from farebox.storage.accounts import add_token, list_tokens
from tests.pages.people import Person, person
from tests.support import Farebox
from tests.waiting import start_of_window


@pytest.fixture
def owner(farebox: Farebox) -> Person:
    return person(farebox, Role.OWNER, farebox.create_account("Acme"))


def _link(farebox: Farebox, holder: LinkHolder) -> str:
    return httpx.URL(farebox.run(sessions.make_link(farebox.services, holder))).params["link"]


def _age(farebox: Farebox, ms: int) -> None:
    """Make all proofs older by this many milliseconds."""
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute("UPDATE sessions SET confirmed_at = confirmed_at - ?", (ms,))
        )
    )


def test_browsers_are_led_from_the_root_to_the_pages_and_programs_are_not(farebox: Farebox) -> None:
    for path in ("/", "/ui", "/ui/"):
        browser = httpx.get(f"{farebox.url}{path}", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (browser.status_code, browser.headers["location"]) == (303, "/ui/overview")
    for accept in ("application/json", "*/*"):
        program = httpx.get(f"{farebox.url}/", headers={"accept": accept})
        assert (program.status_code, program.json()["errors"][0]["code"]) == (404, 7003)


def test_a_visitor_without_a_session_is_led_to_the_sign_in_page_and_back(farebox: Farebox, owner: Person) -> None:
    led = httpx.get(f"{farebox.url}/billing/buy?amount=50")
    assert led.headers["location"] == "/ui/sign-in?next=%2Fbilling%2Fbuy%3Famount%3D50"
    page = httpx.get(f"{farebox.url}{led.headers['location']}")
    assert (page.status_code, "farebox sign-in" in page.text) == (200, True)
    assert owner.get(led.headers["location"]).headers["location"] == "/billing/buy?amount=50"


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example/ui/",
        "/\\evil.example",
        "/ui//evil.example",
        "/ui/\r\nset-cookie: a=b",
        "javascript:alert(1)",
        "/client/v4/accounts",
        "/uix",
        "",
    ],
)
def test_the_page_after_signing_in_is_one_of_ours(owner: Person, path: str) -> None:
    response = owner.get("/ui/sign-in", next=path)
    assert (response.status_code, response.headers["location"]) == (303, "/ui/overview")
    assert "set-cookie" not in response.headers


def test_a_session_planted_by_somebody_else_is_not_used(farebox: Farebox) -> None:
    """Session fixation: every sign-in creates a new secret, and an existing session ends."""
    account_id = farebox.create_account()
    attacker = person(farebox, Role.OWNER, farebox.create_account("Evil"))
    planted = attacker.secret
    victim = httpx.Client(base_url=farebox.url, cookies={"farebox_sid": planted})
    victim.post("/ui/open", data={"link": _link(farebox, LinkHolder(account_id=account_id, role=Role.OWNER))})
    (cookie,) = [each for each in victim.cookies.jar if each.value != planted]
    assert farebox.run(sessions.session(farebox.services, cookie.value)) is not None
    assert attacker.session is None
    victim.close()


def test_only_the_sites_own_forms_sign_in(farebox: Farebox) -> None:
    link = _link(farebox, LinkHolder(operator=True))
    for site in ("cross-site", "same-site"):
        refused = httpx.post(f"{farebox.url}/ui/open", data={"link": link}, headers={"sec-fetch-site": site})
        assert (refused.status_code, "set-cookie" in refused.headers) == (400, False)
    over_plain_http = {"origin": "http://another-site.example"}  # where browsers do not send Sec-Fetch-Site
    assert httpx.post(f"{farebox.url}/ui/open", data={"link": link}, headers=over_plain_http).status_code == 400
    own = {"sec-fetch-site": "same-origin", "origin": farebox.url}
    done = httpx.post(f"{farebox.url}/ui/open", data={"link": link}, headers=own)
    assert done.status_code == 303
    assert httpx.post(f"{farebox.url}/ui/open", data={"link": link}).status_code == 403  # used up


def test_without_e_mail_the_page_names_the_setting(farebox: Farebox) -> None:
    page = httpx.get(f"{farebox.url}/ui/sign-in")
    assert "FAREBOX_SMTP_URL" in page.text
    assert "Send me a link" not in page.text
    asked = httpx.post(f"{farebox.url}/ui/sign-in/email", data={"email": "ada@example.com"})
    assert (asked.status_code, "FAREBOX_SMTP_URL" in asked.text) == (403, True)


def test_without_a_provider_single_sign_on_is_not_offered(farebox: Farebox) -> None:
    assert "Continue with" not in httpx.get(f"{farebox.url}/ui/sign-in").text
    for response in (
        httpx.post(f"{farebox.url}/ui/sign-in/oidc", data={"next": ""}),
        httpx.get(f"{farebox.url}/ui/sign-in/oidc/done?code=x&state=y"),
        httpx.post(f"{farebox.url}/ui/signed-out/provider"),
    ):
        assert (response.status_code, "FAREBOX_OIDC_ISSUER" in response.text) == (403, True)


def test_a_link_created_by_the_api_has_no_more_permissions_than_the_token(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    for permissions, role in (((Permission.BILLING_WRITE,), Role.BILLING), (tuple(Permission), Role.OWNER)):
        token = farebox.create_token(account_id, *permissions)
        made = httpx.post(
            f"{farebox.url}/client/v4/accounts/{account_id}/farebox/billing-link",
            headers={"authorization": f"Bearer {token}"},
        )
        link = httpx.URL(made.json()["result"]["url"]).params["link"]
        found = farebox.run(sessions.of_link(farebox.services, link))
        assert (found.account_id, found.role, found.operator) == (account_id, role, False)


# --- proofs -----------------------------------------------------------------------------------------------------------


def test_acts_with_money_need_a_recent_proof(farebox: Farebox, owner: Person) -> None:
    services, token = farebox.services, farebox.create_token(owner.holder.account_id)
    buys = {"amount": "50", "request_key": "k" * 32, "card": "pm_none"}
    assert owner.send("/billing/buy", **buys).headers["location"] == "/billing"
    _age(farebox, sessions.CONFIRMED_MS)
    before = owner.secret
    assert owner.send("/billing/buy", **buys).headers["location"] == "/ui/confirm?next=/billing"
    for form in ("/billing/limit", "/billing/limit/off"):  # raising a limit needs a proof, like removing it
        assert owner.send(form).headers["location"] == "/ui/confirm?next=/billing"
    assert owner.send("/billing/details", name="Acme").headers["location"] == "/billing"  # no money involved
    useless = [
        farebox.create_token(owner.holder.account_id, Permission.WRITE),
        farebox.create_token(farebox.create_account()),
    ]
    for wrong in ("", "fbx_wrong", *useless):
        assert "not an active token of the account" in owner.submit("/ui/confirm", token=wrong, next="/billing")
    (everything,) = farebox.run(services.database.scan(lambda c: list_tokens(c, owner.holder.account_id)))[:1]
    limited = replace(everything, token_id="limited", gateways=("default",))
    secret = "fbx_limited"
    farebox.run(services.database.write(lambda c: add_token(c, limited, services.vault.hash_token(secret))))
    assert "not an active token of the account" in owner.submit("/ui/confirm", token=secret, next="/billing")
    proved = owner.send("/ui/confirm", token=token, next="/billing")
    assert (proved.status_code, proved.headers["location"]) == (303, "/billing")
    assert owner.secret != before  # rotated
    assert farebox.run(sessions.session(farebox.services, before)) is None
    assert owner.send("/billing/buy", **buys).headers["location"] == "/billing"


def test_a_new_link_is_a_proof_too(farebox: Farebox, owner: Person) -> None:
    _age(farebox, sessions.CONFIRMED_MS)
    assert owner.get("/ui/confirm", next="/billing").status_code == 200
    owner.sign_in()
    assert owner.get("/ui/confirm", next="/billing").headers["location"] == "/billing"


def test_attempts_at_a_proof_are_limited(farebox: Farebox, owner: Person) -> None:
    _age(farebox, sessions.CONFIRMED_MS)
    start_of_window(PROOFS.seconds)
    shown = [owner.submit("/ui/confirm", token="fbx_wrong") for _ in range(PROOFS.limit + 1)]
    assert "Too many attempts" in shown[-1]
    assert "Too many attempts" not in shown[-2]
    other = person(farebox, Role.OWNER, owner.holder.account_id)
    _age(farebox, sessions.CONFIRMED_MS)
    assert "Too many attempts" not in other.submit("/ui/confirm", token="fbx_wrong")  # each person has their own count


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_owners_see_and_end_the_accounts_sessions(farebox: Farebox, owner: Person) -> None:
    viewer = person(farebox, Role.VIEWER, owner.holder.account_id)
    stranger = person(farebox, Role.VIEWER, farebox.create_account())
    for who in (viewer, stranger):
        assert who.session is not None
    named = viewer.session.sign_in.session_id if viewer.session else ""
    assert named in owner.get("/ui/sessions").text
    other = stranger.session.sign_in.session_id if stranger.session else ""
    assert "has already ended" in owner.submit("/ui/sessions/end", session=other)
    assert stranger.session is not None
    mine = owner.session.sign_in.session_id if owner.session else ""
    assert mine not in viewer.get("/ui/sessions").text
    assert "has already ended" in viewer.submit("/ui/sessions/end", session=mine)
    assert "The session has ended." in owner.submit("/ui/sessions/end", session=named)
    assert viewer.session is None
    owner.send("/ui/sign-out")
    assert owner.http.cookies.get("farebox_sid") is None


def test_a_person_can_end_all_their_other_sessions(farebox: Farebox) -> None:
    """On all accounts, including links sent to them; nobody else's."""
    accounts = [farebox.create_account("One"), farebox.create_account("Two")]
    for account_id in accounts:
        for email in ("lost@example.com", "other@example.com"):
            farebox.run(membership.add(farebox.services, account_id, email, Role.VIEWER))
    here, there = (
        Person(farebox, LinkHolder(account_id=account_id, email="lost@example.com")) for account_id in accounts
    )
    other = Person(farebox, LinkHolder(account_id=accounts[0], email="other@example.com"))
    link = _link(farebox, LinkHolder(account_id=accounts[1], email="lost@example.com"))
    assert "All your other sessions have ended" in here.submit("/ui/sessions/end-others")
    assert [who.session is not None for who in (here, there, other)] == [True, False, True]
    assert httpx.post(f"{farebox.url}/ui/open", data={"link": link}).status_code == 403
    vouched = Person(farebox, LinkHolder(account_id=accounts[0], email="lost@example.com", vouched=True))
    assert "This session does not show who you are" in vouched.submit("/ui/sessions/end-others")
    assert here.session is not None


def test_the_name_of_a_browser_stays_text(farebox: Farebox) -> None:
    account_id = farebox.create_account("<b>Acme</b>")
    who = person(farebox, Role.OWNER, account_id)
    who.http.headers["user-agent"] = "<script>alert(1)</script>" + "x" * 5000
    who.sign_in()
    page = who.get("/ui/sessions").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "x" * 300 not in page


# --- links that name an account ---------------------------------------------------------------------------------------


def test_a_link_of_a_refusal_leads_to_its_account(farebox: Farebox, owner: Person) -> None:
    shown = f"/billing?account={owner.holder.account_id}"
    assert "Another account" not in owner.get(shown).text
    stranger = httpx.get(f"{farebox.url}{shown}")
    assert owner.get(stranger.headers["location"]).headers["location"] == shown, "after signing in"
    other = farebox.create_account("Zenith")
    asked = owner.get(f"/billing?account={other}&x=%3Cb%3E")
    assert (asked.status_code, "Another account" in asked.text, "Zenith" in asked.text) == (200, True, False)
    shown = owner.submit("/ui/account", account=other, next=f"/billing?account={other}")
    assert "not a member of this account" in shown
    assert owner.session is not None
    assert owner.session.account_id == owner.holder.account_id


def test_a_link_switches_a_member_of_several_accounts_to_its_account(farebox: Farebox) -> None:
    first, second = farebox.create_account("First"), farebox.create_account("Second")
    email = "both@example.com"
    for account_id in (first, second):
        farebox.run(membership.add(farebox.services, account_id, email, Role.BILLING))
    both = Person(farebox, LinkHolder(account_id=first, email=email))
    link = f"/billing?account={second}"
    page = both.get(link).text
    assert f'name="account" value="{second}"' in page
    assert f'name="next" value="{link}"' in page
    assert both.send("/ui/account", account=second, next=link).headers["location"] == link
    assert both.session is not None
    assert both.session.account_id == second
    assert both.send("/ui/account", account=first, next="https://evil.example/").headers["location"] == "/ui/overview"
