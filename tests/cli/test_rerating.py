"""`farebox rerate` on calls that a real server has charged: what is returned, to which lots, once; and what is
reported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.ledger.commands import Grant, Hold, TopUp
from farebox.operator import rerate
from farebox.storage.transfer_statement import list_lots
from tests.calls.kit import differences, forget
from tests.cli.conftest import Cli, commands_use
from tests.engines import ON_BOTH_ENGINES, looking
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

PERIOD = ("--from", "2020-01-01", "--to", "2100-01-01")
DAY = "2026-01-01"


@pytest.fixture(scope="module")
def folder(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerated")


@pytest.fixture(scope="module")
def farebox(folder: Path) -> Iterator[Farebox]:
    with running_farebox(folder) as served:
        yield served


@pytest.fixture
def data_dir(folder: Path, farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the commands to the server's database."""
    return commands_use(folder, monkeypatch)


def price(cli: Cli, farebox: Farebox, model: str, *rates: str) -> None:
    assert cli("price", "set", "demo", model, *rates, "--valid-from", DAY).status == 0
    forget(farebox)


def call(customer: Customer, model: str, text: str) -> dict[str, Any]:
    """The receipt of a call."""
    body = {"model": f"demo/{model}", "messages": [{"role": "user", "content": text}]}
    response = httpx.post(f"{customer.gateway_url}/compat/chat/completions", json=body, headers=customer.headers)
    assert response.status_code == 200, response.text
    return customer.receipt(response.headers["cf-aig-log-id"])


def give(farebox: Farebox, command: Grant | TopUp) -> None:
    assert farebox.run(farebox.services.ledger.do(command)).ok


def lots(farebox: Farebox, customer: Customer) -> dict[str, int]:
    with looking(farebox.services.settings) as connection:
        found, _ = list_lots(connection, customer.account_id, 0, 100, spent=True)
    return {lot.lot_id: lot.remaining for lot in found}


def mixed(farebox: Farebox, granted: int, bought: int) -> Customer:
    """A customer with a grant, which is spent first, and bought credit."""
    account_id = farebox.create_account()
    at = farebox.services.clock.now_ms()
    give(farebox, Grant(account_id=account_id, grant_id="g", amount=granted, at=at))
    give(farebox, TopUp(account_id=account_id, payment_id="p", amount=bought, at=at))
    return Customer(farebox, account_id, farebox.create_token(account_id))


def test_an_overcharge_returns_to_its_lots(cli: Cli, farebox: Farebox) -> None:
    price(cli, farebox, "dear", "--input", "100", "--output", "1000")
    customer = mixed(farebox, 5_000_000, 10_000_000_000)
    receipts = [call(customer, "dear", "one two three demo:cached=2,tokens=5") for _ in range(3)]
    (charged,) = {receipt["charge_nanos"] for receipt in receipts}
    usage = {line["meter"]: int(line["quantity"]) for line in receipts[0]["lines"]}
    assert receipts[0]["other_meters"] == [["cache_read_tokens", "2"]]
    assert charged == usage["input_tokens"] * 100_000 + usage["output_tokens"] * 1_000_000
    posted = customer.balance.posted
    only = ("rerate", "demo", "dear", *PERIOD, "--account", customer.account_id)
    assert cli(*only, "--json").json["accounts"] == []

    price(cli, farebox, "dear", "--input", "10", "--output", "100", "--cache-read", "1")
    right = (usage["input_tokens"] - 2) * 10_000 + usage["output_tokens"] * 100_000 + 2 * 1_000
    shown = cli(*only, "--json").json
    assert (shown["applied"], shown["rerate_id"]) == (False, None)
    assert shown["totals"]["given_back_nanos"] == 3 * (charged - right)
    assert customer.balance.posted == posted
    assert "Nothing was changed" in cli(*only).err

    done = cli(*only, "--apply", "--json").json
    (row,) = done["accounts"]
    assert (row["calls"], row["given_back_calls"], row["left"]) == (3, 3, {})
    assert row["given_back_nanos"] == 3 * (charged - right)
    assert customer.balance.posted == 10_005_000_000 - 3 * right
    drawn_from_credit = max(0, 3 * right - 5_000_000)
    assert lots(farebox, customer) == {
        "grant:g": 5_000_000 - 3 * right + drawn_from_credit,
        "top_up:p": 10_000_000_000 - drawn_from_credit,
    }
    (corrected,) = customer.receipt(receipts[0]["log_id"])["corrections"]
    assert (corrected["amount_nanos"], corrected["charge_nanos"]) == (charged - right, right)
    assert corrected["transfer_id"].startswith(f"correction:rerate:{done['rerate_id']}:")
    assert "Corrected" in cli("receipt", receipts[0]["log_id"]).out
    assert customer.receipt(receipts[0]["log_id"])["charge_nanos"] == charged

    again = cli(*only, "--apply", "--json").json
    assert again["accounts"] == []
    assert customer.balance.posted == 10_005_000_000 - 3 * right
    assert differences(farebox) == []
    messages = httpx.get(f"{customer.api_url}/farebox/messages", headers=customer.headers).json()["result"]
    (notice,) = [message for message in messages if message["type"] == "charges_corrected"]
    assert notice["data"]["given_back_nanos"] == 3 * (charged - right)


def test_an_undercharge_is_charged_only_if_asked_and_within_the_balance(cli: Cli, farebox: Farebox) -> None:
    price(cli, farebox, "cheap", "--input", "0", "--output", "0.001")
    customer = farebox.funded("1")
    receipts = [call(customer, "cheap", "one two demo:tokens=4") for _ in range(3)]
    used = sum(int(line["quantity"]) for line in receipts[0]["lines"] if line["meter"] == "output_tokens")
    before = customer.balance.posted
    price(cli, farebox, "cheap", "--input", "0", "--output", "100000")
    missing = used * 100_000_000 - receipts[0]["charge_nanos"]
    assert 1 < before // missing < 3
    only = ("rerate", "demo", "cheap", *PERIOD, "--account", customer.account_id, "--json")

    (row,) = cli(*only, "--apply").json["accounts"]
    assert (row["charged_calls"], row["undercharged_calls"], row["undercharged_nanos"]) == (0, 3, 3 * missing)
    assert customer.balance.posted == before

    (row,) = cli(*only, "--increase", "--apply").json["accounts"]
    assert (row["charged_calls"], row["undercharged_calls"]) == (2, 1)
    assert customer.balance.posted == before - 2 * missing

    farebox.grant(customer.account_id, "5")
    (row,) = cli(*only, "--increase", "--apply").json["accounts"]
    assert (row["charged_calls"], row["undercharged_calls"]) == (1, 0)
    assert customer.balance.posted == before + 5_000_000_000 - 3 * missing

    price(cli, farebox, "cheap", "--input", "0", "--output", "0.001")  # the first price was right after all
    (row,) = cli(*only, "--apply").json["accounts"]
    assert row["given_back_nanos"] == 3 * missing
    assert customer.balance.posted == before + 5_000_000_000
    corrections = customer.receipt(receipts[0]["log_id"])["corrections"]
    assert [each["amount_nanos"] for each in corrections] == [-missing, missing]
    assert differences(farebox) == []


def test_holds_in_flight_keep_what_they_reserve(cli: Cli, farebox: Farebox) -> None:
    price(cli, farebox, "held", "--input", "0", "--output", "0.001")
    customer = farebox.funded("1")
    call(customer, "held", "one demo:tokens=4")
    price(cli, farebox, "held", "--input", "0", "--output", "1000")
    at = farebox.services.clock.now_ms()
    left = customer.balance.posted
    hold = Hold(account_id=customer.account_id, hold_id="app:x", amount=left, at=at, expires_at=at + 10**9)
    assert farebox.run(farebox.services.ledger.do(hold)).ok
    only = ("rerate", "demo", "held", *PERIOD, "--account", customer.account_id, "--increase", "--apply", "--json")
    (row,) = cli(*only).json["accounts"]
    assert (row["charged_calls"], row["undercharged_calls"]) == (0, 1)
    assert (customer.balance.posted, customer.balance.available) == (left, 0)


def test_an_interrupted_re_rating_continues_where_it_stopped(
    cli: Cli, farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    price(cli, farebox, "broken", "--input", "100", "--output", "100")
    customers = [farebox.funded("1") for _ in range(2)]
    for customer in customers:
        for _ in range(5):
            call(customer, "broken", "one two three demo:tokens=4")
    price(cli, farebox, "broken", "--input", "50", "--output", "50")
    monkeypatch.setattr(rerate, "BATCH", 2)
    posted, times = rerate.post, []

    def interrupted(*values: Any) -> None:
        times.append(values)
        posted(*values)
        if len(times) == 4:
            raise SystemExit(9)

    command = ("rerate", "demo", "broken", *PERIOD, "--apply", "--json")
    monkeypatch.setattr(rerate, "post", interrupted)
    assert cli(*command).status == 9
    assert differences(farebox) == []
    monkeypatch.setattr(rerate, "post", posted)
    done = cli(*command).json
    with looking(farebox.services.settings) as connection:
        named = connection.execute("SELECT DISTINCT rerate_id FROM corrected_calls").fetchall()
    assert (done["rerate_id"],) in named
    for customer in customers:
        spent = 1_000_000_000 - customer.balance.posted
        assert spent > 0
        rows = cli("rerate", "demo", "broken", *PERIOD, "--account", customer.account_id, "--json").json
        assert rows["accounts"] == []
        of_it = [each for each in named if each == (done["rerate_id"],)]
        assert len(of_it) == 1
    assert differences(farebox) == []


def test_calls_that_cannot_be_re_priced_are_left_and_counted(cli: Cli, farebox: Farebox) -> None:
    price(cli, farebox, "odd", "--input", "100", "--output", "100")
    customer = farebox.funded("1")
    call(customer, "odd", "one two demo:tokens=2,usage=absurd")
    only = ("rerate", "demo", "odd", *PERIOD, "--account", customer.account_id)
    (row,) = cli(*only, "--json").json["accounts"]
    assert row["left"] == {"by_rule": 1}
    assert "1 call is left as they were: charged by a rule" in cli(*only).err
    assert cli("rerate", "nobody", *PERIOD).status == 1
    assert cli("rerate", "demo", "--from", "2026-02-01", "--to", "2026-01-01").status == 2
    refused = cli("correct", "--account", customer.account_id, "--give", "1", "--reason", "x", "--id", "rerate:1")
    assert refused.status == 1
