"""The Stripe adapter: every method, and every way in which a response can be missing."""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import stripe

from farebox.payments.metadata import top_up_of
from farebox.payments.processor import (
    Declined,
    InvalidSignature,
    ProcessorInvoice,
    ProcessorLine,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.payments.stripe import StripeProcessor
from farebox.payments.stripe_objects import read_dispute, read_invoice
from tests.payments.stripe_kit import FORM, KEY, WEBHOOK_SECRET, Stripe, running_stripe

LINES = [ProcessorLine("Prepaid credit", 5000), ProcessorLine("Service fee", 250), ProcessorLine("VAT 19 %", 998)]
TOTAL = 6248
MARKS = {"farebox_account": "acme", "farebox_top_up": "t1"}
NOW = 1_790_000_000_000


@pytest.fixture
async def kit() -> AsyncIterator[Stripe]:
    async with running_stripe() as running:
        yield running


@pytest.fixture
async def customer(kit: Stripe) -> str:
    return await kit.customer()


@pytest.fixture
async def card(kit: Stripe, customer: str) -> str:
    return await kit.card(customer)


async def opened(kit: Stripe, customer: str, card: str, key: str = "k1") -> ProcessorInvoice:
    return await kit.processor.open_invoice(customer, LINES, card_id=card, metadata=MARKS, key=key)


async def paid(kit: Stripe, customer: str, card: str, key: str = "k1") -> ProcessorInvoice:
    invoice = await opened(kit, customer, card, key)
    return await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key=f"{key}:pay")


# --- customers and cards ----------------------------------------------------------------------------------------------


async def test_a_customer_is_created_once_per_key(kit: Stripe) -> None:
    first = await kit.processor.create_customer("acme", name="Acme", email="", key="k")
    assert await kit.processor.create_customer("acme", name="Acme", email="", key="k") == first
    found = await kit.sdk.customers.retrieve_async(first)
    assert found.name == "Acme"
    assert found.metadata is not None
    assert found.metadata["farebox_account"] == "acme"


async def test_cards_are_listed_with_the_default_one(kit: Stripe, customer: str, card: str) -> None:
    other = await kit.card(customer, "pm_card_mastercard")
    assert [found.is_default for found in await kit.processor.cards(customer)] == [False, False]
    await kit.processor.set_default_card(customer, card)
    found = {one.card_id: one for one in await kit.processor.cards(customer)}
    assert found[card].is_default
    assert not found[other].is_default
    assert (found[other].brand, found[other].last4) == ("mastercard", "4444")
    assert found[card].fingerprint != found[other].fingerprint
    assert found[card].created_at % 1000 == 0
    await kit.processor.remove_card(other)
    await kit.processor.remove_card(other)  # a repeat is harmless
    assert [one.card_id for one in await kit.processor.cards(customer)] == [card]


async def test_the_same_card_twice_has_one_fingerprint(kit: Stripe, customer: str, card: str) -> None:
    again = await kit.card(customer)
    found = {one.card_id: one.fingerprint for one in await kit.processor.cards(customer)}
    assert found[card] == found[again]


async def test_more_cards_than_a_page_holds(kit: Stripe, customer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.payments.stripe.PAGE", 2)
    saved = {await kit.card(customer) for _ in range(5)}
    assert {one.card_id for one in await kit.processor.cards(customer)} == saved


async def test_a_deleted_or_unknown_customer_is_refused(kit: Stripe, customer: str) -> None:
    await kit.sdk.customers.delete_async(customer)
    for name, code in ((customer, "customer_deleted"), ("cus_nobody", "resource_missing")):
        with pytest.raises(ProcessorRefused) as refused:
            await kit.processor.cards(name)
        assert refused.value.code == code


# --- invoices ---------------------------------------------------------------------------------------------------------


async def test_an_invoice_is_opened_with_its_lines_and_nothing_is_charged(
    kit: Stripe, customer: str, card: str
) -> None:
    await kit.sdk.invoice_items.create_async(
        {"customer": customer, "amount": 777, "currency": "usd"}
    )  # of another account
    invoice = await opened(kit, customer, card)
    assert (invoice.state, invoice.payment_state) == ("open", "none")
    assert (invoice.amount_cents, invoice.paid_cents) == (TOTAL, 0)
    assert invoice.customer_id == customer
    assert MARKS.items() <= invoice.metadata.items()
    assert invoice.hosted_url is not None
    found = await kit.sdk.invoices.retrieve_async(invoice.invoice_id)
    assert {(line.description, line.amount) for line in found.lines.data} == {
        (line.description, line.amount_cents) for line in LINES
    }
    assert found.auto_advance is False


async def test_an_invoice_whose_lines_are_refused_is_deleted(kit: Stripe, customer: str, card: str) -> None:
    for lines in ([ProcessorLine("Prepaid credit", 10**9)], [ProcessorLine("x" * 501, 5000)]):
        with pytest.raises(ProcessorRefused):
            await kit.processor.open_invoice(customer, lines, card_id=card, metadata=MARKS, key=lines[0].description)
    assert [invoice async for invoice in kit.processor.invoices(since=0)] == []


async def test_a_zero_line_is_in_the_footer(kit: Stripe, customer: str, card: str) -> None:
    lines = [ProcessorLine("Prepaid credit", 5000), ProcessorLine("VAT 0 %: reverse charge", 0)]
    invoice = await kit.processor.open_invoice(customer, lines, card_id=card, metadata=MARKS, key="k")
    assert invoice.amount_cents == 5000
    found = await kit.sdk.invoices.retrieve_async(invoice.invoice_id)
    assert found.footer == "VAT 0 %: reverse charge"


async def test_paying_charges_the_card_once(kit: Stripe, customer: str, card: str) -> None:
    invoice = await paid(kit, customer, card)
    assert (invoice.state, invoice.payment_state) == ("paid", "succeeded")
    assert invoice.paid_cents == TOTAL
    assert invoice.payment_intent_id
    assert invoice.charge_id
    assert await paid(kit, customer, card) == invoice  # the same keys
    again = await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="another")
    assert again == invoice
    assert len((await kit.sdk.charges.list_async({"customer": customer})).data) == 1


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("insufficient_funds", "try_again_later"),
        ("lost_card", "do_not_try_again"),
        ("expired_card", "do_not_try_again"),
        ("incorrect_cvc", "confirm_card_data"),
        ("generic_decline", "try_again_later"),
    ],
)
async def test_a_decline_names_its_code_and_the_advice(
    kit: Stripe, customer: str, card: str, code: str, advice: str
) -> None:
    await kit.behave(card, code)
    invoice = await opened(kit, customer, card)
    with pytest.raises(Declined) as declined:
        await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    assert (declined.value.code, declined.value.advice) == (code, advice)
    assert declined.value.message
    found = await kit.processor.fetch_invoice(invoice.invoice_id)
    assert (found.state, found.payment_state) == ("open", "failed")
    assert (found.decline_code, found.decline_advice) == (code, advice)
    with pytest.raises(Declined):  # the same key: the same response
        await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    await kit.behave(card, "ok")
    again = await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p2")
    assert again.state == "paid"


async def test_a_repeated_decline_does_not_hide_a_later_payment(kit: Stripe, customer: str, card: str) -> None:
    await kit.behave(card, "insufficient_funds")
    invoice = await opened(kit, customer, card)
    with pytest.raises(Declined):
        await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    assert invoice.hosted_url is not None
    await kit.submit(invoice.hosted_url, {**FORM, "card-number": "4242424242424242"})
    found = await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    assert found.state == "paid"


@pytest.mark.parametrize("on_session", [False, True])
async def test_a_payment_to_confirm_has_its_state_and_is_completed_on_the_page(
    kit: Stripe, customer: str, card: str, on_session: bool
) -> None:
    await kit.behave(card, "authentication_required")
    invoice = await opened(kit, customer, card)
    found = await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=on_session, key="p1")
    assert (found.state, found.payment_state) == ("open", "action_required")
    assert found.client_secret
    assert found.hosted_url
    assert found.decline_code == "authentication_required"
    assert (await kit.processor.fetch_invoice(invoice.invoice_id)).payment_state == "action_required"
    page = await kit.submit(found.hosted_url, {"saved": card})
    assert page.status_code == 303, page.text
    await kit.submit(page.headers["location"], {"result": "complete"})
    assert (await kit.processor.fetch_invoice(invoice.invoice_id)).state == "paid"


async def test_a_void_invoice_can_not_be_paid(kit: Stripe, customer: str, card: str) -> None:
    invoice = await opened(kit, customer, card)
    assert (await kit.processor.void_invoice(invoice.invoice_id)).state == "void"
    assert (await kit.processor.void_invoice(invoice.invoice_id)).state == "void"
    with pytest.raises(ProcessorRefused):
        await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p")


async def test_voiding_keeps_a_paid_invoice_and_deletes_a_draft(kit: Stripe, customer: str, card: str) -> None:
    invoice = await paid(kit, customer, card)
    assert (await kit.processor.void_invoice(invoice.invoice_id)).state == "paid"
    draft = await kit.sdk.invoices.create_async({"customer": customer, "auto_advance": False})
    assert (await kit.processor.void_invoice(draft.id)).state == "void"
    with pytest.raises(ProcessorRefused) as refused:
        await kit.processor.fetch_invoice(draft.id)
    assert refused.value.code == "resource_missing"


async def test_invoices_are_listed_newest_first_page_by_page(
    kit: Stripe, customer: str, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farebox.payments.stripe.PAGE", 2)
    made = [(await paid(kit, customer, card, f"k{number}")).invoice_id for number in range(3)]
    open_one = await opened(kit, customer, card, "open")
    other = await kit.customer("beta")
    listed = [found async for found in kit.processor.invoices(since=0, customer_id=customer)]
    assert {found.invoice_id for found in listed} == {*made, open_one.invoice_id}
    assert [found.state for found in listed].count("paid") == 3
    assert all(found.payment_intent_id for found in listed)
    assert [found async for found in kit.processor.invoices(since=0, customer_id=other)] == []
    assert [found async for found in kit.processor.invoices(since=NOW * 2)] == []


async def test_an_amount_in_another_currency_is_rejected() -> None:
    body = {"id": "in_1", "status": "paid", "currency": "eur", "total": 5000, "amount_paid": 5000, "created": 1}
    assert read_invoice(body).paid_cents == 0
    assert read_invoice({**body, "currency": "usd"}).paid_cents == 5000


# --- missing responses ------------------------------------------------------------------------------------------------

STEPS = ["POST /v1/invoices", "POST /v1/invoices/*/add_lines", "POST /v1/invoices/*/finalize"]
LOST = ["timeout_before", "timeout_after_commit", "reset_before", "reset_after_commit", "rate_limit_429"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", LOST)
async def test_an_invoice_whose_response_was_lost_is_the_same_one_under_the_same_key(
    kit: Stripe, customer: str, card: str, step: str, kind: str
) -> None:
    await kit.fault(step, kind)
    with contextlib.suppress(ProcessorUnavailable):
        await opened(kit, customer, card)
    invoice = await opened(kit, customer, card)
    assert (invoice.state, invoice.amount_cents) == ("open", TOTAL)
    assert await kit.invoice_count(customer) == 1
    assert (await opened(kit, customer, card)).invoice_id == invoice.invoice_id


@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_that_stripe_repeats_for_the_key_is_not_taken_as_the_result(
    kit: Stripe, customer: str, card: str, step: str
) -> None:
    await kit.fault(step, "error_500_after_commit")
    invoice = await opened(kit, customer, card)
    assert (invoice.state, invoice.amount_cents) == ("open", TOTAL)
    assert (await opened(kit, customer, card)).invoice_id == invoice.invoice_id
    assert await kit.invoice_count(customer) == 1


@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_before_anything_happened_is_unavailable(
    kit: Stripe, customer: str, card: str, step: str
) -> None:
    await kit.fault(step, "error_500_before")
    with pytest.raises(ProcessorUnavailable):
        await opened(kit, customer, card)


@pytest.mark.parametrize("kind", [*LOST, "error_500_after_commit"])
async def test_a_payment_whose_response_was_lost_is_unavailable_and_never_charged_twice(
    kit: Stripe, customer: str, card: str, kind: str
) -> None:
    invoice = await opened(kit, customer, card)
    await kit.fault("POST /v1/invoices/*/pay", kind)
    with pytest.raises(ProcessorUnavailable):
        await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    if kind == "error_500_after_commit":  # Stripe repeats it for the key for a day; the invoice has the real state
        found = await kit.processor.fetch_invoice(invoice.invoice_id)
    else:
        found = await kit.processor.pay_invoice(invoice.invoice_id, card_id=card, on_session=False, key="p1")
    assert found.state == "paid"
    assert len((await kit.sdk.charges.list_async({"customer": customer})).data) == 1


async def test_no_connection_is_unavailable() -> None:
    processor = StripeProcessor(KEY, webhook_secret=WEBHOOK_SECRET, api_base="http://127.0.0.1:9")
    with pytest.raises(ProcessorUnavailable):
        await processor.fetch_invoice("in_1")
    await processor.close()


async def test_a_key_with_other_content_is_refused(kit: Stripe, customer: str, card: str) -> None:
    await opened(kit, customer, card)
    with pytest.raises(ProcessorRefused) as refused:
        await kit.processor.open_invoice(customer, LINES, card_id=card, metadata={"other": "1"}, key="k1")
    assert refused.value.code == "idempotency_error"


@pytest.mark.parametrize(
    ("status", "error", "raised"),
    [
        (409, {"type": "idempotency_error", "code": "idempotency_key_in_use", "message": "in use"}, "unavailable"),
        (400, {"type": "idempotency_error", "code": "idempotency_key_in_use", "message": "in use"}, "unavailable"),
        (429, {"type": "invalid_request_error", "code": "lock_timeout", "message": "lock"}, "unavailable"),
        (400, {"type": "invalid_request_error", "code": "lock_timeout", "message": "lock"}, "unavailable"),
        (429, {"type": "invalid_request_error", "code": "rate_limit", "message": "slow"}, "unavailable"),
        (500, {"type": "api_error", "message": "oops"}, "unavailable"),
        (503, {"type": "api_error", "message": "oops"}, "unavailable"),
        (424, {"type": "api_error", "message": "dependency"}, "unavailable"),
        (400, {"type": "invalid_request_error", "code": "parameter_missing", "message": "no"}, "parameter_missing"),
        (404, {"type": "invalid_request_error", "code": "resource_missing", "message": "no"}, "resource_missing"),
        (400, {"type": "idempotency_error", "message": "other parameters"}, "idempotency_error"),
        (401, {"type": "invalid_request_error", "message": f"Invalid API Key provided: {KEY}"}, "authentication"),
        (403, {"type": "invalid_request_error", "message": "may not"}, "permission"),
        (402, {"type": "card_error", "code": "card_declined", "message": "no"}, "card_declined"),
    ],
)
async def test_every_class_of_error(status: int, error: dict[str, str], raised: str) -> None:
    processor = StripeProcessor(KEY, webhook_secret="", api_base="http://x", http_client=_Answering(status, error))
    with pytest.raises((ProcessorUnavailable, ProcessorRefused)) as caught:
        await processor.fetch_refund("re_1")
    if raised == "unavailable":
        assert isinstance(caught.value, ProcessorUnavailable)
    else:
        assert isinstance(caught.value, ProcessorRefused)
        assert caught.value.code == raised
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "[]", '{"error": "no object"}'])
@pytest.mark.parametrize("status", [200, 502])
async def test_an_invalid_response_is_unavailable(status: int, body: str) -> None:
    processor = StripeProcessor(KEY, webhook_secret="", api_base="http://x", http_client=_Answering(status, body))
    with pytest.raises(ProcessorUnavailable):
        await processor.fetch_refund("re_1")


class _Answering(stripe.HTTPXClient):
    """Gives every request the same response."""

    def __init__(self, status: int, response: dict[str, str] | str) -> None:
        super().__init__()
        self.response = (response if isinstance(response, str) else json.dumps({"error": response})).encode()
        self.status = status

    async def request_async(self, *_: object) -> tuple[bytes, int, dict[str, str]]:
        return self.response, self.status, {}


# --- hosted pages -----------------------------------------------------------------------------------------------------


async def test_a_setup_page_saves_a_card(kit: Stripe, customer: str) -> None:
    checkout = await kit.processor.open_setup(
        customer, success_url="http://x.example/ok", cancel_url="http://x.example/no", metadata=MARKS, key="s1"
    )
    assert (checkout.mode, checkout.state, checkout.paid, checkout.card_id) == ("setup", "open", False, None)
    assert checkout.url is not None
    done = await kit.submit(checkout.url, {**FORM, "card-number": "4242424242424242"})
    assert done.headers["location"] == "http://x.example/ok"
    found = await kit.processor.fetch_checkout(checkout.checkout_id)
    assert (found.state, found.customer_id, found.paid) == ("complete", customer, False)
    assert found.metadata == MARKS
    assert [card.card_id for card in await kit.processor.cards(customer)] == [found.card_id]


async def test_a_purchase_page_charges_saves_the_card_and_makes_an_invoice(kit: Stripe, customer: str) -> None:
    lines = [*LINES, ProcessorLine("VAT 0 %: reverse charge", 0)]
    checkout = await kit.processor.open_purchase(
        customer, lines, success_url="http://x.example/ok", cancel_url="http://x.example", metadata=MARKS, key="b1"
    )
    repeat = await kit.processor.open_purchase(
        customer, lines, success_url="http://x.example/ok", cancel_url="http://x.example", metadata=MARKS, key="b1"
    )
    assert repeat.checkout_id == checkout.checkout_id
    assert checkout.url is not None
    await kit.submit(checkout.url, {**FORM, "card-number": "4242424242424242"})
    found = await kit.processor.fetch_checkout(checkout.checkout_id)
    assert (found.mode, found.state, found.paid) == ("payment", "complete", True)
    assert found.invoice is not None
    assert (found.invoice.state, found.invoice.paid_cents) == ("paid", TOTAL)
    assert MARKS.items() <= found.invoice.metadata.items()
    assert found.invoice.payment_intent_id
    saved = await kit.processor.cards(customer)
    assert [card.card_id for card in saved] == [found.card_id]
    assert found.card_id is not None
    again = await kit.processor.open_invoice(customer, LINES, card_id=found.card_id, metadata=MARKS, key="k2")
    off_session = await kit.processor.pay_invoice(
        again.invoice_id, card_id=found.card_id, on_session=False, key="k2:pay"
    )
    assert off_session.state == "paid"


async def test_an_open_page_can_be_closed(kit: Stripe, customer: str) -> None:
    checkout = await kit.processor.open_setup(
        customer, success_url="http://x.example", cancel_url="http://x.example", metadata={}, key="s1"
    )
    await kit.processor.expire_checkout(checkout.checkout_id)
    await kit.processor.expire_checkout(checkout.checkout_id)
    assert (await kit.processor.fetch_checkout(checkout.checkout_id)).state == "expired"


# --- refunds, disputes ------------------------------------------------------------------------------------------------


async def test_refunds_in_parts_and_never_above_what_was_paid(kit: Stripe, customer: str, card: str) -> None:
    invoice = await paid(kit, customer, card)
    assert invoice.payment_intent_id is not None
    intent = invoice.payment_intent_id
    first = await kit.processor.refund(intent, 1000, metadata={"farebox_refund": "r1"}, key="r1")
    assert (first.state, first.amount_cents, first.payment_intent_id) == ("succeeded", 1000, intent)
    assert first.charge_id == invoice.charge_id
    assert first.metadata == {"farebox_refund": "r1"}
    assert await kit.processor.refund(intent, 1000, metadata={"farebox_refund": "r1"}, key="r1") == first
    with pytest.raises(ProcessorRefused):
        await kit.processor.refund(intent, TOTAL, metadata={}, key="r2")
    await kit.processor.refund(intent, TOTAL - 1000, metadata={}, key="r3")
    listed = [found async for found in kit.processor.refunds(since=0, payment_intent_id=intent)]
    assert sorted(found.amount_cents for found in listed) == [1000, TOTAL - 1000]
    assert first in [found async for found in kit.processor.refunds(since=0)]
    assert await kit.processor.fetch_refund(first.refund_id) == first


@pytest.mark.parametrize(("inquiry", "opened_as"), [(False, "open"), (True, "inquiry")])
async def test_a_dispute_has_its_charge_and_state(
    kit: Stripe, customer: str, card: str, inquiry: bool, opened_as: str
) -> None:
    invoice = await paid(kit, customer, card)
    made = await kit.control.post("/_fake/disputes", json={"charge": invoice.charge_id, "inquiry": inquiry})
    assert made.status_code == 200, made.text
    dispute = await kit.processor.fetch_dispute(made.json()["id"])
    assert (dispute.state, dispute.amount_cents) == (opened_as, TOTAL)
    assert (dispute.charge_id, dispute.payment_intent_id) == (invoice.charge_id, invoice.payment_intent_id)
    assert dispute in [found async for found in kit.processor.disputes(since=0)]
    if not inquiry:
        await kit.control.post(f"/_fake/disputes/{dispute.dispute_id}/close", json={"status": "won"})
        assert (await kit.processor.fetch_dispute(dispute.dispute_id)).state == "won"


def test_every_state_of_a_dispute_is_known() -> None:
    body = {"id": "dp_1", "amount": 1, "currency": "usd", "created": 1, "reason": "general"}
    states = {"warning_closed": "inquiry_closed", "prevented": "inquiry_closed", "appeal_under_review": "open"}
    for theirs, ours in states.items():
        assert read_dispute({**body, "status": theirs}).state == ours


# --- events -----------------------------------------------------------------------------------------------------------

EVENT = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid", "created": NOW // 1000,
                    "data": {"object": {"id": "in_1", "object": "invoice"}}}).encode()  # fmt: skip


def signed(body: bytes, at: int = NOW, secret: str = WEBHOOK_SECRET) -> str:
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at // 1000)
    return str(header)


def reading(secret: str = WEBHOOK_SECRET) -> StripeProcessor:
    return StripeProcessor(KEY, webhook_secret=secret, api_base="http://x", http_client=_Answering(500, {}))


@pytest.mark.parametrize("after", [-300_000, 0, 300_000])
def test_a_signed_event_is_read(after: int) -> None:
    event = reading().read_event(EVENT, signed(EVENT), at=NOW + after)
    assert (event.event_id, event.type, event.object_id) == ("evt_1", "invoice.paid", "in_1")
    assert event.created_at == NOW
    assert event.body == EVENT


@pytest.mark.parametrize(
    ("body", "signature", "at"),
    [
        (EVENT, signed(EVENT, secret="whsec_other"), NOW),
        (EVENT.replace(b"in_1", b"in_2"), signed(EVENT), NOW),
        (EVENT, signed(EVENT), NOW + 301_000),
        (EVENT, signed(EVENT), NOW - 301_000),
        (EVENT, signed(EVENT).replace("t=", f"t={NOW // 1000 + 900},t="), NOW + 900_000),
        (EVENT, f"{signed(EVENT)},t={NOW // 1000 + 900}", NOW + 900_000),  # an old event, replayed with a new time
        (EVENT, signed(EVENT).partition(",")[0], NOW),
        (EVENT, "", NOW),
        (EVENT, "t=,v1=", NOW),
        (EVENT, "nonsense", NOW),
        (b"\xff", "t=1,v1=00", NOW),
        (b"not json", signed(b"not json"), NOW),
    ],
)
def test_an_invalid_signature_is_refused(body: bytes, signature: str, at: int) -> None:
    with pytest.raises(InvalidSignature):
        reading().read_event(body, signature, at=at)


@pytest.mark.parametrize("secret", ["", " "])
def test_without_a_secret_no_event_is_trusted(secret: str) -> None:
    with pytest.raises(InvalidSignature):
        reading(secret).read_event(EVENT, signed(EVENT, secret=secret), at=NOW)


async def test_events_are_listed_newest_first(kit: Stripe, customer: str, card: str) -> None:
    invoice = await paid(kit, customer, card)
    events = [event async for event in kit.processor.events(since=0)]
    assert {"invoice.paid", "invoice.finalized", "payment_method.attached"} <= {event.type for event in events}
    of_invoice = next(event for event in events if event.type == "invoice.paid")
    assert of_invoice.object_id == invoice.invoice_id
    assert json.loads(of_invoice.body)["id"] == of_invoice.event_id
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    assert [event async for event in kit.processor.events(since=NOW * 2)] == []


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_key_is_shown(kit: Stripe) -> None:
    shown = repr(kit.processor) + str(kit.processor)
    assert KEY not in shown
    assert WEBHOOK_SECRET not in shown


async def test_two_installations_on_one_stripe_account_do_not_mix(kit: Stripe) -> None:
    """Both have an account `acme`; neither mistakes the other's customer, keys or payments for its own."""
    here, there = (
        StripeProcessor(KEY, webhook_secret=WEBHOOK_SECRET, api_base=kit.url, installation=name)
        for name in ("here", "there")
    )
    try:
        ours = await here.create_customer("acme", name="", email="", key="customer:acme")
        assert await there.create_customer("acme", name="", email="", key="customer:acme") != ours
        urls = {"success_url": "http://x/ok", "cancel_url": "http://x/no"}
        page = await here.open_setup(ours, **urls, metadata=MARKS, key="setup:acme")
        assert top_up_of((await here.fetch_checkout(page.checkout_id)).metadata) == ("acme", "t1")
        assert top_up_of((await there.fetch_checkout(page.checkout_id)).metadata) is None
        listed = [invoice async for invoice in there.invoices(since=0)]
        card = await kit.card(ours)
        invoice = await here.open_invoice(ours, LINES, card_id=card, metadata=MARKS, key="k")
        found = {item.invoice_id: item async for item in there.invoices(since=0)}
        assert len(found) == len(listed) + 1
        assert top_up_of(found[invoice.invoice_id].metadata) is None
    finally:
        await here.close()
        await there.close()
