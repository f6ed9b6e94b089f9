"""The pages by keyboard: main actions are a few presses away, and the shortcuts can be listed."""

import re
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from farebox.identity import sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from tests.browser.axe import faults_of
from tests.support import Farebox

pytestmark = pytest.mark.slow

MAIN = (
    ("/ui/overview", "Buy credit", "#buy"),
    ("/ui/calls", "Make a call", "#make"),
    ("/ui/limits", "Set a limit", "#add"),
    ("/ui/gateways", "Create a gateway", "#create"),
    ("/ui/gateways/default/keys", "Store a key", "#create"),
    ("/ui/gateways/default/routes", "New route", "#new"),
    ("/ui/gateways/default/policies", "Create a policy", "#policy"),
    ("/ui/gateways/default/names", "Set an alias", "#set-alias"),
    ("/ui/dlp-profiles", "Create a profile", "#create"),
    ("/ui/providers", "Add a provider", "#create"),
    ("/ui/tokens", "Create a token", "#create"),
    ("/billing", "Buy credit", "#buy"),
    ("/ui/members", "Invite someone", "#add"),
    ("/ui/accounts", "Create an account", "#create"),
    ("/ui/prices", "Set a price", "#set-price"),
    ("/ui/provider-keys", "Set a key", "#set"),
)
"""Pages with a main action, what the link to it calls it, and where it is."""


def opened(farebox: Farebox, page: Page) -> str:
    """Sign in as the owner of a new account and as an operator, by a link; returns the account's ID."""
    account_id = farebox.create_account("Acme")
    whom = LinkHolder(account_id=account_id, role=Role.OWNER, operator=True)
    page.goto(farebox.run(sessions.make_link(farebox.services, whom)))
    page.get_by_role("button", name="Open").click()
    page.wait_for_url(f"{farebox.url}/ui/overview")
    return account_id


def test_the_main_action_is_the_third_press(farebox: Farebox, page: Page) -> None:
    opened(farebox, page)
    for path, action, place in MAIN:
        page.goto(farebox.url + path)
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to content")
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        expect(skip).to_have_text(re.compile(f"^Skip to “{action}"))
        box = skip.bounding_box()
        assert box is not None
        assert min(box["x"], box["y"]) >= 0, "the link shows while it has the focus"
        page.keyboard.press("Enter")
        if page.locator(place).evaluate("it => it.tagName") == "SECTION":  # from there on, Tab leads into it
            page.keyboard.press("Tab")
        expect(page.locator(f"{place}:focus, {place} :focus")).to_have_count(1)


def test_a_question_mark_lists_the_shortcuts(farebox: Farebox, page: Page) -> None:
    opened(farebox, page)
    page.goto(f"{farebox.url}/ui/calls")
    shown = page.get_by_role("dialog", name="Keyboard shortcuts")
    modes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for mode in modes:
        page.emulate_media(color_scheme=mode)
        for width in (1280, 320):
            page.set_viewport_size({"width": width, "height": 600})
            page.keyboard.press("?")
            expect(shown).to_contain_text("Filter this page")
            expect(shown.locator("div", has_text="Limits").locator("kbd")).to_have_text(["g", "l"])
            assert shown.get_by_text("Billing", exact=True).count() == 1
            assert faults_of(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert shown.evaluate("it => it.scrollWidth - it.clientWidth") <= 0
            page.keyboard.press("Escape")
            expect(shown).to_have_count(0)
    page.locator("#model").press("?")
    assert shown.count() == 0, "in a field it is a character"
    page.locator("#model").blur()
    page.keyboard.press("?")
    page.keyboard.press("?")
    assert shown.count() == 0
    page.keyboard.press("?")
    page.keyboard.press("g")
    page.keyboard.press("u")
    expect(page.get_by_role("heading", level=1, name="Usage")).to_be_visible()
    page.keyboard.press("?")
    expect(shown).to_contain_text("Read the bars")
