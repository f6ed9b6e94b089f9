"""Auto top-up with a card that is declined or needs its owner: retried by the rules, then stopped, with one notice."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.storage import top_ups as store
from farebox.storage.findings import open_findings
from tests.payments.kit import CHARGES, DAY, HOUR, MINUTE, Shop, open_shop


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


# --- declines ---------------------------------------------------------------------------------------------------------


async def test_a_soft_decline_is_retried_after_an_hour(shop: Shop) -> None:
    card = await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert (shop.the_auto().state, shop.rule.state) == ("declined", "active")
    assert (shop.rule.error, shop.rule.last_failed_at) == ("The card has insufficient funds.", shop.clock.at)
    assert not shop.read(lambda c: store.auto_under_way(c, shop.account)), "no credit is expected soon"
    await shop.steer(f"cards/{card}", behave="ok")
    await shop.let_pass(HOUR - MINUTE)
    assert await shop.requested() == 1
    await shop.let_pass(2 * MINUTE)
    assert (shop.the_auto().state, shop.the_auto().attempt) == ("paid", 2)
    assert (shop.rule.failures, shop.rule.error) == (0, None)
    assert shop.notices() == ["top_up_paid"]


@pytest.mark.parametrize("behave", ["expired_card", "stolen_card", "do_not_try_again"])
async def test_a_hard_decline_suspends_at_once(shop: Shop, behave: str) -> None:
    await shop.save_card("pm_card_mastercard", behave)
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(7 * DAY)
    assert (shop.the_auto().state, shop.rule.state, shop.rule.reason) == ("failed", "suspended", "card_declined")
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"
    assert await shop.requested() == 1
    assert shop.notices() == ["auto_top_up_suspended"]
    assert not shop.armed()
    if behave == "stolen_card":
        assert shop.rule.error == "The card was declined."


@pytest.mark.parametrize("advice", ["do_not_try_again", "confirm_card_data"])
@pytest.mark.parametrize("away", [None, 0, 2 * DAY])
async def test_a_soft_decline_with_the_network_s_never_again_suspends_at_once(
    shop: Shop, advice: str, away: int | None
) -> None:
    """Stripe passes on the network's advice with the code (`advice_code`, https://docs.stripe.com/declines/codes);
    retrying nevertheless costs a network fee."""
    card = await shop.save_card("pm_card_mastercard")
    await shop.steer(f"cards/{card}", behave="do_not_honor", advice=advice)
    await shop.set_rule()
    if away is not None:  # the response is lost; after a day only the invoice shows it
        await shop.fault(CHARGES, "reset_after_commit")
    await fire(shop)
    await shop.work()
    shop.clock.advance(away or 0)
    await shop.let_pass(7 * DAY)
    assert (shop.the_auto().state, shop.rule.state, shop.rule.reason) == ("failed", "suspended", "card_declined")
    assert await shop.charges() == ["failed"]
    assert shop.notices() == ["auto_top_up_suspended"]


async def test_the_monthly_cap_is_checked_again_before_a_retry(shop: Shop) -> None:
    card = await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule(1_000, 4_500, monthly_cap_cents=4_000)
    await shop.work()
    assert (shop.the_auto().state, shop.the_auto().charge_cents) == ("declined", 4_000)
    await shop.change(lambda c: c.execute("UPDATE top_up_rules SET monthly_cap_cents = 3999"))
    await shop.steer(f"cards/{card}", behave="ok")
    await shop.let_pass(HOUR + MINUTE)
    assert (shop.the_auto().state, shop.the_auto().error) == ("canceled", "The monthly cap is reached.")
    assert (shop.rule.state, shop.rule.reason) == ("paused", "monthly_cap_reached")
    assert await shop.captured() == []


async def test_a_lost_decline_response_is_repeated_without_another_charge(shop: Shop) -> None:
    """The same idempotency key returns the same response. With a new key, the card would be charged a second time
    (docs.stripe.com/api/idempotent_requests)."""
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await shop.fault(CHARGES, "reset_after_commit")
    await fire(shop)
    await shop.work()
    assert (shop.the_auto().state, shop.rule.failures) == ("unknown", 0)
    await shop.let_pass(MINUTE)
    assert (shop.the_auto().state, shop.rule.failures, await shop.requested()) == ("declined", 1, 2)
    assert await shop.charges() == ["failed"]


async def test_a_dead_card_is_retried_within_the_rules_and_notified_once(shop: Shop) -> None:
    """One invoice and three attempts in a month, however often credit is spent in the meantime."""
    await shop.save_card("pm_card_mastercard", "generic_decline")
    await shop.set_rule()
    await fire(shop)
    for _ in range(30):
        await shop.let_pass(DAY)
        await shop.spend(1)
    times = [at for at, _ in shop.attempts()]
    assert len(times) == 3
    assert times[1] - times[0] >= HOUR
    assert times[2] - times[1] >= 2 * HOUR
    assert (shop.rule.state, shop.rule.reason, shop.rule.failures) == ("suspended", "card_declined", 3)
    assert shop.notices() == ["auto_top_up_suspended"]
    assert len(shop.top_ups()) == 1
    assert await shop.requested("/finalize") == 1, "one invoice"
    assert await shop.requested() == 3
    assert shop.next_due() is None


async def test_only_another_card_or_the_owner_lifts_a_suspension(shop: Shop) -> None:
    """Auto top-up does not switch itself on again."""
    await shop.save_card("pm_card_mastercard", "expired_card")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert shop.rule.state == "suspended"
    await shop.save_card("pm_card_mastercard")  # the same card saved again
    await shop.let_pass(7 * DAY)
    assert shop.rule.state == "suspended"
    await shop.save_card("pm_card_visa")
    assert (shop.rule.state, shop.rule.reason, shop.rule.error) == ("active", None, None)
    await shop.let_pass(MINUTE)
    assert await shop.captured() == [1_000]


async def test_saving_the_rule_again_tries_the_card_again_once(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "expired_card")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.set_rule()
    assert (shop.rule.state, shop.rule.reason, shop.rule.error, shop.rule.last_failed_at) == ("active",) + (None,) * 3
    await shop.let_pass(30 * MINUTE)
    assert (await shop.requested(), shop.rule.state, shop.rule.reason) == (1, "paused", "too_many_attempts")
    await shop.let_pass(DAY)
    assert (await shop.requested(), shop.rule.state) == (2, "suspended")


async def test_a_missing_card_suspends_until_one_is_saved(shop: Shop) -> None:
    await shop.open_account(card=None)
    await shop.grant(1_000)
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(DAY)
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "no_payment_method")
    assert shop.notices() == ["auto_top_up_suspended"]
    await shop.save_card()
    await shop.work(2)
    assert (shop.rule.state, await shop.captured()) == ("active", [1_000])


async def test_a_new_card_replaces_one_that_waits_for_a_retry(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.save_card("pm_card_visa")
    await shop.let_pass(MINUTE)
    assert [row.state for row in shop.top_ups()] == ["canceled", "paid"]
    assert (await shop.invoice(shop.top_ups()[0].payment_id))["status"] == "void"
    assert await shop.captured() == [1_000]


async def test_a_second_invoice_waits_until_the_first_is_void(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.fault("POST /v1/invoices/*/void", "reset_before", times=1_000)
    await shop.save_card("pm_card_visa")
    await shop.let_pass(2 * MINUTE)
    assert [row.state for row in shop.top_ups()] == ["canceled", "requested"]
    await shop.pay_hosted(shop.top_ups()[0].payment_id)
    await shop.no_faults()
    await shop.let_pass(HOUR)
    assert [row.state for row in shop.top_ups()] == ["paid", "canceled"]
    assert await shop.captured() == [1_000]


async def test_an_invoice_that_cannot_be_voided_becomes_a_finding(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.fault("POST /v1/invoices/*/void", "reset_before", times=1_000)
    await shop.save_card("pm_card_visa")
    await shop.let_pass(HOUR // 2)
    assert shop.findings() == []
    await shop.let_pass(2 * HOUR)
    (found,) = shop.read(open_findings)
    assert (found.kind, found.payment_id) == ("not_void", shop.top_ups()[0].payment_id)
    await shop.no_faults()
    await shop.let_pass(2 * HOUR)
    assert [row.state for row in shop.top_ups()] == ["canceled", "paid"]
    assert shop.read(open_findings) == []


async def test_a_declined_top_up_that_is_no_longer_needed_is_voided(shop: Shop) -> None:
    dead = await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.grant(5_000)
    await shop.let_pass(2 * HOUR)
    assert (shop.the_auto().state, await shop.requested(), shop.armed()) == ("canceled", 1, True)
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"
    assert shop.the_auto().card_id == dead


async def test_a_declined_top_up_that_the_owner_paid_manually_is_credited(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.pay_hosted(shop.the_auto().payment_id)
    await shop.let_pass(2 * HOUR)
    assert (shop.the_auto().state, await shop.captured(), await shop.requested()) == ("paid", [1_000], 1)


# --- authentication ---------------------------------------------------------------------------------------------------


async def asks_for_its_owner(shop: Shop) -> None:
    await shop.save_card("pm_card_authenticationRequired")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    requested = shop.the_auto()
    assert (requested.state, requested.action_url is not None) == ("action_required", True)
    assert (shop.rule.state, shop.rule.reason) == ("action_required", "authentication_required")
    assert shop.notices() == ["top_up_action_required"]


async def test_required_authentication_is_completed_on_the_hosted_page(shop: Shop) -> None:
    """After 3-D Secure, the rule is active again without further action by the owner."""
    await asks_for_its_owner(shop)
    await shop.confirm(shop.the_auto())
    await shop.let_pass(HOUR)
    assert (shop.the_auto().state, shop.rule.state, shop.rule.error) == ("paid", "active", None)
    assert (shop.armed(), await shop.captured()) == (True, [1_000])


async def test_an_unconfirmed_payment_is_voided_after_three_days_and_suspends(shop: Shop) -> None:
    await asks_for_its_owner(shop)
    await shop.let_pass(30 * DAY)
    assert (shop.the_auto().state, shop.rule.state, shop.rule.reason) == (
        "canceled",
        "suspended",
        "authentication_required",
    )
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"
    assert shop.notices() == ["top_up_action_required", "auto_top_up_suspended"]
    assert (await shop.requested(), len(shop.top_ups())) == (1, 1)


async def test_another_card_continues_after_required_authentication(shop: Shop) -> None:
    await asks_for_its_owner(shop)
    await shop.save_card("pm_card_visa")
    await shop.let_pass(MINUTE)
    assert [row.state for row in shop.top_ups()] == ["canceled", "paid"]
    assert (shop.rule.state, await shop.captured()) == ("active", [1_000])
