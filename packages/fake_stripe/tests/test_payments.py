"""Payments, refunds, disputes, the balance and the tester's statement, to the cent."""

import pytest
import stripe

from support import Fake


def test_a_charge_and_its_fee(fake: Fake) -> None:
    paid = fake.customer("pm_card_visa").charge(10_000, expand=["latest_charge.balance_transaction"])
    charge = paid.latest_charge
    assert isinstance(charge, stripe.Charge)
    booked = charge.balance_transaction
    assert isinstance(booked, stripe.BalanceTransaction)
    assert (booked.amount, booked.fee, booked.net, booked.status) == (10_000, 320, 9_680, "pending")
    assert fake.v1.balance.retrieve().pending[0].amount == 9_680
    fake.advance(3 * 86400)
    assert fake.v1.balance.retrieve().available[0].amount == 9_680
    assert fake.v1.balance_transactions.list({"source": charge.id}).data[0].status == "available"


def test_manual_capture(fake: Fake) -> None:
    held = fake.customer("pm_card_visa").charge(2_000, capture_method="manual")
    assert (held.status, held.amount_capturable) == ("requires_capture", 2_000)
    assert fake.control("GET", "ledger")["payments"] == []
    taken = fake.v1.payment_intents.capture(held.id, {"amount_to_capture": 1_500})
    assert (taken.status, taken.amount_received) == ("succeeded", 1_500)
    assert fake.control("GET", "ledger")["totals"]["captured"] == 1_500
    with pytest.raises(stripe.InvalidRequestError) as raised:
        fake.v1.payment_intents.cancel(held.id)
    assert raised.value.code == "payment_intent_unexpected_state"


def test_steps_of_a_payment_intent(fake: Fake) -> None:
    made = fake.v1.payment_intents.create({"amount": 500, "currency": "USD", "metadata": {"a": "1", "b": "2"}})
    assert (made.status, made.currency) == ("requires_payment_method", "usd")
    changed = fake.v1.payment_intents.update(made.id, {"amount": 600, "metadata": {"a": "", "c": "3"}})
    assert (changed.amount, changed.metadata.to_dict()) == (600, {"b": "2", "c": "3"})
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        fake.v1.payment_intents.confirm(made.id)
    assert fake.v1.payment_intents.confirm(made.id, {"payment_method": "pm_card_visa"}).status == "succeeded"
    found = fake.v1.payment_intents.search({"query": "metadata['c']:'3' AND amount>=600 -status:'canceled'"})
    assert [intent.id for intent in found.data] == [made.id]


def test_refunds_never_give_back_more_than_came_in(fake: Fake) -> None:
    paid = fake.customer("pm_card_visa").charge(1_000)
    first = fake.v1.refunds.create({"payment_intent": paid.id, "amount": 300, "metadata": {"why": "test"}})
    assert (first.status, first.amount, first.charge) == ("succeeded", 300, paid.latest_charge)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        fake.v1.refunds.create({"payment_intent": paid.id, "amount": 701})
    assert fake.v1.refunds.create({"charge": str(paid.latest_charge)}).amount == 700
    with pytest.raises(stripe.InvalidRequestError) as raised:
        fake.v1.refunds.create({"payment_intent": paid.id})
    assert raised.value.code == "charge_already_refunded"
    charge = fake.v1.charges.retrieve(str(paid.latest_charge), {"expand": ["refunds"]})
    assert (charge.amount_refunded, charge.refunded) == (1_000, True)
    assert [refund.amount for refund in charge.refunds.data] == [700, 300]  # type: ignore[union-attr]
    assert fake.types(types=["refund.created", "charge.refunded"]) == ["refund.created", "charge.refunded"] * 2


@pytest.mark.parametrize(
    ("token", "first", "last"),
    [("pm_card_pendingRefund", "pending", "succeeded"), ("pm_card_refundFail", "succeeded", "failed")],
)
def test_refunds_that_are_decided_later(fake: Fake, token: str, first: str, last: str) -> None:
    paid = fake.customer(token).charge(1_000)
    refund = fake.v1.refunds.create({"payment_intent": paid.id})
    assert refund.status == first
    fake.advance(60)
    assert fake.v1.refunds.retrieve(refund.id).status == last
    failed = last == "failed"
    assert ("refund.failed" in fake.types()) is failed
    assert fake.v1.charges.retrieve(str(paid.latest_charge)).amount_refunded == (0 if failed else 1_000)
    assert fake.control("GET", "ledger")["totals"]["refunded"] == (0 if failed else 1_000)
    fees = 59
    assert fake.control("GET", "ledger")["totals"]["net"] == (1_000 if failed else 0) - fees


def test_a_dispute_that_is_won(fake: Fake) -> None:
    paid = fake.customer("pm_card_createDispute").charge(1_000)
    dispute = fake.v1.disputes.list({"payment_intent": paid.id}).data[0]
    assert (dispute.status, dispute.amount, dispute.reason) == ("needs_response", 1_000, "fraudulent")
    assert [entry.net for entry in dispute.balance_transactions] == [-2_500]
    with pytest.raises(stripe.InvalidRequestError) as raised:
        fake.v1.refunds.create({"payment_intent": paid.id})
    assert raised.value.code == "charge_disputed"
    won = fake.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}, "submit": True})
    assert won.status == "won"
    assert (
        fake.types()[-6:]
        == [
            "charge.dispute.created",
            "charge.updated",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.updated",
            "charge.dispute.funds_reinstated",
            "charge.dispute.updated",
            "charge.dispute.closed",
        ][-6:]
    )
    assert fake.v1.refunds.create({"payment_intent": paid.id, "amount": 1}).status == "succeeded"


def test_a_dispute_that_is_lost(fake: Fake) -> None:
    paid = fake.customer("pm_card_visa").charge(1_000)
    fake.v1.refunds.create({"payment_intent": paid.id, "amount": 400})
    made = fake.control("POST", "disputes", payment_intent=paid.id, reason="duplicate")
    assert (made["amount"], made["reason"]) == (600, "duplicate")
    assert fake.v1.disputes.close(made["id"]).status == "lost"
    with pytest.raises(stripe.InvalidRequestError, match="already closed"):
        fake.v1.disputes.close(made["id"])
    totals = fake.control("GET", "ledger")["totals"]
    assert (totals["captured"], totals["refunded"], totals["withdrawn"]) == (1_000, 400, 600)
    assert totals["net"] == 1_000 - 59 - 400 - 600 - 1_500


def test_an_inquiry_takes_no_money(fake: Fake) -> None:
    paid = fake.customer("pm_card_createDisputeInquiry").charge(1_000)
    dispute = fake.v1.disputes.list({"charge": str(paid.latest_charge)}).data[0]
    assert dispute.status == "warning_needs_response"
    assert list(dispute.balance_transactions) == []
    assert fake.v1.disputes.close(dispute.id).status == "warning_closed"
    assert fake.control("GET", "ledger")["totals"]["withdrawn"] == 0


def test_the_tester_closes_a_dispute(fake: Fake) -> None:
    invoice = fake.customer("pm_card_visa").invoice(2_000)
    fake.v1.invoices.pay(invoice.id)
    made = fake.control("POST", "disputes", invoice=invoice.id)
    assert fake.control("POST", f"disputes/{made['id']}/close", status="won")["status"] == "won"
    assert fake.control("GET", "ledger")["totals"]["withdrawn"] == 0


def test_the_statement_names_what_was_paid_for(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    invoice = customer.invoice(2_500, metadata={"top_up": "t1"})
    fake.v1.invoices.pay(invoice.id)
    customer.charge(700, metadata={"top_up": "t2"})
    one, two = fake.control("GET", "ledger")["payments"]
    assert (one["amount"], one["invoice"], one["invoice_metadata"]) == (2_500, invoice.id, {"top_up": "t1"})
    assert (two["amount"], two["invoice"], two["metadata"]) == (700, None, {"top_up": "t2"})
    assert fake.control("GET", "ledger")["totals"]["captured"] == 3_200


def test_lists_are_paged(fake: Fake) -> None:
    customer = fake.customer("pm_card_visa")
    ids = [customer.charge(100 + n).id for n in range(7)]
    newest_first = ids[::-1]
    first = fake.v1.payment_intents.list({"limit": 3})
    assert [intent.id for intent in first.data] == newest_first[:3]
    assert first.has_more
    assert [intent.id for intent in first.auto_paging_iter()] == newest_first
    back = fake.v1.payment_intents.list({"limit": 2, "ending_before": newest_first[4]})
    assert [intent.id for intent in back.data] == newest_first[2:4]
    now = fake.control("GET", "clock")["now"]
    fake.advance(100)
    customer.charge(999)
    later = fake.v1.payment_intents.list({"created": {"gt": now + 50}})
    assert [intent.amount for intent in later.data] == [999]
    assert fake.v1.charges.list({"customer": customer.id, "limit": 100}).data[0].amount == 999
