"""Results of payments: each paid payment is credited once; unpaid or foreign payments are not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from farebox.billing import top_up
from farebox.errors import CARD_DECLINED, ErrorKind, Problem
from farebox.storage import top_ups as store
from tests.payments.kit import HOUR, Shop, open_shop


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


# --- what must never be credited --------------------------------------------------------------------------------------


async def paid_elsewhere(shop: Shop, account_id: str, top_up_id: str, cents: int) -> str:
    """A paid invoice at Stripe with arbitrary metadata."""
    customer = await shop.stripe("customers", name="stranger")
    method = await shop.stripe("payment_methods/pm_card_visa/attach", customer=customer["id"])
    made = await shop.stripe(
        "invoices",
        customer=customer["id"],
        currency="usd",
        auto_advance="false",
        **{"metadata[farebox_account]": account_id, "metadata[farebox_top_up]": top_up_id},
    )
    name = made["id"]
    await shop.stripe(f"invoices/{name}/add_lines", **{"lines[0][description]": "x", "lines[0][amount]": cents})
    await shop.stripe(f"invoices/{name}/finalize")
    await shop.stripe(f"invoices/{name}/pay", payment_method=method["id"])
    return str(name)


@pytest.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose Stripe has money that must not be credited, so the books do not agree at the end."""
    async with open_shop(tmp_path) as opened:
        yield opened


async def reported(shop: Shop, payment_id: str) -> str:
    assert shop.services.processor is not None
    return await top_up.apply_invoice(shop.services, await shop.services.processor.fetch_invoice(payment_id))


async def test_a_payment_with_the_id_of_another_purchase_is_not_credited(lone: Shop) -> None:
    bought = await lone.buy(2_000)
    forged = await paid_elsewhere(lone, lone.account, bought.top_up_id, 2_000)
    assert await reported(lone, forged) == "not_credited"
    assert lone.cents == 2_000
    assert lone.findings() == ["not_credited"]
    assert lone.top_ups()[0].payment_id == bought.payment_id


async def test_a_payment_without_a_purchase_is_a_finding(lone: Shop) -> None:
    assert await reported(lone, await paid_elsewhere(lone, lone.account, "nothing", 2_000)) == "not_credited"
    assert lone.findings() == ["no_top_up"]
    assert await reported(lone, await paid_elsewhere(lone, "somebody", "nothing", 2_000)) == "not_ours"
    assert lone.findings() == ["no_top_up"]


async def test_a_payment_of_less_than_the_charge_is_not_credited(lone: Shop) -> None:
    row, _ = await top_up._begin(
        lone.services, top_up._PurchaseRequest(kind="manual", account_id=lone.account, credit_cents=2_000)
    )
    assert await reported(lone, await paid_elsewhere(lone, lone.account, row.top_up_id, 1_999)) == "not_credited"
    assert (lone.cents, lone.findings()) == (0, ["not_credited"])
    assert (lone.top_ups()[0].state, lone.next_due()) == ("failed", None)


async def test_a_payment_above_the_charge_is_credited_as_bought_and_is_a_finding(lone: Shop) -> None:
    row, _ = await top_up._begin(
        lone.services, top_up._PurchaseRequest(kind="manual", account_id=lone.account, credit_cents=2_000)
    )
    assert await reported(lone, await paid_elsewhere(lone, lone.account, row.top_up_id, 2_500)) == "credited"
    assert (lone.cents, lone.findings()) == (2_000, ["paid_too_much"])


async def test_a_payment_id_tied_to_one_account_never_credits_another(lone: Shop) -> None:
    bought = await lone.buy(2_000)
    await lone.open_account()
    row, _ = await top_up._begin(
        lone.services, top_up._PurchaseRequest(kind="manual", account_id=lone.account, credit_cents=2_000)
    )
    assert bought.payment_id is not None
    assert not await lone.change(lambda c: store.tie_payment(c, bought.payment_id or "", row.account_id, row.top_up_id))
    assert lone.services.processor is not None
    invoice = await lone.services.processor.fetch_invoice(bought.payment_id)
    theirs = {"farebox_account": row.account_id, "farebox_top_up": row.top_up_id}
    assert await top_up.apply_invoice(lone.services, msgspec.structs.replace(invoice, metadata=theirs)) != "credited"
    assert lone.cents == 0


async def test_an_invoice_that_another_purchase_has_is_never_charged_for_this_one(lone: Shop) -> None:
    """Stripe returns the wrong invoice: the purchase fails, nothing is charged, and a finding is raised."""
    assert lone.services.processor is not None
    bought = await lone.buy(2_000)
    real = lone.services.processor
    invoice = await real.fetch_invoice(bought.payment_id or "")

    class Confused:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        async def open_invoice(self, *_: object, **__: object) -> object:
            return invoice

    await lone.open_account()
    object.__setattr__(lone.services, "processor", Confused())
    with pytest.raises(Problem):
        await lone.buy(3_000)
    object.__setattr__(lone.services, "processor", real)
    assert (lone.top_ups()[0].state, lone.cents, lone.findings()) == ("failed", 0, ["payment_taken"])
    assert await lone.captured() == [2_000]


async def test_repeated_events_of_a_payment_credit_once(shop: Shop) -> None:
    """The payment is reported within milliseconds by response, webhook and poll."""
    await shop.save_card("pm_card_authenticationRequired")
    bought = await shop.buy(2_000)
    await shop.confirm(bought)
    words = await asyncio.gather(
        *(reported(shop, bought.payment_id or "") for _ in range(5)),
        top_up.status(shop.services, shop.account, bought.payment_id or ""),
        top_up.work(shop.services),
    )
    assert words[:5].count("credited") <= 1
    assert shop.cents == 2_000
    assert shop.notices("top_up_paid") == ["top_up_paid"]
    assert await reported(shop, bought.payment_id or "") == "already_credited"
    assert shop.findings() == [], "a repeat is not a finding"


async def test_a_failed_purchase_that_was_paid_after_all_is_credited_once(shop: Shop) -> None:
    """The payment failed and was then settled. The void finds it paid, and late events change nothing."""
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.fault("POST /v1/invoices/*/void", "reset_before", times=3)
    await refused(shop, CARD_DECLINED, 2_000)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at is not None) == ("failed", True)
    await shop.pay_hosted(row.payment_id)
    await shop.let_pass(HOUR)
    assert (shop.top_ups()[0].state, shop.cents) == ("paid", 2_000)
    assert await reported(shop, row.payment_id or "") == "already_credited"
    assert shop.cents == 2_000


async def test_a_void_that_gets_no_response_is_repeated_until_it_is_certain(shop: Shop) -> None:
    await shop.save_card("pm_card_mastercard", "insufficient_funds")
    await shop.fault("POST /v1/invoices/*/void", "reset_before", times=5)
    await refused(shop, CARD_DECLINED, 2_000)
    await shop.let_pass(HOUR)
    (row,) = shop.top_ups()
    assert (row.state, row.next_at) == ("failed", None)
    assert (await shop.invoice(row.payment_id))["status"] == "void"


async def test_a_payment_canceled_in_the_dashboard_is_canceled_here(shop: Shop) -> None:
    await shop.save_card("pm_card_authenticationRequired")
    bought = await shop.buy(2_000)
    await shop.stripe(f"invoices/{bought.payment_id}/void")
    await shop.let_pass(HOUR)
    assert (shop.top_ups()[0].state, shop.next_due()) == ("canceled", None)
