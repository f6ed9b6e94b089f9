"""Buying on the hosted page, and the price of a purchase."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.billing import top_up
from farebox.errors import KEY_REUSED, PROCESSOR_UNAVAILABLE, TOP_UP_FAILED, VALIDATION_FAILED, Problem
from farebox.payments.model import TopUp
from farebox.payments.purchase import Tax, percent, price_purchase
from farebox.periodic_jobs import run_periodic_jobs
from farebox.runtime import leases
from farebox.runtime.services import Services
from farebox.storage.leases import list_leases
from farebox.storage.sql import DatabaseUnavailable
from tests.engines import ON_BOTH_ENGINES
from tests.payments.kit import DAY, HOUR, MINUTE, Shop, open_shop
from tests.waiting import eventually

pytestmark = ON_BOTH_ENGINES

PAGES = {"success_url": "http://shop.example/ok?s={CHECKOUT_SESSION_ID}", "cancel_url": "http://shop.example/back"}
SESSIONS = "POST /v1/checkout/sessions"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        await opened.open_account(card=None)
        yield opened
        await opened.agree()


async def open_page(shop: Shop, cents: int = 5_000, request_key: str | None = None) -> TopUp:
    return await top_up.buy_at_checkout(
        shop.services, shop.account, credit_cents=cents, request_key=request_key, **PAGES
    )


# --- the hosted page --------------------------------------------------------------------------------------------------


async def test_a_purchase_on_the_page_is_credited_with_every_webhook_lost(shop: Shop) -> None:
    page = await open_page(shop)
    assert (page.state, page.kind) == ("action_required", "checkout")
    assert (await shop.pay_at(page.action_url)).headers["location"].startswith("http://shop.example/ok?s=cs_")
    assert shop.cents == 0
    await shop.let_pass(HOUR)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at, shop.cents) == ("paid", None, 5_000)
    assert row.payment_id is not None
    assert (await top_up.status(shop.services, shop.account, row.payment_id)).state == "paid"
    assert shop.bought_by_hand()
    listed, _ = await top_up.history(shop.services, shop.account, "manual", 0, 10)
    assert [item.payment_id for item in listed] == [row.payment_id]


async def test_a_returning_browser_updates_the_purchase_at_once(shop: Shop) -> None:
    page = await open_page(shop)
    await shop.pay_at(page.action_url)
    assert shop.services.processor is not None
    reported = await shop.services.processor.fetch_checkout(page.checkout_id or "")
    words = await asyncio.gather(*(top_up.apply_checkout(shop.services, reported) for _ in range(3)))
    assert sorted(words) == ["already_credited", "already_credited", "credited"]
    assert shop.cents == 5_000


async def test_a_declined_card_on_the_page_leaves_it_open_for_another(shop: Shop) -> None:
    page = await open_page(shop)
    assert (await shop.pay_at(page.action_url, "4000000000000002")).status_code == 422
    await shop.let_pass(MINUTE)
    assert shop.top_ups()[0].state == "action_required"
    await shop.pay_at(page.action_url)
    await shop.let_pass(HOUR)
    assert shop.cents == 5_000


async def test_an_unused_page_expires_after_a_day(shop: Shop) -> None:
    await open_page(shop)
    await shop.let_pass(3 * DAY)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at, row.action_url) == ("canceled", None, None)


async def test_a_page_that_stripe_left_open_is_closed(shop: Shop) -> None:
    page = await open_page(shop)
    await shop.change(lambda c: c.execute("UPDATE top_ups SET created_at = created_at - 90000000"))
    await shop.let_pass(MINUTE)
    assert shop.top_ups()[0].state == "canceled"
    response = await shop.pay_at(page.action_url)
    assert "expired" in response.text
    assert await shop.captured() == []


async def test_the_same_request_opens_the_same_page(shop: Shop) -> None:
    first = await open_page(shop, request_key="k")
    assert (await open_page(shop, request_key="k")).action_url == first.action_url
    with pytest.raises(Problem) as caught:
        await open_page(shop, 6_000, request_key="k")
    assert caught.value.kind is KEY_REUSED
    without, again = await open_page(shop, 7_000), await open_page(shop, 7_000)
    assert without.action_url == again.action_url


async def test_a_page_that_was_paid_is_not_opened_again(shop: Shop) -> None:
    first = await open_page(shop)
    await shop.pay_at(first.action_url)
    await shop.let_pass(10_000)
    assert shop.top_ups()[0].state == "paid"
    second = await open_page(shop)
    assert second.action_url not in (None, first.action_url)


async def test_an_amount_outside_the_limits_opens_no_page(shop: Shop) -> None:
    with pytest.raises(Problem) as caught:
        await open_page(shop, 1)
    assert caught.value.kind is VALIDATION_FAILED


async def test_a_page_whose_url_was_lost_is_opened_under_the_same_key(shop: Shop) -> None:
    await shop.fault(SESSIONS, "reset_after_commit")
    with pytest.raises(Problem) as caught:
        await open_page(shop, request_key="k")
    assert caught.value.kind is PROCESSOR_UNAVAILABLE
    page = await open_page(shop, request_key="k")
    assert page.state == "action_required"
    await shop.pay_at(page.action_url)
    await shop.let_pass(HOUR)
    assert await shop.captured() == [5_000]


async def test_a_page_whose_url_is_unknown_is_given_up(shop: Shop) -> None:
    await shop.fault(SESSIONS, "timeout_before")
    with pytest.raises(Problem):
        await open_page(shop, request_key="k")
    await shop.let_pass(DAY)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at) == ("canceled", None)
    with pytest.raises(Problem) as caught:
        await open_page(shop, request_key="k")
    assert caught.value.kind is TOP_UP_FAILED


# --- the price --------------------------------------------------------------------------------------------------------


@given(
    credit=st.integers(50, 10**8),
    fee=st.integers(0, 999_999),
    fixed=st.integers(0, 10**6),
    rate=st.integers(0, 500_000),
    reverse=st.booleans(),
)
def test_the_lines_of_a_purchase_add_up_to_the_charge(
    credit: int, fee: int, fixed: int, rate: int, reverse: bool
) -> None:
    tax = Tax("VAT", rate, reverse_charge=reverse)
    bought = price_purchase(credit, fee_ppm=fee, fee_fixed_cents=fixed, tax=tax)
    assert sum(line.amount_cents for line in bought.lines()) == bought.charge_cents
    assert bought.charge_cents == credit + bought.fee_cents + bought.tax_cents
    assert 0 <= bought.fee_cents - fixed - credit * fee / 1_000_000 < 1
    assert bought.tax_cents == 0 if reverse else 0 <= bought.tax_cents - (credit + bought.fee_cents) * rate / 10**6 < 1
    assert any("reverse charge" in line.description for line in bought.lines()) == reverse


@given(st.integers(50, 10**7), st.integers(1, 10**5), st.integers(0, 200_000), st.integers(0, 300_000))
def test_more_credit_never_costs_less(credit: int, more: int, fee: int, rate: int) -> None:
    def charge(cents: int) -> int:
        return price_purchase(cents, fee_ppm=fee, fee_fixed_cents=1, tax=Tax("T", rate)).charge_cents

    assert charge(credit) < charge(credit + more)


def test_percentages_are_written_as_people_do() -> None:
    assert [percent(ppm) for ppm in (190_000, 77_000, 0, 1, 1_000_000)] == ["19 %", "7.7 %", "0 %", "0.0001 %", "100 %"]


# --- jobs of a single process -----------------------------------------------------------------------------------------


async def test_a_job_runs_in_one_process_and_again_after_its_interval(shop: Shop) -> None:
    ran: list[int] = []

    async def job(services: Services) -> None:
        ran.append(services.clock.now_ms())
        await asyncio.sleep(0)

    async def run() -> bool:
        return await leases.run_exclusive(shop.services, "nightly", every_ms=DAY, job=job)

    assert sorted(await asyncio.gather(*(run() for _ in range(5)))) == [False] * 4 + [True]
    shop.clock.advance(DAY - 1)
    assert not await run()
    shop.clock.advance(1)
    assert await run()
    assert len(ran) == 2


async def test_a_job_that_failed_is_tried_again_soon_and_not_at_once(shop: Shop) -> None:
    async def job(services: Services) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await leases.run_exclusive(shop.services, "nightly", every_ms=DAY, job=job)
    assert not await leases.run_exclusive(shop.services, "nightly", every_ms=DAY, job=job)
    shop.clock.advance(leases.RETRY_MS)
    with pytest.raises(LookupError):
        await leases.run_exclusive(shop.services, "nightly", every_ms=DAY, job=job)


async def test_the_exception_of_a_job_is_reported_even_if_its_lease_cannot_be_given_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(job: object) -> None:
        raise DatabaseUnavailable("away")

    async def job(services: Services) -> None:
        monkeypatch.setattr(services.database, "write", unavailable)
        raise LookupError

    with pytest.raises(LookupError):
        await leases.run_exclusive(shop.services, "nightly", every_ms=DAY, job=job)
    monkeypatch.undo()


async def test_jobs_of_a_single_process_do_not_wait_for_one_that_fails(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe is down: its jobs fail, and the others are done."""
    monkeypatch.setattr("farebox.jobs.PAUSES", (0.01,))
    await shop.fault("GET **", "reset_before", times=10_000)
    running = asyncio.create_task(run_periodic_jobs(shop.services))
    wanted = {"expiring_cards", "logs", "cache", "kept_objects", "budgets", "spend_alerts_sweep"}

    def done() -> set[str]:
        return {lease.name for lease in shop.read(list_leases) if lease.done_at is not None}

    restarts = shop.services.jobs.restarts
    await eventually(lambda: wanted <= done() and {job for job, _ in restarts} >= {"undelivered", "reconcile"})
    assert not done() & {"undelivered", "reconcile"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await shop.no_faults()
