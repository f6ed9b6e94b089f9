"""An installation that contains everything, and helpers that copy and inspect it."""

import asyncio
import base64
import contextlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from farebox.billing import refund
from farebox.cli.main import run
from farebox.clock import RandomIds, SystemClock
from farebox.ledger.commands import Grant, Hold
from farebox.ledger.posting import apply
from farebox.runtime import operator_alarms
from farebox.storage.accounts import add_account
from farebox.storage.sql import rows
from farebox.storage.sqlite import connect, open_file
from farebox.storage.tables import Table, tables
from tests.payments.kit import HOUR, open_shop
from tests.postgres.server import PostgresServer
from tests.support import running_farebox

SECRET_KEY = base64.b64encode(bytes(32)).decode()
"""The account of tests.payments.kit."""
CALL_NANOS = 1_000_000
CALL_AT = 1_795_000_000_000
BODY_BYTES = 500

Rows = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class AccountView:
    """What a server returns about an account over HTTP."""

    balance: Any
    receipts: dict[str, Any]
    logs: list[str]


@dataclass(frozen=True, slots=True)
class Sample:
    """A folder with an SQLite database in which every kind of event has happened, and what its server returned."""

    folder: Path
    account_id: str
    token: str
    log_ids: tuple[str, ...]
    reported: AccountView

    @property
    def database(self) -> Path:
        return self.folder / "farebox.db"


def sample_installation(folder: Path) -> Sample:
    """Calls through a real server; then purchases, refunds, a dispute, an auto top-up, an open hold and an alarm."""
    with running_farebox(folder, secret_key=SECRET_KEY) as farebox:
        customer = farebox.funded("5")
        responses = [customer.chat(f"Call number {number} — übermäßig \U0001f695") for number in range(6)]
        responses.append(customer.chat("A stream", stream=True))
        log_ids = tuple(response.headers["cf-aig-log-id"] for response in responses)
        reported = ask(farebox.url, customer.account_id, customer.token, log_ids)
        token = customer.token
    asyncio.run(_shop(folder))
    return Sample(folder, customer.account_id, token, log_ids, reported)


async def _shop(folder: Path) -> None:
    async with open_shop(folder, secret_key=SECRET_KEY) as shop:
        bought = await shop.buy(5_000)
        await shop.buy(3_000)
        await refund.refund(
            shop.services, shop.account, top_up_id=bought.top_up_id, credit_cents=1_000, request_key="once"
        )
        await shop.set_rule(amount=1_000, threshold=500)
        await shop.spend(6_800)
        await shop.work(2)
        at = shop.clock.at
        held = Hold(account_id=shop.account, hold_id="app:left-open", amount=5, at=at, expires_at=at + HOUR)
        assert (await shop.services.ledger.do(held)).ok
        operator_alarms.raise_alarm(shop.services, "overrun", "openai/acme-1", written_off_nanos=5)
        await operator_alarms.work(shop.services)


def ask(url: str, account_id: str, token: str, log_ids: tuple[str, ...]) -> AccountView:
    """What the server returns about the account."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}) as http:

        def get(path: str) -> Any:
            response = http.get(path)
            assert response.status_code == 200, (path, response.text)
            return response.json()["result"]

        api = f"/client/v4/accounts/{account_id}"
        logs = get(f"{api}/ai-gateway/gateways/default/logs")
        return AccountView(
            balance=get(f"{api}/ai-gateway/billing/credit-balance"),
            receipts={log_id: get(f"{api}/farebox/receipts/{log_id}") for log_id in log_ids},
            logs=[one["id"] for one in logs],
        )


def add_calls(path: Path, account_id: str, calls: int) -> None:
    """Add an account with this many charged calls with bodies, as the program would have written them."""
    clock = SystemClock()
    grant = Grant(account_id=account_id, grant_id=RandomIds(clock).log_id(), amount=calls * CALL_NANOS + 7, at=CALL_AT)
    with closing(open_file(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        add_account(connection, account_id, account_id, CALL_AT)
        assert apply(connection, grant).ok
        ((lot_id, book),) = rows(connection, "SELECT lot_id, book FROM lots WHERE account_id = ?", (account_id,))
        numbers = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {calls}) "
        call = f"0, '{account_id}', printf('call-%08d', i)"
        for statement in (
            f"INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, charge, written_off, owner, "
            f"created_at, expires_at) {numbers} SELECT {call}, {CALL_NANOS}, {CALL_NANOS}, 'settled', {CALL_NANOS}, 0, "
            f"'gone', {CALL_AT}, {CALL_AT + HOUR} FROM n",
            f"INSERT INTO transfers (bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, "
            f"lot_id, at) {numbers} SELECT 0, '{account_id}', i + 1, printf('charge:call-%08d', i), 'charge', "
            f"'{book}', 'revenue', {CALL_NANOS}, '{lot_id}', {CALL_AT} FROM n",
            f"INSERT INTO calls (bucket, account_id, log_id, gateway_id, created_at, provider, model, success, "
            f"status_code, duration, tokens_in, tokens_out, cost, charge, detail, receipt, logged, request, response) "
            f"{numbers} "
            f"SELECT {call}, 'default', {CALL_AT}, 'demo', 'demo-1', 1, 200, i % 900, 3, 4, {CALL_NANOS}, "
            f"{CALL_NANOS}, '{{}}', '{{\"of\": ' || i || '}}', 1, randomblob({BODY_BYTES}), "
            f"CASE WHEN i % 7 THEN randomblob({BODY_BYTES}) END FROM n",
            f"INSERT INTO usage_hours VALUES (0, '{account_id}', {CALL_AT - CALL_AT % HOUR}, 'demo', 'demo-1', "
            f"{calls}, {calls * CALL_NANOS}, {calls * 3}, {calls * 4})",
            f"UPDATE lots SET remaining = 7 WHERE account_id = '{account_id}'",
            f"UPDATE balances SET posted = 7, version = {calls + 1} WHERE account_id = '{account_id}'",
        ):
            connection.execute(statement)
        connection.execute("COMMIT")


# --- moving -----------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return {**inherited, "FAREBOX_SECRET_KEY": SECRET_KEY, **more}


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of a command."""

    returncode: int
    stdout: str
    stderr: str


def farebox(folder: Path, *arguments: str, **more: str) -> Ended:
    """Run the command to its end in this process, because a separate process would mostly spend its time starting."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**more), clear=True),
        mock.patch.object(sys, "argv", ["farebox", "--data-dir", str(folder), *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            run()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Ended(status, output.getvalue(), errors.getvalue())


def copied(folder: Path, source: str, target: str, *more: str) -> str:
    """Copy; the output of the command. Fails if the copy was refused."""
    ended = farebox(folder, "copy", "--from", source, "--to", target, *more)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refused(folder: Path, source: str, target: str, *more: str) -> str:
    """Try to copy, which must be refused; the error."""
    ended = farebox(folder, "copy", "--from", source, "--to", target, *more)
    assert ended.returncode != 0, ended.stdout
    assert not ended.stdout
    return ended.stderr


# --- looking ----------------------------------------------------------------------------------------------------------


def all_of(read: Callable[[str], list[tuple[Any, ...]]]) -> Rows:
    """Every row of every table in order, without its bucket."""
    return {table.name: sorted(read(_without_bucket(table)), key=repr) for table in tables()}


def _without_bucket(table: Table) -> str:
    return f"SELECT {', '.join(column for column in table.columns if column != 'bucket')} FROM {table.name}"


def of_file(path: Path) -> Rows:
    with closing(connect(path, readonly=True)) as connection:
        return all_of(partial(rows, connection))


def of_postgres(server: PostgresServer, url: str) -> Rows:
    return all_of(lambda sql: [tuple(record) for record in server.query(sql, url)])


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"
