"""Passkeys in Chromium, created and used by its virtual authenticator."""

import httpx
import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from farebox.identity import membership, sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from tests.browser.axe import faults_of
from tests.browser.conftest import Watch
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox

pytestmark = pytest.mark.slow

EMAIL = "ada@example.com"


@pytest.fixture
def farebox(sign_in_server: SignInServer) -> Farebox:
    sign_in_server.farebox.services.rates._windows.clear()
    return sign_in_server.farebox


@pytest.fixture
def device(page: Page) -> CDPSession:
    """The virtual authenticator of the page's browser, in place of a fingerprint reader."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable", {"enableUI": False})
    return session


def _plug_in(device: CDPSession, *, verifies: bool = True) -> str:
    options = {
        "protocol": "ctap2",
        "ctap2Version": "ctap2_1",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": verifies,
        "automaticPresenceSimulation": True,
    }
    added = device.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return str(added["authenticatorId"])


def _sign_in(farebox: Farebox, page: Page) -> str:
    """Sign in by a link; returns the account."""
    account_id = farebox.create_account("Acme")
    farebox.run(membership.add(farebox.services, account_id, EMAIL, Role.OWNER))
    page.goto(farebox.run(sessions.make_link(farebox.services, LinkHolder(account_id=account_id, email=EMAIL))))
    page.get_by_role("button", name="Open").click()
    return account_id


def _age(farebox: Farebox) -> None:
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute(
                "UPDATE sessions SET confirmed_at = confirmed_at - ?", (sessions.CONFIRMED_MS,)
            )
        )
    )


def test_a_passkey_is_added_and_signs_in(farebox: Farebox, page: Page, watch: Watch, device: CDPSession) -> None:
    watch.refusals |= {403}
    farebox_id = _plug_in(device)
    _sign_in(farebox, page)
    page.goto(f"{farebox.services.base_url}/ui/sessions")
    page.get_by_label("Name of the new passkey").fill("My laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.locator(".note")).to_contain_text("The passkey “My laptop” was added")
    expect(page.locator("#passkeys")).to_contain_text("never")
    [credential] = device.send("WebAuthn.getCredentials", {"authenticatorId": farebox_id})["credentials"]
    assert (credential["rpId"], credential["isResidentCredential"]) == ("localhost", True)

    page.get_by_role("button", name="Add a passkey").click()  # the device already has a passkey
    expect(page.locator("#passkeys [role=alert]")).to_contain_text("already has a passkey for you")

    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{farebox.services.base_url}/billing")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page).to_have_url(f"{farebox.services.base_url}/billing")
    page.goto(f"{farebox.services.base_url}/ui/sessions")
    expect(page.locator("#sessions")).to_contain_text("Passkey")
    expect(page.locator("#passkeys")).not_to_contain_text("never")
    [credential] = device.send("WebAuthn.getCredentials", {"authenticatorId": farebox_id})["credentials"]
    assert credential["signCount"] >= 2

    # A cloned key, whose signature counter is behind, does not sign in.
    device.send(
        "WebAuthn.removeCredential", {"authenticatorId": farebox_id, "credentialId": credential["credentialId"]}
    )
    device.send("WebAuthn.addCredential", {"authenticatorId": farebox_id, "credential": credential | {"signCount": 0}})
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{farebox.services.base_url}/ui/sign-in")
    with page.expect_response("**/ui/sign-in/passkey") as answer:
        page.get_by_role("button", name="Use a passkey").click()
    assert answer.value.status == 403
    expect(page.get_by_role("heading", level=1)).to_have_text("You are not signed in")


def test_a_passkey_gives_access_to_money_after_an_hour(farebox: Farebox, page: Page, device: CDPSession) -> None:
    _plug_in(device)
    _sign_in(farebox, page)
    page.goto(f"{farebox.services.base_url}/ui/sessions")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.locator(".note")).to_contain_text("was added")
    _age(farebox)
    page.get_by_role("button", name="Add a passkey").click()  # keys need a recent proof too
    expect(page.get_by_role("heading", level=1)).to_have_text("Confirm that it is you")
    assert faults_of(page) == []
    page.get_by_role("button", name="Use a passkey").click()
    expect(page).to_have_url(f"{farebox.services.base_url}/ui/sessions")


def test_a_user_whom_the_device_does_not_verify_gets_an_error(farebox: Farebox, page: Page, device: CDPSession) -> None:
    """A device without a passkey for this site does not sign in either."""
    _plug_in(device, verifies=False)
    page.goto(f"{farebox.services.base_url}/ui/sign-in")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.locator("#passkey [role=alert]")).to_contain_text("canceled or took too long")
    assert faults_of(page) == []


def test_without_scripts_the_other_ways_to_sign_in_remain(farebox: Farebox, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{farebox.services.base_url}/ui/sign-in")
    expect(page.get_by_role("button", name="Use a passkey")).to_be_hidden()
    page.get_by_label("Your e-mail address").fill("nobody@example.com")
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check your inbox")
    context.close()


def test_scripts_are_small(farebox: Farebox) -> None:
    sizes = [
        len(httpx.get(f"{farebox.url}/ui/assets/{name}", headers={"accept-encoding": "gzip"}).read())
        for name in ("app.js", "live.js", "passkeys.js")
    ]
    assert sum(sizes) <= 15_000
