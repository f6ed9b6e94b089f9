"""`farebox refund` and `farebox top-ups`, beside a server or without one."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from farebox.billing import top_up
from farebox.cli import refunds
from farebox.cli.session import CliSession, Stopped
from tests.payments.books import compare
from tests.payments.world import ACCOUNT, DAY, SECRET, World, living, open_world

Cli = Callable[..., Result]


@pytest.fixture
def card() -> str:
    return "pm_card_visa"


@pytest.fixture
def world(tmp_path: Path, card: str) -> Iterator[World]:
    """An account that bought 50 USD, without a running server."""
    with open_world(tmp_path, card) as world:
        asyncio.run(_buy(world))
        yield world
        compare(world.settings, world.fake.http.get("/_fake/ledger"))


async def _buy(world: World) -> None:
    async with living(world) as process:
        await top_up.buy(process.services, ACCOUNT, credit_cents=5000, request_key="order-1")


@pytest.fixture
def cli(world: World, monkeypatch: pytest.MonkeyPatch) -> Cli:
    app = typer.Typer()
    refunds.register(app)
    for name, value in (
        ("DATA_DIR", world.settings.data_dir),
        ("DATABASE_URL", world.settings.database_url),
        ("STRIPE_SECRET_KEY", "sk_test_1"),
        ("STRIPE_WEBHOOK_SECRET", SECRET),
        ("STRIPE_API_BASE", world.fake.url),
        ("SECRET_KEY", base64.b64encode(bytes(32)).decode()),
    ):
        monkeypatch.setenv(f"FAREBOX_{name}", value)
    session = CliSession()
    session.clock = world.clock  # type: ignore[assignment] # the same time
    return lambda *arguments: CliRunner().invoke(app, list(arguments), obj=session)


def bought(cli: Cli) -> dict[str, object]:
    (row,) = json.loads(cli("top-ups", "--account", ACCOUNT, "--json").stdout)
    assert isinstance(row, dict)
    return row


def test_a_refund_in_part_and_of_the_rest(cli: Cli, world: World) -> None:
    top_up_id = str(bought(cli)["top_up_id"])
    part = cli("refund", "--account", ACCOUNT, "--top-up", top_up_id, "--amount", "12.34", "--id", "a", "--json")
    assert json.loads(part.stdout)["amount_cents"] == 1234
    again = cli("refund", "--account", ACCOUNT, "--top-up", top_up_id, "--amount", "12.34", "--id", "a", "--json")
    assert json.loads(again.stdout) == json.loads(part.stdout)
    rest = cli("refund", "--account", ACCOUNT, "--top-up", top_up_id)
    assert "Refunded 37.66 USD to the card" in rest.stdout
    assert bought(cli)["refunded_cents"] == 5000
    assert sum(one["amount"] for one in world.fake.all("refunds")) == 5000


def test_a_refused_refund_reports_the_refundable_amount(cli: Cli) -> None:
    response = cli("refund", "--account", ACCOUNT, "--top-up", str(bought(cli)["top_up_id"]), "--amount", "50.01")
    assert isinstance(response.exception, Stopped)
    assert "50.00 USD" in str(response.exception)


@pytest.mark.parametrize("card", ["pm_card_refundFail"])
def test_a_refund_returned_by_the_bank_is_an_error(cli: Cli, world: World) -> None:
    """A script that refunds customers must not mistake a returned refund for a successful one."""
    order = ("refund", "--account", ACCOUNT, "--top-up", str(bought(cli)["top_up_id"]), "--amount", "10", "--id", "a")
    world.fake.steer("faults", match="POST /v1/refunds", kind="error_500_after_commit")
    first = cli(*order)
    assert (first.exit_code, "keeps asking" in first.stdout) == (0, True)
    world.clock.at += DAY
    world.fake.http.get("/_fake/clock")  # the bank acts: it processes what is due when it is queried
    again = cli(*order)
    assert isinstance(again.exception, Stopped)
    assert "failed" in str(again.exception)
    assert "has been restored" in str(again.exception)
    assert again.stdout == ""


def test_an_amount_cannot_have_fractions_of_a_cent(cli: Cli) -> None:
    response = cli("refund", "--account", ACCOUNT, "--top-up", str(bought(cli)["top_up_id"]), "--amount", "0.001")
    assert response.exit_code == 2
    assert "whole cents" in response.output


def test_without_payments_the_command_says_how_to_enable_them(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAREBOX_STRIPE_SECRET_KEY")
    response = cli("refund", "--account", ACCOUNT, "--top-up", "x")
    assert "FAREBOX_STRIPE_SECRET_KEY" in str(response.exception)
