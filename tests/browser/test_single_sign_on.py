"""Single sign-on in Chromium: our own content security policy allows the redirects to the provider and back."""

import pytest
from playwright.sync_api import Browser, Page, expect

from farebox.identity import membership
from farebox.model import Role
from tests.browser.axe import faults_of
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox

pytestmark = pytest.mark.slow


@pytest.fixture
def farebox(sign_in_server: SignInServer) -> Farebox:
    farebox = sign_in_server.farebox
    farebox.services.rates._windows.clear()
    sign_in_server.provider.reset("joan@example.com")
    farebox.run(membership.add(farebox.services, farebox.create_account("Acme"), "joan@example.com", Role.OWNER))
    return farebox


def _walk(farebox: Farebox, page: Page) -> None:
    base = farebox.services.base_url
    page.goto(f"{base}/billing")
    page.get_by_role("button", name="Continue with Acme ID").click()
    expect(page).to_have_url(f"{base}/billing")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign out there too").click()
    expect(page).to_have_url(f"{base}/ui/signed-out")


def test_a_member_signs_in_and_out(farebox: Farebox, page: Page) -> None:
    _walk(farebox, page)


def test_a_member_signs_in_and_out_without_scripts(farebox: Farebox, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    _walk(farebox, context.new_page())
    context.close()


def test_error_pages_are_accessible(farebox: Farebox, page: Page, sign_in_server: SignInServer) -> None:
    for mode in ("light", "dark"):
        page.emulate_media(color_scheme=mode)
        page.set_viewport_size({"width": 360, "height": 800})
        for path in ("/ui/sign-in", "/ui/signed-out?at=provider"):
            page.goto(farebox.services.base_url + path)
            assert faults_of(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
