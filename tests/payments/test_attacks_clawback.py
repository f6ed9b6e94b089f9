"""Attacks on payments: refunds, disputes, dashboards, backups, months and clocks in every combination."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.billing import auto_top_up, reconcile, top_up
from farebox.billing import refund as refunds
from farebox.errors import PROCESSOR_REFUSED, Problem
from farebox.ledger.commands import Hold, Release
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorRefund
from farebox.runtime.services import Services
from tests.engines import backup
from tests.long import times
from tests.payments.books import compare
from tests.payments.kit import open_shop
from tests.payments.test_refunds import Shop
from tests.payments.world import ACCOUNT, DAY, HOUR, MINUTE, World, living, open_world

CENT = NANOS_PER_CENT


@pytest.fixture
def settings() -> dict[str, object]:
    return {}


@pytest.fixture
async def world(tmp_path: Path, settings: dict[str, object]) -> AsyncIterator[World]:
    with open_world(tmp_path, **settings) as opened:
        yield opened


def agree(world: World) -> None:
    compare(world.settings, world.fake.http.get("/_fake/ledger"))


# --- any combination --------------------------------------------------------------------------------------------------


class TestAnyCombination:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"fee_percent": "7.3", "fee_fixed_cents": 31, "credit_days": 30}

    @pytest.mark.parametrize("seed", range(times(2, 40)))
    async def test_clawback_with_refunds_disputes_spending_and_expiry_is_exact(self, world: World, seed: int) -> None:
        chance = random.Random(seed)
        world.webhooks = chance.choice(("dropped", "delivered", "tripled"))
        async with living(world) as process:
            shop, bought, contested, holds = Shop(world, process.services), list[TopUp](), list[str](), list[str]()
            for step in range(60):
                await self.act(shop, chance, bought, contested, holds, step)
                if chance.random() < 0.5:
                    await shop.settle(0)
                if chance.random() < 0.1:
                    world.clock.at += chance.randrange(10 * DAY)
            await shop.settle(DAY)
            agree(world)
            assert await reconcile.reconcile(process.services, since=0) == []
            await self.pays_back_what_it_owes(shop)
        agree(world)

    async def act(
        self, shop: Shop, chance: random.Random, bought: list[TopUp], contested: list[str], holds: list[str], step: int
    ) -> None:
        world, at = shop.world, shop.world.clock.at
        kind = chance.randrange(8) if bought else 0
        one = chance.choice(bought) if bought else None
        if kind == 0:
            bought.append(await shop.buy(chance.randrange(1000, 6000)))
        elif kind == 1 and shop.balance.available > 100 * CENT:
            await shop.spend(chance.randrange(1, shop.balance.available // CENT))
        elif kind == 2 and one is not None:
            with contextlib.suppress(Problem):
                await shop.refund(
                    one, chance.choice((None, chance.randrange(1, 3000))), allow_spent=chance.random() < 0.5
                )
        elif kind == 3 and one is not None:
            amount = chance.randrange(1, 2000)
            world.fake.http.post("/v1/refunds", data={"payment_intent": shop.intent(one), "amount": amount})
        elif kind == 4 and one is not None:
            made = world.fake.http.post("/_fake/disputes", json={"invoice": one.payment_id})
            if made.status_code < 300:
                contested.append(made.json()["id"])
        elif kind == 5 and contested:
            name = contested.pop(chance.randrange(len(contested)))
            world.fake.steer(f"disputes/{name}/close", status=chance.choice(("won", "lost")))
        elif kind == 6 and shop.balance.available > 100 * CENT:
            name = f"hold-{step}"
            hold = Hold(account_id=ACCOUNT, hold_id=name, amount=50 * CENT, at=at, expires_at=at + 400 * DAY)
            if (await shop.services.ledger.do(hold)).ok:
                holds.append(name)
        elif kind == 7 and holds:
            await shop.services.ledger.do(Release(account_id=ACCOUNT, hold_id=holds.pop(), at=at))

    async def pays_back_what_it_owes(self, shop: Shop) -> None:
        owed = shop.owed
        before = shop.balance.posted
        cents = max(1000, -(-owed // CENT))
        await shop.buy(cents)
        assert (shop.owed, shop.balance.posted) == (0, before + cents * CENT - owed)


# --- paid in other ways than by our charge ----------------------------------------------------------------------------


async def test_a_refund_of_what_was_paid_out_of_band_ends_and_gives_back(world: World) -> None:
    """There is nothing at the processor that could be refunded, so no row waits for it forever."""
    async with living(world) as process:
        shop = Shop(world, process.services)
        world.fake.steer("faults", match="POST /v1/invoices/*/pay", kind="reset_before", times=1)
        begun = await shop.buy(5000)
        assert begun.payment_id is not None
        world.fake.post(f"/v1/invoices/{begun.payment_id}/pay", paid_out_of_band="true")
        await shop.settle()
        assert shop.balance.posted == 5000 * CENT
        with pytest.raises(Problem) as caught:
            await shop.refund(begun, 1000)
        assert caught.value.kind is PROCESSOR_REFUSED
        await shop.settle(DAY)
        assert shop.balance.posted == 5000 * CENT
        assert shop.sql("SELECT state, next_at FROM refunds") == [("failed", None)]


async def test_an_uncollectible_invoice_is_voided_before_another_is_made(world: World) -> None:
    async with living(world) as process:
        shop = Shop(world, process.services)
        await shop.buy(1000)
        await auto_top_up.set_rule(process.services, ACCOUNT, amount_cents=1000, threshold_cents=500)
        world.fake.steer("faults", match="POST /v1/invoices/*/pay", kind="reset_before", times=1)
        await shop.spend(900)
        await top_up.work(process.services)
        ((payment_id,),) = shop.sql("SELECT payment_id FROM top_ups WHERE kind = 'auto'")
        world.fake.post(f"/v1/invoices/{payment_id}/mark_uncollectible")
        await shop.settle(2 * HOUR)
        states = [invoice["status"] for invoice in world.fake.all("invoices")]
        assert states == ["paid", "void", "paid"]
    agree(world)


async def test_an_inapplicable_refund_does_not_hide_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with living(world) as process:
        shop = Shop(world, process.services)
        bought = await shop.buy(5000)
        made = [
            world.fake.post("/v1/refunds", payment_intent=shop.intent(bought), amount=cents)["id"]
            for cents in (100, 200)
        ]
        apply = refunds.apply_refund

        async def trips(services: Services, found: ProcessorRefund) -> str:
            assert found.refund_id != made[0], "our bug"
            return await apply(services, found)

        monkeypatch.setattr(refunds, "apply_refund", trips)
        found = await reconcile.reconcile(process.services, since=0)
        assert [finding.finding_id for finding in found] == [f"refund_differs:{made[0]}"]
        assert shop.balance.posted == 4800 * CENT
        monkeypatch.undo()
        assert await reconcile.reconcile(process.services, since=0) == []
    agree(world)


async def test_a_refund_below_the_threshold_triggers_auto_top_up(world: World) -> None:
    """This follows the rule, bounded by its cap: an owner who wants the money back first switches it off."""
    async with living(world) as process:
        shop = Shop(world, process.services)
        bought = await shop.buy(1000)
        await auto_top_up.set_rule(process.services, ACCOUNT, amount_cents=1000, threshold_cents=500)
        await shop.refund(bought)
        await shop.settle(MINUTE)
        assert shop.balance.posted == 1000 * CENT
        await auto_top_up.remove_rule(process.services, ACCOUNT)
        ((again,),) = shop.sql("SELECT top_up_id FROM top_ups WHERE kind = 'auto'")
        await refunds.refund(process.services, ACCOUNT, top_up_id=str(again))
        await shop.settle(DAY)
        assert shop.balance.posted == 0
    agree(world)


# --- an old backup is restored ----------------------------------------------------------------------------------------


class TestABackupBroughtBack:
    """A purchase was paid after the backup: the restored database does not have it, and numbers purchases from there
    again."""

    async def lost_purchase(self, world: World, tmp_path: Path, *, spend: int = 900) -> None:
        async with living(world) as process:
            shop = Shop(world, process.services)
            await shop.buy(1000)
            await auto_top_up.set_rule(process.services, ACCOUNT, amount_cents=1000, threshold_cents=500)
        put_back = backup(world.settings, tmp_path / "backup.db")
        async with living(world) as process:
            shop = Shop(world, process.services)
            await shop.spend(spend)
            await shop.settle(MINUTE)
            assert [payment["amount"] for payment in self.captured(world)] == [1000, 1000]
        put_back()

    def captured(self, world: World) -> list[dict[str, int]]:
        found: list[dict[str, int]] = world.fake.http.get("/_fake/ledger").json()["payments"]
        return found

    async def test_within_a_day_the_old_payment_pays_for_the_new_purchase(self, world: World, tmp_path: Path) -> None:
        await self.lost_purchase(world, tmp_path)
        world.clock.at += HOUR
        async with living(world) as process:
            shop = Shop(world, process.services)
            await shop.spend(600)
            await shop.settle(MINUTE)
            assert len(self.captured(world)) == 2
            assert shop.balance.posted == 1400 * CENT
        agree(world)

    async def test_after_a_day_it_is_charged_again_and_the_old_payment_is_found(
        self, world: World, tmp_path: Path
    ) -> None:
        await self.lost_purchase(world, tmp_path)
        world.clock.at += 2 * DAY
        async with living(world) as process:
            shop = Shop(world, process.services)
            await shop.spend(600)
            await top_up.work(process.services)
            assert len(self.captured(world)) == 3
            assert shop.balance.posted == 1400 * CENT
            found = await reconcile.reconcile(process.services, since=world.clock.at - 3 * DAY)
            assert [finding.kind for finding in found] == ["no_top_up"]
            assert shop.balance.posted == 1400 * CENT

    async def test_a_reported_payment_is_a_finding_until_its_id_is_known(self, world: World, tmp_path: Path) -> None:
        await self.lost_purchase(world, tmp_path)
        async with living(world) as process:
            shop = Shop(world, process.services)
            found = await reconcile.reconcile(process.services, since=0)
            assert [finding.kind for finding in found] == ["no_top_up"]
            await shop.spend(600)
            await shop.settle(MINUTE)
            assert await reconcile.reconcile(process.services, since=0) == []
        agree(world)


# --- months and clocks ------------------------------------------------------------------------------------------------


async def test_the_cap_holds_at_the_end_of_a_month_and_if_the_clock_goes_back(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.grant(1_000)
        shop.clock.at = 1_796_083_199_000  # 2026-11-30 23:59:59 UTC
        await shop.set_rule(1_000, 500, monthly_cap_cents=1_500)
        await shop.spend(600)
        await shop.work()
        await shop.spend(1_000)
        await shop.work()
        assert (await shop.captured(), shop.rule.reason) == ([1_000], "monthly_cap_reached")
        shop.clock.at += 2_000
        await shop.let_pass(11 * MINUTE)
        assert (await shop.captured(), shop.rule.state) == ([1_000] * 2, "active")
        shop.clock.at -= DAY
        await shop.spend(1_000)
        await shop.work(3)
        assert (len(await shop.captured()), shop.rule.state) == (2, "paused")
        await shop.let_pass(2 * DAY)
        assert len(await shop.captured()) == 2, "this month's cap is used up"
        await shop.agree()


async def test_one_key_on_two_accounts_or_a_long_key_makes_separate_purchases(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        key = "k" * 5_000
        first = await shop.buy(1_000, request_key=key)
        assert (await shop.buy(1_000, request_key=key)).payment_id == first.payment_id
        await shop.open_account("pm_card_mastercard")
        second = await shop.buy(1_000, request_key=key)
        assert (second.payment_id != first.payment_id, await shop.captured()) == (True, [1_000, 1_000])
        await asyncio.gather(*(shop.buy(1_000, request_key=key) for _ in range(5)))
        assert await shop.captured() == [1_000, 1_000]
        await shop.agree()


async def test_a_refund_key_on_two_accounts_is_two_refunds(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        for _ in range(2):
            await shop.open_account()
            bought = await shop.buy(1_000)
            made = await refunds.refund(
                shop.services, shop.account, top_up_id=bought.top_up_id, credit_cents=100, request_key="same"
            )
            assert made.state == "succeeded"
            assert shop.cents == 900
        await shop.agree()
