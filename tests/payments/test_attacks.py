"""Attacks on auto top-up: what an operator, an owner, the dashboard or a crash may do in the middle of one.

After every round of the worker, `Shop.work` checks that no rule has stopped silently (`books.silent_stops`).
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from farebox.billing import auto_top_up, cards, disputes, top_up
from farebox.billing.top_up_transitions import close_never_charged
from farebox.errors import TOP_UP_FAILED, Problem
from farebox.payments.stripe import StripeProcessor
from farebox.storage.sql import Connection
from farebox.storage.top_ups import claim
from tests.payments.kit import CHARGES, DAY, HOUR, MINUTE, Shop, open_shop, with_settings


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with ten dollars on the account; auto top-up buys ten more below five. The books agree at the end."""
    async with open_shop(tmp_path) as opened:
        await opened.grant(1_000)
        yield opened
        await opened.agree()


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Shop]:
    """The same, for tests in which the books cannot agree because money came in that must not be credited."""
    async with open_shop(tmp_path) as opened:
        await opened.grant(1_000)
        yield opened


async def fire(shop: Shop, cents: int = 600) -> None:
    """Spend below the threshold."""
    await shop.spend(cents)


def other(shop: Shop, **settings: Any) -> Shop:
    """The same shop after a restart with other settings."""
    restarted = Shop(with_settings(shop.services, **settings), shop.clock, shop.http)
    restarted.account = shop.account
    return restarted


# --- switched off in the middle ---------------------------------------------------------------------------------------


async def stuck_before_its_charge(shop: Shop) -> None:
    """A top-up with an invoice whose card has not been charged yet: the process died, or Stripe was unavailable."""
    await shop.set_rule()
    await fire(shop)
    await shop.fault("POST /v1/invoices/*/finalize", "reset_after_commit")
    await shop.fault("GET /v1/invoices/*", "reset_before")
    await shop.work()
    assert (shop.the_auto().state, shop.attempts()) == ("unknown", [])


async def test_the_operators_switch_stops_what_has_not_been_charged_yet(shop: Shop) -> None:
    await stuck_before_its_charge(shop)
    off = other(shop, auto_topup="off")
    await off.let_pass(2 * HOUR)
    assert (await off.captured(), {row.state for row in off.top_ups()}) == ([], {"canceled"})
    assert (off.rule.state, off.rule.reason) == ("paused", "switched_off")
    await shop.work(2)
    assert await shop.captured() == [1_000]


async def test_an_owner_who_switches_auto_top_up_off_is_not_charged_hours_later(shop: Shop) -> None:
    await stuck_before_its_charge(shop)
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.let_pass(DAY)
    assert (await shop.captured(), shop.the_auto().state) == ([], "canceled")
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"


async def test_a_manual_purchase_meanwhile_prevents_another_charge(shop: Shop) -> None:
    await stuck_before_its_charge(shop)
    await shop.buy(5_000)
    await shop.let_pass(DAY)
    assert (await shop.captured(), shop.the_auto().state, shop.armed()) == ([5_000], "canceled", True)


@pytest.mark.parametrize("kind", ["reset_before", "timeout_after_commit"])
async def test_a_charge_without_response_is_voided_or_credited_once_it_is_not_wanted(shop: Shop, kind: str) -> None:
    await shop.set_rule()
    await fire(shop)
    await shop.fault(CHARGES, kind, times=3)
    await shop.work()
    assert shop.the_auto().state == "unknown"
    await auto_top_up.remove_rule(shop.services, shop.account)
    await shop.no_faults()
    await shop.let_pass(2 * HOUR)
    charged = kind != "reset_before"
    assert (shop.the_auto().state, await shop.captured()) == (("paid", [1_000]) if charged else ("canceled", []))


# --- stops that would go unnoticed ------------------------------------------------------------------------------------


async def test_a_vanished_confirmed_payment_blocks_nothing(shop: Shop) -> None:
    """Confirmed, pending at the bank, and then nothing for a week: the rule must not wait for a confirmation."""
    await shop.save_card("pm_card_authenticationRequired")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert shop.rule.state == "action_required"

    def given_up(connection: Connection) -> None:
        claimed = claim(connection, shop.account, "auto-1", owner="w", at=shop.clock.at, early=True)
        assert claimed is not None
        close_never_charged(connection, claimed, shop.clock.at)

    await shop.change(given_up)
    assert (shop.rule.state, shop.armed()) == ("active", True)
    await shop.save_card("pm_card_visa")
    await shop.let_pass(HOUR)
    assert ([row.state for row in shop.top_ups()], await shop.captured()) == (["failed", "paid"], [1_000])


async def test_a_failing_secret_key_does_not_end_a_charge_in_progress(shop: Shop) -> None:
    """A payment that cannot be fetched is unknown; it is not reported as uncharged."""
    await shop.fault(CHARGES, "reset_after_commit")
    assert (await shop.buy(1_000)).state == "unknown"
    processor = shop.services.processor
    wrong = StripeProcessor("sk_live_of_another", webhook_secret="w", api_base=shop.services.settings.stripe_api_base)
    object.__setattr__(shop.services, "processor", wrong)
    await shop.let_pass(2 * HOUR)
    assert [row.state for row in shop.top_ups()] == ["unknown"]
    await wrong.close()
    object.__setattr__(shop.services, "processor", processor)
    await shop.let_pass(2 * HOUR)
    assert ([row.state for row in shop.top_ups()], await shop.captured()) == (["paid"], [1_000])


async def test_a_deleted_invoice_blocks_nothing(shop: Shop) -> None:
    """An invoice that was deleted at the processor, or belongs to its other mode, will never be paid."""
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    gone = "UPDATE top_ups SET payment_id = 'in_gone' WHERE top_up_id = 'auto-1'"
    await shop.change(lambda c: c.execute(gone))
    await shop.save_card("pm_card_visa")
    await shop.let_pass(HOUR)
    assert [row.state for row in shop.top_ups()] == ["canceled", "paid"]
    assert await shop.captured() == [1_000]


# --- the processor's customer -----------------------------------------------------------------------------------------


async def test_a_customers_credit_balance_is_never_taken_for_money(shop: Shop) -> None:
    """An invoice that Stripe pays from the customer's balance brings no money in."""
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.stripe(f"customers/{customer}/balance_transactions", amount=-400, currency="usd")
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(DAY)
    assert await shop.captured() == []
    assert (shop.rule.state, shop.rule.reason, len(shop.top_ups())) == ("suspended", "under_review", 1)
    assert (await shop.invoice(shop.the_auto().payment_id))["status"] == "void"
    assert shop.notices() == ["auto_top_up_suspended"]


async def test_a_customers_debt_is_never_charged_with_a_purchase(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.stripe(f"customers/{customer}/balance_transactions", amount=400, currency="usd")
    with pytest.raises(Problem) as caught:
        await shop.buy(1_000)
    assert caught.value.kind is TOP_UP_FAILED
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(DAY)
    assert (await shop.captured(), shop.rule.reason) == ([], "under_review")


async def test_an_invoice_paid_from_the_customers_balance_is_no_credit(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.stripe(f"customers/{customer}/balance_transactions", amount=-5_000, currency="usd")
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(DAY)
    assert (await shop.captured(), shop.cents, shop.findings()) == ([], 400, ["not_credited"])
    assert (shop.rule.state, shop.rule.reason, len(shop.top_ups())) == ("suspended", "under_review", 1)


async def test_a_deleted_customer_suspends_the_rule_with_a_notice(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.http.delete(f"/v1/customers/{customer}", headers={"authorization": "Bearer sk_test_1"})
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(3 * DAY)
    assert await shop.captured() == []
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "no_payment_method")
    assert len(shop.top_ups()) < 5
    here = "https://example.com/"
    await cards.open_setup(shop.services, shop.account, success_url=here, cancel_url=here)
    assert await cards.customer_of(shop.services, shop.account) != customer
    await shop.save_card("pm_card_visa")
    await shop.let_pass(HOUR)
    assert (shop.rule.state, await shop.captured()) == ("active", [1_000])


async def test_a_deleted_customer_may_buy_at_checkout(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.http.delete(f"/v1/customers/{customer}", headers={"authorization": "Bearer sk_test_1"})
    here = "https://example.com/"
    page = await top_up.buy_at_checkout(
        shop.services, shop.account, credit_cents=1_000, success_url=here, cancel_url=here
    )
    await shop.pay_at(page.action_url)
    await shop.let_pass(HOUR)
    assert (await shop.captured(), shop.cents) == ([1_000], 2_000)


async def test_a_card_detached_without_an_event_is_not_retried_forever(shop: Shop) -> None:
    """Without a bound, each trigger would create another invoice that nothing can pay."""
    (card,) = await cards.cards(shop.services, shop.account)
    await shop.stripe(f"payment_methods/{card.card_id}/detach")
    await shop.set_rule()
    await fire(shop)
    await shop.let_pass(3 * DAY)
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "no_payment_method")
    assert (await shop.captured(), len(shop.top_ups()) < 5) == ([], True)
    assert shop.notices() == ["auto_top_up_suspended"]


async def test_a_card_removed_while_its_charge_waits(shop: Shop) -> None:
    method = await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert shop.the_auto().state == "declined"
    for card in await cards.cards(shop.services, shop.account):
        await cards.remove(shop.services, shop.account, card.card_id)
    await shop.steer(f"cards/{method}", behave="ok")
    await shop.let_pass(3 * DAY)
    assert await shop.captured() == []
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "no_payment_method")


# --- suspended stays suspended ----------------------------------------------------------------------------------------


async def test_another_card_does_not_lift_a_suspension_while_a_payment_is_disputed(shop: Shop) -> None:
    bought = await shop.buy(1_000)
    await shop.save_card("pm_card_mastercard", "lost_card")
    await shop.set_rule()
    await shop.spend(1_600)
    await shop.let_pass(MINUTE)
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "card_declined")
    dispute = await shop.steer("disputes", invoice=bought.payment_id)
    processor = shop.services.processor
    assert processor is not None
    await disputes.apply_dispute(shop.services, await processor.fetch_dispute(dispute["id"]))
    await shop.save_card("pm_card_visa")
    await shop.let_pass(HOUR)
    assert (await shop.captured(), shop.rule.state) == ([1_000], "suspended")
    await shop.steer(f"disputes/{dispute['id']}/close", status="won")
    await disputes.apply_dispute(shop.services, await processor.fetch_dispute(dispute["id"]))
    await shop.spend(1)
    await shop.let_pass(HOUR)
    assert shop.rule.state in ("active", "suspended")


async def test_a_renewed_card_lifts_the_suspension_of_the_expired_one(shop: Shop) -> None:
    """The number is the same, and so is the fingerprint: only the expiry differs."""

    async def save(year: int, behave: str) -> None:
        card = {"card[number]": "5555555555554444", "card[exp_month]": 12, "card[exp_year]": year, "card[cvc]": "123"}
        method = (await shop.stripe("payment_methods", type="card", **card))["id"]
        await shop.save_card(method)
        await shop.steer(f"cards/{method}", behave=behave)

    await save(2027, "expired_card")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    assert (shop.rule.state, shop.rule.reason) == ("suspended", "card_declined")
    await save(2031, "ok")
    await shop.let_pass(HOUR)
    assert (shop.rule.state, await shop.captured()) == ("active", [1_000])


async def test_the_same_card_saved_again_lifts_no_suspension(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "lost_card")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    await shop.save_card("pm_card_mastercard")
    await shop.let_pass(DAY)
    assert (shop.rule.state, await shop.captured()) == ("suspended", [])


# --- events about what is still a request -----------------------------------------------------------------------------


async def test_a_payment_for_what_is_still_a_request_is_a_finding_and_no_error(lone: Shop) -> None:
    """After restoring a backup, a payment with the ID of a request may already exist."""
    shop = lone
    await shop.set_rule()
    await fire(shop)
    customer = await cards.customer_of(shop.services, shop.account)
    account = shop.account
    made = await shop.stripe(
        "invoices",
        customer=customer,
        auto_advance="false",
        **{"metadata[farebox_account]": account, "metadata[farebox_top_up]": "auto-1"},
    )
    await shop.stripe(f"invoices/{made['id']}/add_lines", **{"lines[0][description]": "x", "lines[0][amount]": 777})
    await shop.stripe(f"invoices/{made['id']}/pay")
    assert shop.services.processor is not None
    invoice = await shop.services.processor.fetch_invoice(made["id"])
    assert await top_up.apply_invoice(shop.services, invoice) == "not_credited"
    assert "not_credited" in shop.findings()
    assert shop.cents == 400
    assert (shop.rule.state, shop.rule.reason, shop.the_auto().state) == ("suspended", "under_review", "canceled")
    await shop.work()


# --- what a dashboard may change --------------------------------------------------------------------------------------


async def test_metadata_edited_in_the_dashboard_moves_no_money_to_another_account(lone: Shop) -> None:
    """The directory determines the account of an invoice; if the invoice's metadata differs, a finding is raised."""
    shop = lone
    victim = shop.account
    theirs = await shop.open_account()
    await shop.fault(CHARGES, "reset_before", times=5)
    begun = await shop.buy(3_000)
    assert begun.payment_id is not None
    named = {"metadata[farebox_account]": victim, "metadata[farebox_top_up]": "auto-1"}
    await shop.stripe(f"invoices/{begun.payment_id}", **named)
    await shop.no_faults()
    await shop.pay_hosted(begun.payment_id)
    await shop.let_pass(DAY)
    assert (shop.cents, shop.findings()) == (0, ["not_credited"])
    shop.account = victim
    assert (shop.cents, shop.top_ups()) == (1_000, [])
    shop.account = theirs
    assert [row.state for row in shop.top_ups()] == ["failed"]


async def test_metadata_edited_after_the_credit_changes_nothing(shop: Shop) -> None:
    bought = await shop.buy(3_000)
    await shop.stripe(f"invoices/{bought.payment_id}", **{"metadata[farebox_account]": "somebody"})
    assert shop.services.processor is not None
    invoice = await shop.services.processor.fetch_invoice(bought.payment_id or "")
    assert await top_up.apply_invoice(shop.services, invoice) == "already_credited"
    assert (shop.cents, shop.findings()) == (4_000, [])


async def test_an_expired_payment_page_cannot_be_paid_and_a_paid_one_is_paid_once(shop: Shop) -> None:
    here = "https://example.com/"
    page = await top_up.buy_at_checkout(
        shop.services, shop.account, credit_cents=2_000, success_url=here, cancel_url=here
    )
    late = await top_up.buy_at_checkout(
        shop.services, shop.account, credit_cents=1_000, success_url=here, cancel_url=here
    )
    await shop.pay_at(page.action_url)
    await shop.pay_at(page.action_url, "5555555555554444")
    await shop.let_pass(2 * DAY)
    await shop.pay_at(late.action_url)
    await shop.let_pass(DAY)
    assert await shop.captured() == [2_000]
    assert sorted(row.state for row in shop.top_ups()) == ["canceled", "paid"]
    assert all(row.next_at is None for row in shop.top_ups())


async def test_a_credit_note_on_an_open_invoice_is_no_payment(lone: Shop) -> None:
    """The operator waives an invoice that waits for its owner: it becomes `paid` without a payment."""
    shop = lone
    await shop.save_card("pm_card_authenticationRequired")
    await shop.set_rule()
    await fire(shop)
    await shop.work()
    waiting = shop.the_auto()
    await shop.stripe("credit_notes", invoice=waiting.payment_id or "", amount=1_000)
    await shop.let_pass(4 * DAY)
    assert (shop.cents, await shop.captured()) == (400, [])
    assert (shop.the_auto().state in ("failed", "canceled"), shop.rule.state) == (True, "suspended")
    assert shop.the_auto().next_at is None
