"""The audit finds every kind of fault that it claims to find: faults are planted by SQL, with all constraints
removed."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.calendar import HOUR_MS
from farebox.ledger import audit_keys
from farebox.ledger.audit import WHAT, Difference, audit
from farebox.ledger.commands import Budget, Correct, Expire, Hold, Release, Settle, Verdict
from farebox.ledger.posting import apply
from farebox.settings import Settings, load
from farebox.storage.accounts import add_account
from farebox.storage.app_holds import add_app_hold, settle_app_hold
from farebox.storage.buckets import KnownBuckets
from farebox.storage.calls import add_usage
from farebox.storage.postgres.command import CommandConnection
from farebox.storage.sql import Connection
from farebox.storage.sqlite import connect, open_file
from farebox.storage.tables import tables
from tests import engines
from tests.dbcopy.kit import add_calls
from tests.engines import ON_BOTH_ENGINES, SQLITE_ONLY, looking, settings_for, write_now
from tests.ledger.kit import (
    ANN,
    BOB,
    LATER,
    START,
    CallOf,
    give_back,
    grant,
    hold,
    open_books,
    settle,
    shared_database,
    take_back,
    top_up,
)

pytestmark = ON_BOTH_ENGINES


async def _make_sound(path: Path) -> None:
    """Books in which every event has happened at least once on some account."""
    async with open_books(path, ANN, BOB) as books:
        for command in (
            top_up("p", 100), grant("g", 20), grant("short", 9, expires_at=LATER, priority=90),
            hold("one", 50), Settle(account_id=ANN, hold_id="one", amount=30, at=START, record=CallOf(ANN, "one")),
            hold("over", 10), hold("wide", 89), Settle(account_id=ANN, hold_id="over", amount=40, at=START),
            Release(account_id=ANN, hold_id="wide", at=START),
            hold("open", 5, expires_at=LATER + 1), hold("gone", 6, expires_at=LATER),
            Expire(account_id=ANN, at=LATER), Correct(account_id=ANN, correction_id="c", amount=7, at=START),
            top_up("bob", 100, account_id=BOB), take_back("refund:r", 130, payment_id="bob", account_id=BOB),
            give_back("refund_failed:r", 20, account_id=BOB), top_up("bob2", 150, account_id=BOB),
        ):  # fmt: skip
            assert (await books.do(command)).ok
        assert await books.owed(BOB) == 0
        await books.limit(1000, "monthly", account_id=BOB)
        budget = Budget("s", 100, START, START, LATER)
        await books.do(hold("app:1", 9, account_id=BOB, budgets=(budget,)))
        await books.do(hold("own", 0, account_id=BOB, budgets=(budget,), reserve=7))
        await books.database.write(lambda connection: add_app_hold(connection, BOB_BUCKET, BOB, "1", "job"))
        await books.do(settle("app:1", 4, account_id=BOB, record=UsageOf("1", START)))
        assert await books.lots() == {"top_up:p": 80, "correction:c": 7}
        assert await books.sql("SELECT posted, held, version FROM balances WHERE account_id = 'ann'") == [(87, 5, 9)]


BOB_BUCKET = 0


@dataclass(frozen=True, slots=True)
class UsageOf:
    """The record of Bob's own hold."""

    hold_id: str
    at: int

    def write(self, connection: Connection, bucket: int, verdict: Verdict) -> None:
        settle_app_hold(connection, bucket, BOB, self.hold_id, self.at, "application", "m", "")
        add_usage(connection, bucket, BOB, self.at, "application", "m", verdict.amount)


@pytest.fixture(scope="module")
def sound(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """On PostgreSQL without constraints; the damage done by a test is rolled back."""
    folder = tmp_path_factory.mktemp("audit")
    if engine == "sqlite":
        settings = settings_for(folder)
        asyncio.run(_make_sound(settings.database_path))
        connect(settings.database_path).close()  # checkpoints the write-ahead log, so that the file can be copied alone
    else:
        asyncio.run(_make_sound(folder))
        engines.backup(load({}, database_url=shared_database()), folder)
        settings = settings_for(folder)
        write_now(settings, _unguard)
    yield settings
    engines.forget_databases(folder)


def _unguard(connection: Connection) -> None:
    checks = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0"
    ours = {table.name for table in tables()}  # Citus has numbered copies of them
    for table, name in connection.execute(checks).fetchall():
        if table in ours:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    connection.execute("DROP INDEX transfers_by_id")


class Damaged:
    """A connection to books that a test damages, in a single transaction on PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.in_snapshot = False

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Any:
        if sql.startswith("BEGIN") or sql == "ROLLBACK":
            self.in_snapshot = sql != "ROLLBACK"
            return None
        return self._connection.execute(sql, values)

    @property
    def buckets(self) -> KnownBuckets:
        return KnownBuckets()

    def changes(self) -> int:
        count: int = self._connection.changes()
        return count


@pytest.fixture
def rows(sound: Settings, tmp_path: Path) -> Iterator[Damaged]:
    """Books to damage, without constraints."""
    if sound.engine == "sqlite":
        connection = connect(Path(shutil.copy(sound.database_path, tmp_path / "spoilt.db")))
        connection.execute("PRAGMA ignore_check_constraints = ON; DROP INDEX transfers_by_id")
        yield Damaged(connection)
        connection.close()
    else:
        command = CommandConnection(sound.database_url, sound.buckets)
        command.execute("BEGIN")
        yield Damaged(command)
        command.close()


_Fault = tuple[str, str | None, Any, Any]
"""what, transfer or hold, expected, found"""

HOUR = f"demo/demo-1 at {START - START % HOUR_MS}"
UNRECORDED = f"unrecorded/ at {START - START % HOUR_MS}"
APPLICATION = f"application/{{}} at {START - START % HOUR_MS}"
T, H, L, B = (f"UPDATE {table} SET " for table in ("transfers", "holds", "lots", "balances"))

FAULTS: dict[str, tuple[str, list[_Fault]]] = {
    "posted": (f"{B} posted = 88 WHERE account_id = 'ann'", [("balance_posted", None, 87, 88)]),
    "held": (f"{B} held = 4 WHERE account_id = 'ann'", [("balance_held", None, 5, 4)]),
    "held above posted": (
        f"{B} held = 88 WHERE account_id = 'ann'",
        [("balance_held", None, 5, 88), ("balance_bounds", None, "0 to 87", 88)],
    ),
    "held below zero": (
        f"{B} held = -1 WHERE account_id = 'ann'",
        [("balance_held", None, 5, -1), ("balance_bounds", None, "0 to 87", -1)],
    ),
    "version": (f"{B} version = 10 WHERE account_id = 'ann'", [("balance_version", None, 9, 10)]),
    "no balance": ("DELETE FROM balances WHERE account_id = 'ann'", [("balance_missing", None, "a row", None)]),
    "no account": ("DELETE FROM accounts WHERE account_id = 'ann'", [("account_missing", None, "a row", None)]),
    "neither": (
        "DELETE FROM accounts WHERE account_id = 'ann'; DELETE FROM balances WHERE account_id = 'ann'",
        [("account_missing", None, "a row", None), ("balance_missing", None, "a row", None)],
    ),
    "number skipped": (
        f"{T} version = 20 WHERE transfer_id = 'correction:c'",
        [("transfer_version", "correction:c", 9, 20), ("balance_version", None, 20, 9)],
    ),
    "transfer lost": (
        "DELETE FROM transfers WHERE transfer_id = 'write_off:over'",
        [("transfer_version", "expiry:grant:short/8", 7, 8), ("hold_write_off", "over", 0, 30)],
    ),
    "wrong book": (
        f"{T} to_book = 'promotion' WHERE transfer_id = 'charge:one'",
        [("transfer_books", "charge:one", "credit to revenue or granted to revenue", "charge, granted to promotion")],
    ),
    "unknown kind": (
        f"{T} kind = 'gift' WHERE transfer_id = 'grant:g'",
        [("transfer_books", "grant:g", "a known kind", "gift, promotion to granted")],
    ),
    "amount of zero": (
        f"{T} amount = 0 WHERE transfer_id = 'write_off:over'",
        [("transfer_amount", "write_off:over", "above 0", 0), ("hold_write_off", "over", 0, 30)],
    ),
    "amount below zero": (
        f"{T} amount = -1 WHERE transfer_id = 'correction:c'",
        [
            ("transfer_amount", "correction:c", "above 0", -1),
            ("lot_opening", "correction:c", -1, 7),
            ("lot_remaining", "correction:c", -1, 7),
            ("balance_posted", None, 79, 87),
        ],
    ),
    "id repeated": (
        f"{T} transfer_id = 'charge:one' WHERE transfer_id = 'charge:one/2'",
        [("transfer_repeated", "charge:one", 1, 2)],
    ),
    "too little came in": (
        f"{T} amount = 5 WHERE transfer_id = 'top_up:p'",
        [
            ("lot_overdrawn", "charge:one/2", "at most 5", 10),
            ("transfer_overdraws", "charge:over", "0 or more", -6),
            ("lot_overdrawn", "charge:over", "at most 0", 10),
            ("lot_opening", "top_up:p", 5, 100),
            ("lot_remaining", "top_up:p", 0, 80),
            ("balance_posted", None, -8, 87),
        ],
    ),
    "lot not named": (
        f"{T} lot_id = NULL WHERE transfer_id = 'correction:c'",
        [("transfer_lot", "correction:c", "correction:c", None)],
    ),
    "spent lot lost": ("DELETE FROM lots WHERE lot_id = 'grant:g'", [("lot_missing", "grant:g", 20, None)]),
    "lot lost": ("DELETE FROM lots WHERE lot_id = 'correction:c'", [("lot_missing", "correction:c", 7, None)]),
    "given back to a lot that is not there": (
        f"{T} lot_id = 'x' WHERE transfer_id = 'correction:c'",
        [("lot_remaining", "correction:c", 0, 7), ("lot_missing", "correction:c", 7, None)],
    ),
    "correction of a call invented": (
        "INSERT INTO corrected_calls VALUES (0, 'ann', 'one', 'r', 5, 25, 'own/1', 'rerate:r:one', 1)",
        [("corrected_calls", "correction:rerate:r:one", 0, 5)],
    ),
    "lot grown": (f"{L} amount = 101 WHERE lot_id = 'top_up:p'", [("lot_opening", "top_up:p", 100, 101)]),
    "lot invented": (
        "INSERT INTO lots SELECT bucket, account_id, 'x', book, 5, 5, 50, NULL, 1, 0 FROM lots "
        "WHERE lot_id = 'top_up:p'",
        [("lot_opening", "x", None, 5), ("lot_remaining", "x", 0, 5)],
    ),
    "lot refilled": (f"{L} remaining = 81 WHERE lot_id = 'top_up:p'", [("lot_remaining", "top_up:p", 80, 81)]),
    "lot below zero": (
        f"{L} remaining = -1 WHERE lot_id = 'grant:g'",
        [("lot_remaining", "grant:g", 0, -1), ("lot_spent", "grant:g", 0, 1)],
    ),
    "lot hidden": (f"{L} spent = 1 WHERE lot_id = 'top_up:p'", [("lot_spent", "top_up:p", 0, 1)]),
    "charged twice": (
        "INSERT INTO transfers SELECT bucket, account_id, 10, transfer_id, kind, from_book, to_book, amount, lot_id, "
        "at, note FROM transfers WHERE transfer_id = 'charge:over'; "
        f"{B} version = 10, posted = posted - 10 WHERE account_id = 'ann'; "
        f"{L} remaining = remaining - 10 WHERE lot_id = 'top_up:p'",
        [("transfer_repeated", "charge:over", 1, 2), ("hold_charge", "over", 20, 10)],
    ),
    "lot moved": (
        f"{L} book = 'granted' WHERE lot_id = 'top_up:p'",
        [
            ("lot_opening", "top_up:p", None, 100),
            ("lot_remaining", "top_up:p", 0, 80),
            ("lot_missing", "top_up:p", 100, None),
        ],
    ),
    "drawn from another lot": (
        f"{T} lot_id = 'grant:g' WHERE transfer_id = 'charge:over'",
        [("lot_overdrawn", "charge:over", "at most 0", 10), ("lot_remaining", "top_up:p", 90, 80)],
    ),
    "unknown state": (
        f"{H} state = 'lost' WHERE hold_id = 'wide'",
        [("hold_state", "wide", "open, expired, released, settled", "lost")],
    ),
    "open hold grown": (f"{H} amount = 6 WHERE hold_id = 'open'", [("balance_held", None, 6, 5)]),
    "hold opened again": (f"{H} state = 'open' WHERE hold_id = 'gone'", [("balance_held", None, 11, 5)]),
    "hold below what was asked": (f"{H} amount = 88 WHERE hold_id = 'wide'", [("hold_amount", "wide", 89, 88)]),
    "charge of a hold": (
        f"{H} charge = 31 WHERE hold_id = 'one'",
        [("hold_charge", "one", 30, 31), ("call_charge", "one", 31, 30)],
    ),
    "write-off of a hold": (
        f"{H} charge = 39, written_off = 29 WHERE hold_id = 'over'",
        [("hold_write_off", "over", 30, 29)],
    ),
    "settled at nothing": (
        f"{H} charge = NULL WHERE hold_id = 'over'",
        [
            ("hold_charge", "over", 10, None),
            (
                "usage_hour",
                None,
                f"{UNRECORDED}: 0 calls, 0 nanos, 0 tokens",
                f"{UNRECORDED}: 1 calls, 10 nanos, 0 tokens",
            ),
        ],
    ),
    "charge of a released hold": (
        f"{H} state = 'released', charge = NULL, written_off = NULL WHERE hold_id = 'one'",
        [
            ("charge_unsettled", "charge:one", 0, 20),
            ("charge_unsettled", "charge:one/2", 0, 10),
            ("call_charge", "one", 0, 30),
        ],
    ),
    "charge without a hold": (
        "DELETE FROM holds WHERE hold_id = 'over'",
        [
            ("charge_unsettled", "charge:over", 0, 10),
            ("charge_unsettled", "write_off:over", 0, 30),
            (
                "usage_hour",
                None,
                f"{UNRECORDED}: 0 calls, 0 nanos, 0 tokens",
                f"{UNRECORDED}: 1 calls, 10 nanos, 0 tokens",
            ),
        ],
    ),
    "released hold with a charge": (
        f"{H} charge = 5, written_off = 0 WHERE hold_id = 'wide'",
        [("hold_charge", "wide", None, 5), ("hold_write_off", "wide", None, 0)],
    ),
    "charge of another hold": (
        f"{T} transfer_id = 'charge:over/2' WHERE transfer_id = 'charge:one/2'",
        [("hold_charge", "one", 20, 30), ("hold_charge", "over", 20, 10)],
    ),
    "charge of a call": (
        "UPDATE calls SET charge = 29",
        [
            ("call_charge", "one", 30, 29),
            ("usage_hour", None, f"{HOUR}: 1 calls, 29 nanos, 3 tokens", f"{HOUR}: 1 calls, 30 nanos, 3 tokens"),
        ],
    ),
    "tokens of an hour": (
        "UPDATE usage_hours SET tokens_in = 2 WHERE provider = 'demo'",
        [("usage_hour", None, f"{HOUR}: 1 calls, 30 nanos, 3 tokens", f"{HOUR}: 1 calls, 30 nanos, 2 tokens")],
    ),
    "hour lost": (
        "DELETE FROM usage_hours WHERE provider = 'demo'",
        [("usage_hour", None, f"{HOUR}: 1 calls, 30 nanos, 3 tokens", f"{HOUR}: 0 calls, 0 nanos, 0 tokens")],
    ),
    "call lost": (
        "DELETE FROM calls",
        [
            ("usage_hour", None, f"{HOUR}: 0 calls, 0 nanos, 0 tokens", f"{HOUR}: 1 calls, 30 nanos, 3 tokens"),
            (
                "usage_hour",
                None,
                f"{UNRECORDED}: 2 calls, 40 nanos, 0 tokens",
                f"{UNRECORDED}: 1 calls, 10 nanos, 0 tokens",
            ),
        ],
    ),
    "write-off of nothing": (
        "INSERT INTO transfers SELECT bucket, account_id, 10, 'write_off:stray', kind, from_book, to_book, 3, lot_id, "
        f"at, note FROM transfers WHERE transfer_id = 'write_off:over'; {B} version = 10 WHERE account_id = 'ann'",
        [("charge_unsettled", "write_off:stray", 0, 3)],
    ),
    "hour of nothing": (
        "INSERT INTO usage_hours SELECT bucket, account_id, 0, 'demo', 'ghost', 1, 5, 2, 1 FROM accounts "
        "WHERE account_id = 'ann'",
        [
            (
                "usage_hour",
                None,
                "demo/ghost at 0: 0 calls, 0 nanos, 0 tokens",
                "demo/ghost at 0: 1 calls, 5 nanos, 3 tokens",
            )
        ],
    ),
    "uncounted charge": (
        "DELETE FROM usage_hours WHERE provider = 'unrecorded'",
        [
            (
                "usage_hour",
                None,
                f"{UNRECORDED}: 1 calls, 10 nanos, 0 tokens",
                f"{UNRECORDED}: 0 calls, 0 nanos, 0 tokens",
            )
        ],
    ),
}

OF_BOB: dict[str, tuple[str, list[_Fault]]] = {
    "owed": (f"{B} owed = 1 WHERE account_id = 'bob'", [("balance_owed", None, 0, 1)]),
    "less was owed": (
        f"{T} amount = 15 WHERE transfer_id = 'refund:r/2'",
        [("transfer_collects", "collection:refund_failed:r", "at most 15", 20), ("balance_owed", None, -15, 0)],
    ),
    "owed from the wrong book": (
        f"{T} from_book = 'written_off' WHERE transfer_id = 'refund:r/2'",
        [
            (
                "transfer_books",
                "refund:r/2",
                "credit to refunded or receivable to refunded",
                "refund, written_off to refunded",
            ),
            ("transfer_collects", "collection:refund_failed:r", "at most 0", 20),
            ("balance_owed", None, -30, 0),
        ],
    ),
    "given back and never taken": (
        f"{T} transfer_id = replace(transfer_id, 'refund:r', 'refund:x') WHERE kind = 'refund'",
        [("given_back", "refund_failed:r", "at most 0", 20)],
    ),
    "given back more than taken": (
        f"{T} kind = 'dispute', to_book = 'disputed' WHERE transfer_id = 'refund:r'; "
        f"{T} amount = 19 WHERE transfer_id = 'refund:r/2'; {B} owed = -11 WHERE account_id = 'bob'",
        [
            ("transfer_collects", "collection:refund_failed:r", "at most 19", 20),
            ("given_back", "refund_failed:r", "at most 19", 20),
        ],
    ),
    "sum of a limit": (f"{B} limit_spent = 5 WHERE account_id = 'bob'", [("limit_spent", None, 4, 5)]),
    "spent of a budget": (
        "UPDATE budgets SET spent = 5",
        [("budget_spent", None, f"s from {START}: 4", f"s from {START}: 5")],
    ),
    "held in a budget": (
        "UPDATE budgets SET held = 8",
        [("budget_held", None, f"s from {START}: 7", f"s from {START}: 8")],
    ),
    "what a hold counts": (
        "UPDATE holds SET counted = 5 WHERE hold_id = 'app:1'; UPDATE budgets SET spent = 5",
        [("hold_counted", "app:1", 4, 5)],
    ),
    "counter of a budget": ("DELETE FROM budgets", [("budget_missing", "own", f"s from {START}", None)]),
    "hold of an application": (
        "UPDATE app_holds SET model = 'n'",
        [
            (
                "usage_hour",
                None,
                f"{APPLICATION.format('m')}: 0 calls, 0 nanos, 0 tokens",
                f"{APPLICATION.format('m')}: 1 calls, 4 nanos, 0 tokens",
            ),
            (
                "usage_hour",
                None,
                f"{APPLICATION.format('n')}: 1 calls, 4 nanos, 0 tokens",
                f"{APPLICATION.format('n')}: 0 calls, 0 nanos, 0 tokens",
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", FAULTS | OF_BOB)
def test_a_planted_fault_is_found_as_its_difference(rows: Connection, name: str) -> None:
    sql, faults = (FAULTS | OF_BOB)[name]
    assert list(audit(rows)) == []
    rows.execute(sql)
    found = list(audit(rows))
    assert [(each.what, each.transfer_id or each.hold_id, each.expected, each.found) for each in found] == faults
    assert {each.account_id for each in found} == {BOB if name in OF_BOB else ANN}


_OF_NOBODY = {  # bucket, account and the rest of a row; table → what else is reported about it
    "balances": ("0, 'nobody', 0, 0, 0, 0", "bucket, account_id, posted, held, version, owed"),
    "transfers": (
        "0, 'nobody', 1, 'write_off:x', 'write_off', 'written_off', 'revenue', 1, NULL, 1",
        "bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at",
    ),
    "lots": ("0, 'nobody', 'x', 'credit', 1, 1, 50, NULL, 1, 0", None),
    "usage_hours": ("0, 'nobody', 0, 'demo', 'demo-1', 1, 5, 0, 0", None),
    "app_holds": ("0, 'nobody', 'app:x', 'job'", "bucket, account_id, hold_id, label"),
    "budgets": ("0, 'nobody', 's', 0, 0, 0, 0, NULL", None),
}


@pytest.mark.parametrize("table", _OF_NOBODY)
def test_rows_of_an_account_that_does_not_exist_are_found(rows: Connection, table: str) -> None:
    values, columns = _OF_NOBODY[table]
    rows.execute(f"INSERT INTO {table} {f'({columns})' if columns else ''} VALUES ({values})")
    found = list(audit(rows))
    assert {each.account_id for each in found} == {"nobody"}
    assert "account_missing" in {each.what for each in found}


def test_every_kind_of_difference_has_a_test() -> None:
    assert {what for _, faults in (FAULTS | OF_BOB).values() for what, *_ in faults} == set(WHAT) - {"node_away"}


def test_a_difference_reads_as_a_sentence() -> None:
    difference = Difference(account_id=ANN, what="lot_remaining", expected=80, found=81, transfer_id="top_up:p")
    assert difference.message == (
        "account ann, transfer top_up:p: what is left of the lot is not what went in less what went out "
        "(expected 80, found 81)"
    )


def test_progress_counts_accounts(rows: Connection) -> None:
    for n in range(5):
        add_account(rows, f"more{n}", "more", START)
    reported: list[tuple[int, int]] = []
    assert list(audit(rows, progress=lambda done, total: reported.append((done, total)))) == []
    assert reported == [(n, 7) for n in range(1, 8)]


def charge(connection: Connection, name: str) -> None:
    assert apply(connection, Hold(account_id=BOB, hold_id=name, amount=1, at=START, expires_at=LATER)).ok
    record = CallOf(BOB, name)
    assert apply(connection, Settle(account_id=BOB, hold_id=name, amount=1, at=START, record=record)).ok


class ChargingConnection:
    """A connection that posts a charge in parallel before each statement."""

    def __init__(self, reader: Connection, settings: Settings) -> None:
        self._reader = reader
        self._settings = settings
        self.charged = 0

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Any:
        self.charged += 1
        write_now(self._settings, partial(charge, name=f"live{self.charged}"))
        return self._reader.execute(sql, values)

    @property
    def buckets(self) -> KnownBuckets:
        return KnownBuckets()

    def changes(self) -> int:
        return self._reader.changes()


def test_an_account_is_read_in_one_snapshot(sound: Settings, tmp_path: Path) -> None:
    """A charge is posted before each statement of the audit, which never sees half of one."""
    live = tmp_path / "live"
    live.mkdir()
    engines.backup(sound, live / "farebox.db" if sound.engine == "sqlite" else live)
    settings = settings_for(live)
    with looking(settings) as reader:
        charging = ChargingConnection(reader, settings)
        assert list(audit(charging)) == []
    assert charging.charged > 20


@SQLITE_ONLY
def test_a_snapshot_begins_with_its_first_statement(sound: Settings, tmp_path: Path) -> None:
    """A charge is posted in parallel with each step of the audit, even within its statements."""
    path = Path(shutil.copy(sound.database_path, tmp_path / "live.db"))
    writer, reader = connect(path), connect(path, readonly=True)
    charged = 0

    def charge_meanwhile() -> bool:
        nonlocal charged
        if not writer.in_transaction and charged < 60:
            charged += 1
            name = f"live{charged}"
            writer.execute("BEGIN IMMEDIATE")
            charge(writer, name)
            writer.execute("COMMIT")
        return False

    reader.set_progress_handler(charge_meanwhile, 20)
    for _ in range(5):
        assert list(audit(reader)) == []
    assert charged == 60
    reader.close()
    writer.close()


def test_stopping_early_leaves_the_connection_outside_a_transaction(rows: Damaged) -> None:
    rows.execute(f"{B} posted = posted + 1")
    differences = audit(rows)
    assert next(differences).what == "balance_posted"
    assert not rows.in_snapshot
    differences.close()
    assert not rows.in_snapshot


@pytest.mark.parametrize(("accounts", "transfers"), [(1, 1000), (100, 1), (100, 1000)])
def test_accounts_are_checked_page_by_page(
    rows: Damaged, monkeypatch: pytest.MonkeyPatch, accounts: int, transfers: int
) -> None:
    """With any page size each account is found once, and so is an unknown one between them."""
    monkeypatch.setattr(audit_keys, "ACCOUNTS", accounts)
    monkeypatch.setattr(audit_keys, "TRANSFERS", transfers)
    rows.execute(f"{B} held = held + 1")
    rows.execute(
        "INSERT INTO lots (bucket, account_id, lot_id, book, amount, remaining, priority, created_at) "
        f"VALUES ({BOB_BUCKET}, 'anyone', 'l', 'credit', 1, 0, 1, 1)"
    )
    seen: list[int] = []
    found = [(each.account_id, each.what) for each in audit(rows, progress=lambda done, _: seen.append(done))]
    assert seen == [1, 2, 3]
    assert found == [
        (ANN, "balance_held"), ("anyone", "account_missing"), ("anyone", "lot_opening"), ("anyone", "lot_spent"),
        ("anyone", "balance_missing"), (BOB, "balance_held"),
    ]  # fmt: skip


@SQLITE_ONLY
@pytest.mark.parametrize("recorded", [True, False], ids=["calls", "charges without a call"])
def test_checking_an_account_takes_time_in_proportion_to_its_calls(tmp_path: Path, recorded: bool) -> None:
    """`farebox check` and `farebox copy` go through accounts with millions of calls."""

    def steps(calls: int) -> int:
        path = tmp_path / f"{calls}.db"
        open_file(path).close()
        add_calls(path, ANN, calls)
        if not recorded:
            writing: Any = open_file(path)
            writing.execute("DELETE FROM calls")
            writing.close()
        counted = 0

        def count() -> bool:
            nonlocal counted
            counted += 1
            return False

        connection: Any = connect(path, readonly=True)
        connection.set_progress_handler(count, 1_000)
        try:
            assert (list(audit(connection)) == []) == recorded  # the hourly sums name the models of calls
        finally:
            connection.close()
        return counted

    assert steps(4_000) < 8 * steps(1_000)
