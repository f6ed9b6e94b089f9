"""A first visit after `make run`, from the link to a token, by keyboard alone and without reading documentation."""

import re
import subprocess
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from farebox.identity import sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from tests.browser.keys import tab_to
from tests.support import Farebox

pytestmark = pytest.mark.slow


def _type(page: Page, field: str, text: str) -> None:
    tab_to(page, re.compile(field))
    page.keyboard.press("Control+a")
    page.keyboard.type(text)


def _press(page: Page, name: str) -> None:
    tab_to(page, re.compile(name))
    with page.expect_navigation():
        page.keyboard.press("Enter")


def _go(page: Page, key: str, heading: str) -> None:
    """`g` and a letter open a page of the navigation."""
    page.keyboard.press("g")
    page.keyboard.press(key)
    expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()


@pytest.mark.parametrize(("mode", "width"), [("light", 360), ("dark", 1440)])
def test_the_first_quarter_of_an_hour(farebox: Farebox, page: Page, mode: Literal["light", "dark"], width: int) -> None:
    page.emulate_media(color_scheme=mode)
    page.set_viewport_size({"width": width, "height": 900})
    account_id = farebox.create_account("Acme")
    farebox.grant(account_id, "5")
    holder = LinkHolder(account_id=account_id, role=Role.OWNER, operator=True)
    page.goto(farebox.run(sessions.make_link(farebox.services, holder)))
    _press(page, "^Open$")
    expect(page.locator("#available")).to_have_text("5.00 USD")

    # Buys credit.
    _press(page, "^Buy credit$")
    _type(page, "Amount of credit", "20")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    _press(page, "^Continue to the payment page")
    page.get_by_label("Card number").wait_for()
    for field, text in (("Card number", "4242424242424242"), ("Expiry", "1234"), ("Security code", "123")):
        _type(page, field, text)
    page.keyboard.press("Enter")
    expect(page.locator("#available")).to_have_text("25.00 USD")

    # Makes a call, and finds its receipt.
    _go(page, "c", "Calls")
    _press(page, "^Make a call$")
    _type(page, "^Question", "Hello there")
    _press(page, "^Send$")
    expect(page.get_by_role("heading", level=1, name="demo/demo-1")).to_be_visible()
    expect(page.locator("#receipt")).to_contain_text("output tokens")
    expect(page.locator("#response")).to_contain_text("You said")

    # Tries a limit on past calls, and sets it.
    _go(page, "l", "Limits")
    _type(page, "^Maximum spending", "0.00001")
    _press(page, "^Try it on past calls$")
    expect(page.locator("#rule")).to_contain_text("The only call would have been refused")
    _press(page, "^Set this limit$")
    expect(page.locator(".note")).to_contain_text("Set the limit: 0.00001 USD per day.")
    expect(page.locator("#rules")).to_contain_text("0.00001 USD per day")

    # Creates a token.
    _go(page, "t", "Tokens")
    _type(page, "^Name", "first")
    _press(page, "^Create token$")
    secret = page.locator("#secret pre").inner_text()
    assert re.fullmatch(r"fbx_[\w-]{43}", secret)
    pasted = page.locator("#use pre").inner_text()
    called = subprocess.run(["/bin/sh", "-c", pasted], capture_output=True, text=True, check=True)
    assert '"limit_too_low"' in called.stdout, "the token and the model are right, and the limit holds"
    _press(page, "^Back to the tokens$")
    expect(page.locator("#tokens")).to_contain_text("first")


def test_a_route_is_made_and_changed_by_keyboard(farebox: Farebox, page: Page) -> None:
    account_id = farebox.create_account("Acme")
    holder = LinkHolder(account_id=account_id, role=Role.OWNER)
    page.goto(farebox.run(sessions.make_link(farebox.services, holder)))
    _press(page, "^Open$")
    _go(page, "g", "Gateways")
    _press(page, "^default$")
    _press(page, "^Routes$")
    _press(page, "^New route$")
    _type(page, "^Programs use it", "support")
    with page.expect_navigation():
        page.keyboard.press("Enter")  # Enter in a field redraws the route, and saves nothing
    expect(page.locator(".route svg .node")).to_have_count(4)
    _press(page, "^Create route$")
    expect(page.locator(".note")).to_contain_text("programs name it dynamic/support")
    _press(page, "^Change$")
    _type(page, "^Timeout in milliseconds", "fast")
    _press(page, "^Save version$")
    expect(page.locator(".note").first).to_contain_text("not a complete route yet")
    expect(page.locator(".route svg .bad")).to_have_count(1)
    expect(page.locator(".hint.bad")).to_contain_text("Enter a number")
