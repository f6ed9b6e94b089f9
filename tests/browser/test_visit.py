"""Who gets in, what others see, and whether everybody can use the page."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

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
    owner.page.context.add_cookies([_given(cookie) for cookie in cookies])  # a kept cookie is worthless
    owner.watch.refusals |= {403}
    owner.home()
    expect(owner.page.get_by_role("heading", name="Please open a new link")).to_be_visible()


def _given(cookie: Any) -> Any:
    return cookie


def test_the_cookie_is_kept_from_scripts_and_other_sites(owner: Owner) -> None:
    (cookie,) = owner.page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("farebox_session", True, "Lax")
    assert cookie["path"] == "/billing"


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


# --- for everybody ----------------------------------------------------------------------------------------------------

_AXE_BY_HAND = """() => {
    const faults = [];
    const name = it => it.outerHTML.slice(0, 120);
    for (const it of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
        if (!it.labels.length || !it.labels[0].textContent.trim()) faults.push("no label: " + name(it));
    }
    for (const it of document.querySelectorAll("a, button, summary")) {
        if (!it.textContent.trim()) faults.push("no name: " + name(it));
    }
    let level = 0;
    for (const it of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
        const own = Number(it.tagName[1]);
        if (own > level + 1) faults.push("a level is left out: " + name(it));
        level = own;
    }
    if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
    if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
    if (!document.documentElement.lang) faults.push("no language");
    if (!document.title.trim()) faults.push("no title");
    const ids = [...document.querySelectorAll("[id]")].map(it => it.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push("twice: #" + id);
    for (const it of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
        const at = it.getAttribute("aria-describedby") || it.getAttribute("aria-labelledby");
        if (!document.getElementById(at)) faults.push("points nowhere: " + name(it));
    }
    for (const it of document.querySelectorAll("table")) {
        if (!it.querySelector("caption") || !it.querySelector("th[scope]")) faults.push("bare table: " + name(it));
    }
    return faults;
}"""

_POOR_CONTRAST = """() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = it => {
        for (; it; it = it.parentElement) {
            const found = parts(getComputedStyle(it).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
    };
    const poor = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const it = walk.currentNode.parentElement;
        if (!walk.currentNode.textContent.trim() || !it.checkVisibility()) continue;
        const [one, two] = [light(parts(getComputedStyle(it).color)), light(ground(it))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (two + 0.05);
        if (ratio < 4.5) poor.push(ratio.toFixed(2) + " " + it.outerHTML.slice(0, 100));
    }
    return poor;
}"""


def _rich(owner: Owner) -> None:
    """An account with something in every section."""
    owner.save_card()
    owner.buy("50")
    owner.switch_on(threshold="10", amount="25")
    owner.call()
    owner.home()


def _pages(owner: Owner) -> list[str]:
    url = owner.farebox.url
    return [f"{url}/billing", f"{url}/billing/buy?amount=50", f"{url}/billing/signed-out"]


def _open_all(page: Page) -> None:
    for summary in page.locator("summary").all():
        summary.click()


def test_every_control_has_a_label_and_a_tab_order(owner: Owner) -> None:
    _rich(owner)
    for url in _pages(owner):
        owner.page.goto(url)
        _open_all(owner.page)
        assert owner.page.evaluate(_AXE_BY_HAND) == [], url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(owner: Owner, scheme: Any) -> None:
    _rich(owner)
    owner.page.emulate_media(color_scheme=scheme)
    for url in _pages(owner):
        owner.page.goto(url)
        _open_all(owner.page)
        assert owner.page.evaluate(_POOR_CONTRAST) == [], url
    ground = owner.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 20, 18)") == (scheme == "dark")


def test_the_page_fits_a_telephone(owner: Owner) -> None:
    _rich(owner)
    owner.page.set_viewport_size({"width": 390, "height": 800})
    for url in _pages(owner):
        owner.page.goto(url)
        _open_all(owner.page)
        assert owner.page.evaluate("document.documentElement.scrollWidth") <= 390, url
        small = owner.page.evaluate(
            "[...document.querySelectorAll('button, .button, input:not([type=hidden]):not([type=radio]), select')]"
            ".filter(it => it.checkVisibility() && it.getBoundingClientRect().height < 32).map(it => it.outerHTML)"
        )
        assert small == [], "too small for a finger"


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
