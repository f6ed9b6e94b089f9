"""Every page is read, and every form sent, in a browser with scripts disabled."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, Request

from farebox.http.pages.routes import FORM_ROWS, PAGE_ROWS
from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.storage import passkeys
from farebox.storage.deliveries import add_delivery
from farebox.storage.findings import Finding, add_finding
from farebox.storage.passkeys import Passkey
from farebox.storage.sql import Connection
from tests.browser.conftest import TIMEOUT_MS
from tests.browser.test_pages import furnished
from tests.pages.people import Person
from tests.support import Customer, Farebox
from tests.waiting import pauses

pytestmark = pytest.mark.slow

SCRIPTED = {"/ui/passkeys", "/ui/passkeys/options", "/ui/confirm/passkey", "/ui/confirm/passkey/options"}
"""Browsers have no passkeys without scripts; the other ways to sign in remain (test_passkeys.py)."""
NEED_A_WAY_TO_SIGN_IN = {"/ui/confirm/email", "/ui/confirm/oidc"}
"""They need e-mail or single sign-on to be configured: test_mail_links.py and test_single_sign_on.py."""
QUERIES = {"/billing/buy": "?amount=50", "/ui/money": "?view=findings"}
NOT_THERE = {"/billing/top-up"}
"""No payment is in progress."""
ADA = "ada@example.com"
_BAD = re.compile(r'class="(?:note bad" role="alert|hint bad)"[^>]*>([^<]+)')
"""The selector of a page's error messages."""


@dataclass(frozen=True, slots=True)
class Step:
    """A form that is filled in and sent."""

    path: str
    """The path of its row in the table of pages."""
    fields: dict[str, str] = field(default_factory=dict)
    """The values to type or choose, by the control's name; `on` ticks it."""
    at: str = ""
    """The page with the form, if it is not the one that it leads back to."""
    button: str = "button:not([formaction])"

    @property
    def page(self) -> str:
        """The path of the page with the form."""
        return self.at or next(form.back for form in FORM_ROWS if form.path == self.path).partition("?")[0]


GATEWAY = "/ui/gateways/{gateway_id}"
OWNER = (
    Step("/ui/try", {"text": "Hello"}),
    Step("/ui/try/price", {"text": "Hello"}),
    Step("/ui/limits/try", {"limit": "5"}),
    Step("/ui/limits", {"limit": "5"}),
    Step("/ui/limits/remove"),
    Step("/ui/gateways", {"name": "another"}),
    Step(f"{GATEWAY}/settings"),
    Step(f"{GATEWAY}/settings/keys"),
    Step(f"{GATEWAY}/keys", {"alias": "second", "secret": "sk-2"}),
    Step(f"{GATEWAY}/keys/{{key_id}}", {"secret": "sk-3"}),
    Step(f"{GATEWAY}/keys/{{key_id}}/delete"),
    Step(f"{GATEWAY}/new-route", {"name": "by-hand"}, at=f"{GATEWAY}/new-route", button="[value=save]"),
    Step(
        f"{GATEWAY}/routes/{{route_id}}/edit",
        {"elements.1.properties.timeout": "5000"},
        at=f"{GATEWAY}/routes/{{route_id}}/edit",
        button="[value=save]",
    ),
    Step(f"{GATEWAY}/routes/{{route_id}}/deploy"),
    Step(f"{GATEWAY}/routes/{{route_id}}/rename", {"name": "renamed"}),
    Step(f"{GATEWAY}/routes/{{route_id}}/delete"),
    Step(f"{GATEWAY}/guardrails"),
    Step(f"{GATEWAY}/guardrails/try", {"text": "Hello"}),
    Step(f"{GATEWAY}/policies", {"name": "draft", "resource.model": "*", "action.amount": "5"}, button="[value=draft]"),
    Step(f"{GATEWAY}/policies/simulate", {"model": "demo/demo-1"}),
    Step(f"{GATEWAY}/policies/delete"),
    Step(f"{GATEWAY}/policies/commit"),
    Step(f"{GATEWAY}/names/alias", {"alias": "fast", "targets": "demo/demo-1"}),
    Step(f"{GATEWAY}/names/alias/delete"),
    Step(f"{GATEWAY}/names/domain", {"domain": "ai.example.com"}),
    Step(f"{GATEWAY}/names/domain/check"),
    Step(f"{GATEWAY}/names/domain/delete"),
    Step("/ui/log-destination", {"url": "https://logs.example.com/in"}),
    Step("/ui/log-destination/delete"),
    Step("/ui/dlp-profiles", {"name": "names", "entries.0.name": "a", "entries.0.keyword": "Ada"}),
    Step("/ui/dlp-profiles/{profile_id}", at="/ui/dlp-profiles/{profile_id}"),
    Step("/ui/dlp-profiles/{profile_id}/delete", at="/ui/dlp-profiles/{profile_id}"),
    Step("/ui/providers", {"name": "Own", "slug": "own", "base_url": "https://own.example.com"}),
    Step("/ui/providers/{provider_id}"),
    Step("/ui/providers/{provider_id}/costs", {"model": "large", "cost_in": "0.000001"}),
    Step("/ui/providers/{provider_id}/costs/remove"),
    Step("/ui/providers/{provider_id}/delete"),
    Step(f"{GATEWAY}/delete"),
    Step("/ui/tokens", {"name": "new", "run": "on"}),
    Step("/ui/tokens/{token_id}"),
    Step("/ui/tokens/revoke"),
    Step("/ui/members", {"email": "bob@example.com"}),
    Step("/ui/members/link"),
    Step("/ui/members/remove"),
    Step("/billing/cards"),
    Step("/billing/cards/default"),
    Step("/billing/auto"),
    Step("/billing/auto/off"),
    Step("/billing/limit", {"limit-amount": "100"}),
    Step("/billing/limit/off"),
    Step("/billing/details", {"name": "Acme"}),
    Step("/billing/buy", at="/billing/buy"),
    Step("/billing/cards/remove"),
)
OPERATOR = (
    Step("/ui/accounts", {"name": "Another"}),
    Step("/ui/accounts/{account_id}/grant", {"amount": "5"}),
    Step("/ui/accounts/{account_id}/correct", {"amount": "1", "reason": "wrong price"}),
    Step("/ui/accounts/{account_id}/refund"),
    Step("/ui/accounts/{account_id}/freeze", {"reason": "stolen"}),
    Step("/ui/accounts/{account_id}/link"),
    Step("/ui/money/accept", {"note": "as it should be"}, at="/ui/money"),
    Step("/ui/money/correct", {"amount": "1", "reason": "the fee"}, at="/ui/money"),
    Step("/ui/prices", {"provider": "demo", "model": "demo-1", "input_mtok": "1"}, button="[value=preview]"),
    Step("/ui/prices/markup", {"percent": "10"}, button="[value=preview]"),
    Step("/ui/margins"),
    Step("/ui/check"),
    Step("/ui/provider-keys", {"provider": "groq", "api_key": "gsk-1"}),
    Step("/ui/provider-keys/key", {"provider": "groq", "name": "second", "api_key": "gsk-2"}),
    Step("/ui/provider-keys/key/remove"),
    Step("/ui/provider-keys/credit"),
    Step("/ui/messages"),
    Step("/ui/messages/failed"),
    Step("/ui/system/alarm"),
)
PERSON = (
    Step("/ui/sessions/end"),
    Step("/ui/sessions/end-others"),
    Step("/ui/invitations/accept"),
    Step("/ui/invitations/decline"),
    Step("/ui/passkeys/rename", {"name": "laptop"}),
    Step("/ui/passkeys/remove"),
    Step("/ui/account"),
    Step("/ui/sign-out", at="/ui/overview"),
)


@dataclass
class Reader:
    """A browser without scripts, and a record of what it requested."""

    farebox: Farebox
    page: Page
    names: dict[str, str]
    sent: list[str] = field(default_factory=list)
    """The paths of forms that were sent."""
    pages: set[str] = field(default_factory=set)
    """The paths of rows whose page was opened."""

    def __post_init__(self) -> None:
        self.page.on("request", self._request)

    def _request(self, request: Request) -> None:
        if request.method == "POST" and request.url.startswith(self.farebox.url):
            self.sent.append(request.url.removeprefix(self.farebox.url).partition("?")[0])

    def sign_in(self, holder: LinkHolder) -> None:
        self.page.goto(self.farebox.run(sessions.make_link(self.farebox.services, holder)))
        self.page.get_by_role("button", name="Open").click()
        self.page.wait_for_url(f"{self.farebox.url}/ui/**")

    def read(self, path: str) -> None:
        """Open a page."""
        response = self.page.goto(self.farebox.url + path.format_map(self.names) + QUERIES.get(path, ""))
        assert response is not None
        assert response.status == 200, path
        assert self.page.locator("main").inner_text().strip(), path
        self.pages.add(path)

    def _come_to(self, path: str) -> None:
        """Open a page, unless the last form led back to it, and it was opened before."""
        at = self.page.url.partition("#")[0].partition("?")[0]
        is_there = at == self.farebox.url + path.format_map(self.names)
        if not is_there or path not in self.pages or path in QUERIES:
            self.read(path)

    def do(self, step: Step) -> None:
        """Fill in a form and send it, by what is visible on the page."""
        self._come_to(step.page)
        action = step.path.format_map(self.names)
        form = self.page.locator(f'form[method=post][action="{action}"]').first
        button = form.locator(step.button).last
        if form.count() == 0:
            button = self.page.locator(f'button[formaction="{action}"]').first
            form = self.page.locator("form", has=button)
        for details in form.locator("xpath=ancestor::details[not(@open)]").all():
            details.locator("> summary").click()
        for name, value in step.fields.items():
            _fill(form.locator(f'[name="{name}"]').first, value.format_map(self.names))
        with self.page.expect_navigation() as navigated:
            button.click()
        assert navigated.value is not None
        assert navigated.value.status < 400, step
        assert self.sent[-1] == action, step
        assert _BAD.findall(self._content()) == [], step

    def _content(self) -> str:
        """The content of the page once it is stable: a page that waits for a report reloads itself."""
        for _ in pauses("the page"):
            self.page.wait_for_load_state()
            with contextlib.suppress(Error):  # the error "the page is navigating"
                return self.page.content()
        raise AssertionError


def _fill(control: Locator, value: str) -> None:
    if value == "on":
        control.check()
    elif control.locator("xpath=self::select").count():
        control.select_option(value)
    else:
        control.fill(value)


@pytest.fixture
def reader(farebox: Farebox, browser: Browser) -> Iterator[Reader]:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1100, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    yield Reader(farebox, context.new_page(), {})
    context.close()


def _things(farebox: Farebox, customer: Customer) -> None:
    """Objects that none of these forms creates."""
    account_id = customer.account_id
    for role in (Role.VIEWER, Role.BILLING, Role.DEVELOPER):
        other = farebox.create_account(f"as {role}")
        farebox.run(membership.add(farebox.services, other, ADA, role, invited=role is not Role.VIEWER))
    key = Passkey(
        credential_id=account_id.encode(), passkey_id=account_id, email=ADA, name="phone", public_key=b"",
        sign_count=0, created_at=1,
    )  # fmt: skip

    def write(connection: Connection) -> None:
        passkeys.add(connection, key)
        for name in ("accepted", "corrected"):
            found = Finding(
                finding_id=f"{name}:{account_id}", kind="amount_differs", account_id=account_id, amount_cents=100,
                detail="", found_at=1,
            )  # fmt: skip
            add_finding(connection, found)
        add_delivery(connection, 0, account_id, "lost", "we_lost", 1)
        connection.execute("UPDATE deliveries SET next_at = NULL WHERE account_id = ?", (account_id,))

    farebox.run(farebox.services.database.write(write))


def _grow_old(connection: Connection) -> None:
    """Let the session's proof expire."""
    connection.execute("UPDATE sessions SET confirmed_at = 1")


def test_every_page_is_read_and_every_form_sent(farebox: Farebox, reader: Reader) -> None:
    customer, names = furnished(farebox)
    _things(farebox, customer)
    reader.names |= names | {"token": customer.token}
    reader.sign_in(LinkHolder(account_id=customer.account_id, role=Role.OWNER, operator=True))
    with_forms = {step.page for step in (*OWNER, *OPERATOR)}  # pages that are read before the form is filled in
    for row in PAGE_ROWS:
        if row.template and row.path not in NOT_THERE | with_forms:
            reader.read(row.path)
    for step in (*OWNER, *OPERATOR):
        reader.do(step)
        if step.path == "/billing/cards":
            _type_card(reader.page)
    farebox.run(farebox.services.database.write(_grow_old))
    reader.do(Step("/ui/confirm", {"token": "{token}"}))
    farebox.run(membership.add(farebox.services, customer.account_id, ADA, Role.VIEWER))
    ada = LinkHolder(account_id=customer.account_id, email=ADA)
    for _ in range(2):  # the remaining sessions, in other browsers
        Person(farebox, ada)
    reader.sign_in(ada)
    for step in PERSON:
        reader.do(step)
    patterns = {form.path: re.compile(re.sub(r"\{\w+\}", "[^/]+", form.path)) for form in FORM_ROWS}
    assert {row.path for row in PAGE_ROWS if row.template} - NOT_THERE <= reader.pages
    unsent = {path for path, pattern in patterns.items() if not any(map(pattern.fullmatch, reader.sent))}
    assert unsent == SCRIPTED | NEED_A_WAY_TO_SIGN_IN


def _type_card(page: Page) -> None:
    """Fill in the card form of the processor's page."""
    for label, text in (("Card number", "5555555555554444"), ("Expiry", "12 / 34"), ("Security code", "123")):
        page.get_by_label(label).fill(text)
    with page.expect_navigation():
        page.locator("#submit").click()
