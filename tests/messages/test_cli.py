"""`farebox webhook`, `messages`, `tax`, `invoice` and `statement`."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farebox.billing.documents import issue_invoice
from farebox.settings import load
from farebox.storage.accounts import find_account
from farebox.storage.database import opened_for_command
from farebox.storage.deliveries import MAIL, add_delivery
from farebox.storage.notices import add_notice
from tests.cli.conftest import Cli, acme, cli, data_dir
from tests.documents.test_issue import bought
from tests.documents.test_render import read_back
from tests.messages.kit import START, Receiver, receiving, verified

__all__ = ["acme", "cli", "data_dir"]  # fixtures


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a separate loop, because the command runs in the test's thread."""
    loop = asyncio.new_event_loop()
    box: dict[str, Any] = {}
    ready = threading.Event()

    async def serve() -> None:
        box["stop"] = asyncio.Event()
        async with receiving() as made:
            box["receiver"] = made
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    yield box["receiver"]
    loop.call_soon_threadsafe(box["stop"].set)
    thread.join(5)
    loop.close()


def test_an_endpoint_is_added_tried_listed_and_removed(
    cli: Cli, acme: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = cli("webhook", "add", receiver.url)
    assert (refused.status, refused.out) == (1, "")
    assert "https://" in refused.err
    monkeypatch.setenv("FAREBOX_WEBHOOK_PRIVATE", "allow")

    made = cli("webhook", "add", receiver.url, "--account", acme, "--kind", "refunded", "--json").json
    assert made["kinds"] == ["refunded"]
    assert made["secret"].startswith("whsec_")
    ours = cli("webhook", "add", receiver.url)
    assert ours.out.startswith("whsec_")

    listed = cli("webhook", "list", "--json")
    assert [item["account_id"] for item in listed.json] == [None, acme]
    assert "whsec_" not in listed.out
    assert "(every account)" in cli("webhook", "list").out

    tried = cli("webhook", "test", made["endpoint_id"], "--json").json
    assert tried == {"endpoint_id": made["endpoint_id"], "delivered": True, "status": 204}
    (got,) = receiver.received
    assert verified(made["secret"], got.headers, got.body)
    receiver.responses = [500]
    failed = cli("webhook", "test", made["endpoint_id"])
    assert failed.status == 1
    assert "answered 500" in failed.err

    assert cli("webhook", "remove", made["endpoint_id"], "--json").json["removed"] is True
    assert cli("webhook", "remove", made["endpoint_id"]).status == 1
    assert cli("webhook", "test", made["endpoint_id"]).status == 1


def test_wrong_endpoints_are_refused(cli: Cli, acme: str) -> None:
    assert "use low_balance" in cli("webhook", "add", "https://example.com/", "--kind", "nope").err
    assert cli("webhook", "add", "https://example.com/", "--account", "nope").status == 1
    assert cli("webhook", "add", "ftp://example.com/").status == 1


def test_messages_are_listed_and_replayed(cli: Cli, acme: str, data_dir: Path) -> None:
    assert cli("messages", "list").out == "No message.\n"
    endpoint = cli("webhook", "add", "https://example.com/", "--json").json["endpoint_id"]
    with opened_for_command(load()) as connection:
        account = find_account(connection, acme)
        assert account is not None
        key = (account.bucket, acme, "low_balance:1")
        add_notice(connection, *key, "low_balance", {"posted_nanos": 1}, START)
        add_delivery(connection, *key, endpoint, START)
        add_delivery(connection, *key, f"{MAIL}a@acme.example", START)
        connection.execute("UPDATE deliveries SET next_at = NULL, attempts = 9, last_error = 'answered 500'")
        connection.execute("UPDATE deliveries SET delivered_at = 1, last_error = NULL WHERE target LIKE 'mailto:%'")

    (listed,) = cli("messages", "list", "--account", acme, "--json").json
    assert (listed["message_id"], listed["kind"], listed["content"]) == (
        "low_balance:1",
        "low_balance",
        {"posted_nanos": 1},
    )
    assert {item["target"]: item["error"] for item in listed["deliveries"]} == {
        "mailto:a@acme.example": None,
        endpoint: "answered 500",
    }
    text = cli("messages", "list").out
    assert "a@acme.example: delivered" in text
    assert "given up (answered 500)" in text

    assert cli("messages", "replay", "--failed", "--account", "other", "--json").json == {"deliveries": 0}
    assert cli("messages", "replay", "--failed", "--json").json == {"deliveries": 1}
    with opened_for_command(load()) as connection:
        (due,) = connection.execute("SELECT target FROM deliveries WHERE next_at IS NOT NULL").fetchall()
    assert due == (endpoint,)
    assert cli("messages", "replay", "low_balance:1", "--account", acme, "--json").json == {"deliveries": 1}
    assert cli("messages", "replay", "low_balance:2", "--account", acme).status == 1
    assert cli("messages", "replay", "low_balance:1").status == 1, "it is not an endpoint of the operator"
    for wrong in (("replay",), ("replay", "a", "--failed")):
        assert cli("messages", *wrong).status == 2


def test_tax_rates(cli: Cli, acme: str) -> None:
    assert "not taxed" in cli("tax", "list").out
    made = cli("tax", "set", "de", "19", "--reverse-charge", "--json").json
    assert (made["country"], made["name"], made["parts_per_million"], made["reverse_charge"]) == (
        "DE",
        "VAT",
        190_000,
        True,
    )
    assert "TVA for customers of CH: 7.7 %" in cli("tax", "set", "CH", "7.7", "--name", "TVA").out
    assert "all other countries: 0 %" in cli("tax", "set", "*", "0").out
    assert [item["percent"] for item in cli("tax", "list", "--json").json] == ["0", "7.7", "19"]
    assert cli("tax", "remove", "CH", "--json").json["removed"] is True
    assert cli("tax", "remove", "CH").status == 1
    for wrong in (
        ("DEU", "19"),
        ("DE", "-1"),
        ("DE", "100"),
        ("DE", "1.23456"),
        ("DE", "x"),
        ("DE", "1", "--name", ""),
    ):
        assert cli("tax", "set", *wrong).status == 2


def test_documents_as_files(cli: Cli, acme: str, data_dir: Path, tmp_path: Path) -> None:
    assert cli("grant", "--account", acme, "--amount", "5").status == 0
    with opened_for_command(load()) as connection:
        account = find_account(connection, acme)
        assert account is not None
        number = issue_invoice(connection, load(), account.bucket, bought("1", account_id=acme), START)
    file = tmp_path / "invoice.pdf"
    assert cli("invoice", number, "-o", str(file)).out == f"Wrote {file}.\n"
    assert f"Invoice number {number}" in read_back(file.read_bytes()).words
    assert cli("invoice", number, "--json").json["total_cents"] == 6_248
    assert cli("invoice", "FB-1999-000001").status == 1

    from datetime import UTC, datetime

    month = f"{datetime.now(UTC):%Y-%m}"
    other = tmp_path / "statement.pdf"
    made = cli("statement", "--account", acme, "--month", month, "-o", str(other), "--json").json
    assert made["closing_nanos"] == 5_000_000_000
    assert "Credit granted 5.00" in read_back(other.read_bytes()).words
    assert cli("statement", "--account", acme, "--month", "2099-01").status == 2
    assert cli("statement", "--account", acme, "--month", "soon").status == 2
    assert cli("statement", "--account", "nope", "--month", month).status == 1
