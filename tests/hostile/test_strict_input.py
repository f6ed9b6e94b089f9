"""Ambiguous numbers are refused; Farebox's files are private; errors reveal nothing about the operator's network."""

import os
import socket
import stat
import subprocess
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import typer

from farebox.addresses import Address
from farebox.cli import taxes, values
from farebox.errors import Problem
from farebox.http.pages.billing_forms import cents
from farebox.messages.send import UNREACHABLE, post
from farebox.money import InvalidAmount, parse_usd, whole_number
from farebox.pricing import pricebook
from farebox.settings import SettingsError, load
from farebox.storage.sqlite import open_file
from farebox.storage.sqlite.database import SqliteDatabase
from tests import processes
from tests.engines import SQLITE_ONLY
from tests.support import Customer

FOREIGN = (
    "١٢",
    "１２",
    "१२",
    "1٢",
    "1_0",
    "+5",
    " 5",
    "5 ",
    "5\n",
    "1e3",
    "0x10",
    "²",
    "①",
    "",
    "NaN",
    "Infinity",
    "1,5",
)
"""Digits of other scripts, and other input that `int` or `Decimal` would accept."""


@pytest.mark.parametrize("text", FOREIGN)
def test_amounts_in_non_ascii_digits_are_rejected(text: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_usd(text)
    with pytest.raises(ValueError, match="whole number"):
        whole_number(text)
    for read in (values._usd, values.percent, values.parse_price, values.whole_cents, taxes._rate):
        with pytest.raises(typer.BadParameter):
            read(text)
    with pytest.raises(SettingsError):
        load({"FAREBOX_PORT": text})
    with pytest.raises(SettingsError):
        load({"FAREBOX_FEE_PERCENT": text})
    assert pricebook._USD.fullmatch(text) is None
    if text.strip() != "5":  # a browser's field may have surrounding blanks
        with pytest.raises(Problem):
            cents({"amount": text}, "amount", "the amount")


@pytest.mark.parametrize("text", ["12", "0.000000001", "999999999.99"])
def test_amounts_in_ascii_digits_are_read(text: str) -> None:
    assert parse_usd(text) > 0


@pytest.mark.parametrize("text", ["١٢", "1_0", "+5", "１２"])
def test_commands_reject_non_ascii_digits_and_grant_nothing(text: str, tmp_path: Path) -> None:
    command = ["--data-dir", str(tmp_path), "grant", "--account", "a" * 32]
    ended = processes.run([*command, "--amount", text], env=os.environ)
    assert ended.returncode == 2
    assert "amount" in ended.stderr


@pytest.mark.parametrize("value", ['"12"', '"١٢"', "12.5", '"1_0"', "true", "1e400", "-5"])
def test_the_api_accepts_only_json_numbers(customer: Customer, value: str) -> None:
    response = httpx.post(
        f"{customer.api_url}/farebox/holds",
        content=f'{{"hold_id": "x", "amount_nanos": {value}}}',
        headers=customer.headers | {"content-type": "application/json"},
    )
    assert response.status_code == 400, response.text
    assert customer.balance.held == 0


# --- files ------------------------------------------------------------------------------------------------------------


@SQLITE_ONLY
def test_files_in_a_readable_folder_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    whole = ["--data-dir", str(folder), "serve", "--demo", "--welcome", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = processes.start(
        [*whole, "--port", str(port)], env=environment, program=_SERVE, stdout=subprocess.PIPE, stderr=2
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        files = [file for file in folder.rglob("*") if file.is_file()]
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files}
        assert {"farebox.db", "farebox.db-wal", "farebox.lock", "secret.key", "fake-stripe.jsonl"} <= set(modes)
        assert {name: f"{mode:o}" for name, mode in modes.items() if mode & 0o077} == {}
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


_SERVE = "import os; os.umask(0o022); from farebox.cli.main import run; run()"


@SQLITE_ONLY
async def test_a_database_readable_by_all_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "farebox.db"
    open_file(path).close()
    path.chmod(0o644)
    database = SqliteDatabase(path)
    await database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# --- what an error reveals --------------------------------------------------------------------------------------------


async def test_a_webhooks_error_does_not_reveal_the_internal_network() -> None:
    """An unknown name, one that resolves to an internal address, one that resolves to both kinds, and a host without a
    listener."""

    async def unknown(host: str, port: int) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    async def inside(host: str, port: int) -> list[Address]:
        return [ip_address("10.0.0.7")]

    async def mixed(host: str, port: int) -> list[Address]:
        return [ip_address("93.184.216.34"), ip_address("169.254.169.254")]

    async def nothing(host: str, port: int) -> list[Address]:
        return []

    reported = {
        (await post("https://wiki.corp.example/hook", {}, b"{}", private=False, resolver=resolver))
        for resolver in (unknown, inside, mixed, nothing)
    }
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    reported.add(await post(f"https://127.0.0.1:{port}/", {}, b"{}", private=False))
    reported.add(await post(f"https://127.0.0.1:{port}/", {}, b"{}", private=True))
    assert {sent.error for sent in reported} == {UNREACHABLE}
    assert len(reported) == 1
