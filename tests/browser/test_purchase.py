"""A whole purchase as an owner makes it: cards, buying, auto top-up, bank confirmations, disputes."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Owner
from tests.browser.keys import tab_to
from tests.support import Farebox

pytestmark = pytest.mark.slow

Steer = Callable[..., dict[str, Any]]

SAVED_ONLY = "4000000000000341"
"""This card can be saved, and declines every charge."""
ALWAYS_ASKS = "4000002760003184"
"""The bank of this card requires confirmation of each payment."""
EXPIRED = "4000000000000069"
DECLINED = "4000000000000002"


def test_save_a_card_buy_and_let_auto_top_up_do_the_rest(owner: Owner) -> None:
    page = owner.page
    owner.has("0.00")
    owner.save_card()
    owner.sees("The card is saved.")
    expect(page.locator("#cards")).to_contain_text("Visa ending in 4242")
    expect(page.locator("#cards .badge")).to_have_text("Default")

    owner.quote("50")
    expect(page.locator("#total")).to_have_text("50.00")
    page.get_by_role("button", name="Pay 50.00 USD").click()
    owner.sees("Bought 50.00 USD of credit.")
    owner.has("50.00")

    owner.switch_on(threshold="50", amount="25", cap="40")
    owner.sees("Auto top-up is on: 25.00 USD whenever the balance falls below 50.00 USD.")
    expect(page.locator("#auto .state")).to_contain_text("at most 40.00 USD in a calendar month")
    expect(page.locator("#auto")).to_contain_text(
        "Next: 25.00 USD at the next charge or sooner, because the balance (50.00 USD)"
    )
    expect(page.locator("#auto")).to_contain_text("Charged automatically this month: 0.00 of at most 40.00 USD")
    owner.has("50.00")  # not below the threshold

    owner.call()
    assert owner.customer.balance.posted % 10_000_000 != 0
    owner.comes_to_see(lambda: page.locator("#available").inner_text().startswith("74.99"))
    rows = page.locator("#top-ups tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Automatic")
    expect(rows.first).to_contain_text("Paid")
    posted = owner.customer.balance.posted
    room = f"{(posted - 50 * 10**9) / 10**9:.9f}".rstrip("0")
    next_one = (
        f"Next: 25.00 USD as soon as the balance falls below 50.00 USD; {room} USD can be spent until then. "
        "However, this would exceed"
    )
    expect(page.locator("#auto")).to_contain_text(next_one)
    expect(page.locator("#auto")).to_contain_text("Charged automatically this month: 25.00 of at most 40.00 USD")
    expect(page.locator("#usage")).to_contain_text("demo/demo-1")
    expect(page.locator("#transfers")).to_contain_text("Credit bought")

    for name in ("Invoice of 25.00 USD, PDF", "Invoice of 50.00 USD, PDF"):
        invoice = page.get_by_role("link", name=name).get_attribute("href")
        assert invoice is not None
        response = page.context.request.get(invoice)
        assert (response.status, response.headers["content-type"]) == (200, "application/pdf")
        assert response.body().startswith(b"%PDF-")


def test_the_page_refreshes_only_while_a_top_up_is_in_progress(owner: Owner) -> None:
    page = owner.page
    expect(page.locator("meta[http-equiv=refresh]")).to_have_count(0)
    owner.save_card()
    owner.buy("50")
    owner.switch_on(threshold="50", amount="25")
    owner.call()
    owner.home()  # no further manual reload: the page refreshes itself from here on
    expect(page.locator("#available")).to_contain_text("74.99")
    expect(page.locator("meta[http-equiv=refresh]")).to_have_count(0)


def test_a_card_that_declines_charges_nothing_and_credits_nothing(owner: Owner) -> None:
    page = owner.page
    owner.save_card(SAVED_ONLY)
    owner.sees("The card is saved.")
    owner.buy("50")
    owner.sees("declined")
    owner.has("0.00")
    expect(page.locator("#top-ups tbody tr").first).to_contain_text("Failed")
    assert owner.customer.balance.posted == 0


def test_auto_top_up_with_a_card_that_declines_says_so(owner: Owner, steer: Steer) -> None:
    page = owner.page
    owner.save_card()
    owner.buy("10")
    card_id = page.locator("#cards input[name=card]").first.get_attribute("value")
    owner.switch_on(threshold="10", amount="25")
    steer(f"cards/{card_id}", behave="stolen_card")
    owner.call()
    owner.comes_to_see(lambda: "Suspended" in page.locator("#auto .state").inner_text())
    expect(page.locator("#auto .state")).to_contain_text("The card was declined")
    expect(page.locator("#available")).to_contain_text("9.99")

    page.locator("#cards").get_by_role("button", name="Save another card").click()
    owner.type_card("5555555555554444")
    owner.sees("The card is saved.")
    expect(page.locator("#auto .state")).to_contain_text("Active")
    owner.call()
    owner.comes_to_see(lambda: page.locator("#available").inner_text().startswith("34.99"))


def test_a_card_that_is_refused_when_it_is_saved(owner: Owner) -> None:
    page = owner.page
    owner.watch.refusals |= {402, 422}
    page.get_by_role("button", name="Save a card").click()
    owner.type_card(DECLINED)
    expect(page.get_by_role("alert")).to_contain_text("declined")
    page.locator("#cancel").click()
    expect(page.locator("#cards")).to_contain_text("No card is saved yet.")
    owner.has("0.00")


def test_an_expired_card(owner: Owner, steer: Steer) -> None:
    page = owner.page
    owner.watch.refusals |= {402, 422}
    page.get_by_role("button", name="Save a card").click()
    owner.type_card(EXPIRED)
    expect(page.get_by_role("alert")).to_contain_text("expired")
    page.locator("#cancel").click()

    owner.save_card()  # and a card that expires after it was saved
    card_id = page.locator("#cards input[name=card]").first.get_attribute("value")
    steer(f"cards/{card_id}", behave="expired_card")
    owner.buy("50")
    owner.sees("expired")
    owner.has("0.00")
    assert owner.customer.balance.posted == 0


def _confirm(page: Page, button: str) -> None:
    """Confirm on the hosted page, which opens in a new tab."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Confirm the payment").click()
    hosted = opened.value
    hosted.locator("button[id^=pay-]").first.click()
    hosted.locator(f"#{button}").click()
    hosted.wait_for_load_state()
    hosted.close()


def _save_asking_card(owner: Owner) -> None:
    """Save a card whose bank requires confirmation then too."""
    owner.save_card(ALWAYS_ASKS)
    owner.page.locator("#authenticate").click()
    owner.sees("The card is saved.")


def test_a_purchase_that_the_bank_wants_confirmed(owner: Owner) -> None:
    page = owner.page
    _save_asking_card(owner)
    owner.buy("50")
    expect(page.get_by_role("heading", name="Needs your confirmation")).to_be_visible()
    _confirm(page, "authenticate")
    expect(page).to_have_url(f"{owner.farebox.url}/billing")  # the page refreshed itself
    owner.sees("Bought 50.00 USD of credit.")
    owner.has("50.00")


def test_a_purchase_whose_confirmation_fails(owner: Owner) -> None:
    page = owner.page
    owner.watch.refusals |= {402, 422}
    _save_asking_card(owner)
    owner.buy("50")
    expect(page.get_by_role("heading", name="Needs your confirmation")).to_be_visible()
    _confirm(page, "fail")
    owner.home()
    owner.has("0.00")
    assert owner.customer.balance.posted == 0


def test_an_auto_top_up_that_the_bank_wants_confirmed(owner: Owner) -> None:
    page = owner.page
    _save_asking_card(owner)
    owner.buy("50")
    _confirm(page, "authenticate")
    owner.has("50.00")
    owner.switch_on(threshold="50", amount="25")
    owner.call()
    notice = page.locator(".note").filter(has_text="The bank wants you to confirm a payment of 25.00 USD")
    owner.comes_to_see(lambda: notice.count() == 1)
    expect(page.locator("#auto .state")).to_contain_text("Waiting for you")
    expect(page.locator("#available")).to_contain_text("49.99")
    notice.get_by_role("link", name="Confirm the payment").click()
    _confirm(page, "authenticate")
    owner.sees("Bought 25.00 USD of credit.")
    expect(page.locator("#available")).to_contain_text("74.99")
    owner.comes_to_see(lambda: "Active" in page.locator("#auto .state").inner_text())


def test_an_auto_top_up_whose_confirmation_fails(owner: Owner) -> None:
    page = owner.page
    owner.watch.refusals |= {402, 422}
    _save_asking_card(owner)
    owner.buy("50")
    _confirm(page, "authenticate")
    owner.has("50.00")
    owner.switch_on(threshold="50", amount="25")
    owner.call()
    owner.comes_to_see(lambda: page.locator(".note").filter(has_text="confirm a payment of 25.00 USD").count() == 1)
    page.get_by_role("link", name="Confirm the payment").click()
    _confirm(page, "fail")
    owner.home()
    expect(page.locator("#auto .state")).to_contain_text("Waiting for you")
    expect(page.locator("#available")).to_contain_text("49.99")
    page.get_by_role("link", name="Confirm the payment").click()  # the owner may try again
    _confirm(page, "authenticate")
    owner.sees("Bought 25.00 USD of credit.")
    expect(page.locator("#available")).to_contain_text("74.99")


def test_a_response_that_is_lost_neither_charges_twice_nor_loses_the_payment(owner: Owner, steer: Steer) -> None:
    page = owner.page
    owner.save_card()
    steer("faults", match="POST /v1/invoices/*/pay", kind="reset_after_commit", times=8)
    owner.buy("50")
    owner.comes_to_see(lambda: page.locator("#available").inner_text().startswith("50.00"))
    expect(page.locator("#top-ups tbody tr")).to_have_count(1)
    expect(page.locator("#top-ups")).to_contain_text("Paid")


def test_a_dispute_takes_the_credit_and_freezes_auto_top_up_until_it_is_won(owner: Owner, steer: Steer) -> None:
    page = owner.page
    owner.save_card()
    owner.buy("50")
    owner.switch_on(threshold="20", amount="25")
    payment_id = _payment_of(owner.farebox, owner.account_id)
    dispute = steer("disputes", invoice=payment_id, reason="fraudulent")

    owner.comes_to_see(lambda: page.locator("#available").inner_text().startswith("0.00"))
    owner.sees("A payment of 50.00 USD is disputed at the bank.")
    expect(page.locator("#auto .state")).to_contain_text("Suspended")
    expect(page.locator("#auto .state")).to_contain_text("disputed")
    expect(page.locator("#top-ups tbody tr")).to_have_count(1)  # below the threshold, yet nothing is bought
    expect(page.locator("#top-ups")).to_contain_text("Dispute: Open")

    steer(f"disputes/{dispute['id']}/close", status="won")
    owner.comes_to_see(lambda: page.locator("#available").inner_text().startswith("50.00"))
    expect(page.locator("#top-ups")).to_contain_text("Dispute: Won")
    expect(page.locator("#auto .state")).to_contain_text("Active")


def test_a_lost_dispute_leaves_a_credit_note_and_auto_top_up_to_the_owner(owner: Owner, steer: Steer) -> None:
    page = owner.page
    owner.save_card()
    owner.buy("50")
    owner.switch_on(threshold="20", amount="25")
    dispute = steer("disputes", invoice=_payment_of(owner.farebox, owner.account_id), reason="fraudulent")
    steer(f"disputes/{dispute['id']}/close", status="lost")
    owner.comes_to_see(lambda: "Dispute: Lost" in page.locator("#top-ups").inner_text())
    owner.sees("Auto top-up is suspended: a dispute was lost. Save this form again to resume.")
    expect(page.locator("#top-ups").get_by_role("link", name="Credit note")).to_be_visible()


def _payment_of(farebox: Farebox, account_id: str) -> str:
    from farebox.billing import top_up

    found, _ = farebox.run(top_up.history(farebox.services, account_id, "all", 0, 1))
    assert found[0].payment_id is not None
    return found[0].payment_id


def test_the_first_purchase_is_made_on_the_payment_page(owner: Owner) -> None:
    page = owner.page
    owner.quote("20")
    expect(page.get_by_text("where the card is also saved")).to_be_visible()
    page.get_by_role("button", name="Continue to the payment page").click()
    expect(page.locator("#amount")).to_have_text("$20.00")
    owner.type_card("4242424242424242")
    owner.sees("The payment went through, and the card is saved.")
    owner.has("20.00")
    expect(page.locator("#cards")).to_contain_text("Visa ending in 4242")
    owner.buy("10")  # with the card that was saved on the payment page
    owner.has("30.00")


def test_an_abandoned_payment_page(owner: Owner) -> None:
    page = owner.page
    owner.quote("20")
    page.get_by_role("button", name="Continue to the payment page").click()
    page.locator("#cancel").click()
    expect(page).to_have_url(f"{owner.farebox.url}/billing")
    owner.has("0.00")


def test_repeated_form_submissions_buy_once(owner: Owner) -> None:
    page = owner.page
    owner.save_card()
    owner.quote("10")
    form: dict[str, str | float | bool] = {
        field.get_attribute("name") or "": field.get_attribute("value") or ""
        for field in page.locator("form[action='/billing/buy'] input:not([type=radio]), input:checked").all()
    }
    assert {"csrf", "amount", "request_key", "card"} <= set(form)
    page.get_by_role("button", name="Pay").dblclick(no_wait_after=True)
    owner.sees("Bought 10.00 USD of credit.")
    assert page.context.request.post(f"{owner.farebox.url}/billing/buy", form=form).ok
    owner.home()
    owner.has("10.00")


def test_cards_are_chosen_and_removed(owner: Owner) -> None:
    page = owner.page
    cards = page.locator("#cards")
    owner.save_card()
    page.get_by_role("button", name="Save another card").click()
    owner.type_card("5555555555554444")
    expect(cards.locator("li")).to_have_count(2)
    cards.get_by_role("button", name="Make default").click()
    owner.sees("The default card has been changed.")
    chosen = cards.locator("li").filter(has=page.locator(".badge")).locator("strong").inner_text()
    remove = cards.locator("li").filter(has_text=chosen)
    remove.get_by_text("Remove", exact=False).first.click()
    remove.get_by_role("button", name="Remove for good").click()
    owner.sees("The card has been removed.")
    expect(cards.locator("li")).to_have_count(1)
    expect(cards).not_to_contain_text(chosen)


def test_auto_top_up_is_switched_off_and_the_limit_set_and_lifted(owner: Owner) -> None:
    page = owner.page
    owner.save_card()
    owner.switch_on(threshold="10", amount="25")
    page.locator("#auto summary").click()
    page.get_by_role("button", name="Switch off").click()
    owner.sees("Auto top-up has been switched off.")
    expect(page.locator("#auto .state")).to_contain_text("Off")

    limit = page.locator("#limit")
    limit.get_by_label("Spend at most").fill("20.50")
    limit.get_by_label("Period").select_option("daily")
    limit.get_by_role("button", name="Save limit").click()
    owner.sees("The spending limit is 20.50 USD per day.")
    expect(limit).to_contain_text("20.50 of 20.50 USD left today")
    limit.locator("summary").click()
    limit.get_by_role("button", name="Remove limit").click()
    expect(limit).to_contain_text("None")


def test_refusals_are_shown(owner: Owner) -> None:
    page = owner.page
    page.goto(f"{owner.farebox.url}/billing/buy?amount=1.999")
    owner.sees("Enter the amount in US dollars")
    page.goto(f"{owner.farebox.url}/billing/buy?amount=0.01")
    expect(page.locator(".note.bad")).to_be_visible()
    owner.has("0.00")


def test_the_keyboard_alone_saves_a_card_and_buys(owner: Owner) -> None:
    page = owner.page
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    tab_to(page, re.compile("^Save a card"))
    page.keyboard.press("Enter")
    page.get_by_label("Card number").wait_for()
    for field in ("Card number", "Expiry", "Security code"):
        tab_to(page, re.compile(field))
        page.keyboard.type({"Card number": "4242424242424242", "Expiry": "1234", "Security code": "123"}[field])
    page.keyboard.press("Enter")
    owner.sees("The card is saved.")
    tab_to(page, re.compile("Amount of credit"))
    page.keyboard.press("Control+a")
    page.keyboard.type("15")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="15.00 USD of credit").wait_for()
    tab_to(page, re.compile("Visa ending in 4242"))
    tab_to(page, re.compile("^Pay"))
    page.keyboard.press("Enter")
    owner.sees("Bought 15.00 USD of credit.")
    owner.has("15.00")
