"""Grants, corrections, balances, receipts and the check on the command line."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from farebox.clock import SystemClock
from farebox.pricing.receipt import Receipt, ReceiptLine
from farebox.settings import load
from farebox.storage.accounts import find_account
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.database import opened_for_command
from farebox.storage.log_totals import id_at
from tests.cli.conftest import Cli


def test_a_grant_is_exact_to_the_nano_dollar(cli: Cli, acme: str) -> None:
    granted = cli("grant", "--account", acme, "--amount", "12.340000001", "--json").json
    assert granted["amount_nanos"] == 12_340_000_001
    balance = cli("balance", "--account", acme, "--json").json
    assert balance == {
        "account_id": acme,
        "posted_nanos": 12_340_000_001,
        "held_nanos": 0,
        "available_nanos": 12_340_000_001,
        "posted": "12.340000001",
        "held": "0.00",
        "available": "12.340000001",
    }
    assert "Available  12.340000001 USD" in cli("balance", "--account", acme).out


def test_a_grant_with_an_id_happens_once(cli: Cli, acme: str) -> None:
    grant = "grant", "--account", acme, "--amount", "5", "--id", "welcome", "--expires", "2999-01-01"
    assert cli(*grant, "--json").json["repeated"] is False
    assert cli(*grant, "--json").json["repeated"] is True
    assert "nothing changed" in cli(*grant).out

    other = cli("grant", "--account", acme, "--amount", "6", "--id", "welcome")
    assert (other.status, other.out) == (1, "")
    assert "choose another ID" in other.err
    assert cli("balance", "--account", acme, "--json").json["posted"] == "5.00"


@pytest.mark.parametrize("amount", ["0", "-1", "1,5", "1.0000000001", "five", "1e3", ""])
def test_a_wrong_amount_is_a_usage_error(cli: Cli, acme: str, amount: str) -> None:
    wrong = cli("grant", "--account", acme, "--amount", amount)
    assert (wrong.status, wrong.out) == (2, "")
    assert "--amount" in wrong.err


def test_a_grant_needs_an_account_and_a_future_expiry(cli: Cli, acme: str) -> None:
    assert cli("grant", "--account", "nope", "--amount", "1").status == 1
    assert cli("grant", "--account", acme, "--amount", "1", "--expires", "2020-01-01").status == 1
    assert cli("grant", "--account", acme, "--amount", "1", "--expires", "soon").status == 2
    assert cli("grant", "--account", acme, "--amount", "1", "--id", "a/2").status == 1
    assert cli("balance", "--account", acme, "--json").json["posted_nanos"] == 0


def test_a_correction_gives_or_takes(cli: Cli, acme: str) -> None:
    correct = "correct", "--account", acme, "--reason", "wrong price"
    assert cli(*correct, "--give", "0.25", "--json").json["posted"] == "0.25"
    assert cli(*correct, "--take", "0.10", "--id", "fix-7", "--json").json["amount"] == "-0.10"
    assert cli(*correct, "--take", "0.10", "--id", "fix-7", "--json").json["repeated"] is True
    too_much = cli(*correct, "--take", "1")
    assert too_much.status == 1
    assert "0.15 USD available" in too_much.err
    assert cli(*correct).status == 2
    assert cli(*correct, "--give", "1", "--take", "1").status == 2
    assert cli("check").status == 0


def test_a_balance_needs_an_account(cli: Cli, acme: str) -> None:
    assert cli("balance", "--account", "nope").err == (
        "farebox: there is no account “nope”: `farebox account list` shows all\n"
    )


def test_the_check_lists_each_difference(cli: Cli, acme: str, data_dir: Path) -> None:
    assert cli("grant", "--account", acme, "--amount", "5", "--id", "g").status == 0
    clean = cli("check", "--json").json
    assert clean.pop("database")
    assert clean == {"clean": True, "damage": [], "accounts": 1, "differences": [], "audit_log": []}
    assert "the books balance" in cli("check").out

    with opened_for_command(load()) as connection:
        connection.execute("UPDATE lots SET remaining = remaining - 1")
    broken = cli("check")
    assert broken.status == 1
    assert "account acme, transfer grant:g" in broken.out
    reported = cli("check", "--json")
    assert reported.status == 1
    (difference,) = msgspec.json.decode(reported.out)["differences"]
    assert (difference["account_id"], difference["transfer_id"]) == (acme, "grant:g")
    assert difference["expected"] - difference["found"] == 1


def test_the_check_of_an_empty_database_has_its_own_status(cli: Cli) -> None:
    assert cli("init").status == 0
    reported = cli("check")
    assert (reported.status, reported.err) == (4, "")
    assert "no account: there is nothing to check" in reported.out
    assert load().database_shown in reported.out
    found = cli("check", "--json")
    body = msgspec.json.decode(found.out)
    assert (found.status, body["clean"], body["accounts"]) == (4, False, 0)


def test_a_receipt_explains_a_charge(cli: Cli, acme: str, data_dir: Path) -> None:
    receipt = Receipt(
        log_id="log-1",
        account_id=acme,
        gateway_id="default",
        provider="openai",
        model="gpt-x",
        outcome="charged",
        usage_source="provider",
        charge_nanos=3_001,
        priced_model="gpt-x-2026",
        price_version="own/7",
        lines=(ReceiptLine("input_tokens", "10", "250.05", "2500.5"),),
        cost_nanos="2500.5",
        markup_parts_per_million=1_200_000,
        markup_version="m1",
        rounding_nanos="0.4",
        hold_nanos=9_000,
        notes=("the stream was cut",),
    )
    call = CallRow(
        account_id=acme, log_id="log-1", gateway_id="default", created_at=1, provider="openai", model="gpt-x",
        success=True, status_code=200, duration=5, tokens_in=10, tokens_out=0, cost=2501, charge=3001,
        detail=CallDetail(), receipt=msgspec.json.encode(receipt), logged=True,
    )  # fmt: skip
    with opened_for_command(load()) as connection:
        account = find_account(connection, acme)
        assert account is not None
        insert_call(connection, account.bucket, call)

    assert cli("receipt", "log-1", "--json").json == msgspec.json.decode(msgspec.json.encode(receipt))
    words = " ".join(cli("receipt", "log-1").out.split())
    for fact in (
        "Model openai/gpt-x (priced as gpt-x-2026)", "input_tokens 10 0.25005 0.0000025005", "Cost 0.0000025005 USD",
        "Markup 20 % (m1)", "Rounding 0.0000000004 USD", "Held 0.000009 USD", "Charge 0.000003001 USD",
        "Note the stream was cut",
    ):  # fmt: skip
        assert fact in words
    assert cli("receipt", "log-2").status == 1


def test_overruns_compare_holds_with_charges(cli: Cli, acme: str) -> None:
    assert "covered" in cli("overruns").out
    now = SystemClock().now_ms()
    shared: dict[str, Any] = {"account_id": acme, "gateway_id": "default", "provider": "anthropic", "model": "claude-x"}
    with opened_for_command(load()) as connection:
        account = find_account(connection, acme)
        assert account is not None
        for number, (charge, lost) in enumerate(((3_000_000, 500_000_000), (900_000, 0), (800_000, 0))):
            log_id = f"{id_at(now)}-7000-8000-00000000000{number}"
            receipt = Receipt(
                **shared, log_id=log_id, outcome="charged", usage_source="provider", charge_nanos=charge,
                hold_nanos=1_000_000, written_off_nanos=lost,
            )  # fmt: skip
            call = CallRow(
                **shared, log_id=log_id, created_at=now, success=True, status_code=200, duration=5, tokens_in=10,
                tokens_out=0, cost=charge, charge=charge, receipt=msgspec.json.encode(receipt), logged=True,
                detail=CallDetail(unseen=("mcp", "web_search") if number < 2 else ()),
            )  # fmt: skip
            insert_call(connection, account.bucket, call)
    (row,) = cli("overruns", "--days", "1", "--json").json
    assert row["kinds"] == ["mcp", "web_search"]
    assert (row["provider"], row["model"], row["calls"]) == ("anthropic", "claude-x", 2)
    assert (row["held_usd"], row["charged_usd"], row["above_hold_usd"]) == ("0.002", "0.0039", "0.002")
    assert row["written_off_usd"] == "0.50"
    assert "mcp, web_search" in cli("overruns").out
