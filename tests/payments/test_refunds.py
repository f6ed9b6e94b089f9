"""Refunds: what is taken, what goes back to the card, and the effect of lost responses and refusing banks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.billing import refund as refunds
from farebox.billing import top_up
from farebox.errors import (
    KEY_REUSED,
    NOT_FOUND,
    PROCESSOR_REFUSED,
    REFUND_REFUSED,
    VALIDATION_FAILED,
    ErrorKind,
    Problem,
)
from farebox.ledger.commands import Hold, Settle
from farebox.model import Balance
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Refund, TopUp
from farebox.payments.processor import ProcessorRefund
from farebox.runtime.services import Services
from farebox.storage.accounts import read_balance
from tests.engines import ON_BOTH_ENGINES
from tests.payments.books import compare
from tests.payments.world import ACCOUNT, DAY, HOUR, World, living, open_world

pytestmark = ON_BOTH_ENGINES


class Shop:
    """An account that buys, spends and refunds."""

    def __init__(self, world: World, services: Services) -> None:
        self.world = world
        self.services = services
        self._calls = 0

    async def buy(self, cents: int = 5000) -> TopUp:
        self._calls += 1
        return await top_up.buy(self.services, ACCOUNT, credit_cents=cents, request_key=f"order-{self._calls}")

    async def spend(self, cents: int) -> None:
        self._calls += 1
        call, amount, at = f"call-{self._calls}", cents * NANOS_PER_CENT, self.world.clock.at
        hold = Hold(account_id=ACCOUNT, hold_id=call, amount=amount, at=at, expires_at=at + DAY)
        assert (await self.services.ledger.do(hold)).ok
        assert (await self.services.ledger.do(Settle(account_id=ACCOUNT, hold_id=call, amount=amount, at=at))).ok

    async def refund(self, bought: TopUp, credit: int | None = None, **more: object) -> Refund:
        return await refunds.refund(
            self.services,
            ACCOUNT,
            top_up_id=bought.top_up_id,
            credit_cents=credit,
            **more,  # type: ignore[arg-type]
        )

    async def settle(self, patience: int = 2 * HOUR) -> None:
        await self.world.settle(self.services, self.world.clock.at + patience)

    def intent(self, bought: TopUp) -> str:
        ((found,),) = self.sql("SELECT payment_intent_id FROM payments WHERE payment_id = ?", bought.payment_id)
        return str(found)

    def sql(self, text: str, *values: object) -> list[tuple[object, ...]]:
        with self.world.reading() as connection:
            found: list[tuple[object, ...]] = connection.execute(text, values).fetchall()
        return found

    @property
    def bucket(self) -> int:
        ((bucket,),) = self.sql("SELECT bucket FROM accounts")
        assert isinstance(bucket, int)
        return bucket

    @property
    def balance(self) -> Balance:
        with self.world.reading() as connection:
            found = read_balance(connection, ACCOUNT)
        assert found is not None
        return found

    @property
    def owed(self) -> int:
        ((owed,),) = self.sql("SELECT owed FROM balances")
        assert isinstance(owed, int)
        return owed

    @property
    def refunded_at_stripe(self) -> list[int]:
        return [one["amount"] for one in self.world.fake.all("refunds") if one["status"] not in ("failed", "canceled")]


@pytest.fixture
def settings() -> dict[str, object]:
    return {}


@pytest.fixture
def card() -> str:
    return "pm_card_visa"


@pytest.fixture
async def shop(tmp_path: Path, settings: dict[str, object], card: str) -> AsyncIterator[Shop]:
    """A shop whose books agree with Stripe's at the end."""
    with open_world(tmp_path, card, **settings) as world:
        async with living(world) as process:
            yield Shop(world, process.services)
        compare(world.settings, world.fake.http.get("/_fake/ledger"))


async def refused(kind: ErrorKind, shop: Shop, bought: TopUp, credit: int | None = None, **more: object) -> str:
    with pytest.raises(Problem) as caught:
        await shop.refund(bought, credit, **more)
    assert caught.value.kind is kind
    return caught.value.message


# --- how much ---------------------------------------------------------------------------------------------------------


async def test_all_unspent_credit_is_refunded_to_the_card(shop: Shop) -> None:
    bought = await shop.buy()
    await shop.spend(1234)
    made = await shop.refund(bought)
    assert (made.state, made.amount_cents, made.credit_cents) == ("succeeded", 3766, 3766)
    assert shop.balance.posted == 0
    assert shop.refunded_at_stripe == [3766]
    assert shop.sql("SELECT kind, total_cents FROM documents ORDER BY kind") == [
        ("credit_note", -3766),
        ("invoice", 5000),
    ]
    assert shop.sql("SELECT count(*) FROM notices WHERE kind = 'refunded'") == [(1,)]


async def test_spent_credit_is_refunded_only_if_allowed(shop: Shop) -> None:
    bought = await shop.buy()
    shop.world.clock.at += 1  # of two simultaneous purchases, either may be spent first
    await shop.buy(1000)
    await shop.spend(4000)
    assert "10.00 USD is still unspent" in await refused(REFUND_REFUSED, shop, bought, 1001)
    made = await shop.refund(bought, 5000, allow_spent=True)
    assert made.amount_cents == 5000
    assert (shop.balance.posted, shop.owed) == (0, 3000 * NANOS_PER_CENT)  # the other purchase was used first
    await shop.buy(5000)
    assert (shop.balance.posted, shop.owed) == (2000 * NANOS_PER_CENT, 0)


async def test_held_credit_is_not_refunded(shop: Shop) -> None:
    bought = await shop.buy()
    at = shop.world.clock.at
    hold = Hold(account_id=ACCOUNT, hold_id="h", amount=4000 * NANOS_PER_CENT, at=at, expires_at=at + DAY)
    assert (await shop.services.ledger.do(hold)).ok
    assert "10.00 USD" in await refused(REFUND_REFUSED, shop, bought, 2000)
    assert (await shop.refund(bought)).credit_cents == 1000


class TestWithFeeAndTax:
    """The card paid 58.65 for 50.00 of credit."""

    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"fee_percent": "16.53", "fee_fixed_cents": 38}

    @pytest.mark.parametrize("parts", [(1, 1, 1, 4997), (1234, 1234, 1234, 1298), (4999, 1), (33, 1667, 3300)])
    async def test_parts_add_up_to_the_whole(self, shop: Shop, parts: tuple[int, ...]) -> None:
        bought = await shop.buy()
        assert bought.charge_cents == 5865
        credit = money = 0
        for part in parts:
            made = await shop.refund(bought, part)
            credit, money = credit + made.credit_cents, money + made.amount_cents
            assert money == 5865 * credit // 5000
        assert (credit, money) == (5000, 5865)
        assert "0.00 USD" in await refused(REFUND_REFUSED, shop, bought, 1)

    async def test_a_refund_at_the_dashboard_takes_its_part_of_the_credit(self, shop: Shop) -> None:
        bought = await shop.buy()
        shop.world.fake.post("/v1/refunds", payment_intent=shop.intent(bought), amount=1000)
        await shop.settle()
        (made,) = await refunds.refunds(shop.services, ACCOUNT)
        assert (made.amount_cents, made.credit_cents, made.state) == (1000, 5000 * 1000 // 5865, "succeeded")
        rest = await shop.refund(bought)
        assert (rest.amount_cents, rest.credit_cents) == (4865, 5000 - made.credit_cents)
        assert shop.balance.posted == 0


async def test_never_more_than_was_captured_with_a_dispute(shop: Shop) -> None:
    bought = await shop.buy()
    await shop.refund(bought, 2000)
    shop.world.fake.steer("disputes", invoice=bought.payment_id)
    await shop.settle()
    assert shop.balance.posted == 0
    assert "0.00 USD" in await refused(REFUND_REFUSED, shop, bought, 1, allow_spent=True)


@pytest.mark.parametrize("credit", [0, -5])
async def test_an_amount_is_above_zero(shop: Shop, credit: int) -> None:
    await refused(VALIDATION_FAILED, shop, await shop.buy(), credit)


async def test_only_the_accounts_own_paid_top_ups_are_refunded(shop: Shop) -> None:
    bought = await shop.buy()
    with pytest.raises(Problem) as caught:
        await refunds.refund(shop.services, "somebody", top_up_id=bought.top_up_id)
    assert caught.value.kind is NOT_FOUND
    with pytest.raises(Problem) as caught:
        await refunds.refund(shop.services, ACCOUNT, top_up_id="nothing")
    assert caught.value.kind is NOT_FOUND
    by_payment = await refunds.refund(shop.services, ACCOUNT, top_up_id=bought.payment_id or "", credit_cents=100)
    assert by_payment.top_up_id == bought.top_up_id
    page = await top_up.buy_at_checkout(
        shop.services, ACCOUNT, credit_cents=5000, success_url="https://a.example/", cancel_url="https://a.example/"
    )
    assert "not paid" in await refused(REFUND_REFUSED, shop, page)


# --- once -------------------------------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_refund(shop: Shop) -> None:
    bought = await shop.buy()
    first = await shop.refund(bought, 1000, request_key="k")
    assert await shop.refund(bought, 1000, request_key="k") == first
    assert await shop.refund(bought, request_key="k") == first
    await refused(KEY_REUSED, shop, bought, 1001, request_key="k")
    assert shop.refunded_at_stripe == [1000]
    assert shop.balance.posted == 4000 * NANOS_PER_CENT


async def test_the_same_event_from_every_source_counts_once(shop: Shop) -> None:
    shop.world.webhooks = "tripled"
    bought = await shop.buy()
    shop.world.fake.post("/v1/refunds", payment_intent=shop.intent(bought), amount=700)
    await shop.refund(bought, 1000)
    await shop.settle()
    reported = [refund async for refund in shop.services.processor.refunds(since=0)]  # type: ignore[union-attr]
    assert {await refunds.apply_refund(shop.services, refund) for refund in reported} == {"repeated"}
    assert sorted(shop.refunded_at_stripe) == [700, 1000]
    assert shop.balance.posted == 3300 * NANOS_PER_CENT


async def test_a_refund_with_copied_metadata_is_a_separate_refund(shop: Shop) -> None:
    """A refund made manually at the processor with copied metadata also pays money back, so its credit is taken too."""
    bought = await shop.buy()
    made = await shop.refund(bought, 1000)
    metadata = {"metadata[farebox_account]": ACCOUNT, "metadata[farebox_refund]": made.refund_id}
    shop.world.fake.post("/v1/refunds", payment_intent=shop.intent(bought), amount=700, **metadata)
    await shop.settle()
    assert sorted(one.amount_cents for one in await refunds.refunds(shop.services, ACCOUNT)) == [700, 1000]
    assert shop.balance.posted == 3300 * NANOS_PER_CENT


async def test_stale_events_change_nothing(shop: Shop) -> None:
    bought = await shop.buy()
    intent = shop.intent(bought)
    outcomes = []
    for state in ("succeeded", "pending", "succeeded", "failed", "succeeded", "pending"):
        event = ProcessorRefund(
            refund_id="re_1",
            state=state,
            amount_cents=2000,
            payment_intent_id=intent,
            charge_id=None,
        )
        outcomes.append(await refunds.apply_refund(shop.services, event))
    assert outcomes == ["succeeded", "repeated", "repeated", "failed", "repeated", "repeated"]
    assert shop.balance.posted == 5000 * NANOS_PER_CENT


FAULTS = (
    "timeout_before", "timeout_after_commit", "error_500_before", "error_500_after_commit", "reset_before",
    "reset_after_commit", "rate_limit_429",
)  # fmt: skip


@pytest.mark.parametrize("kind", [fault for fault in FAULTS if not fault.startswith("timeout")])
async def test_a_refund_with_a_lost_response_is_found(shop: Shop, kind: str) -> None:
    bought = await shop.buy()
    shop.world.fake.steer("faults", match="POST /v1/refunds", kind=kind)
    made = await shop.refund(bought, 1000, request_key="k")
    assert made.state == "requested"
    assert shop.balance.posted == 4000 * NANOS_PER_CENT  # the credit is taken, whatever the response is
    await shop.settle(2 * DAY)
    assert (await shop.refund(bought, 1000, request_key="k")).state == "succeeded"
    assert shop.refunded_at_stripe == [1000]
    assert shop.sql("SELECT next_at FROM refunds") == [(None,)]


@pytest.mark.parametrize("kind", ["error_500_after_commit", "reset_after_commit"])
async def test_a_refund_is_found_after_its_key_has_expired(shop: Shop, kind: str) -> None:
    """Stripe keeps keys for a day at least (https://docs.stripe.com/api/idempotent_requests): a server that comes back
    later must look for the refund by its metadata before it asks again."""
    bought = await shop.buy()
    shop.world.fake.steer("faults", match="POST /v1/refunds", kind=kind)
    assert (await shop.refund(bought, 1000)).state == "requested"
    shop.world.clock.at += 2 * DAY
    await shop.settle()
    assert shop.refunded_at_stripe == [1000]
    assert shop.sql("SELECT state, next_at FROM refunds") == [("succeeded", None)]


async def test_a_processor_outage_of_days_is_waited_out(shop: Shop) -> None:
    bought = await shop.buy()
    shop.world.fake.steer("faults", match="POST /v1/refunds", kind="error_500_before", times=40)
    await shop.refund(bought, 1000)
    await shop.settle(5 * DAY)
    assert shop.refunded_at_stripe == [1000]


# --- refused, failed --------------------------------------------------------------------------------------------------


async def test_a_refused_refund_returns_the_credit(shop: Shop) -> None:
    bought = await shop.buy()
    shop.world.fake.steer("disputes", invoice=bought.payment_id)  # not known here
    await refused(PROCESSOR_REFUSED, shop, bought, 1000, request_key="k")
    await refused(PROCESSOR_REFUSED, shop, bought, 1000, request_key="k")
    assert shop.balance.posted == 5000 * NANOS_PER_CENT
    await shop.settle()
    assert shop.balance.posted == 0  # and now the dispute has taken it


class TestThatComesBack:
    """The bank refuses the refund later."""

    @pytest.fixture
    def card(self) -> str:
        return "pm_card_refundFail"

    @pytest.mark.parametrize("webhooks", ["dropped", "delivered", "tripled"])
    async def test_a_failed_refund_is_credited_again_once(self, shop: Shop, webhooks: str) -> None:
        shop.world.webhooks = webhooks  # type: ignore[assignment]
        bought = await shop.buy()
        assert (await shop.refund(bought, 2000)).state == "succeeded"
        await shop.settle()
        (made,) = await refunds.refunds(shop.services, ACCOUNT)
        assert (made.state, made.next_at) == ("failed", None)
        assert made.error
        assert shop.balance.posted == 5000 * NANOS_PER_CENT
        assert (await shop.refund(bought)).credit_cents == 5000  # all of it can be refunded again
        await shop.settle()

    async def test_after_a_dispute_only_the_rest_is_credited_again(self, shop: Shop) -> None:
        bought = await shop.buy()
        await shop.refund(bought, 2000)
        shop.world.fake.steer("disputes", invoice=bought.payment_id)
        await shop.settle()
        assert shop.sql("SELECT state FROM refunds") == [("failed",)]
        assert shop.sql("SELECT amount_cents, taken_cents, credit_cents FROM disputes") == [(3000, 3000, 3000)]
        assert shop.balance.posted == 2000 * NANOS_PER_CENT


class TestThatWaits:
    @pytest.fixture
    def card(self) -> str:
        return "pm_card_pendingRefund"

    async def test_a_pending_refund_is_polled_to_its_end(self, shop: Shop) -> None:
        bought = await shop.buy()
        assert (await shop.refund(bought, 2000)).state == "pending"
        assert shop.sql("SELECT count(*) FROM notices WHERE kind = 'refunded'") == [(0,)]
        shop.world.clock.at += HOUR
        assert await refunds.work(shop.services) == 1
        assert await refunds.work(shop.services) == 0
        assert shop.sql("SELECT state, next_at FROM refunds") == [("succeeded", None)]
        assert shop.sql("SELECT count(*) FROM notices WHERE kind = 'refunded'") == [(1,)]
