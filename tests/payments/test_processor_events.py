"""Events of the processor: stored once, processed until done, in any order and number; and sweeps for lost webhooks."""

import json
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from farebox.billing import cards, processor_events, top_up
from farebox.errors import BAD_SIGNATURE, PAYMENTS_OFF, Problem
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorEvent, ProcessorInvoice
from farebox.storage import processor_events as inbox
from farebox.storage.customers import default_card
from farebox.storage.findings import list_findings, open_findings
from farebox.storage.processor_events import StoredEvent
from tests.long import times
from tests.payments.books import agree
from tests.payments.kit import CHARGES, HOUR, WEBHOOK_SECRET, Shop, open_shop
from tests.payments.stripe_kit import FORM
from tests.support import Farebox

DAY = 24 * HOUR


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        yield opened


def signature(body: bytes, at: int, secret: str = WEBHOOK_SECRET) -> str:
    return str(stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at // 1000))


async def deliver(shop: Shop, body: bytes) -> None:
    await processor_events.receive(shop.services, body, signature(body, shop.clock.at))


async def reported(shop: Shop, prefix: str = "") -> list[ProcessorEvent]:
    """The events that Stripe reports, oldest first."""
    assert shop.services.processor is not None
    found = [event async for event in shop.services.processor.events(since=0) if event.type.startswith(prefix)]
    return found[::-1]


def made_up(kind: str, object_id: str, event_id: str = "evt_made_up", **fields: Any) -> bytes:
    event = {"id": event_id, "object": "event", "type": kind, "created": 1_795_000_000}
    return json.dumps({**event, "data": {"object": {"id": object_id, **fields}}}).encode()


def stored(shop: Shop, event_id: str = "evt_made_up") -> StoredEvent:
    [found] = [event for event in all_stored(shop) if event.event_id == event_id]
    return found


def all_stored(shop: Shop) -> list[StoredEvent]:
    return shop.read(lambda c: inbox.list_events(c, limit=1000))


async def work_off(shop: Shop) -> None:
    """Process all due events, and those that follow from them."""
    for _ in range(20):
        if not await processor_events.work(shop.services):
            return
    pytest.fail("it does not come to an end")


async def at_stripe(shop: Shop, bought: TopUp) -> ProcessorInvoice:
    assert shop.services.processor is not None
    assert bought.payment_id is not None
    return await shop.services.processor.fetch_invoice(bought.payment_id)


async def lost_payment(shop: Shop, cents: int = 5_000) -> str:
    """A payment that Stripe captured, but whose response was lost. Returns the top-up."""
    await shop.fault(CHARGES, "reset_after_commit")
    bought = await shop.buy(cents)
    assert bought.state == "unknown"
    return bought.top_up_id


# --- receiving --------------------------------------------------------------------------------------------------------


async def test_an_event_is_kept_once_and_due_at_once(shop: Shop) -> None:
    body = made_up("invoice.paid", "in_1")
    for _ in range(3):
        await deliver(shop, body)
    event = stored(shop)
    assert (event.type, event.object_id, event.via, event.attempts) == ("invoice.paid", "in_1", "webhook", 0)
    assert event.next_at == event.received_at == shop.clock.at
    assert event.body == body
    assert len(all_stored(shop)) == 1


@pytest.mark.parametrize("wrong", ["secret", "body", "old", "future", "none"])
async def test_an_event_with_a_wrong_signature_is_not_stored(shop: Shop, wrong: str) -> None:
    body = made_up("invoice.paid", "in_1")
    header = {
        "secret": signature(body, shop.clock.at, "whsec_other"),
        "body": signature(body + b" ", shop.clock.at),
        "old": signature(body, shop.clock.at - 301_000),
        "future": signature(body, shop.clock.at + 301_000),
        "none": "",
    }[wrong]
    with pytest.raises(Problem) as problem:
        await processor_events.receive(shop.services, body, header)
    assert problem.value.kind is BAD_SIGNATURE
    assert all_stored(shop) == []


async def test_without_payments_no_event_is_stored(shop: Shop) -> None:
    import dataclasses

    off = dataclasses.replace(shop.services, processor=None)
    with pytest.raises(Problem) as problem:
        await processor_events.receive(off, b"{}", "")
    assert problem.value.kind is PAYMENTS_OFF
    assert await processor_events.work(off) == 0


# --- processing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(times(2, 20)))
async def test_events_delivered_three_times_in_any_order_credit_once(shop: Shop, seed: int) -> None:
    await lost_payment(shop)
    paid = await shop.buy(2_000, request_key="other")
    assert paid.state == "paid"
    bodies = [event.body for event in await reported(shop)] * 3
    random.Random(seed).shuffle(bodies)
    for body in bodies:
        await deliver(shop, body)
        if random.Random(body).random() < 0.3:
            await work_off(shop)
    await work_off(shop)
    assert shop.cents == 7_000
    assert {event.processed_at is not None for event in all_stored(shop)} == {True}
    await shop.agree()


async def test_events_about_one_object_fetch_it_once(shop: Shop) -> None:
    await lost_payment(shop)
    for event in await reported(shop, "invoice."):
        await deliver(shop, event.body)
    await shop.http.delete("/_fake/requests")
    await work_off(shop)
    assert len(all_stored(shop)) > 2
    requests = (await shop.http.get("/_fake/requests")).json()["requests"]
    assert len([item for item in requests if item["path"].startswith("/v1/invoices/")]) == 1


async def test_irrelevant_events_are_marked_and_skipped(shop: Shop) -> None:
    await deliver(shop, made_up("payout.paid", "po_1", "evt_1"))
    await deliver(shop, made_up("invoice.paid", "in_nothing", "evt_2"))
    await deliver(shop, made_up("customer.updated", "cus_stranger", "evt_3", object="customer"))
    customer = await shop.stripe("customers", name="Somebody else")
    invoice = await shop.stripe("invoices", customer=customer["id"])
    await deliver(shop, made_up("invoice.created", invoice["id"], "evt_4"))
    await work_off(shop)
    outcomes = {event.event_id: event.outcome for event in all_stored(shop)}
    assert outcomes == {"evt_1": "ignored", "evt_2": "gone", "evt_3": "not_ours", "evt_4": "not_ours"}
    assert shop.findings() == []


async def test_a_failure_is_retried_with_increasing_delays(shop: Shop) -> None:
    top_up_id = await lost_payment(shop)
    body = (await reported(shop, "invoice.paid"))[0].body
    await deliver(shop, body)
    event_id = json.loads(body)["id"]
    await shop.fault("GET /v1/invoices/*", "error_500_before", times=3)
    for wait in (1_000, 2_000, 4_000):
        await work_off(shop)
        failed = stored(shop, event_id)
        assert failed.next_at == shop.clock.at + wait
        assert failed.outcome is not None
        assert "ProcessorUnavailable" in failed.outcome
        assert [event.event_id for event in shop.read(lambda c: inbox.list_events(c, failed=True))] == [event_id]
        shop.clock.advance(wait - 1)
        assert await processor_events.work(shop.services) == 0
        shop.clock.advance(1)
    await work_off(shop)
    assert stored(shop, event_id).outcome == "credited"
    assert (await top_up.status(shop.services, shop.account, top_up_id)).state == "paid"
    assert shop.read(lambda c: inbox.list_events(c, failed=True)) == []


def test_waits_add_up_to_three_days() -> None:
    waits = [min(1_000 << number, HOUR) for number in range(processor_events.ATTEMPTS_MAX - 1)]
    assert 3 * DAY <= sum(waits) <= 3 * DAY + 2 * HOUR


async def test_an_abandoned_event_is_a_finding_until_a_replay_succeeds(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor_events, "ATTEMPTS_MAX", 2)
    await lost_payment(shop)
    body = (await reported(shop, "invoice.paid"))[0].body
    event_id = json.loads(body)["id"]
    await deliver(shop, body)
    await shop.fault("GET /v1/invoices/*", "error_500_before", times=2)
    await work_off(shop)
    shop.clock.advance(HOUR)
    await work_off(shop)
    assert stored(shop, event_id).given_up
    (finding,) = shop.read(open_findings)
    assert finding.finding_id == f"event_given_up:{event_id}"
    shop.clock.advance(10 * DAY)
    assert await processor_events.work(shop.services) == 0
    assert await processor_events.replay(shop.services, event_id=event_id) == 1
    await work_off(shop)
    assert stored(shop, event_id).outcome == "credited"
    assert shop.read(open_findings) == []
    assert await processor_events.replay(shop.services, event_id="evt_none") == 0


async def test_a_replay_of_everything_changes_nothing(shop: Shop) -> None:
    await shop.buy(3_000)
    for event in await reported(shop):
        await deliver(shop, event.body)
    await work_off(shop)
    assert await processor_events.replay(shop.services, since=0) == len(all_stored(shop))
    await work_off(shop)
    assert shop.cents == 3_000
    await shop.agree()


async def test_a_failing_event_does_not_block_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail_once(*_: object) -> str:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("farebox.billing.refund.apply_refund", fail_once)
    paid = await shop.buy(5_000)
    intent = (await at_stripe(shop, paid)).payment_intent_id
    await shop.stripe("refunds", payment_intent=intent, amount=100)
    top_up_id = await lost_payment(shop, 2_000)
    for event in await reported(shop):
        await deliver(shop, event.body)
    await work_off(shop)
    assert (await top_up.status(shop.services, shop.account, top_up_id)).state == "paid"
    failed = shop.read(lambda c: inbox.list_events(c, failed=True))
    assert failed
    assert {event.type.partition(".")[0] for event in failed} <= {"refund", "charge"}
    assert {event.outcome for event in failed} == {"RuntimeError: a mistake of ours"}


async def test_events_claimed_by_a_dead_process_are_due_again(shop: Shop) -> None:
    await lost_payment(shop)
    await deliver(shop, (await reported(shop, "invoice.paid"))[0].body)
    at = shop.clock.at
    taken = await shop.change(lambda c: inbox.claim_due(c, at=at, until=at + processor_events.CLAIM_MS, limit=10))
    assert len(taken) == 1
    assert await processor_events.work(shop.services) == 0  # another process has claimed it
    shop.clock.advance(processor_events.CLAIM_MS)
    await work_off(shop)
    assert shop.cents == 5_000


# --- each kind of event -----------------------------------------------------------------------------------------------


async def test_refunds_and_disputes_made_at_stripe_are_applied(shop: Shop) -> None:
    first, second = await shop.buy(5_000), await shop.buy(4_000, request_key="other")
    await shop.stripe("refunds", payment_intent=(await at_stripe(shop, first)).payment_intent_id, amount=1_000)
    await shop.steer("disputes", charge=(await at_stripe(shop, second)).charge_id)
    for event in await reported(shop):
        await deliver(shop, event.body)
    await work_off(shop)
    assert shop.cents == 5_000 - 1_000
    await shop.agree()


async def test_a_card_removed_at_stripe_is_gone_here(shop: Shop) -> None:
    (card,) = await cards.cards(shop.services, shop.account)
    await shop.stripe(f"payment_methods/{card.card_id}/detach")
    for event in await reported(shop, "payment_method.detached"):
        await deliver(shop, event.body)
    await work_off(shop)
    assert await cards.cards(shop.services, shop.account) == []


async def test_a_page_that_was_completed_without_returning(shop: Shop) -> None:
    bought = await top_up.buy_at_checkout(
        shop.services, shop.account, credit_cents=2_500, success_url="http://x.example", cancel_url="http://x.example"
    )
    page = await cards.open_setup(
        shop.services, shop.account, success_url="http://x.example", cancel_url="http://x.example"
    )
    for url, number in ((bought.action_url, "4242424242424242"), (page.url, "5555555555554444")):
        assert url is not None
        assert (await shop.http.post(url, data={**FORM, "card-number": number})).status_code == 303
    for event in await reported(shop, "checkout.session."):
        await deliver(shop, event.body)
    await work_off(shop)
    await shop.work(2)
    assert shop.cents == 2_500
    default = shop.read(partial(default_card, account_id=shop.account))
    assert default is not None
    assert default.last4 == "4444"
    await shop.agree()


@pytest.mark.parametrize("account", ["ours", "nobody"])
async def test_a_payment_of_ours_without_a_top_up_is_one_finding(shop: Shop, account: str) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    invoice = await shop.stripe(
        "invoices",
        **{
            "customer": customer,
            "auto_advance": "false",
            "metadata[farebox_account]": shop.account if account == "ours" else "nobody",
            "metadata[farebox_top_up]": "t-9",
        },
    )
    await shop.stripe("invoiceitems", customer=customer, invoice=invoice["id"], amount=900, currency="usd")
    await shop.stripe(f"invoices/{invoice['id']}/finalize")
    await shop.stripe(f"invoices/{invoice['id']}/pay")
    for event in await reported(shop, "invoice."):
        await deliver(shop, event.body)
    await work_off(shop)
    await processor_events.replay(shop.services, since=0)
    await work_off(shop)
    (finding,) = shop.read(list_findings)
    assert finding.finding_id == f"no_top_up:{invoice['id']}"
    assert (finding.amount_cents, finding.payment_id) == (900, invoice["id"])
    assert shop.cents == 0


# --- lost webhooks ----------------------------------------------------------------------------------------------------


async def test_without_webhooks_a_sweep_finds_everything(shop: Shop) -> None:
    await lost_payment(shop)
    await processor_events.sweep_undelivered(shop.services)
    swept = all_stored(shop)
    assert {event.via for event in swept} == {"sweep"}
    assert "invoice.paid" in {event.type for event in swept}
    await work_off(shop)
    assert shop.cents == 5_000
    await processor_events.sweep_undelivered(shop.services)
    assert len(all_stored(shop)) == len(swept)
    await shop.agree()


async def test_a_sweep_goes_back_to_the_last_one(shop: Shop) -> None:
    await processor_events.sweep_undelivered(shop.services)
    shop.clock.advance(10 * DAY)  # no sweep for this long
    await lost_payment(shop)
    shop.clock.advance(9 * DAY)
    await processor_events.sweep_undelivered(shop.services)
    await work_off(shop)
    assert shop.cents == 5_000


async def test_with_webhooks_only_undelivered_events_are_swept(shop: Shop) -> None:
    await shop.http.post(
        "/_config/webhooks/w1", json={"url": "http://127.0.0.1:9/nobody", "secret": WEBHOOK_SECRET, "events": ["*"]}
    )
    await shop.steer("webhooks", mode="drop")
    await deliver(shop, made_up("payout.paid", "po_1"))  # an event was received
    await lost_payment(shop)
    await processor_events.sweep_undelivered(shop.services)
    await work_off(shop)
    assert shop.cents == 5_000


async def test_processed_events_are_deleted_eventually(shop: Shop) -> None:
    await deliver(shop, made_up("payout.paid", "po_1", "evt_done"))
    await work_off(shop)
    shop.clock.advance(processor_events.KEPT_MS + 1)
    await deliver(shop, made_up("payout.paid", "po_1", "evt_new"))
    await processor_events.sweep_undelivered(shop.services)
    kept = {event.event_id for event in all_stored(shop) if event.via == "webhook"}
    assert kept == {"evt_new"}


async def test_a_sweep_makes_up_for_a_failed_one(shop: Shop) -> None:
    await lost_payment(shop)
    await shop.fault("GET /v1/events", "error_500_before")
    with pytest.raises(Exception, match="no usable response"):
        await processor_events.sweep_undelivered(shop.services)
    assert shop.read(inbox.last_swept) is None
    await processor_events.sweep_undelivered(shop.services)
    assert "invoice.paid" in {event.type for event in all_stored(shop)}


# --- over HTTP --------------------------------------------------------------------------------------------------------


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


def test_the_route_is_open_and_verifies_the_signature(farebox: Farebox) -> None:
    url = f"{farebox.url}/webhooks/stripe"
    body = made_up("payout.paid", "po_1", "evt_over_http")
    refused = httpx.post(url, content=body, headers={"stripe-signature": signature(body, 0)})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["code"] == 2935
    assert httpx.post(url, content=body).status_code == 400
    assert httpx.post(url, content=b"x" * (2**20 + 1)).status_code == 413
    assert httpx.get(url).status_code == 405
    secret = farebox.services.settings.stripe_webhook_secret
    header = {"stripe-signature": signature(body, farebox.services.clock.now_ms(), secret)}
    for _ in range(2):
        taken = httpx.post(url, content=body, headers=header)
        assert (taken.status_code, taken.json()) == (200, {"received": True})


def test_the_fakes_own_webhooks_complete_a_purchase(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    opened = farebox.run(
        top_up.buy_at_checkout(
            farebox.services,
            account_id,
            credit_cents=2_000,
            success_url="http://x.example",
            cancel_url="http://x.example",
        )
    )
    assert opened.action_url is not None
    assert httpx.post(opened.action_url, data={**FORM, "card-number": "4242424242424242"}).status_code == 303
    until(lambda: farebox.balance(account_id).posted == 20_000_000_000)
    until(lambda: bool(farebox.run(farebox.services.database.scan(lambda c: inbox.list_events(c)))))
    agree(farebox.services, farebox.stripe_url)
