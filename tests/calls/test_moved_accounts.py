"""A command moves an account to another bucket while a server makes its calls: no call fails, each is charged once, and
nothing is left behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from farebox.operator.administer import ActionRefused
from farebox.operator.moving import move_account
from farebox.settings import Settings, load
from farebox.storage.account_keys import AccountKey, find_key
from farebox.storage.accounts import add_account
from farebox.storage.bucket_moves import lock_rows
from farebox.storage.buckets import bucket_numbers
from farebox.storage.database import opened_for_command
from farebox.storage.operator_actions import list_actions
from farebox.storage.sql import Connection, rows
from farebox.storage.tables import Table, tables
from tests import engines
from tests.calls.kit import differences, log_rows, set_gateway, spend_rule
from tests.calls.test_spend_rules import limits_of
from tests.citus.cluster import BUCKETS, CITUS, Cluster
from tests.engines import TESTER
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="in an SQLite file, accounts stay in their buckets")

NUMBERS = bucket_numbers(BUCKETS)
ACME = "acme"
CALLERS = 3
ROWS_MAX = 10_000
DOLLAR = 10**9


@pytest.fixture
def database_url() -> Iterator[str]:
    engines.use_engine("postgres")
    if not CITUS:
        yield engines.postgres_server().new_database()
        return
    cluster = Cluster()
    try:
        yield cluster.distributed()
    finally:
        cluster.close()


@pytest.fixture
def farebox(tmp_path: Path, database_url: str) -> Iterator[Farebox]:
    with running_farebox(tmp_path, database_url=database_url, buckets=BUCKETS) as served:
        yield served


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings of a database with the account ACME and no server."""
    chosen = load({}, database_url=database_url, buckets=BUCKETS)
    with opened_for_command(chosen, writing=True) as connection:
        add_account(connection, ACME, "Acme", 1)
    return chosen


def move(settings: Settings, account_id: str, to: int, rows_max: int = ROWS_MAX) -> int:
    """Move the account; the number of moved rows."""
    with opened_for_command(settings, writing=True) as connection:
        return move_account(
            connection, by=TESTER, account_id=account_id, at=1, to=to, buckets=BUCKETS, rows_max=rows_max
        ).rows


def calls_until(ended: Event, customer: Customer) -> list[str]:
    """Make plain calls and streams one after another until `ended`; their log IDs."""
    made: list[str] = []
    while not ended.is_set():
        response = customer.chat(stream=len(made) % 2 == 1)
        assert response.status_code == 200, response.text
        made.append(response.headers["cf-aig-log-id"])
    return made


def test_calls_go_on_while_their_account_is_moved(farebox: Farebox) -> None:
    customer, other = farebox.funded("50"), farebox.funded("50")
    set_gateway(customer, spend_limits=limits_of(spend_rule("month", 40 * DOLLAR)))
    settings, ended = farebox.services.settings, Event()
    with ThreadPoolExecutor(2 * CALLERS) as threads:
        callers = [threads.submit(calls_until, ended, each) for each in (customer, other) for _ in range(CALLERS)]
        try:
            moved = [move(settings, customer.account_id, to) for to in (*NUMBERS[1:4], 0, NUMBERS[2])]
        finally:
            ended.set()
        log_ids = [caller.result() for caller in callers]
    assert all(moved)
    assert moved == sorted(moved), "some rows were left behind"
    made = [log_id for some in log_ids[:CALLERS] for log_id in some]
    assert customer.balance.held == 0
    assert {row["id"] for row in log_rows(customer)} <= set(made)
    with opened_for_command(settings) as connection:
        charged = rows(
            connection,
            "SELECT transfer_id FROM transfers WHERE bucket = ? AND account_id = ? AND kind = 'charge' ORDER BY 1",
            (NUMBERS[2], customer.account_id),
        )
        assert [name for (name,) in charged] == sorted(f"charge:{log_id}" for log_id in made)
        others = [number for number in NUMBERS if number != NUMBERS[2]]
        assert not any(lock_rows(connection, number, customer.account_id) for number in others)
    assert differences(farebox) == []
    until(lambda: customer.chat().status_code == 200)


def test_a_server_that_has_not_noticed_the_move_finds_the_account(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = farebox.funded("5")
    assert customer.chat().status_code == 200
    set_gateway(customer, "second")
    services = farebox.services

    async def nothing() -> None:
        pass

    def key() -> AccountKey | None:
        return farebox.run(services.database.get(lambda connection: find_key(connection, customer.account_id)))

    with monkeypatch.context() as patched:
        patched.setattr(services.configuration, "notice_changes", nothing)
        assert key() == (0, customer.account_id)
        move(services.settings, customer.account_id, NUMBERS[1])
        customer.gateway_url = customer.gateway_url.replace("default", "second")  # not read by the server yet
        response = customer.chat()
        assert response.status_code == 200, response.text
        move(services.settings, customer.account_id, NUMBERS[2])
        assert customer.balance.posted > 0
        move(services.settings, customer.account_id, NUMBERS[3])
        assert key() == (NUMBERS[2], customer.account_id)
    farebox.run(services.configuration.notice_changes())
    assert key() == (NUMBERS[3], customer.account_id)
    assert differences(farebox) == []


def test_every_row_is_moved(settings: Settings) -> None:
    with opened_for_command(settings, writing=True) as connection:
        for table in tables():
            if table.in_buckets and table.name not in ("accounts", "balances"):
                fill(connection, table)
        before = everything(connection)
    expected = sum(table.in_buckets for table in tables()) - 1
    assert move(settings, ACME, NUMBERS[3]) == expected
    with opened_for_command(settings) as connection:
        (action,) = list_actions(connection, limit=10)
        assert (action.act, action.account_id, action.before, action.after) == (
            "account.move", ACME, '{"bucket": 0}', f'{{"bucket": {NUMBERS[3]}}}',
        )  # fmt: skip
        assert everything(connection) == {
            name: [(NUMBERS[3], *found[1:]) for found in some] for name, some in before.items()
        }


def fill(connection: Connection, table: Table) -> None:
    """A row with a value in every column."""
    kinds = dict(
        rows(
            connection,
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = ? "
            "AND table_schema = current_schema()",
            (table.name,),
        )
    )
    known = {"bucket": 0, "account_id": ACME}
    values = [
        known.get(column, b"\x01" if kinds[column] == "bytea" else "x" if kinds[column] == "text" else 1)
        for column in table.columns
    ]
    places = ", ".join("?" for _ in values)
    connection.execute(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})", tuple(values))


def everything(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """The account's rows in every table, with the bucket first."""
    return {
        table.name: rows(
            connection,
            f"SELECT bucket, {', '.join(column for column in table.columns if column != 'bucket')} FROM {table.name} "
            "WHERE account_id = ?",
            (ACME,),
        )
        for table in tables()
        if table.in_buckets
    }


def test_invalid_moves_are_refused(settings: Settings) -> None:
    for account_id, to, rows_max, why in (
        ("nobody", 0, ROWS_MAX, "there is no account"),
        (ACME, -1, ROWS_MAX, f"there is no bucket -1: the buckets are {NUMBERS[0]}, {NUMBERS[1]}"),
        (ACME, NUMBERS[1], 0, "--rows-max"),
    ):
        with pytest.raises(ActionRefused, match=why):
            move(settings, account_id, to, rows_max)
    assert move(settings, ACME, 0) == 0
