"""Who can sign in, and what others see."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Owner, Watch
from tests.support import Farebox

pytestmark = pytest.mark.slow


def test_a_link_opens_the_page_once(owner: Owner, browser: Browser) -> None:
    link = owner.link()
    owner.page.goto(link)
    expect(owner.page.get_by_role("heading", name="Billing Acme Research")).to_be_visible()
    owner.page.get_by_role("button", name="Open").click()
    expect(owner.page).to_have_url(f"{owner.farebox.url}/billing")
    owner.watch.refusals |= {403}
    owner.page.goto(link)
    expect(owner.page.get_by_role("heading", name="Please open a new link")).to_be_visible()

    visitor = browser.new_context()
    page = visitor.new_page()
    page.goto(link)
    expect(page.get_by_role("heading", name="Please open a new link")).to_be_visible()
    page.goto(f"{owner.farebox.url}/billing")
    expect(page.get_by_text("Acme Research")).to_have_count(0)
    visitor.close()


def test_signing_out_ends_the_session(owner: Owner) -> None:
    cookies = owner.page.context.cookies()
    owner.page.get_by_role("button", name="Sign out").click()
    expect(owner.page.get_by_role("heading", name="Signed out")).to_be_visible()
    owner.page.context.add_cookies([_given(cookie) for cookie in cookies])  # a cookie kept from before is worthless
    owner.home()
    expect(owner.page.get_by_role("heading", name="Sign in")).to_be_visible()


def _given(cookie: Any) -> Any:
    return cookie


def test_scripts_and_other_sites_cannot_read_the_cookie(owner: Owner) -> None:
    (cookie,) = owner.page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("farebox_sid", True, "Lax")
    assert cookie["path"] == "/"


def test_data_of_another_account_is_never_shown(owner: Owner, farebox: Farebox, browser: Browser, watch: Watch) -> None:
    owner.save_card()
    owner.buy("20")
    owner.has("20.00")
    context = browser.new_context()
    other = Owner(farebox, context.new_page(), watch, "Other Business").open()
    other.has("0.00")
    seen = other.page.content()
    for secret in ("Acme Research", owner.account_id, "4242", "20.00"):
        assert secret not in seen
    context.close()


def test_the_landing_page_shows_nothing_private_without_a_session(owner: Owner, browser: Browser) -> None:
    page = owner.page
    with page.expect_request(lambda request: "/billing/done?checkout=" in request.url) as landing:
        owner.save_card()
    owner.sees("The card is saved.")
    visitor = browser.new_context()
    seen = visitor.new_page()
    seen.goto(landing.value.url)
    expect(seen.get_by_text("The card is saved.")).to_be_visible()
    assert "Acme" not in seen.content()
    assert "4242" not in seen.content()
    visitor.close()


def test_the_page_works_without_scripts(owner: Owner, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(owner.link())
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#available")).to_have_text("0.00 USD")
    page.locator("#cards").get_by_role("button", name="Save a card").click()
    page.get_by_label("Card number").fill("4242424242424242")
    page.get_by_label("Expiry").fill("12 / 34")
    page.get_by_label("Security code").fill("123")
    page.locator("#submit").click()
    expect(page.locator("#cards")).to_contain_text("Visa ending in 4242")
    context.close()
