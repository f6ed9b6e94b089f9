"""Buying manually with a saved card: paid once, whatever fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from farebox.billing import top_up
from farebox.errors import (
    CARD_DECLINED,
    KEY_REUSED,
    NO_CARD,
    NOT_FOUND,
    RATE_LIMITED,
    TOP_UP_IN_PROGRESS,
    VALIDATION_FAILED,
    ErrorKind,
    Problem,
)
from farebox.payments.model import TopUp
from farebox.payments.purchase import Purchase
from farebox.storage import top_ups as store
from farebox.storage.accounts import find_account
from tests.payments.kit import CHARGES, DAY, HOUR, MINUTE, SECOND, Shop, open_shop


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


# --- normal operation -------------------------------------------------------------------------------------------------


async def test_a_purchase_is_paid_credited_documented_and_notified(shop: Shop) -> None:
    bought = await shop.buy(5_000)
    assert (bought.state, bought.credit_cents, bought.brand, bought.last4) == ("paid", 5_000, "visa", "4242")
    assert bought.payment_id is not None
    assert shop.cents == 5_000
    assert await shop.captured() == [5_000]
    assert shop.notices() == ["top_up_paid"]
    assert shop.bought_by_hand()
    listed, count = await top_up.history(shop.services, shop.account, "manual", 0, 10)
    assert ([item.top_up_id for item in listed], count) == ([bought.top_up_id], 1)
    assert await top_up.history(shop.services, shop.account, "auto", 0, 10) == ([], 0)
    assert shop.next_due() is None


async def test_the_status_is_found_by_both_ids_and_only_for_its_account(shop: Shop) -> None:
    bought = await shop.buy()
    for name in (bought.payment_id, bought.top_up_id):
        assert name is not None
        assert (await top_up.status(shop.services, shop.account, name)).state == "paid"
    first = shop.account
    await shop.open_account()
    assert shop.account != first
    for name in (bought.payment_id, bought.top_up_id, "in_nothing"):
        assert name is not None
        with pytest.raises(Problem) as caught:
            await top_up.status(shop.services, shop.account, name)
        assert caught.value.kind is NOT_FOUND


async def test_amounts_outside_the_limits_are_refused(shop: Shop) -> None:
    low, high = await top_up.limits(shop.services, shop.account)
    assert (low, high) == (1_000, 1_000_000)
    assert (await refused(shop, VALIDATION_FAILED, low - 1)).path == ("body", "amount")
    await refused(shop, VALIDATION_FAILED, high + 1)


async def test_without_a_card_there_is_nothing_to_charge(shop: Shop) -> None:
    await refused(shop, NO_CARD, card_id="pm_of_somebody_else")
    await shop.open_account(card=None)
    await refused(shop, NO_CARD)
    assert shop.top_ups() == []


@pytest.mark.parametrize(
    ("behave", "reported"),
    [
        ("insufficient_funds", "The card has insufficient funds."),
        ("expired_card", "The card has expired."),
        ("stolen_card", "The card was declined."),
        ("lost_card", "The card was declined."),
        ("fraudulent", "The card was declined."),
        ("generic_decline", "The card was declined."),
    ],
)
async def test_a_declined_card_fails_the_purchase_and_leaves_no_open_invoice(
    shop: Shop, behave: str, reported: str
) -> None:
    await shop.save_card("pm_card_mastercard", behave)
    assert (await refused(shop, CARD_DECLINED)).message == reported
    (row,) = shop.top_ups()
    assert (row.state, row.decline_code, row.next_at) == ("failed", behave, None)
    assert (await shop.invoice(row.payment_id))["status"] == "void"
    assert shop.cents == 0
    assert shop.notices() == []


async def test_authentication_is_finished_on_the_hosted_page_with_every_webhook_lost(shop: Shop) -> None:
    await shop.save_card("pm_card_authenticationRequired")
    bought = await shop.buy()
    assert bought.state == "action_required"
    assert bought.client_secret is not None
    assert bought.action_url is not None
    assert shop.cents == 0
    await shop.confirm(bought)
    await shop.let_pass(HOUR)
    assert shop.top_ups()[0].state == "paid"
    assert shop.cents == 5_000


async def test_authentication_that_fails_once_may_be_tried_again(shop: Shop) -> None:
    await shop.save_card("pm_card_authenticationRequired")
    bought = await shop.buy()
    await shop.confirm(bought, passed=False)
    await shop.let_pass(HOUR)
    assert shop.top_ups()[0].state == "action_required"
    await shop.confirm(bought)
    assert (await top_up.status(shop.services, shop.account, bought.payment_id or "")).state == "paid"


async def test_unfinished_authentication_is_canceled_after_three_days(shop: Shop) -> None:
    await shop.save_card("pm_card_authenticationRequired")
    bought = await shop.buy()
    await shop.let_pass(3 * DAY - MINUTE)
    assert shop.top_ups()[0].state == "action_required"
    await shop.let_pass(2 * MINUTE)
    assert (shop.top_ups()[0].state, shop.next_due()) == ("canceled", None)
    assert (await shop.invoice(bought.payment_id))["status"] == "void"


async def test_a_purchase_that_waits_for_its_owner_blocks_no_other(shop: Shop) -> None:
    """A stuck row must not block others forever."""
    await shop.save_card("pm_card_authenticationRequired")
    await shop.buy(2_000)
    assert (await shop.buy(3_000)).state == "action_required"
    await shop.save_card("pm_card_visa")
    assert (await shop.buy(4_000)).state == "paid"
    assert sorted(row.state for row in shop.top_ups()) == ["action_required", "action_required", "paid"]


# --- repeats ----------------------------------------------------------------------------------------------------------


async def test_many_identical_requests_at_once_are_one_purchase(shop: Shop) -> None:
    bought = await asyncio.gather(*(shop.buy(2_000) for _ in range(20)))
    assert {item.top_up_id for item in bought} == {bought[0].top_up_id}
    assert {item.state for item in bought} == {"paid"}
    assert await shop.captured() == [2_000]


async def test_the_sdks_retry_finds_its_first_attempt_even_minutes_later(shop: Shop) -> None:
    first = await shop.buy(2_000)
    shop.clock.advance(5 * MINUTE)
    again = await shop.buy(2_000, retry=True)
    assert again.top_up_id == first.top_up_id
    another = await shop.buy(2_000)
    assert another.top_up_id != first.top_up_id
    assert await shop.captured() == [2_000, 2_000]


async def test_the_same_request_within_a_minute_is_the_same_purchase(shop: Shop) -> None:
    first = await shop.buy(2_000)
    shop.clock.advance(59 * SECOND)
    assert (await shop.buy(2_000)).top_up_id == first.top_up_id
    assert (await shop.buy(3_000)).top_up_id != first.top_up_id
    assert await shop.captured() == [2_000, 3_000]


async def test_after_a_decline_the_same_request_is_a_new_purchase_but_its_retry_is_not(shop: Shop) -> None:
    card = await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await refused(shop, CARD_DECLINED, 2_000)
    await refused(shop, CARD_DECLINED, 2_000, retry=True)
    assert len(shop.top_ups()) == 1
    await shop.steer(f"cards/{card}", behave="ok")
    assert (await shop.buy(2_000)).state == "paid"


async def test_an_idempotency_key_identifies_its_purchase_permanently(shop: Shop) -> None:
    first = await shop.buy(2_000, request_key="k1")
    shop.clock.advance(30 * DAY)
    assert (await shop.buy(2_000, request_key="k1")).top_up_id == first.top_up_id
    await refused(shop, KEY_REUSED, 3_000, request_key="k1")
    assert (await shop.buy(2_000, request_key="k2")).top_up_id != first.top_up_id
    assert await shop.captured() == [2_000, 2_000]


async def test_a_key_belongs_to_its_account(shop: Shop) -> None:
    first = await shop.buy(2_000, request_key="k1")
    await shop.open_account()
    second = await shop.buy(2_000, request_key="k1")
    assert second.payment_id != first.payment_id
    assert await shop.captured() == [2_000, 2_000]


async def test_a_key_of_a_declined_purchase_is_answered_the_same_again(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await refused(shop, CARD_DECLINED, 2_000, request_key="k")
    await refused(shop, CARD_DECLINED, 2_000, request_key="k")
    assert await shop.requested() == 1


async def test_another_purchase_must_wait_for_one_that_is_not_known_yet(shop: Shop) -> None:
    await shop.fault(CHARGES, "reset_after_commit")
    assert (await shop.buy(2_000)).state == "unknown"
    await refused(shop, TOP_UP_IN_PROGRESS, 3_000)
    assert (await shop.buy(3_000, request_key="surely another")).state == "paid"
    await shop.let_pass(HOUR)
    assert sorted(await shop.captured()) == [2_000, 3_000]


# --- guards, fees, taxes ----------------------------------------------------------------------------------------------


async def test_stolen_cards_cannot_be_tested(shop: Shop) -> None:
    await shop.save_card("pm_card_visa_debit", "generic_decline")
    for number in range(10):
        await refused(shop, CARD_DECLINED, 1_000 + number)
    problem = await refused(shop, RATE_LIMITED, 2_000)
    assert problem.retry_after is not None
    assert 0 < problem.retry_after <= 3_600
    assert await shop.requested() == 10
    await shop.save_card("pm_card_visa")
    await refused(shop, RATE_LIMITED, 2_000)
    shop.clock.advance(HOUR + SECOND)
    assert (await shop.buy(2_000)).state == "paid"


async def test_fee_and_tax_are_charged_and_the_credit_is_what_was_bought(tmp_path: Path) -> None:
    async with open_shop(tmp_path, fee_percent="5", fee_fixed_cents=30, seller_country="DE") as shop:
        await shop.change(
            lambda c: c.execute(
                "INSERT INTO tax_rates (country, name, parts_per_million, reverse_charge, updated_at) "
                "VALUES ('*', 'VAT', 200000, 1, 0)"
            )
        )
        quoted = await top_up.quote(shop.services, shop.account, 10_000)
        assert (quoted.credit_cents, quoted.fee_cents, quoted.tax_cents) == (10_000, 530, 2_106)
        bought = await shop.buy(10_000)
        assert msgspec.json.decode(bought.lines, type=Purchase) == quoted
        assert (await shop.captured(), shop.cents) == ([12_636], 10_000)
        await shop.agree()


async def test_bought_credit_expires_if_configured(tmp_path: Path) -> None:
    async with open_shop(tmp_path, credit_days=30) as shop:
        await shop.buy(2_000)
        ((expires_at,),) = shop.read(lambda c: c.execute("SELECT expires_at FROM lots").fetchall())
        assert expires_at == shop.clock.at + 30 * DAY
        await shop.agree()


async def test_the_first_purchase_sets_the_low_balance_threshold_once(tmp_path: Path) -> None:
    async with open_shop(tmp_path, low_balance_cents=300) as shop:
        await shop.change(lambda c: c.execute("UPDATE balances SET low_below = NULL"))
        await shop.buy(2_000)
        assert shop.read(lambda c: c.execute("SELECT low_below FROM balances").fetchall()) == [(3_000_000_000,)]
        await shop.change(lambda c: c.execute("UPDATE balances SET low_below = 1"))
        await shop.buy(3_000)
        assert shop.read(lambda c: c.execute("SELECT low_below FROM balances").fetchall()) == [(1,)]


async def test_every_stored_purchase_has_a_next_step(shop: Shop) -> None:
    """Open purchases are processed again; finished ones are not."""
    await shop.buy(2_000)
    await shop.save_card("pm_card_authenticationRequired")
    await shop.buy(3_000)
    for row in shop.top_ups():
        assert (row.next_at is None) == (row.state == "paid")
        assert find(shop, row) == row


def find(shop: Shop, row: TopUp) -> TopUp | None:
    assert shop.read(lambda c: find_account(c, row.account_id)) is not None
    return shop.read(lambda c: store.find(c, row.account_id, row.top_up_id))
