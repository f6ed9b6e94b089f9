"""Invoices from draft to paid, failed or void."""

import pytest
import stripe

from support import Fake

EXPAND = ["payments.data.payment.payment_intent.latest_charge", "confirmation_secret"]


def test_an_invoice_is_paid_off_session(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    invoice = customer.invoice(2_500, metadata={"top_up": "t1"})
    assert (invoice.status, invoice.total, invoice.amount_due, invoice.attempted) == ("open", 2_500, 2_500, False)
    assert (invoice.number or "").endswith("-0001")
    paid = fake.v1.invoices.pay(
        invoice.id, {"off_session": True, "payment_method": customer.method, "expand": list(EXPAND)}
    )
    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.attempt_count) == ("paid", 2_500, 0, 1)
    assert paid.payments is not None
    payment = paid.payments.data[0]
    assert (payment.status, payment.amount_paid, payment.is_default) == ("paid", 2_500, True)
    intent = payment.payment.payment_intent
    assert isinstance(intent, stripe.PaymentIntent)
    assert isinstance(intent.latest_charge, stripe.Charge)
    assert intent.latest_charge.amount == 2_500
    assert paid.confirmation_secret.client_secret == intent.client_secret  # type: ignore[union-attr]
    assert [line.amount for line in paid.lines.data] == [2_500]
    assert fake.v1.invoices.line_items.list(invoice.id).data[0].description == "Credits"
    found = fake.v1.invoice_payments.list({"payment": {"type": "payment_intent", "payment_intent": intent.id}})
    assert [payment.invoice for payment in found.data] == [invoice.id]
    events = fake.types(types=["invoice.created", "invoice.finalized", "invoice.paid", "invoice.payment_succeeded"])
    assert events == ["invoice.created", "invoice.finalized", "invoice.paid", "invoice.payment_succeeded"]


def test_a_declined_invoice_stays_open_and_can_be_paid_later(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    fake.control("POST", f"cards/{customer.method}", behave="insufficient_funds")
    invoice = customer.invoice()
    with pytest.raises(stripe.CardError) as raised:
        fake.v1.invoices.pay(invoice.id, {"off_session": True})
    assert (raised.value.http_status, raised.value.error.decline_code) == (402, "insufficient_funds")  # type: ignore[union-attr]
    failed = fake.v1.invoices.retrieve(invoice.id, {"expand": list(EXPAND)})
    assert (failed.status, failed.attempted, failed.attempt_count) == ("open", True, 1)
    assert "invoice.payment_failed" in fake.types()
    fake.control("POST", f"cards/{customer.method}", behave="ok")
    assert fake.v1.invoices.pay(invoice.id).status == "paid"
    assert fake.control("GET", "ledger")["totals"]["captured"] == 1_000


def test_an_invoice_whose_payer_must_authenticate(fake: Fake) -> None:
    customer = fake.customer("pm_card_authenticationRequired")
    invoice = customer.invoice()
    with pytest.raises(stripe.CardError) as raised:
        fake.v1.invoices.pay(invoice.id, {"off_session": True})
    assert raised.value.code == "invoice_payment_intent_requires_action"
    assert "invoice.payment_action_required" in fake.types()
    open_still = fake.v1.invoices.retrieve(invoice.id, {"expand": list(EXPAND)})
    assert open_still.payments.data[0].payment.payment_intent.status == "requires_action"  # type: ignore[union-attr]
    url = str(open_still.hosted_invoice_url)
    assert fake.http.post(f"{url}/authenticate", data={"result": "complete"}).status_code == 303
    assert fake.v1.invoices.retrieve(invoice.id).status == "paid"


def test_invalid_invoice_operations_are_refused(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    paid = customer.invoice()
    fake.v1.invoices.pay(paid.id)
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        fake.v1.invoices.pay(paid.id)
    with pytest.raises(stripe.InvalidRequestError, match="only void"):
        fake.v1.invoices.void_invoice(paid.id)
    voided = customer.invoice()
    assert fake.v1.invoices.void_invoice(voided.id).status == "void"
    with pytest.raises(stripe.InvalidRequestError, match="void"):
        fake.v1.invoices.pay(voided.id)
    with pytest.raises(stripe.InvalidRequestError, match="already finalized"):
        fake.v1.invoices.finalize_invoice(voided.id)
    with pytest.raises(stripe.InvalidRequestError, match="draft"):
        fake.v1.invoices.delete(voided.id)
    intents = fake.v1.payment_intents.list({"customer": customer.id}).data
    assert sorted(intent.status for intent in intents) == ["canceled", "succeeded"]


def test_an_invoice_without_a_card(fake: Fake) -> None:
    customer = fake.customer()
    invoice = customer.invoice()
    with pytest.raises(stripe.InvalidRequestError, match="default_payment_method"):
        fake.v1.invoices.pay(invoice.id)
    by_hand = fake.v1.invoices.pay(invoice.id, {"paid_out_of_band": True})
    assert by_hand.status == "paid"
    assert fake.control("GET", "ledger")["payments"] == []


def test_pending_items_taxes_and_credit(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    rate = fake.v1.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": False})
    fake.v1.invoice_items.create({"customer": customer.id, "amount": 1_000, "currency": "usd"})
    fake.v1.customers.balance_transactions.create(customer.id, {"amount": -190, "currency": "usd"})
    draft = fake.v1.invoices.create(
        {
            "customer": customer.id,
            "pending_invoice_items_behavior": "include",
            "default_tax_rates": [rate.id],
        }
    )
    assert (draft.subtotal, draft.total, draft.status) == (1_000, 1_190, "draft")
    paid = fake.v1.invoices.pay(draft.id)
    assert (paid.status, paid.total, paid.amount_paid, paid.starting_balance) == ("paid", 1_190, 1_000, -190)
    assert fake.v1.customers.retrieve(customer.id).balance == 0
    assert [(tax.amount, tax.taxable_amount) for tax in paid.total_taxes or []] == [(190, 1_000)]
    assert fake.v1.invoices.list({"customer": customer.id, "status": "paid"}).data[0].id == paid.id


def test_an_invoice_that_advances_by_itself(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    fake.v1.invoice_items.create({"customer": customer.id, "amount": 1_000, "currency": "usd"})
    draft = fake.v1.invoices.create(
        {"customer": customer.id, "auto_advance": True, "pending_invoice_items_behavior": "include"}
    )
    fake.advance(3_601)
    assert fake.v1.invoices.retrieve(draft.id).status == "paid"


def test_an_invoice_of_nothing_is_paid_at_once(fake: Fake) -> None:
    made = fake.v1.invoices.create({"customer": fake.customer().id})
    assert fake.v1.invoices.finalize_invoice(made.id).status == "paid"


def test_credit_notes(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    invoice = customer.invoice(1_000)
    note = fake.v1.credit_notes.create({"invoice": invoice.id, "amount": 400})
    assert (note.status, note.type) == ("issued", "pre_payment")
    paid = fake.v1.invoices.pay(invoice.id)
    assert paid.amount_paid == 600
    back = fake.v1.credit_notes.create({"invoice": invoice.id, "amount": 100, "refund_amount": 100})
    assert back.type == "post_payment"
    totals = fake.control("GET", "ledger")["totals"]
    assert (totals["captured"], totals["refunded"]) == (600, 100)
    assert len(fake.v1.credit_notes.list({"invoice": invoice.id}).data) == 2


def test_the_pdf(fake: Fake) -> None:
    invoice = fake.customer().invoice()
    pdf = fake.http.get(str(invoice.invoice_pdf))
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.content.startswith(b"%PDF-1.4")
    assert pdf.content.rstrip().endswith(b"%%EOF")
