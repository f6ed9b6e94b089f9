"""Changes show on an open page until the reader pauses it."""

import pytest
from playwright.sync_api import Page, expect

from farebox.http.pages import live
from tests.browser.conftest import Watch
from tests.browser.test_pages import sign_in
from tests.support import Farebox

pytestmark = pytest.mark.slow


def test_new_figures_and_calls_show_on_an_open_page(
    farebox: Farebox, page: Page, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    customer = farebox.funded()
    sign_in(farebox, page, customer.account_id)
    expect(page.get_by_role("button", name="Live")).to_be_visible()
    before = page.locator("#posted").inner_text()
    customer.chat("one")
    expect(page.locator("#posted")).not_to_have_text(before)

    page.goto(f"{farebox.url}/ui/calls")
    rows, button = page.locator("#calls tbody tr"), page.get_by_role("button", name="Live")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(rows).to_have_count(1)
    customer.chat("two")
    expect(rows).to_have_count(2)
    rows.first.get_by_role("link").focus()
    customer.chat("three")
    expect(rows).to_have_count(2)
    page.get_by_label("Provider").focus()
    expect(rows).to_have_count(3)
    button.click()
    expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")
