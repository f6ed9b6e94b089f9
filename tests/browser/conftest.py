"""A browser, the owner of an account in front of it, and a server with the fake Stripe behind it.

Every test here fails if a page writes an error to the console or loads a missing resource, or if our books and the
fake's disagree at the end.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from farebox.identity import sessions
from tests.payments.books import agree
from tests.support import Customer, Farebox

# The first is the same browser without a window system: it takes a third of the time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Fewer processes to start: each test has its own context.
    "--in-process-gpu",
    "--process-per-site",
    # Compiling scripts and collecting garbage on other threads costs more than it saves: pages live for a second.
    "--js-flags=--single-threaded",
    "--disable-features=SpareRendererForSitePerProcess,Translate,MediaRouter,OptimizationHints,"
    "BackForwardCache,PaintHolding,RenderDocument",  # keep no pages that were left
]
TIMEOUT_MS = 60_000


@pytest.fixture(scope="package")  # the driver runs an event loop, which async tests cannot have
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(NAMES)} is on the PATH (Debian: apt-get install chromium-headless-shell)"
        )
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        launched.close()


@dataclass
class Watch:
    """The errors of the pages, as text."""

    faults: list[str] = field(default_factory=list)
    refusals: set[int] = field(default_factory=set)
    """Error statuses that the test provokes."""

    def on(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error on the page: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)
        page.on("popup", self.on)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            f"status of {status}" in message.text for status in self.refusals
        ):
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page's request that was cut off by navigation
            self.faults.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.refusals:
            self.faults.append(f"{response.status}: {response.request.method} {response.url}")


class Owner:
    """The owner of an account, with its billing page open."""

    def __init__(self, farebox: Farebox, page: Page, watch: Watch, name: str = "Acme Research") -> None:
        self.farebox = farebox
        self.page = page
        self.watch = watch
        self.account_id = farebox.create_account(name)
        self.customer = Customer(farebox, self.account_id, farebox.create_token(self.account_id))

    def link(self) -> str:
        """A link to the billing page."""
        return self.farebox.run(sessions.billing_link(self.farebox.services, self.account_id))

    def open(self) -> "Owner":
        self.page.goto(self.link())
        self.page.get_by_role("button", name="Open").click()
        expect(self.page).to_have_url(f"{self.farebox.url}/billing")
        return self

    def sign_in(self) -> "Owner":
        """The same without looking at what the link shows, which test_visit.py does: two pages less to draw."""
        link = httpx.URL(self.link())
        opened = self.page.context.request.post(
            f"{self.farebox.url}{link.path}", form={"link": link.params["link"]}, max_redirects=0
        )
        assert (opened.status, opened.headers["location"]) == (303, "/billing")
        self.home()
        return self

    def home(self) -> None:
        self.page.goto(f"{self.farebox.url}/billing")

    # --- what the owner does ---

    def type_card(self, number: str, expiry: str = "12 / 34") -> None:
        """Fill in the card form of a hosted page."""
        self.page.get_by_label("Card number").fill(number)
        self.page.get_by_label("Expiry").fill(expiry)
        self.page.get_by_label("Security code").fill("123")
        self.page.get_by_label("Name on card").fill("Test Person")
        self.page.locator("#submit").click()

    def save_card(self, number: str = "4242424242424242") -> None:
        self.page.get_by_role("button", name="Save a").click()
        self.type_card(number)

    def quote(self, usd: str) -> None:
        self.page.locator("#buy").get_by_label("Amount of credit").fill(usd)
        self.page.locator("#buy").get_by_role("button", name="Continue").click()

    def buy(self, usd: str) -> None:
        """Buy credit with the saved card."""
        self.quote(usd)
        self.page.get_by_role("button", name="Pay").click()

    def switch_on(self, *, threshold: str, amount: str, cap: str = "") -> None:
        form = self.page.locator("#auto")
        form.get_by_label("When the balance falls below").fill(threshold)
        form.get_by_label("Buy this much credit").fill(amount)
        form.get_by_label("At most in a calendar month").fill(cap)
        form.get_by_role("button", name="witch on").or_(form.get_by_role("button", name="Save")).first.click()

    def call(self) -> None:
        """A model call through the gateway, charged to the account."""
        response = self.customer.chat()
        assert response.status_code == 200, response.text

    # --- what the owner sees ---

    def sees(self, text: str) -> None:
        """The note at the top about the last action."""
        expect(self.page.locator(".note").filter(has_text=text).first).to_be_visible()

    def has(self, usd: str) -> None:
        expect(self.page.locator("#available")).to_have_text(f"{usd} USD")

    def comes_to_see(self, seen: Callable[[], bool]) -> None:
        """Reload the page, as a waiting owner does, until the condition holds."""
        deadline = self.farebox.services.clock.monotonic() + TIMEOUT_MS / 1000
        self.home()
        while not seen():
            assert self.farebox.services.clock.monotonic() < deadline, self.page.locator("main").inner_text()
            self.page.wait_for_timeout(250)
            self.home()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser: Browser, watch: Watch) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    opened = context.new_page()
    watch.on(opened)
    yield opened
    context.close()
    assert not watch.faults, "\n".join(watch.faults)


@pytest.fixture
def owner(farebox: Farebox, page: Page, watch: Watch) -> Iterator[Owner]:
    """An owner who has opened the billing page of a new account."""
    yield Owner(farebox, page, watch).sign_in()
    agree(farebox.services, farebox.stripe_url)


@pytest.fixture
def steer(farebox: Farebox) -> Callable[..., dict[str, Any]]:
    """Sets the behavior of the fake Stripe's banks."""

    def act(path: str, **values: object) -> dict[str, Any]:
        response = httpx.post(f"{farebox.stripe_url}/_fake/{path}", json=values)
        assert response.status_code == 200, response.text
        reported: dict[str, Any] = response.json()
        return reported

    return act
