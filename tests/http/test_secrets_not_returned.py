"""No route discloses that a card was reported lost or stolen or is suspected of fraud: every route is tried."""

import re
from typing import Any

import pytest

from farebox.billing import refund
from farebox.http.routes import ROUTES
from farebox.identity import sessions
from farebox.messages.email_templates import body as letter
from farebox.operator.deliver import payload
from farebox.payments.processor import ProcessorRefund
from farebox.storage.notices import list_notices
from tests.engines import read_now
from tests.http.support import errors, http, result, save_card, soon, url
from tests.support import Customer, Farebox

SECRET = ("lost_card", "stolen_card", "pickup_card", "fraudulent", "merchant_blacklist")
TELLS = re.compile(r"lost|stolen|pick.?up|fraud|blacklist", re.IGNORECASE)


def behave(farebox: Farebox, card_id: str, reason: str) -> None:
    http.post(f"{farebox.stripe_url}/_fake/cards/{card_id}", json={"behave": reason}).raise_for_status()


@pytest.fixture
def buyer(farebox: Farebox) -> Customer:
    account_id = farebox.create_account()
    return Customer(farebox, account_id, farebox.create_token(account_id))


def urls(customer: Customer, **ids: str) -> dict[str, str]:
    """The responses of every GET of the account, and the billing page."""
    said = {}
    for route in ROUTES:
        if route.method == "GET" and "{account_id}" in route.path:
            response = http.get(url(customer.farebox, route, customer.account_id, **ids), headers=customer.headers)
            said[route.path] = response.text
    link = customer.farebox.run(sessions.billing_link(customer.farebox.services, customer.account_id))
    page = http.post(link.split("?")[0], data={"link": link.split("link=")[1]}, follow_redirects=True)
    assert page.status_code == 200
    said["the page"] = page.text
    return said


def messages(customer: Customer) -> list[str]:
    """Webhooks and emails of every notice to the owner."""
    found, _ = read_now(customer.farebox.services.database, lambda c: list_notices(c, customer.account_id, 0, 50))
    letters = [letter(notice.kind, notice.account_id, notice.content, "") for notice in found]
    return [payload(notice).decode() for notice in found] + letters


@pytest.mark.parametrize("reason", SECRET)
def test_a_decline_that_is_not_disclosed(buyer: Customer, reason: str) -> None:
    card_id = save_card(buyer)
    api = f"{buyer.api_url}/ai-gateway/billing"
    behave(buyer.farebox, card_id, reason)
    refused = http.post(f"{api}/topup", json={"amount": 1000}, headers=buyer.headers)
    assert (refused.status_code, errors(refused)) == (402, [(2925, "The card was declined.")])

    bought = result(http.get(f"{buyer.api_url}/farebox/topups", headers=buyer.headers))[0]
    assert (bought["state"], bought["decline_code"], bought["error"]) == (
        "failed",
        "generic_decline",
        "The card was declined.",
    )
    status = http.post(
        f"{api}/topup/status", json={"payment_intent_id": bought["payment_intent_id"]}, headers=buyer.headers
    )
    said = urls(buyer, top_up_id=bought["id"]) | {"status": status.text, "refused": refused.text}
    assert [door for door, text in said.items() if TELLS.search(text)] == []
    assert [text for text in messages(buyer) if TELLS.search(text)] == []


def test_a_stopped_auto_top_up_does_not_disclose_the_decline(farebox: Farebox) -> None:
    buyer = farebox.funded("5")
    card_id = save_card(buyer)
    behave(buyer.farebox, card_id, "stolen_card")
    api = f"{buyer.api_url}/ai-gateway/billing"
    result(http.post(f"{api}/topup/config", json={"amount": 1000, "threshold": 500}, headers=buyer.headers))
    assert buyer.chat().status_code == 200

    def stopped() -> Any:
        return result(http.get(f"{api}/topup/config", headers=buyer.headers))["disabledReason"]

    assert soon(lambda: stopped() is not None)
    assert stopped() == "card_declined"
    reported = messages(buyer)
    assert any("auto_top_up_suspended" in text for text in reported)
    assert [text for text in reported if TELLS.search(text)] == []
    assert [door for door, text in urls(buyer).items() if TELLS.search(text)] == []


def test_a_failed_refund_is_not_disclosed(buyer: Customer) -> None:
    save_card(buyer)
    api = f"{buyer.api_url}/ai-gateway/billing"
    result(http.post(f"{api}/topup", json={"amount": 1000}, headers=buyer.headers))
    bought = result(http.get(f"{buyer.api_url}/farebox/topups", headers=buyer.headers))[0]
    ((intent,),) = read_now(
        buyer.farebox.services.database,
        lambda c: c.execute("SELECT payment_intent_id FROM payments WHERE top_up_id = ?", (bought["id"],)).fetchall(),
    )
    failed = ProcessorRefund(
        refund_id=f"re_{bought['id']}",
        state="failed",
        amount_cents=500,
        payment_intent_id=intent,
        charge_id=None,
        failure="lost_or_stolen_card",
    )
    buyer.farebox.run(refund.apply_refund(buyer.farebox.services, failed))
    (made,) = result(http.get(f"{buyer.api_url}/farebox/refunds", headers=buyer.headers))
    assert (made["state"], made["error"]) == ("failed", "declined")
    said = urls(buyer, top_up_id=bought["id"], refund_id=made["id"])
    assert [door for door, text in said.items() if TELLS.search(text)] == []


def test_public_decline_codes_are_disclosed(buyer: Customer) -> None:
    behave(buyer.farebox, save_card(buyer), "insufficient_funds")
    http.post(f"{buyer.api_url}/ai-gateway/billing/topup", json={"amount": 1000}, headers=buyer.headers)
    bought = result(http.get(f"{buyer.api_url}/farebox/topups", headers=buyer.headers))[0]
    assert (bought["decline_code"], bought["error"]) == ("insufficient_funds", "The card has insufficient funds.")
