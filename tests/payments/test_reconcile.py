"""Reconciliation: every difference between our books and Stripe's is found, in both directions, and only once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from farebox.billing import cards, processor_events, refund
from farebox.billing.reconcile import AUTO_CENTS, KINDS, Reconciliation, examine, reconcile
from farebox.cli import payments as commands
from farebox.cli.session import CliSession, Stopped
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorInvoice, ProcessorUnavailable
from farebox.storage import processor_events as inbox
from farebox.storage.findings import Finding, list_findings, open_findings
from farebox.storage.operator_actions import list_actions
from tests.payments.kit import CHARGES, HOUR, Shop, open_shop

DAY = 24 * HOUR
LARGE = AUTO_CENTS + 1


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        yield opened


async def run(shop: Shop, days: int = 30) -> Reconciliation:
    return await examine(shop.services, since=shop.clock.at - days * DAY)


async def kinds(shop: Shop) -> list[str]:
    found = await reconcile(shop.services, since=shop.clock.at - 30 * DAY)
    assert {finding.kind for finding in found} <= set(KINDS)
    return sorted(finding.kind for finding in found)


def still_open(shop: Shop) -> list[Finding]:
    return shop.read(open_findings)


async def at_stripe(shop: Shop, bought: TopUp) -> ProcessorInvoice:
    assert shop.services.processor is not None
    assert bought.payment_id is not None
    return await shop.services.processor.fetch_invoice(bought.payment_id)


async def lost_payment(shop: Shop, cents: int) -> None:
    await shop.fault(CHARGES, "reset_after_commit")
    assert (await shop.buy(cents)).state == "unknown"


async def sql(shop: Shop, text: str, *values: object) -> None:
    """Tamper with our books."""
    await shop.change(lambda c: c.execute(text, values))


async def refunded_at_stripe(shop: Shop, bought: TopUp, cents: int) -> str:
    intent = (await at_stripe(shop, bought)).payment_intent_id
    made = await shop.stripe("refunds", payment_intent=intent, amount=cents)
    return str(made["id"])


async def test_books_that_agree_have_the_same_sums(shop: Shop) -> None:
    first, second = await shop.buy(5_000), await shop.buy(2_000, request_key="second")
    await refund.refund(shop.services, shop.account, top_up_id=first.top_up_id, credit_cents=1_500)
    dispute = await shop.steer("disputes", charge=(await at_stripe(shop, second)).charge_id)
    assert shop.services.processor is not None
    from farebox.billing.disputes import apply_dispute

    await apply_dispute(shop.services, await shop.services.processor.fetch_dispute(dispute["id"]))
    done = await run(shop)
    assert done.findings == []
    assert done.theirs == done.ours
    assert (done.ours.captured, done.ours.refunded, done.ours.disputed) == (7_000, 1_500, 2_000)
    assert (done.payments, done.applied) == (2, 0)
    await shop.agree()


async def test_a_payment_without_an_event_is_credited(shop: Shop) -> None:
    await lost_payment(shop, AUTO_CENTS)
    done = await run(shop)
    assert (done.findings, done.applied) == ([], 1)
    assert done.theirs == done.ours
    assert shop.cents == AUTO_CENTS
    assert (await run(shop)).applied == 0
    await shop.agree()


async def test_a_large_one_is_only_reported_and_resolved_when_it_is_credited(shop: Shop) -> None:
    await lost_payment(shop, LARGE)
    with structlog.testing.capture_logs() as logs:
        done = await run(shop)
    (finding,) = done.findings
    assert (finding.kind, finding.amount_cents, finding.account_id) == ("not_credited", LARGE, shop.account)
    assert done.theirs.captured - done.ours.captured == LARGE
    assert [entry["cents"] for entry in logs if entry["log_level"] == "error"] == [LARGE]
    assert shop.cents == 0
    with structlog.testing.capture_logs() as logs:
        await run(shop)  # a repeat is the same row, without a second alarm
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    assert len(still_open(shop)) == 1
    shop.clock.advance(HOUR)
    await shop.work(3)  # the poller runs
    assert shop.cents == LARGE
    assert await kinds(shop) == []
    assert still_open(shop) == []
    (resolved,) = shop.read(list_findings)
    assert resolved.resolved_at == shop.clock.at


async def test_a_recurring_difference_reopens_its_finding(shop: Shop) -> None:
    bought = await shop.buy(5_000)
    await sql(shop, "UPDATE top_ups SET fee_cents = 7")
    assert await kinds(shop) == ["amount_differs"]
    await sql(shop, "UPDATE top_ups SET fee_cents = 0")
    assert await kinds(shop) == []
    shop.clock.advance(DAY)
    await sql(shop, "UPDATE top_ups SET fee_cents = 7")
    assert await kinds(shop) == ["amount_differs"]
    (finding,) = still_open(shop)
    assert finding.finding_id == f"amount_differs:{bought.payment_id}"
    assert (finding.amount_cents, finding.found_at, finding.resolved_at) == (-7, shop.clock.at, None)


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'top_up'", ["credit_differs"]),
        ("DELETE FROM transfers WHERE kind = 'top_up'", ["credit_differs"]),
        ("UPDATE top_ups SET credit_cents = 4999, fee_cents = 1", ["credit_differs"]),
        ("UPDATE top_ups SET fee_cents = -1", ["paid_too_much"]),
        ("DELETE FROM payments", ["no_top_up", "paid_without_payment"]),
    ],
)
async def test_own_books_that_do_not_balance(shop: Shop, tampering: str, found: list[str]) -> None:
    await shop.buy(5_000)
    assert await kinds(shop) == []
    await sql(shop, tampering)
    assert await kinds(shop) == found


async def test_credit_without_a_payment(shop: Shop) -> None:
    await shop.save_card("pm_card_visa", behave="authentication_required")
    bought = await shop.buy(5_000)
    assert bought.state == "action_required"
    assert await kinds(shop) == []
    await sql(shop, "UPDATE top_ups SET state = 'paid', paid_at = ?", shop.clock.at)
    (finding,) = (await run(shop)).findings
    assert (finding.kind, finding.amount_cents) == ("credited_not_paid", -5_000)
    await sql(shop, "UPDATE payments SET payment_id = 'in_nothing'")
    await sql(shop, "UPDATE top_ups SET payment_id = 'in_nothing'")
    assert await kinds(shop) == ["credited_not_paid"]


async def test_foreign_objects_are_ignored(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    invoice = await shop.stripe("invoices", customer=customer)
    await shop.stripe("invoiceitems", customer=customer, invoice=invoice["id"], amount=900, currency="usd")
    await shop.stripe(f"invoices/{invoice['id']}/finalize")
    await shop.stripe(f"invoices/{invoice['id']}/pay")
    done = await run(shop)
    assert (done.findings, done.payments) == ([], 0)


async def test_refunds_made_at_stripe_are_reconciled(shop: Shop) -> None:
    small, large = await shop.buy(5_000), await shop.buy(3 * LARGE, request_key="large")
    await refunded_at_stripe(shop, small, 1_000)
    name = await refunded_at_stripe(shop, large, LARGE)
    done = await run(shop)
    assert done.applied == 1
    (finding,) = done.findings
    assert (finding.finding_id, finding.amount_cents) == (f"refund_differs:{name}", LARGE)
    assert done.theirs.refunded - done.ours.refunded == LARGE
    assert shop.cents == 5_000 - 1_000 + 3 * LARGE
    assert shop.services.processor is not None
    await refund.apply_refund(shop.services, await shop.services.processor.fetch_refund(name))
    done = await run(shop)
    assert done.findings == []
    assert done.theirs == done.ours
    await shop.agree()


async def test_a_refund_that_stripe_does_not_know(shop: Shop) -> None:
    bought = await shop.buy(5_000)
    await refund.refund(shop.services, shop.account, top_up_id=bought.top_up_id, credit_cents=1_000)
    await sql(shop, "UPDATE refunds SET processor_id = 're_nothing'")
    found = (await run(shop)).findings
    assert "refund_differs:re_nothing" in {finding.finding_id for finding in found}


async def test_disputes_are_reconciled(shop: Shop) -> None:
    bought = await shop.buy(5_000)
    made = await shop.steer("disputes", charge=(await at_stripe(shop, bought)).charge_id)
    done = await run(shop)
    assert (done.findings, done.applied) == ([], 1)
    assert done.theirs == done.ours
    assert shop.cents == 0
    await shop.steer(f"disputes/{made['id']}/close", status="won")
    assert (await run(shop)).applied == 1
    assert shop.cents == 5_000
    await sql(shop, "UPDATE disputes SET state = 'lost'")
    assert await kinds(shop) == ["dispute_differs"]


async def test_a_large_dispute_is_only_reported(shop: Shop) -> None:
    bought = await shop.buy(LARGE)
    made = await shop.steer("disputes", charge=(await at_stripe(shop, bought)).charge_id)
    done = await run(shop)
    (finding,) = done.findings
    assert (finding.finding_id, finding.amount_cents) == (f"dispute_differs:{made['id']}", LARGE)
    assert (done.applied, done.theirs.disputed, done.ours.disputed) == (0, LARGE, 0)
    assert shop.cents == LARGE
    (waiting,) = still_open(shop)
    assert waiting.finding_id == finding.finding_id


async def test_credit_in_two_transfers_is_not_once_what_was_paid(shop: Shop) -> None:
    """A fault that splits a credit could also have posted it twice."""
    await shop.buy(5_000)
    ((bucket, transfer_id, version),) = shop.read(
        lambda c: list(c.execute("SELECT bucket, transfer_id, version FROM transfers WHERE kind = 'top_up'"))
    )
    half = 2_500 * NANOS_PER_CENT
    await sql(shop, "UPDATE transfers SET amount = ? WHERE transfer_id = ?", half, transfer_id)
    await sql(
        shop,
        "INSERT INTO transfers SELECT bucket, account_id, ?, transfer_id || '/2', kind, from_book, to_book, amount, "
        "transfer_id || '/2', at, note FROM transfers WHERE bucket = ? AND transfer_id = ?",
        version + 1,
        bucket,
        transfer_id,
    )
    assert await kinds(shop) == ["credit_differs"]


async def test_purchases_before_the_window_are_not_compared(shop: Shop) -> None:
    await shop.buy(5_000)
    shop.clock.advance(40 * DAY)
    done = await run(shop, days=30)
    assert (done.payments, done.findings) == (0, [])
    assert (await run(shop, days=50)).payments == 1


async def test_a_recent_payment_of_an_old_invoice_is_compared(shop: Shop) -> None:
    await shop.save_card("pm_card_visa", behave="authentication_required")
    bought = await shop.buy(5_000)
    await sql(shop, "UPDATE top_ups SET state = 'paid', paid_at = ?, updated_at = ?", shop.clock.at, shop.clock.at)
    done = await examine(shop.services, since=shop.clock.at)
    assert [finding.payment_id for finding in done.findings] == [bought.payment_id]


async def test_without_a_response_nothing_is_compared(shop: Shop) -> None:
    await lost_payment(shop, LARGE)
    for path in ("invoices", "refunds", "disputes"):
        await shop.fault(f"GET /v1/{path}", "error_500_before")
        with pytest.raises(ProcessorUnavailable):
            await run(shop)
    assert still_open(shop) == []


# --- the command line -------------------------------------------------------------------------------------------------


class Cli:
    """`farebox payments …` on the shop's database."""

    def __init__(self, shop: Shop) -> None:
        self.app = typer.Typer()
        self.app.callback()(lambda: None)
        commands.register(self.app)
        self.shop = shop

    def __call__(self, *arguments: str, status: int = 0) -> Any:
        session = CliSession()
        session.data_dir = self.shop.services.settings.data_dir
        session.__dict__["settings"] = self.shop.services.settings
        session.clock = self.shop.clock  # type: ignore[assignment] # the same time
        done = CliRunner().invoke(self.app, ["payments", *arguments], obj=session)
        if isinstance(done.exception, Stopped):
            assert status == 1, done.exception
            return str(done.exception)
        assert done.exit_code == status, done.output or done.exception
        return json.loads(done.stdout) if "--json" in arguments else done.stdout


@pytest.fixture
def cli(shop: Shop) -> Cli:
    return Cli(shop)


async def test_events_are_listed_and_replayed(shop: Shop, cli: Cli) -> None:
    assert "No event" in cli("events")
    await shop.buy(5_000)
    await processor_events.sweep_undelivered(shop.services)
    await processor_events.work(shop.services)
    listed = cli("events", "--json")
    paid = next(event for event in listed if event["type"] == "invoice.paid")
    assert (paid["state"], paid["outcome"], paid["via"]) == ("done", "already_credited", "sweep")
    assert paid["event_id"] in cli("events", "--last", "50")
    assert cli("events", "--failed", "--json") == []
    assert cli("replay", paid["event_id"], "--json") == {"events": 1}
    assert shop.read(lambda c: inbox.has_due(c, shop.clock.at))
    assert await processor_events.work(shop.services) == 1
    assert cli("replay", "--since", "2020-01-01", "--json") == {"events": len(listed)}
    assert "evt_none" in cli("replay", "evt_none", status=1)
    cli("replay", status=2)
    cli("replay", paid["event_id"], "--since", "2020-01-01", status=2)


async def test_findings_are_listed(shop: Shop, cli: Cli) -> None:
    assert "Nothing differs" in cli("findings")
    await lost_payment(shop, LARGE)
    await run(shop)
    (finding,) = cli("findings", "--json")
    assert (finding["kind"], finding["amount"], finding["amount_cents"]) == ("not_credited", "100.01", LARGE)
    assert "not_credited" in cli("findings")
    shop.clock.advance(HOUR)
    await shop.work(3)
    await run(shop)
    assert cli("findings", "--json") == []
    assert len(cli("findings", "--all", "--json")) == 1


async def test_reconciling_by_hand(shop: Shop, cli: Cli) -> None:
    import asyncio

    await shop.buy(5_000)
    reported = await asyncio.to_thread(cli, "reconcile", "--json")
    assert reported["clean"] is True
    (action, *_) = shop.read(lambda connection: list_actions(connection, limit=1))
    assert (action.act, action.after, action.way) == ("reconcile.begin", '{"days": 30}', "command")
    assert reported["theirs"] == reported["ours"] == {"captured_cents": 5_000, "refunded_cents": 0, "disputed_cents": 0}
    await sql(shop, "UPDATE top_ups SET fee_cents = 7")
    reported = await asyncio.to_thread(lambda: cli("reconcile", "--days", "3", status=1))
    assert "amount_differs" in reported
    assert "1 difference" in reported
    await shop.fault("GET /v1/invoices", "error_500_before")
    assert "did not respond" in await asyncio.to_thread(lambda: cli("reconcile", status=1))


async def test_a_profile_is_shown_and_changed(shop: Shop, cli: Cli) -> None:
    account = shop.account
    changed = cli(
        "profile", "--account", account, "--name", "Acme", "--country", "de", "--address", "Street 1 | Town",
        "--topup-min", "2000", "--low-balance", "500", "--json",
    )  # fmt: skip
    assert changed["address"] == "Street 1\nTown"
    assert (changed["country"], changed["top_up_min_cents"], changed["low_balance_cents"]) == ("DE", 2000, 500)
    cli("profile", "--account", account, "--email", "a@b.example")
    shown = cli("profile", "--account", account, "--json")
    assert (shown["name"], shown["email"]) == ("Acme", "a@b.example")
    assert "Acme" in cli("profile", "--account", account)
    assert "country" in cli("profile", "--account", account, "--country", "Germany", status=1)
    assert cli("profile", "--account", account, "--json") == shown
