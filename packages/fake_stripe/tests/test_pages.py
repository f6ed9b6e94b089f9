"""The hosted pages, used like a browser does: forms, redirections, no scripts."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
import stripe

from support import Fake

GOOD = {"card-number": "4242 4242 4242 4242", "card-expiry": "12 / 34", "card-cvc": "123", "card-name": "A. Rider"}
BACK = "http://127.0.0.1:9/back?session={CHECKOUT_SESSION_ID}"
PARTS = ["setup_intent", "payment_intent.latest_charge", "invoice.payments", "line_items", "customer"]


def setup(fake: Fake, customer: str | None = None, **values: Any) -> stripe.checkout.Session:
    asked = {"mode": "setup", "currency": "usd", "success_url": BACK, "cancel_url": "http://127.0.0.1:9/no", **values}
    return fake.v1.checkout.sessions.create(asked | ({"customer": customer} if customer else {}))  # type: ignore[arg-type]


def payment(fake: Fake, amount: int = 2_500, name: str = "Credits", **values: Any) -> stripe.checkout.Session:
    price = {"currency": "usd", "product_data": {"name": name}, "unit_amount": amount}
    lines = [{"price_data": price, "quantity": 1}]
    return fake.v1.checkout.sessions.create({"mode": "payment", "line_items": lines, "success_url": BACK, **values})  # type: ignore[arg-type]


def submit(fake: Fake, session: stripe.checkout.Session, number: str = "", **fields: str) -> httpx2.Response:
    typed = {**GOOD, **({"card-number": number} if number else {}), **fields}
    return fake.http.post(str(session.url), data=typed)


def test_saving_a_card(fake: Fake) -> None:
    customer = fake.customer()
    session = setup(fake, customer.id)
    page = fake.http.get(str(session.url)).text
    for element in ("card-number", "card-expiry", "card-cvc", "card-name", "submit", "cancel"):
        assert f'id="{element}"' in page
        assert element in ("submit", "cancel") or f'<label for="{element}">' in page
    assert "Test payment page – no real money" in page
    done = submit(fake, session)
    assert (done.status_code, done.headers["location"]) == (303, f"http://127.0.0.1:9/back?session={session.id}")
    ended = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["setup_intent.payment_method"]})
    assert (ended.status, ended.payment_status, ended.url) == ("complete", "no_payment_required", None)
    method = ended.setup_intent.payment_method  # type: ignore[union-attr]
    assert isinstance(method, stripe.PaymentMethod)
    assert (method.customer, method.billing_details.name) == (customer.id, "A. Rider")
    assert fake.types()[-3:] == ["payment_method.attached", "setup_intent.succeeded", "checkout.session.completed"]
    customer.method = method.id
    assert customer.charge().status == "succeeded"
    assert "This session is complete" in fake.http.get(f"/c/pay/{session.id}").text


def test_paying_and_saving_with_an_invoice(fake: Fake) -> None:
    customer = fake.customer()
    session = payment(
        fake,
        customer=customer.id,
        metadata={"top_up": "s"},
        payment_intent_data={"setup_future_usage": "off_session", "metadata": {"top_up": "p"}},
        invoice_creation={"enabled": True, "invoice_data": {"metadata": {"top_up": "i"}}},
    )
    assert (session.amount_total, session.payment_intent, session.payment_status) == (2_500, None, "unpaid")
    assert submit(fake, session).status_code == 303
    ended = fake.v1.checkout.sessions.retrieve(session.id, {"expand": list(PARTS)})
    intent, invoice = ended.payment_intent, ended.invoice
    assert isinstance(intent, stripe.PaymentIntent)
    assert isinstance(invoice, stripe.Invoice)
    assert (ended.payment_status, intent.status, invoice.status) == ("paid", "succeeded", "paid")
    assert invoice.amount_paid == 2_500
    assert invoice.to_dict()["metadata"] == {"top_up": "i"}
    assert intent.metadata.to_dict() == {"top_up": "p"}
    assert invoice.payments.data[0].payment.payment_intent == intent.id  # type: ignore[union-attr]
    assert ended.line_items.data[0].description == "Credits"  # type: ignore[union-attr]
    assert len(fake.v1.customers.payment_methods.list(customer.id).data) == 1
    found = fake.control("GET", "ledger")["payments"][0]
    assert (found["checkout_session"], found["invoice"], found["amount"]) == (session.id, invoice.id, 2_500)


def test_a_customer_is_created_if_none_is_given(fake: Fake) -> None:
    session = payment(fake, payment_intent_data={"setup_future_usage": "off_session"})
    assert 'id="email"' in fake.http.get(str(session.url)).text
    assert submit(fake, session, email="new@example.com").status_code == 303
    made = fake.v1.checkout.sessions.retrieve(session.id, {"expand": ["customer"]}).customer
    assert isinstance(made, stripe.Customer)
    assert (made.email, made.name) == ("new@example.com", "A. Rider")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"card-number": "4000000000000002"}, "Your card was declined."),
        ({"card-number": "4000000000009995"}, "insufficient funds"),
        ({"card-number": "4242424242424241"}, "card number is incorrect"),
        ({"card-number": ""}, "card number is incomplete"),
        ({"card-number": "x" * 400}, "card number is incorrect"),
        ({"card-expiry": "12 / 20"}, "expiration year is invalid"),
        ({"card-expiry": "soon"}, "expiration date is incomplete"),
        ({"card-cvc": "1"}, "security code is incomplete"),
    ],
)
@pytest.mark.parametrize("mode", ["setup", "payment"])
def test_unusable_cards(fake: Fake, mode: str, fields: dict[str, str], message: str) -> None:
    customer = fake.customer().id
    session = setup(fake, customer) if mode == "setup" else payment(fake, customer=customer)
    page = submit(fake, session, **fields)
    assert page.status_code == 422
    assert message in page.text.replace("&#x27;", "'")
    assert 'role="alert"' in page.text
    assert submit(fake, session).status_code == 303


@pytest.mark.parametrize("mode", ["setup", "payment"])
def test_the_banks_page(fake: Fake, mode: str) -> None:
    customer = fake.customer()
    session = setup(fake, customer.id) if mode == "setup" else payment(fake, customer=customer.id)
    asked = submit(fake, session, "4000002500003155")
    assert asked.headers["location"] == f"/c/pay/{session.id}/authenticate"
    page = fake.http.get(asked.headers["location"]).text
    assert 'id="authenticate"' in page
    assert 'id="fail"' in page
    refused = fake.http.post(asked.headers["location"], data={"result": "fail"})
    assert refused.status_code == 422
    assert "unable to authenticate" in refused.text
    assert submit(fake, session, "4000002500003155").status_code == 303
    done = fake.http.post(asked.headers["location"], data={"result": "complete"})
    assert done.headers["location"].startswith("http://127.0.0.1:9/back")
    if mode == "setup":
        customer.method = fake.v1.customers.payment_methods.list(customer.id).data[0].id
        assert customer.charge().status == "succeeded"  # it was authenticated for later charges


def test_links_fill_in_test_cards(fake: Fake) -> None:
    session = setup(fake)
    page = fake.http.get(str(session.url)).text
    links = re.findall(r'href="([^"]+\?card=\d+)"', page)
    assert len(links) >= 10
    assert 'value="4242424242424242"' in fake.http.get(links[0]).text
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"


def test_sessions_end(fake: Fake) -> None:
    session, other = setup(fake), payment(fake)
    assert fake.v1.checkout.sessions.expire(session.id).status == "expired"
    fake.advance(86_401)
    assert fake.v1.checkout.sessions.retrieve(other.id).status == "expired"
    assert "has expired" in fake.http.get(f"/c/pay/{session.id}").text
    assert "has expired" in fake.http.post(f"/c/pay/{session.id}", data=GOOD).text
    assert fake.types().count("checkout.session.expired") == 2
    assert len(fake.v1.checkout.sessions.list({"status": "expired"}).data) == 2


def test_the_hosted_invoice(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    fake.control("POST", f"cards/{customer.method}", behave="insufficient_funds")
    invoice = customer.invoice(4_200)
    url = str(invoice.hosted_invoice_url)
    page = fake.http.get(url).text
    assert f'id="pay-{customer.method}"' in page
    assert "$42.00" in page
    failed = fake.http.post(url, data={"saved": customer.method})
    assert failed.status_code == 422
    assert "insufficient funds" in failed.text
    assert fake.http.post(url, data={**GOOD, "card-number": "4000002760003184"}).status_code == 303
    assert fake.v1.invoices.retrieve(invoice.id).status == "open"
    assert fake.http.post(f"{url}/authenticate", data={"result": "complete"}).status_code == 303
    page = fake.http.get(url).text
    assert "Status: paid" in page
    assert "card-number" not in page
    assert fake.http.get(url[:-1]).status_code == 404


class Scan(HTMLParser):
    """Every element of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_from_outside_becomes_markup(fake: Fake) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror='x'>"
    customer = fake.customer()
    session = payment(fake, name=evil, customer=customer.id, cancel_url="http://127.0.0.1:9/?q=%22%3E%3Cscript%3E")
    pages = [
        fake.http.get(str(session.url)),
        fake.http.get(f"{session.url}?card=%22%3E%3Cscript%3E"),
        fake.http.post(str(session.url), data=dict.fromkeys(GOOD, evil)),
        fake.http.get(str(customer.invoice(description=evil).hosted_invoice_url)),
        fake.http.get("/c/pay/%3Cscript%3E"),
    ]
    for page in pages:
        tags = {tag for tag, _ in Scan(page.text).found}
        assert not tags & {"script", "img"}
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_every_field_has_a_label(fake: Fake) -> None:
    elements = Scan(fake.http.get(str(setup(fake).url)).text).found
    labels = {values.get("for") for tag, values in elements if tag == "label"}
    assert {values["id"] for tag, values in elements if tag == "input"} == labels
    assert [values for tag, values in elements if tag == "html"] == [{"lang": "en"}]


def test_pages_act_on_post_only(fake: Fake) -> None:
    session = setup(fake, fake.customer().id)
    fake.http.get(str(session.url), params=GOOD)
    assert fake.v1.checkout.sessions.retrieve(session.id).status == "open"
    assert fake.http.put(str(session.url), data=GOOD).status_code == 404
    assert fake.http.get("/").status_code == 200
    assert fake.http.get("/nowhere").status_code == 404
