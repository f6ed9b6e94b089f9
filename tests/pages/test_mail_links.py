"""Signing in by an e-mailed link: the message, what the requester learns, and possible abuse."""

import re
from email.message import EmailMessage

import httpx
import pytest

from farebox.http.quotas import MAIL_REQUESTS, MAILS
from farebox.identity import mail_links, membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from tests.pages.people import Person
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox


@pytest.fixture
def farebox(sign_in_server: SignInServer) -> Farebox:
    return sign_in_server.farebox


@pytest.fixture(autouse=True)
def _fresh_quotas(farebox: Farebox) -> None:
    """Reset the quotas, because all tests use one client address."""
    farebox.services.rates._windows.clear()


_NAMES = iter(f"ada{number}@example.com" for number in range(1000))


def _member(farebox: Farebox, role: Role = Role.OWNER, *accounts: str) -> str:
    """The e-mail address of a new member of these accounts, or of a new one."""
    email = next(_NAMES)
    for account_id in accounts or [farebox.create_account("Acme")]:
        farebox.run(membership.add(farebox.services, account_id, email, role))
    return email


def _ask(farebox: Farebox, email: str, **fields: str) -> httpx.Response:
    return httpx.post(f"{farebox.url}/ui/sign-in/email", data={"email": email, **fields})


def _idle(farebox: Farebox, email: str) -> None:
    """Wait until no message to them is being sent."""

    async def ended() -> None:
        task = farebox.services.tasks._running.get(("sign-in mail", email))
        if task is not None:
            await task

    farebox.run(ended())


def _link(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    [link] = re.findall(r"^http\S+", body.get_content(), re.MULTILINE)
    return str(link)


def test_the_link_of_the_message_signs_in_once(sign_in_server: SignInServer, farebox: Farebox) -> None:
    email = _member(farebox, Role.BILLING)
    page = httpx.get(f"{farebox.url}/ui/sign-in?next=%2Fbilling%2Fbuy%3Famount%3D50")
    assert 'name="next" value="/billing/buy?amount=50"' in page.text
    asked = _ask(farebox, f" {email.upper()} ", next="/billing/buy?amount=50")
    assert (asked.status_code, email in asked.text) == (200, True)
    link = _link(sign_in_server.email_to(email))
    assert link.startswith(f"{farebox.url}/ui/open?link=")
    with httpx.Client() as browser:
        for _ in range(2):  # link scanners do not use the link up
            shown = browser.get(link)
            assert (shown.status_code, email in shown.text) == (200, True)
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', shown.text))
        opened = browser.post(f"{farebox.url}/ui/open", data=fields)
        assert (opened.status_code, opened.headers["location"]) == (303, "/billing/buy?amount=50")
        session = farebox.run(sessions.session(farebox.services, browser.cookies["farebox_sid"]))
        assert session is not None
        assert (session.sign_in.email, session.sign_in.method) == (email, "email")
        assert session.roles == {Role.BILLING}
        assert "E-mail" in browser.get(f"{farebox.url}/ui/sessions").text
    assert httpx.post(f"{farebox.url}/ui/open", data=fields).status_code == 403


def test_the_message_is_plain_text_and_html(sign_in_server: SignInServer, farebox: Farebox) -> None:
    email = _member(farebox)
    _ask(farebox, email)
    message = sign_in_server.email_to(email)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert (message["From"], message["To"]) == ("Farebox <sign-in@farebox.example>", email)
    assert message["Auto-Submitted"] == "auto-generated"
    texts = {part.get_content_type(): part.get_content() for part in message.iter_parts()}
    link = _link(message)
    assert f'href="{link.replace("&", "&amp;")}"' in texts["text/html"]
    assert "Acme &amp; Sons" in texts["text/html"]
    assert "Acme & Sons" in texts["text/plain"]
    assert "15 minutes" in texts["text/plain"]


def test_the_response_does_not_reveal_who_is_a_member(sign_in_server: SignInServer, farebox: Farebox) -> None:
    known, unknown = _member(farebox), next(_NAMES)
    answers = [_ask(farebox, email) for email in (known, unknown)]
    assert [each.status_code for each in answers] == [200, 200]
    assert answers[0].text.replace(known, "") == answers[1].text.replace(unknown, "")
    names = [sorted(each.headers.keys()) for each in answers]
    assert names[0] == names[1]
    sign_in_server.email_to(known)
    _idle(farebox, unknown)
    assert unknown not in [message["To"] for message in sign_in_server.box.messages]


def test_invalid_addresses_are_refused(farebox: Farebox) -> None:
    for email in ("", "ada", "ada@", "a@b\r\nBcc: c@d", "<a@b>", "a" * 300 + "@example.com"):
        answer = _ask(farebox, email)
        assert (answer.status_code, "Enter an e-mail address" in answer.text) == (400, True), email


def test_an_inbox_cannot_be_flooded(farebox: Farebox) -> None:
    for email in (_member(farebox), next(_NAMES)):  # whether or not the address belongs to a member
        statuses = [_ask(farebox, email).status_code for _ in range(MAILS.limit + 1)]
        assert statuses == [200] * MAILS.limit + [429]


def test_one_client_cannot_try_many_addresses(farebox: Farebox) -> None:
    answers = [_ask(farebox, next(_NAMES)) for _ in range(MAIL_REQUESTS.limit + 1)]
    assert [each.status_code for each in answers] == [200] * MAIL_REQUESTS.limit + [429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_other_sites_cannot_request_links(farebox: Farebox) -> None:
    for site in ("cross-site", "same-site"):
        answer = httpx.post(
            f"{farebox.url}/ui/sign-in/email", data={"email": next(_NAMES)}, headers={"sec-fetch-site": site}
        )
        assert answer.status_code == 400


def test_an_expired_link_is_refused(sign_in_server: SignInServer, farebox: Farebox) -> None:
    email = _member(farebox)
    _ask(farebox, email)
    link = _link(sign_in_server.email_to(email))
    assert httpx.get(link).status_code == 200

    def age(connection: object) -> None:
        connection.execute(  # type: ignore[attr-defined]
            "UPDATE sessions SET expires_at = expires_at - ? WHERE email = ?", (mail_links.MAIL_LINK_MS, email)
        )

    farebox.run(farebox.services.database.write(age))
    assert httpx.get(link).status_code == 403


@pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example", "/ui//evil.example", "/\\evil.example"])
def test_a_link_leads_only_to_our_own_pages(sign_in_server: SignInServer, farebox: Farebox, path: str) -> None:
    email = _member(farebox)
    _ask(farebox, email, next=path)
    link = _link(sign_in_server.email_to(email))
    assert link.endswith("&next=%2Fui%2Foverview")
    secret = httpx.URL(link).params["link"]
    opened = httpx.post(f"{farebox.url}/ui/open", data={"link": secret, "next": path})
    assert opened.headers["location"] == "/ui/overview"


def _before(farebox: Farebox, email: str) -> None:
    """Backdate the membership."""
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute("UPDATE members SET accepted_at = 1 WHERE email = ?", (email,))
        )
    )


def test_others_cannot_choose_a_members_first_page(sign_in_server: SignInServer, farebox: Farebox) -> None:
    """An owner can add anyone to an account, but a later membership does not determine the first page."""
    home = farebox.create_account("Home", "ffff" + "0" * 28)
    email = _member(farebox, Role.OWNER, home)
    _before(farebox, email)
    evil = farebox.create_account("Evil", "0000" + "1" * 28)
    farebox.run(membership.add(farebox.services, evil, email, Role.VIEWER))
    found = farebox.run(farebox.services.database.get(lambda connection: sessions.home_of(connection, email)))
    assert found == home


def test_a_member_of_several_accounts_sees_which_one_is_shown(sign_in_server: SignInServer, farebox: Farebox) -> None:
    first, second = farebox.create_account("First & Co"), farebox.create_account("Second")
    email = _member(farebox, Role.VIEWER, first)
    notice = "You are viewing the account First &amp; Co. Sign-ins lists your other accounts."
    for number, accounts in enumerate((1, 2), 1):
        _ask(farebox, email)
        secret = httpx.URL(_link(sign_in_server.email_to(email, number))).params["link"]
        with httpx.Client(base_url=farebox.url, follow_redirects=True) as browser:
            assert (notice in browser.post("/ui/open", data={"link": secret}).text) is (accounts > 1)
            page = browser.get("/ui/sessions").text
            assert ('<strong class="name">Second</strong>' in page) is (accounts > 1)
        _before(farebox, email)
        farebox.run(membership.add(farebox.services, second, email, Role.VIEWER))


def test_an_operator_without_an_account_signs_in(sign_in_server: SignInServer, farebox: Farebox) -> None:
    email = next(_NAMES)
    farebox.run(membership.add(farebox.services, "", email, Role.OPERATOR))
    _ask(farebox, email)
    secret = httpx.URL(_link(sign_in_server.email_to(email))).params["link"]
    with httpx.Client(base_url=farebox.url) as browser:
        browser.post("/ui/open", data={"link": secret})
        assert browser.get("/ui/accounts").status_code == 200


def test_a_new_link_by_e_mail_is_a_proof(sign_in_server: SignInServer, farebox: Farebox) -> None:
    email, account_id = _member(farebox), farebox.create_account("Second")
    _before(farebox, email)
    farebox.run(membership.add(farebox.services, account_id, email, Role.OWNER))
    who = Person(farebox, LinkHolder(account_id=account_id, email=email))
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute("UPDATE sessions SET confirmed_at = confirmed_at - 3600000")
        )
    )
    assert who.send("/ui/members", email="eve@example.com", role="viewer").headers["location"] == (
        "/ui/confirm?next=/ui/members"
    )
    assert email in who.get("/ui/confirm", next="/ui/members").text
    assert f"sending a link to {email}" in who.submit("/ui/confirm/email", next="/ui/members")
    before = who.secret
    secret = httpx.URL(_link(sign_in_server.email_to(email))).params["link"]
    opened = who.http.post("/ui/open", data={"link": secret, "next": "/ui/members"})
    assert opened.headers["location"] == "/ui/members"
    assert who.session is not None
    assert who.session.account_id == account_id  # the account that they were viewing
    assert who.secret != before
    assert farebox.run(sessions.session(farebox.services, before)) is None
    assert who.send("/ui/members", email="eve@example.com", role="viewer").headers["location"] == "/ui/members"


# --- whose proof counts -----------------------------------------------------------------------------------------------


def test_a_link_made_by_an_owner_counts_only_on_their_account(farebox: Farebox) -> None:
    """If an owner adds a person to the account and opens their link, that proves nothing on other accounts."""
    home = farebox.create_account("Home")
    email = _member(farebox, Role.OWNER, home)
    farebox.run(membership.add(farebox.services, "", email, Role.OPERATOR))
    evil = farebox.create_account("Evil")
    mallory = Person(farebox, LinkHolder(account_id=evil, role=Role.OWNER))
    page = mallory.submit("/ui/members", email=email, role="viewer")
    assert (
        f"has been invited as viewer. They can accept when they sign in at {farebox.services.base_url}/ui/sign-in."
        in page
    )
    page = mallory.send("/ui/members/link", email=email).text
    found = re.search(r"/ui/open\?link=([\w-]+)", page)
    assert found is not None
    with httpx.Client(base_url=farebox.url) as browser:
        browser.post("/ui/open", data={"link": found[1]})
        session = farebox.run(sessions.session(farebox.services, browser.cookies["farebox_sid"]))
        assert session is not None
        assert session.roles == {Role.VIEWER}
        assert browser.get("/ui/accounts").status_code == 403
        assert home not in browser.get("/ui/sessions").text
        csrf = sessions.seal(farebox.services, session, "form")
        browser.post("/ui/account", data={"csrf": csrf, "account": home})
        assert "Home" not in browser.get("/ui/overview").text
