"""The behavior of every published test card: saved, charged off session, refunded, disputed."""

from typing import Any

import pytest
import stripe

from fake_stripe.cards import CARDS, DECLINES, passes_luhn
from support import Fake

DECLINED = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", "processing_error"),
    "pm_card_chargeDeclinedFraudulent": ("card_declined", "fraudulent"),
}


def typed(fake: Fake, number: str, month: int = 12, year: int = 2034) -> stripe.PaymentMethod:
    card: Any = {"number": number, "exp_month": month, "exp_year": year, "cvc": "123"}
    return fake.v1.payment_methods.create({"type": "card", "card": card})


def test_every_card_number_is_valid_and_every_name_is_used_once() -> None:
    assert all(passes_luhn(card.number) for card in CARDS)
    names = [name for card in CARDS for name in card.names]
    assert len(names) == len(set(names))
    assert len({card.number for card in CARDS}) == len(CARDS)


def test_a_card_says_what_it_is(fake: Fake) -> None:
    card = typed(fake, "5555 5555 5555 4444").card
    assert card is not None
    assert (card.brand, card.last4, card.exp_month, card.exp_year) == ("mastercard", "4444", 12, 2034)
    assert (card.funding, card.country) == ("credit", "US")


def test_fingerprints_are_equal_for_equal_numbers(fake: Fake) -> None:
    prints = [typed(fake, n).card.fingerprint for n in ("4242424242424242", "4242424242424242", "378282246310005")]  # type: ignore[union-attr]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("number", "month", "year", "code"),
    [
        ("4242424242424241", 12, 2034, "incorrect_number"),
        ("4242", 12, 2034, "incorrect_number"),
        ("4242424242424242", 13, 2034, "invalid_expiry_month"),
        ("4242424242424242", 12, 2020, "invalid_expiry_year"),
        ("4111111111111111", 12, 2034, "card_declined"),
    ],
)
def test_a_card_that_cannot_be_one_is_refused(fake: Fake, number: str, month: int, year: int, code: str) -> None:
    with pytest.raises(stripe.CardError) as raised:
        typed(fake, number, month, year)
    assert raised.value.code == code
    assert raised.value.http_status == 402


@pytest.mark.parametrize("token", DECLINED)
def test_a_declining_card_cannot_be_saved_nor_charged(fake: Fake, token: str) -> None:
    customer = fake.customer()
    with pytest.raises(stripe.CardError) as raised:
        fake.v1.payment_methods.attach(token, {"customer": customer.id})
    assert (raised.value.code, raised.value.error.decline_code) == DECLINED[token]  # type: ignore[union-attr]
    customer.method = token
    with pytest.raises(stripe.CardError) as raised:
        customer.charge()
    error = raised.value.error
    assert error is not None
    assert (error.code, error.decline_code) == DECLINED[token]
    assert error.payment_intent is not None
    assert error.payment_intent.status == "requires_payment_method"
    assert error.payment_intent.last_payment_error is not None
    assert error.payment_intent.last_payment_error.decline_code == error.decline_code
    charge = fake.v1.charges.retrieve(str(error.payment_intent.latest_charge))
    assert (charge.status, charge.paid, charge.failure_code) == ("failed", False, error.code)


def test_the_advice_of_a_decline(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    for decline, found in DECLINES.items():
        if decline == "authentication_required":
            continue
        fake.control("POST", f"cards/{customer.method}", behave=decline)
        with pytest.raises(stripe.CardError) as raised:
            customer.charge()
        told_body: Any = raised.value.json_body
        body = told_body["error"]
        assert body["decline_code"] == decline
        assert body.get("advice_code") == found.advice
        assert body.get("network_decline_code") == found.network


def test_a_card_that_declines_once_it_is_saved(fake: Fake) -> None:
    with pytest.raises(stripe.CardError, match="declined"):
        fake.customer("pm_card_chargeCustomerFail").charge()


def test_a_card_that_declines_and_recovers(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    assert customer.charge().status == "succeeded"
    fake.control("POST", f"cards/{customer.method}", behave="expired_card")
    with pytest.raises(stripe.CardError) as raised:
        customer.charge()
    assert raised.value.code == "expired_card"
    fake.control("POST", f"cards/{customer.method}", behave="ok")
    assert customer.charge().status == "succeeded"


@pytest.mark.parametrize("token", ["pm_card_authenticationRequired", "pm_card_authenticationRequiredOnSetup"])
def test_a_card_whose_holder_must_be_there(fake: Fake, token: str) -> None:
    with pytest.raises(stripe.CardError) as raised:
        fake.customer(token).charge()
    error = raised.value.error
    assert error is not None
    assert (error.code, error.decline_code) == ("authentication_required", "authentication_required")
    assert error.payment_intent.status == "requires_payment_method"  # type: ignore[union-attr]


def test_cards_that_were_authenticated_when_they_were_saved(fake: Fake) -> None:
    assert fake.customer("pm_card_authenticationRequiredSetupForOffSession").charge().status == "succeeded"
    customer = fake.customer("pm_card_authenticationRequiredChargeDeclinedInsufficientFunds")
    with pytest.raises(stripe.CardError, match="authentication"):
        customer.charge()


def test_on_session_the_holder_is_asked(fake: Fake) -> None:
    customer = fake.customer("pm_card_authenticationRequired")
    asked = customer.charge(off_session=False, return_url="http://127.0.0.1:9/back?x=1")
    assert asked.status == "requires_action"
    assert asked.next_action is not None
    assert asked.next_action.type == "redirect_to_url"
    url = asked.next_action.redirect_to_url.url  # type: ignore[union-attr]
    assert "Complete authentication" in fake.http.get(str(url)).text
    back = fake.http.post(str(url), data={"result": "complete"})
    assert back.status_code == 303
    assert back.headers["location"].startswith("http://127.0.0.1:9/back?x=1&payment_intent=pi_")
    assert fake.v1.payment_intents.retrieve(asked.id).status == "succeeded"
    with pytest.raises(stripe.CardError, match="authentication"):
        customer.charge(off_session=False, error_on_requires_action=True)


def test_setting_up(fake: Fake) -> None:
    customer = fake.customer()
    made = fake.v1.setup_intents.create(
        {"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True, "usage": "off_session"}
    )
    assert made.status == "succeeded"
    saved = fake.v1.customers.payment_methods.list(customer.id, {"type": "card"}).data
    assert [method.id for method in saved] == [made.payment_method]
    with pytest.raises(stripe.CardError) as raised:
        fake.v1.setup_intents.create(
            {"customer": customer.id, "payment_method": "pm_card_chargeDeclined", "confirm": True}
        )
    assert raised.value.error.setup_intent.status == "requires_payment_method"  # type: ignore[union-attr]
    asked = fake.v1.setup_intents.create({"payment_method": "pm_card_authenticationRequired", "confirm": True})
    assert asked.status == "requires_action"
    assert fake.v1.setup_intents.cancel(asked.id, {"cancellation_reason": "abandoned"}).status == "canceled"


def test_a_detached_card_is_gone(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    detached = fake.v1.payment_methods.detach(customer.method)
    assert detached.customer is None
    assert fake.v1.customers.retrieve(customer.id).invoice_settings.default_payment_method is None  # type: ignore[union-attr]
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        customer.charge()


def test_another_customers_card_cannot_be_used(fake: Fake) -> None:
    one, other = fake.customer("pm_card_visa"), fake.customer("pm_card_visa")
    other.method = one.method
    with pytest.raises(stripe.InvalidRequestError, match="must be attached"):
        other.charge()
    with pytest.raises(stripe.InvalidRequestError, match="include the Customer"):
        fake.v1.payment_intents.create(
            {"amount": 100, "currency": "usd", "payment_method": one.method, "confirm": True}
        )
