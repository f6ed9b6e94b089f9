"""Auto top-up: it triggers below the threshold, charges once, and stops by the rules whatever a card does."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import uvloop

from farebox.billing import auto_top_up, cards, refund, top_up
from farebox.errors import VALIDATION_FAILED, Problem
from farebox.settings import Settings
from farebox.storage import top_ups as store
from tests.engines import ON_BOTH_ENGINES
from tests.payments.kit import (
    CHARGES,
    HOUR,
    START,
    TIMEOUT_SECONDS,
    Shop,
    a_clock,
    open_services,
    open_shop,
)
from tests.support import quiet_logs

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with ten granted dollars on the account; auto top-up buys ten more below five."""
    async with open_shop(tmp_path) as opened:
        await opened.grant(1_000)
        yield opened
        await opened.agree()


async def fire(shop: Shop, cents: int = 600) -> None:
    """Spend below the threshold."""
    await shop.spend(cents)


# --- normal operation -------------------------------------------------------------------------------------------------


async def test_spending_below_the_threshold_buys_once_and_arms_again(shop: Shop) -> None:
    await shop.set_rule(1_000, 500)
    await shop.spend(500)
    await shop.work(3)
    assert (shop.top_ups(), shop.armed()) == ([], True), "a balance at the threshold is not below it"
    await shop.spend(1)
    assert (shop.the_auto().state, shop.armed()) == ("requested", False)
    assert shop.read(lambda c: store.auto_under_way(c, shop.account))
    await shop.work()
    bought = shop.the_auto()
    assert (bought.state, bought.credit_cents, bought.payment_id is not None) == ("paid", 1_000, True)
    assert (shop.cents, shop.armed()) == (1_499, True)
    assert shop.notices() == ["top_up_paid"]
    assert (shop.rule.state, shop.rule.reason, shop.rule.error) == ("active", None, None)
    assert not shop.bought_by_hand(), "that message is about manual purchases"


async def test_one_charge_covers_the_whole_shortfall(shop: Shop) -> None:
    """Not one charge for each multiple of the amount."""
    await shop.set_rule(1_000, 4_500)
    await shop.work()
    assert await shop.captured() == [4_000]
    assert shop.cents == 5_000


async def test_one_charge_covers_what_is_owed_too(shop: Shop) -> None:
    """New money first pays what is owed: a purchase of only the shortfall would leave the balance unchanged."""
    bought = await shop.buy(5_000)
    await shop.spend(6_000)
    await refund.refund(shop.services, shop.account, top_up_id=bought.top_up_id, allow_spent=True)
    await shop.set_rule(1_000, 500)
    await shop.work()
    assert await shop.captured() == [5_000, 6_000]
    assert (shop.cents, shop.the_auto().state) == (1_000, "paid")


async def test_a_top_up_ends_above_the_threshold_not_on_it(shop: Shop) -> None:
    await shop.set_rule(1_000, 2_000)
    await shop.work()
    assert (await shop.captured(), shop.cents) == ([2_000], 3_000)


async def test_a_rule_saved_while_the_balance_is_low_is_triggered_by_the_sweep(shop: Shop) -> None:
    await shop.spend(900)
    await shop.set_rule()
    await top_up.work(shop.services)
    assert shop.top_ups() == []
    assert await auto_top_up.sweep(shop.services) == 1
    assert await auto_top_up.sweep(shop.services) == 0
    await top_up.work(shop.services)
    assert await shop.captured() == [1_000]


async def test_a_manual_purchase_meanwhile_cancels_the_request(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    await shop.buy(5_000)
    await shop.work()
    assert (shop.the_auto().state, shop.armed()) == ("canceled", True)
    assert await shop.captured() == [5_000]


async def test_the_amount_is_decided_at_charge_time(shop: Shop) -> None:
    await shop.set_rule(1_000, 500)
    await fire(shop)
    await shop.set_rule(2_000, 900)
    await shop.work()
    assert await shop.captured() == [2_000]


@pytest.mark.parametrize(
    ("amount", "threshold", "cap"),
    [(999, 500, None), (1_000, 499, None), (1_000_001, 500, None), (1_000, 500, 999), (1_000, 10**9, None)],
)
async def test_rules_outside_the_limits_are_refused(shop: Shop, amount: int, threshold: int, cap: int | None) -> None:
    with pytest.raises(Problem) as caught:
        await shop.set_rule(amount, threshold, monthly_cap_cents=cap)
    assert caught.value.kind is VALIDATION_FAILED
    assert await auto_top_up.rule(shop.services, shop.account) is None


async def test_the_cap_is_ten_amounts_unless_chosen_and_a_choice_stays(shop: Shop) -> None:
    assert (await shop.set_rule(1_000)).monthly_cap_cents == 10_000
    assert (await shop.set_rule(2_000)).monthly_cap_cents == 20_000
    assert (await shop.set_rule(2_000, monthly_cap_cents=7_000)).monthly_cap_cents == 7_000
    assert (await shop.set_rule(3_000)).monthly_cap_cents == 7_000


# --- unknown outcomes, many triggers, many processes ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timeout_after_commit", "error_500_after_commit", "reset_before", "rate_limit_429"])
async def test_an_unknown_outcome_is_no_failure(shop: Shop, kind: str) -> None:
    await shop.set_rule()
    await shop.fault(CHARGES, kind, times=3)
    await fire(shop)
    await shop.work()
    assert (shop.the_auto().state, shop.rule.failures, shop.rule.state) == ("unknown", 0, "active")
    assert shop.read(lambda c: store.auto_under_way(c, shop.account))
    await shop.let_pass(HOUR)
    assert (shop.the_auto().state, shop.the_auto().attempt, shop.rule.failures) == ("paid", 1, 0)
    assert await shop.captured() == [1_000]


async def test_during_a_processor_outage_retries_back_off_and_charge_once(shop: Shop) -> None:
    await shop.set_rule()
    await shop.fault("**", "reset_before", times=100_000)
    await fire(shop)
    await shop.let_pass(12 * HOUR)
    assert len(shop.top_ups()) == 1
    assert shop.the_auto().state == "unknown"
    waited = (shop.the_auto().next_at or 0) - shop.clock.at
    assert waited <= HOUR
    await shop.no_faults()
    await shop.let_pass(2 * HOUR)
    assert (shop.the_auto().state, await shop.captured()) == ("paid", [1_000])


async def test_an_invoice_whose_response_was_lost_is_found_by_its_metadata(shop: Shop) -> None:
    await shop.set_rule()
    await shop.fault("POST /v1/invoices/*/finalize", "reset_after_commit")
    await shop.fault("GET /v1/invoices/*", "reset_before")
    await fire(shop)
    await shop.work()
    assert (shop.the_auto().state, shop.the_auto().payment_id) == ("unknown", None)
    await shop.let_pass(HOUR)
    assert shop.the_auto().state == "paid"
    assert await shop.requested("/v1/invoices") == 1


async def test_a_hundred_triggers_at_once_are_one_charge(shop: Shop) -> None:
    """The unique index is the guard, and the amount is decided inside the lock."""
    await shop.set_rule()
    await shop.spend(499)
    await asyncio.gather(*(shop.spend(1) for _ in range(100)))
    assert len(shop.top_ups()) == 1
    await asyncio.gather(*(top_up.work(shop.services) for _ in range(10)), auto_top_up.sweep(shop.services))
    await shop.work(3)
    assert await shop.captured() == [1_000]


async def test_a_webhook_and_the_workers_response_credit_once(shop: Shop) -> None:
    """`processing` is not a success; only a paid invoice is."""
    await shop.set_rule()
    await shop.fault(CHARGES, "reset_after_commit")
    await fire(shop)
    await shop.work()
    payment_id = shop.the_auto().payment_id
    assert payment_id is not None
    assert shop.services.processor is not None
    invoice = await shop.services.processor.fetch_invoice(payment_id)
    words = await asyncio.gather(*(top_up.apply_invoice(shop.services, invoice) for _ in range(3)), shop.work())
    assert words[:3].count("credited") == 1
    assert shop.cents == 1_400


async def test_the_cards_of_one_account_never_pay_for_another(shop: Shop) -> None:
    first = shop.account
    await shop.set_rule()
    await shop.open_account("pm_card_mastercard")
    await shop.grant(1_000)
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert shop.the_auto().last4 == "4444"
    assert {card.last4 for card in await cards.cards(shop.services, first)} == {"4242"}


def _one_process(settings: dict[str, Any], number: int, start: Any) -> None:
    """Run a server's worker in a separate process, on the same file."""

    async def run() -> None:
        async with open_services(Settings(**settings), a_clock(), f"process-{number}", TIMEOUT_SECONDS) as services:
            start.wait(30)
            for _ in range(20):
                await auto_top_up.sweep(services)
                await top_up.work(services)
                await asyncio.sleep(0.01)

    quiet_logs()
    uvloop.run(run())


async def _together(shop: Shop, target: Callable[..., None], count: int) -> list[int | None]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # loaded once for all processes
    start = context.Barrier(count)
    settings = asdict(shop.services.settings)
    processes = [context.Process(target=target, args=(settings, number, start)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 90)
    return [process.exitcode for process in processes]


@pytest.mark.slow
async def test_several_processes_and_many_triggers_are_one_charge_each(shop: Shop) -> None:
    """Replicas that act on the same trigger must not each charge for it."""
    accounts = []
    for _ in range(6):
        accounts.append(await shop.open_account())
        await shop.grant(1_000)
        await shop.set_rule()
        await fire(shop)
    await shop.fault(CHARGES, "timeout_after_commit", times=2)
    assert shop.clock.at == START
    assert await _together(shop, _one_process, 4) == [0, 0, 0, 0]
    shop.clock.advance(store.LEASE_MS + 1)
    await shop.let_pass(HOUR)
    assert await shop.captured() == [1_000] * 6
    for account in accounts:
        shop.account = account
        assert shop.the_auto().state == "paid"
