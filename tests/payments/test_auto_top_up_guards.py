"""What stops auto top-up: guards, the owner's cap, the operator's switch, switching off, disputes."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from farebox.billing import auto_top_up, top_up
from farebox.operator.administer import set_frozen
from farebox.storage import top_ups as store
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from tests.engines import TESTER
from tests.payments.kit import CHARGES, DAY, HOUR, MINUTE, Shop, open_shop, with_settings


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


def bucket(connection: Connection, account_id: str) -> int:
    account = find_account(connection, account_id)
    assert account is not None
    return account.bucket


# --- guards -----------------------------------------------------------------------------------------------------------


async def test_more_than_two_in_ten_minutes_are_put_off(shop: Shop) -> None:
    """The runaway guard: auto top-up continues by itself after the wait."""
    await shop.set_rule(1_000, 500, monthly_cap_cents=100_000)
    for _ in range(4):
        await shop.spend(int(shop.cents) - 400)
        await shop.work()
    assert await shop.captured() == [1_000, 1_000]
    assert (shop.rule.state, shop.rule.reason) == ("paused", "too_many_attempts")
    assert not shop.read(lambda c: store.auto_under_way(c, shop.account))
    await shop.let_pass(11 * MINUTE)
    assert (await shop.captured(), shop.rule.state) == ([1_000] * 3, "active")


async def test_many_purchases_in_a_short_time_pause_it(shop: Shop) -> None:
    await shop.set_rule()
    for number in range(4):
        await shop.buy(1_000 + number)
    await shop.spend(int(shop.cents) - 100)
    await shop.work()
    assert (shop.rule.state, shop.rule.reason) == ("paused", "too_many_top_ups")
    assert len(shop.notices("auto_top_up_paused")) == 1
    await shop.let_pass(11 * MINUTE)
    assert (len(await shop.captured()), shop.rule.state) == (5, "active")


async def test_the_monthly_cap_stops_it_and_the_next_month_lets_it_go_on(shop: Shop) -> None:
    """It does not stop silently: the reason is stated and reported once."""
    await shop.set_rule(1_000, 500, monthly_cap_cents=2_500)
    for _ in range(4):
        await shop.spend(int(shop.cents) - 400)
        await shop.let_pass(HOUR)
    assert await shop.captured() == [1_000, 1_000]
    assert (shop.rule.state, shop.rule.reason) == ("paused", "monthly_cap_reached")
    await shop.let_pass(7 * DAY)  # to the 29th
    assert len(await shop.captured()) == 2
    assert len(shop.notices("auto_top_up_paused")) == 1
    await shop.let_pass(2 * DAY)
    assert (len(await shop.captured()), shop.rule.state) == (3, "active")


async def test_the_cap_counts_fees_and_bounds_the_size(tmp_path: Path) -> None:
    async with open_shop(tmp_path, fee_percent="10") as shop:
        await shop.set_rule(1_000, 5_000, monthly_cap_cents=3_299)
        await shop.work()
        assert (await shop.captured(), shop.cents) == ([2_200], 2_000)
        await shop.agree()


async def test_the_account_s_maximum_bounds_the_size(tmp_path: Path) -> None:
    async with open_shop(tmp_path, topup_max_cents=2_500) as shop:
        await shop.set_rule(1_000, 50_000, monthly_cap_cents=100_000)
        await shop.work()
        assert await shop.captured() == [2_000]


@pytest.mark.parametrize("mode", ["off", "dry_run"])
async def test_the_operators_switch_stops_and_resumes_auto_top_up(shop: Shop, mode: str) -> None:
    switched = Shop(with_settings(shop.services, auto_topup=mode), shop.clock, shop.http)
    switched.account = shop.account
    await switched.set_rule()
    await switched.spend(600)
    await switched.let_pass(3 * DAY)
    assert await switched.captured() == []
    assert (switched.rule.state, switched.rule.reason) == ("paused", "switched_off")
    errors = [row.error or "" for row in switched.top_ups()]
    assert len(errors) == {"off": 1, "dry_run": 4}[mode]
    assert (mode == "dry_run") == errors[0].startswith("dry run: 1000 cents")
    await shop.work()
    assert await shop.captured() == [1_000]


async def test_without_a_processor_nothing_hangs(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    without = with_settings(shop.services)
    object.__setattr__(without, "processor", None)
    assert await top_up.work(without) == 1
    assert not shop.read(lambda c: store.auto_under_way(c, shop.account))
    assert (shop.rule.state, shop.rule.reason) == ("paused", "switched_off")
    await shop.work()
    assert await shop.captured() == [1_000]


async def test_a_refused_processor_request_is_retried_after_an_hour(shop: Shop) -> None:
    await shop.set_rule()
    await shop.change(lambda c: c.execute("UPDATE customers SET customer_id = customer_id || 'x'"))
    await fire(shop)
    await shop.work(3)
    assert (shop.rule.state, shop.rule.reason) == ("paused", "processor_refused")
    assert shop.attempts() == []
    await shop.change(
        lambda c: c.execute("UPDATE customers SET customer_id = substr(customer_id, 1, length(customer_id) - 1)")
    )
    await shop.let_pass(HOUR + MINUTE)
    assert (await shop.captured(), shop.rule.state) == ([1_000], "active")


# --- switching off, freezing ------------------------------------------------------------------------------------------


async def test_switching_off_drops_a_request(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    await auto_top_up.remove_rule(shop.services, shop.account)
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.let_pass(DAY)
    assert (shop.the_auto().state, shop.armed(), await shop.captured()) == ("canceled", False, [])


async def test_switching_off_and_on_again_buys_under_a_new_id(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.set_rule()
    await shop.spend(1_300)
    await shop.let_pass(MINUTE)
    assert [row.top_up_id for row in shop.top_ups()] == ["auto-1", "auto-2"]
    assert await shop.captured() == [1_000, 1_000]


async def test_switching_off_voids_a_waiting_retry(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.let_pass(DAY)
    assert (shop.the_auto().state, await shop.requested()) == ("canceled", 1)
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"


async def test_switching_off_in_mid_charge_does_not_stop_the_charge(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    await shop.fault(CHARGES, "reset_after_commit")
    await shop.work()
    assert shop.the_auto().state == "unknown"
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.let_pass(HOUR)
    assert (shop.the_auto().state, await shop.captured(), shop.armed()) == ("paid", [1_000], False)


async def freeze(shop: Shop, *, frozen: bool) -> None:
    """Freeze or unfreeze the account, like the operator."""
    change = partial(set_frozen, by=TESTER, account_id=shop.account, frozen=frozen, reason="stolen", at=shop.clock.at)
    assert await shop.change(change)


async def test_a_frozen_account_is_not_topped_up_until_it_is_unfrozen(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    await freeze(shop, frozen=True)
    await shop.let_pass(3 * DAY)
    assert (shop.rule.state, shop.rule.reason, await shop.requested()) == ("paused", "account_frozen", 0)
    assert shop.the_auto().state == "canceled"
    await freeze(shop, frozen=False)
    await shop.work()
    assert (shop.rule.state, await shop.captured()) == ("active", [1_000])


async def test_a_waiting_retry_is_given_up_when_the_account_is_frozen(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await freeze(shop, frozen=True)
    await shop.let_pass(7 * DAY)
    assert (shop.the_auto().state, shop.rule.reason, await shop.requested()) == ("canceled", "account_frozen", 1)
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"


@pytest.mark.parametrize(
    ("match", "kind"),
    [("POST /v1/invoices", "reset_before"), (CHARGES, "reset_before"), (CHARGES, "error_500_after_commit")],
)
async def test_an_unknown_auto_top_up_is_resolved_and_not_charged_when_the_account_is_frozen(
    shop: Shop, match: str, kind: str
) -> None:
    await shop.set_rule()
    await fire(shop)
    await shop.fault(match, kind)
    await shop.work()
    assert shop.the_auto().state == "unknown"
    charged = await shop.captured()
    await freeze(shop, frozen=True)
    await shop.let_pass(3 * DAY)
    assert await shop.captured() == charged, "nothing is charged after the account was frozen"
    found = shop.the_auto()
    assert (found.state, found.next_at) == ("paid" if charged else "canceled", None)
    assert (await shop.invoice(found.payment_id))["status"] == ("paid" if charged else "void")
    assert charged or (shop.rule.state, shop.rule.reason) == ("paused", "account_frozen")


async def test_an_unknown_purchase_is_not_charged_when_the_account_is_frozen(shop: Shop) -> None:
    await shop.fault(CHARGES, "reset_before")
    assert (await shop.buy()).state == "unknown"
    await freeze(shop, frozen=True)
    await shop.let_pass(3 * DAY)
    (found,) = shop.top_ups()
    assert (found.state, found.error, await shop.captured()) == ("canceled", "The account is frozen.", [])
    assert (await shop.invoice(found.payment_id))["status"] == "void"


async def test_a_dispute_freezes_auto_top_up_until_it_is_won(shop: Shop) -> None:
    await shop.set_rule()
    await fire(shop)
    reason = "payment_disputed"
    await shop.change(lambda c: auto_top_up.freeze(c, bucket(c, shop.account), shop.account, reason, shop.clock.at))
    await shop.let_pass(DAY)
    assert (await shop.captured(), shop.rule.state, shop.rule.reason) == ([], "suspended", reason)
    await shop.save_card("pm_card_mastercard")
    assert shop.rule.state == "suspended", "the suspension was not about a card"
    await shop.change(lambda c: auto_top_up.unfreeze(c, bucket(c, shop.account), shop.account, reason, shop.clock.at))
    await shop.work(2)
    assert (await shop.captured(), shop.rule.state) == ([1_000], "active")
