"""Disputes: what is taken and returned, whatever the order and number of events, and even if they are lost."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.billing import auto_top_up, disputes
from farebox.billing import refund as refunds
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorDispute, ProcessorRefund
from farebox.storage.refunds import clawback_of
from farebox.storage.top_ups import find
from tests.engines import ON_BOTH_ENGINES
from tests.payments.books import compare
from tests.payments.test_refunds import Shop
from tests.payments.world import ACCOUNT, World, living, open_world

pytestmark = ON_BOTH_ENGINES

CENT = NANOS_PER_CENT


@pytest.fixture
def card() -> str:
    return "pm_card_visa"


@pytest.fixture
async def shop(tmp_path: Path, card: str) -> AsyncIterator[Shop]:
    """A shop whose books agree with Stripe's at the end."""
    with open_world(tmp_path, card) as world:
        async with living(world) as process:
            yield Shop(world, process.services)
        compare(world.settings, world.fake.http.get("/_fake/ledger"))


def opens(world: World, bought: TopUp, *, inquiry: bool = False) -> str:
    return str(world.fake.steer("disputes", invoice=bought.payment_id, inquiry=inquiry)["id"])


def ends(world: World, dispute_id: str, status: str) -> None:
    world.fake.steer(f"disputes/{dispute_id}/close", status=status)


def notices(shop: Shop) -> list[object]:
    found = shop.sql("SELECT kind FROM notices WHERE kind LIKE 'dispute%' ORDER BY created_at, kind DESC")
    return [kind for (kind,) in found]


async def test_a_dispute_takes_the_credit_and_winning_returns_it(shop: Shop) -> None:
    bought = await shop.buy()
    await shop.spend(2000)
    dispute = opens(shop.world, bought)
    await shop.settle()
    assert (shop.balance.posted, shop.owed) == (0, 2000 * CENT)
    assert notices(shop) == ["dispute_opened"]
    ends(shop.world, dispute, "won")
    await shop.settle()
    assert (shop.balance.posted, shop.owed) == (3000 * CENT, 0)
    assert notices(shop) == ["dispute_opened", "dispute_closed"]
    assert [one.state for one in await disputes.disputes(shop.services, ACCOUNT)] == ["won"]
    assert (await shop.refund(bought)).credit_cents == 3000  # the returned credit can be refunded


async def test_a_lost_dispute_is_documented_by_a_credit_note(shop: Shop) -> None:
    bought = await shop.buy()
    ends(shop.world, opens(shop.world, bought), "lost")
    await shop.settle()
    assert shop.balance.posted == 0
    assert notices(shop) == [
        "dispute_opened",
        "dispute_closed",
    ]  # both notices, although the first event already reported the loss
    assert ("credit_note", -5000) in shop.sql("SELECT kind, total_cents FROM documents")


async def test_a_dispute_first_reported_as_won_moves_nothing(shop: Shop) -> None:
    bought = await shop.buy()
    ends(shop.world, opens(shop.world, bought), "won")
    await shop.settle()
    assert shop.balance.posted == 5000 * CENT
    assert notices(shop) == []
    assert [one.state for one in await disputes.disputes(shop.services, ACCOUNT)] == ["won"]


async def test_stale_events_change_nothing(shop: Shop) -> None:
    bought = await shop.buy()
    dispute = opens(shop.world, bought)
    processor = shop.services.processor
    assert processor is not None
    opened = await processor.fetch_dispute(dispute)
    ends(shop.world, dispute, "won")
    closed = await processor.fetch_dispute(dispute)
    events = [opened, closed, opened, closed, opened]
    assert [await disputes.apply_dispute(shop.services, one) for one in events] == [
        "open", "won", "repeated", "repeated", "repeated",
    ]  # fmt: skip
    assert shop.balance.posted == 5000 * CENT


async def test_disputes_of_foreign_charges_are_ignored(shop: Shop) -> None:
    found = ProcessorDispute(
        dispute_id="du_1", state="open", amount_cents=100, payment_intent_id="pi_1", charge_id="ch_1", reason="general"
    )
    assert await disputes.apply_dispute(shop.services, found) == "not_ours"


class TestOfACardThatDisputesAtOnce:
    """The dispute's event may arrive before the payment's."""

    @pytest.fixture
    def card(self) -> str:
        return "pm_card_createDispute"

    @pytest.mark.parametrize("webhooks", ["dropped", "delivered", "tripled"])
    async def test_a_dispute_takes_credit_once_its_payment_is_known(self, shop: Shop, webhooks: str) -> None:
        shop.world.webhooks = webhooks  # type: ignore[assignment]
        await shop.buy()
        await shop.settle()
        assert [one.taken_cents for one in await disputes.disputes(shop.services, ACCOUNT)] == [5000]
        assert shop.balance.posted == 0


async def test_an_event_ahead_of_its_payment_is_retried(shop: Shop) -> None:
    shop.world.fake.steer("faults", match="POST /v1/invoices/*/pay", kind="reset_after_commit")
    bought = await shop.buy()
    assert bought.state != "paid"
    (charge,) = shop.world.fake.all("charges")
    dispute = shop.world.fake.steer("disputes", charge=charge["id"])["id"]
    processor = shop.services.processor
    assert processor is not None
    found = await processor.fetch_dispute(dispute)
    assert await disputes.apply_dispute(shop.services, found) == "not_paid"
    await shop.settle()
    assert [one.taken_cents for one in await disputes.disputes(shop.services, ACCOUNT)] == [5000]


# --- auto top-up ------------------------------------------------------------------------------------------------------


async def rule_state(shop: Shop) -> tuple[str, str | None]:
    found = await auto_top_up.rule(shop.services, ACCOUNT)
    assert found is not None
    return found.state, found.reason


async def test_auto_top_up_pauses_while_anything_is_disputed(shop: Shop) -> None:
    first, second = await shop.buy(), await shop.buy(3000)
    await auto_top_up.set_rule(shop.services, ACCOUNT, amount_cents=2000, threshold_cents=1000)
    one, other = opens(shop.world, first, inquiry=True), opens(shop.world, second)
    await shop.settle()
    assert await rule_state(shop) == ("suspended", "payment_disputed")
    assert shop.balance.posted == 5000 * CENT  # an inquiry moves no money
    ends(shop.world, one, "won")
    await shop.settle()
    assert await rule_state(shop) == ("suspended", "payment_disputed")
    ends(shop.world, other, "won")
    await shop.settle()
    assert await rule_state(shop) == ("active", None)
    assert shop.sql("SELECT count(*) FROM top_ups WHERE kind = 'auto'") == [(0,)]


async def test_after_a_lost_dispute_the_owner_decides(shop: Shop) -> None:
    bought = await shop.buy()
    await auto_top_up.set_rule(shop.services, ACCOUNT, amount_cents=2000, threshold_cents=1000)
    dispute = opens(shop.world, bought)
    await shop.settle()
    ends(shop.world, dispute, "lost")
    await shop.settle()
    assert await rule_state(shop) == ("suspended", "payment_disputed")
    await auto_top_up.set_rule(shop.services, ACCOUNT, amount_cents=2000, threshold_cents=1000)
    await disputes.apply_dispute(
        shop.services,
        await shop.services.processor.fetch_dispute(dispute),  # type: ignore[union-attr]
    )
    assert (await rule_state(shop))[0] == "active"  # a repeated event does not freeze it again


async def test_an_inquiry_that_becomes_a_dispute(shop: Shop) -> None:
    bought = await shop.buy()
    dispute = opens(shop.world, bought, inquiry=True)
    await shop.settle()
    assert (shop.balance.posted, notices(shop)) == (5000 * CENT, [])
    ends(shop.world, dispute, "lost")
    await shop.settle()
    assert (shop.balance.posted, notices(shop)) == (0, ["dispute_opened", "dispute_closed"])


# --- with refunds -----------------------------------------------------------------------------------------------------


def refund_at_processor(state: str, cents: int, intent: str, name: str = "re_1") -> ProcessorRefund:
    return ProcessorRefund(
        refund_id=name,
        state=state,  # type: ignore[arg-type]
        amount_cents=cents,
        payment_intent_id=intent,
        charge_id=None,
        failure="declined" if state == "failed" else None,
    )


def dispute_at_processor(state: str, cents: int, intent: str, name: str = "du_1") -> ProcessorDispute:
    return ProcessorDispute(
        dispute_id=name,
        state=state,  # type: ignore[arg-type]
        amount_cents=cents,
        payment_intent_id=intent,
        charge_id=None,
        reason="general",
    )


SCENARIOS = {
    "refund, dispute of all": ([("refund", "succeeded")], [("dispute", "open")], (2000, 3865)),
    "refund, dispute lost": ([("refund", "succeeded")], [("dispute", "open"), ("dispute", "lost")], (2000, 3865)),
    "refund, dispute won": ([("refund", "succeeded")], [("dispute", "open"), ("dispute", "won")], (2000, 0)),
    "refund fails, dispute": ([("refund", "pending"), ("refund", "failed")], [("dispute", "open")], (0, 5865)),
    "refund fails late, dispute lost": (
        [("refund", "succeeded"), ("refund", "failed")],
        [("dispute", "inquiry"), ("dispute", "open"), ("dispute", "lost")],
        (0, 5865),
    ),
}


def interleaved(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Every interleaving of the two sequences of events."""
    total = len(first) + len(second)
    orders = []
    for places in itertools.combinations(range(total), len(first)):
        one, other = iter(first), iter(second)
        orders.append([next(one) if place in places else next(other) for place in range(total)])
    return orders


class TestTogether:
    """58.65 were charged for 50.00 of credit; 20.00 were refunded on the dashboard, and all was disputed at the
    bank."""

    @pytest.fixture
    async def shop(self, tmp_path: Path) -> AsyncIterator[Shop]:
        with open_world(tmp_path, fee_percent="16.53", fee_fixed_cents=38) as world:
            async with living(world) as process:
                yield Shop(world, process.services)

    async def test_credit_that_came_back_by_any_change_can_be_refunded(self, shop: Shop) -> None:
        """Of two disputes of 40.00 and 20.00, the second takes 18.65, and all of it once the first has been won."""
        bought = await shop.buy()
        intent = shop.intent(bought)
        for state, cents, name in (("open", 4000, "du_1"), ("open", 2000, "du_2"), ("won", 4000, "du_1")):
            await disputes.apply_dispute(shop.services, dispute_at_processor(state, cents, intent, name))
        with shop.world.reading() as connection:
            taken = clawback_of(connection, shop.bucket, bought)
        assert taken.disputed == 2000
        assert (await shop.refund(bought)).credit_cents == 5000 - taken.disputed_credit

    @pytest.mark.parametrize("scenario", SCENARIOS)
    async def test_nothing_is_taken_back_twice_in_any_order(self, shop: Shop, scenario: str) -> None:
        refund, dispute, (refunded, disputed) = SCENARIOS[scenario]
        ends_with = set()
        for order in interleaved(refund, dispute):
            bought = await shop.buy()
            shop.world.clock.at += 60_000 * 60  # without guards
            before = shop.balance.posted - shop.owed
            intent = shop.intent(bought)
            for what, state in order:
                if what == "refund":
                    event = refund_at_processor(state, 2000, intent, f"re_{intent}")
                    await refunds.apply_refund(shop.services, event)
                    await refunds.apply_refund(shop.services, event)
                else:
                    reported = dispute_at_processor(state, 5865, intent, f"du_{intent}")
                    await disputes.apply_dispute(shop.services, reported)
                    await disputes.apply_dispute(shop.services, reported)
                with shop.world.reading() as connection:
                    now = find(connection, ACCOUNT, bought.top_up_id)
                    assert now is not None
                    clawback = clawback_of(connection, shop.bucket, now)
                assert (now.refunded_cents, now.disputed_cents) == (clawback.refunded, clawback.disputed)
                assert now.refunded_cents + now.disputed_cents <= 5865
                assert before - (shop.balance.posted - shop.owed) == now.clawed_cents * CENT <= 5000 * CENT
            assert (clawback.refunded, clawback.disputed) == (refunded, disputed), order
            ends_with.add((clawback.refunded_credit, clawback.disputed_credit))
        assert len(ends_with) == 1, f"the order of the events makes a difference: {ends_with}"
