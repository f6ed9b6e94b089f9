"""Buying manually while the network, a process or a worker fails: paid once or not at all, and known which."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.billing import top_up
from farebox.errors import PROCESSOR_REFUSED, PROCESSOR_UNAVAILABLE, ErrorKind, Problem
from farebox.payments.model import TopUp
from farebox.runtime.services import Services
from farebox.storage import top_ups as store
from farebox.storage.sql import DatabaseUnavailable
from tests.payments.kit import CHARGES, DAY, HOUR, MINUTE, Shop, open_services, open_shop, until


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        yield opened
        await opened.agree()


async def refused(shop: Shop, kind: ErrorKind, cents: int = 5_000, **more: object) -> Problem:
    """Check that buying is refused with this problem."""
    with pytest.raises(Problem) as caught:
        await shop.buy(cents, **more)
    assert caught.value.kind is kind, caught.value
    return caught.value


class Unavailable(Exception):
    """Checks that the problem is PROCESSOR_UNAVAILABLE."""


async def buying(shop: Shop) -> TopUp:
    try:
        return await shop.buy(2_000)
    except Problem as problem:
        if problem.kind is PROCESSOR_UNAVAILABLE:
            raise Unavailable from problem
        raise


# --- network failures -------------------------------------------------------------------------------------------------

LOST = ["timeout_before", "timeout_after_commit", "reset_before", "reset_after_commit", "error_500_before",
        "error_500_after_commit", "rate_limit_429"]  # fmt: skip
CALLS = ["POST /v1/customers", "POST /v1/invoices", "POST /v1/invoices/*/add_lines", "POST /v1/invoices/*/finalize",
         CHARGES]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", LOST)
async def test_a_purchase_is_paid_once_whichever_response_is_lost(shop: Shop, call: str, kind: str) -> None:
    await shop.open_account(card=None)
    await shop.save_card("pm_card_visa")
    await shop.fault(call, kind, saved=False)
    with contextlib.suppress(Unavailable):
        assert (await buying(shop)).state in ("paid", "unknown")
    await shop.no_faults()
    again = await shop.buy(2_000, retry=True)
    assert again.state == "paid"
    await shop.let_pass(2 * DAY)
    assert await shop.captured() == [2_000]
    assert shop.cents == 2_000
    assert len(shop.top_ups()) == 1


async def test_a_failure_that_the_processor_repeats_under_its_key_ends_without_a_charge(shop: Shop) -> None:
    """Stripe repeats a stored 500 for 24 hours (docs.stripe.com/api/idempotent_requests). The charge never took place,
    and the invoice is voided after that."""
    await shop.fault(CHARGES, "error_500_before", saved=True)
    bought = await shop.buy(2_000)
    assert bought.state == "unknown"
    await shop.let_pass(22 * HOUR)
    assert shop.top_ups()[0].state == "unknown"
    assert await shop.captured() == []
    await shop.let_pass(3 * HOUR)
    assert shop.top_ups()[0].state == "failed"
    assert (await shop.invoice(bought.payment_id))["status"] == "void"
    assert shop.attempts()[0][1] == "closed"


async def test_a_failure_after_the_charge_is_found_to_be_paid(shop: Shop) -> None:
    await shop.fault(CHARGES, "error_500_after_commit", saved=True)
    assert (await shop.buy(2_000)).state == "unknown"
    await shop.let_pass(MINUTE)
    assert shop.top_ups()[0].state == "paid"
    assert await shop.requested() == 1


async def test_a_request_that_never_arrived_fails_after_a_day_and_two_listings(shop: Shop) -> None:
    await shop.fault("POST /v1/invoices", "error_500_before", saved=True)
    await refused(shop, PROCESSOR_UNAVAILABLE, 2_000)
    await shop.let_pass(22 * HOUR)
    (row,) = shop.top_ups()
    assert (row.state, row.payment_id) == ("unknown", None)
    await shop.let_pass(4 * HOUR)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at) == ("failed", None)
    assert await shop.captured() == []


async def test_a_draft_that_was_never_completed_is_deleted_after_a_day(shop: Shop) -> None:
    await shop.fault("POST /v1/invoices/*/add_lines", "reset_before", times=1_000)
    await refused(shop, PROCESSOR_UNAVAILABLE, 2_000)
    await shop.let_pass(25 * HOUR)
    (row,) = shop.top_ups()
    assert (row.state, row.error, row.next_at) == ("failed", "The payment processor never charged the card.", None)
    assert (await shop.invoice(row.payment_id))["error"]["code"] == "resource_missing"


async def test_a_buyer_who_was_asked_to_retry_is_not_charged_hours_later(shop: Shop) -> None:
    await shop.fault("POST /v1/invoices/*/finalize", "reset_before", times=100)
    await refused(shop, PROCESSOR_UNAVAILABLE, 2_000)
    await shop.let_pass(3 * HOUR)
    await shop.no_faults()
    await shop.let_pass(3 * HOUR)
    assert shop.top_ups()[0].state == "canceled"
    assert await shop.captured() == []


async def test_a_refusal_by_the_processor_is_an_error_without_a_charge(shop: Shop) -> None:
    def damage(connection: object) -> None:
        connection.execute("UPDATE customers SET customer_id = 'cus_gone'")  # type: ignore[attr-defined]

    await shop.change(damage)
    await refused(shop, PROCESSOR_REFUSED)
    assert shop.top_ups()[0].state == "failed"
    assert shop.next_due() is None


async def test_an_outage_after_the_outcome_is_stored_does_not_hide_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(services: Services, account_id: str) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr("farebox.billing.cards.refresh", away)
    await shop.change(lambda c: c.execute("UPDATE customers SET customer_id = 'cus_gone'"))
    await refused(shop, PROCESSOR_REFUSED)
    assert shop.top_ups()[0].state == "failed"


async def test_a_disconnect_does_not_stop_the_purchase(shop: Shop) -> None:
    buying = asyncio.ensure_future(shop.buy(2_000))
    await until(lambda: bool(shop.top_ups()))
    buying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await buying
    await shop.services.tasks.drain(10)
    assert shop.top_ups()[0].state == "paid"


# --- two workers on one purchase --------------------------------------------------------------------------------------


async def test_a_purchase_whose_process_died_is_finished_by_another(shop: Shop) -> None:
    """A crash between charge and credit. The row is found by its expired lease, and requested with the same key."""
    row, is_new = await top_up._begin(
        shop.services, top_up._PurchaseRequest(kind="manual", account_id=shop.account, credit_cents=2_000)
    )
    assert is_new
    async with open_services(shop.services.settings, shop.clock) as other:
        await top_up.work(other)
        assert shop.top_ups()[0].state == "submitting", "the lease of the first is respected"
        shop.clock.advance(store.LEASE_MS + 1)
        await top_up.work(other)
    assert shop.top_ups()[0].state == "paid"
    assert row.lease_epoch < shop.top_ups()[0].lease_epoch


async def test_a_stale_worker_writes_nothing(shop: Shop) -> None:
    row, _ = await top_up._begin(
        shop.services, top_up._PurchaseRequest(kind="manual", account_id=shop.account, credit_cents=2_000)
    )
    shop.clock.advance(store.LEASE_MS + 1)
    await top_up.work(shop.services)
    with pytest.raises(store.StaleLease):
        await shop.change(lambda c: store.move(c, row, "failed", shop.clock.at, next_at=None))
    assert shop.top_ups()[0].state == "paid"


async def test_two_workers_on_one_purchase_charge_once(shop: Shop) -> None:
    await top_up._begin(
        shop.services, top_up._PurchaseRequest(kind="manual", account_id=shop.account, credit_cents=2_000)
    )
    await shop.fault(CHARGES, "delay_ms", milliseconds=200)
    async with open_services(shop.services.settings, shop.clock) as other:
        shop.clock.advance(store.LEASE_MS + 1)
        first = asyncio.ensure_future(top_up.work(shop.services))
        await shop.seen_asking()
        shop.clock.advance(store.LEASE_MS + 1)
        await top_up.work(other)
        await first
    await shop.let_pass(HOUR)
    assert shop.top_ups()[0].state == "paid"
    assert await shop.captured() == [2_000]
