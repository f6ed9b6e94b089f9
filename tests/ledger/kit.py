"""A ledger on its own database, and short names for its commands."""

import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import Difference, audit
from farebox.ledger.commands import CallWritten, Command, GiveBack, Grant, Hold, Settle, TakeBack, TopUp, Verdict
from farebox.ledger.job_ledger import JobLedger
from farebox.ledger.ledger import Ledger, ledger_of
from farebox.metrics.metrics import Metrics
from farebox.storage.accounts import add_account
from farebox.storage.activity import Activity
from farebox.storage.calls import CallDetail, CallRow
from farebox.storage.database import Database
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.spending import Duration, SpendingLimit, Strategy, set_limit
from farebox.storage.sql import Connection
from farebox.storage.sqlite.database import SqliteDatabase
from tests import engines
from tests.citus.cluster import CITUS

START = 1_700_000_000_000
LATER = START + 3_600_000
SECONDS = 30.0
"""Statement timeout in milliseconds."""
ANN, BOB, EVE = "ann", "bob", "eve"


class Books:
    """The real ledger, as it serves calls, on an SQLite file or a PostgreSQL database.

    With `jobs` every command runs as a job, on PostgreSQL too.
    """

    def __init__(self, path: Path, *, jobs: bool = False) -> None:
        self.path = path
        self.activity = Metrics().activity()
        self.database: Database = database_at(path, self.activity)
        name = RandomIds(SystemClock()).log_id()
        self.ledger: Ledger = JobLedger(self.database) if jobs else ledger_of(self.database, name)

    async def close(self) -> None:
        await self.ledger.close()
        await self.database.close()

    async def do(self, command: Command) -> Verdict:
        return await self.ledger.do(command)

    async def sql(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows as committed."""
        return await self.database.scan(lambda connection: connection.execute(text, values).fetchall())

    async def check(self) -> list[Difference]:
        return await self.database.scan(lambda connection: list(audit(connection)))

    async def fund(self, account_id: str, amount: int) -> None:
        assert (await self.do(top_up("seed", amount, account_id=account_id))).ok

    async def lots(self, account_id: str = ANN) -> dict[str, int]:
        """Lot → its remainder, for lots that have one."""
        return dict(
            await self.sql("SELECT lot_id, remaining FROM lots WHERE account_id = ? AND remaining > 0", (account_id,))
        )

    async def owed(self, account_id: str = ANN) -> int:
        [(owed,)] = await self.sql("SELECT owed FROM balances WHERE account_id = ?", (account_id,))
        return int(owed)

    async def set(self, account_id: str = ANN, **columns: object) -> None:
        """Set columns of the balance that no command changes."""
        sql = f"UPDATE balances SET {', '.join(f'{name} = ?' for name in columns)} WHERE account_id = ?"
        values = (*columns.values(), account_id)
        await self.database.write(lambda connection: connection.execute(sql, values).fetchall())

    async def limit(
        self, amount: int | None, duration: Duration = "daily", strategy: Strategy = "fixed", account_id: str = ANN
    ) -> None:
        """Put the account under a spending limit, or under none."""
        limit = None if amount is None else SpendingLimit(amount, duration, strategy)
        assert await self.database.write(lambda connection: set_limit(connection, account_id, limit))

    async def moves(self, account_id: str = ANN) -> list[tuple[str, str, str, int]]:
        """Transfers as (id, from, to, amount), in order."""
        sql = "SELECT transfer_id, from_book, to_book, amount FROM transfers WHERE account_id = ? ORDER BY version"
        return [(a, b, c, d) for a, b, c, d in await self.sql(sql, (account_id,))]


def database_at(path: Path, activity: Activity | None = None) -> Database:
    """The file; on PostgreSQL, one database that all books of this test process use in turn (see `emptied`)."""
    if engines.engine_now() == "postgres":
        return PostgresDatabase(shared_database(), timeout=SECONDS, activity=activity)
    engines.lay_out(path)
    return SqliteDatabase(path, activity)


@functools.cache
def shared_database() -> str:
    return engines.new_database()


async def emptied(books: Books) -> None:
    """Empty the database of earlier books, which is much faster than a new database for each test."""
    if books.database.engine == "postgres":
        await books.database.write(_empty)


_KEPT = "('schema_version', 'config_version', 'installation')"
_EMPTY = f"""DO $$ DECLARE name regclass; BEGIN
    FOR name IN SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
        AND relname NOT IN {_KEPT} AND pg_relation_size(oid) > 0
    LOOP EXECUTE format('DELETE FROM %s', name); END LOOP; END $$"""
"""Deletes what any table ever had a row of, without a message for each table."""


def _empty(connection: Connection) -> None:
    if not CITUS:
        connection.execute(_EMPTY)
        return
    for (table,) in connection.execute(
        f"SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT IN {_KEPT}"
    ).fetchall():
        connection.execute(f"DELETE FROM {table}")


@contextlib.asynccontextmanager
async def open_books(path: Path, *account_ids: str, jobs: bool = False) -> AsyncIterator[Books]:
    """Open the books with these accounts. At the end, unless the test failed, they must balance."""
    books = Books(path, jobs=jobs)
    try:
        await emptied(books)
        for account_id in account_ids:
            await books.database.write(partial(add_account, account_id=account_id, name=account_id, at=START))
        yield books
        assert await books.check() == []
    finally:
        await books.close()


def top_up(payment_id: str, amount: int, *, account_id: str = ANN, at: int = START, **more: Any) -> TopUp:
    return TopUp(account_id=account_id, payment_id=payment_id, amount=amount, at=at, **more)


def grant(grant_id: str, amount: int, *, account_id: str = ANN, at: int = START, **more: Any) -> Grant:
    return Grant(account_id=account_id, grant_id=grant_id, amount=amount, at=at, **more)


def hold(hold_id: str, amount: int, *, account_id: str = ANN, at: int = START, **more: Any) -> Hold:
    return Hold(account_id=account_id, hold_id=hold_id, amount=amount, at=at, **{"expires_at": LATER, **more})


def settle(hold_id: str, amount: int, *, account_id: str = ANN, at: int = START, **more: Any) -> Settle:
    return Settle(account_id=account_id, hold_id=hold_id, amount=amount, at=at, **more)


def take_back(cause: str, amount: int, *, payment_id: str = "p", account_id: str = ANN, at: int = START) -> TakeBack:
    return TakeBack(account_id=account_id, cause=cause, payment_id=payment_id, amount=amount, at=at)


def give_back(cause: str, amount: int, *, account_id: str = ANN, at: int = START) -> GiveBack:
    return GiveBack(account_id=account_id, cause=cause, amount=amount, at=at)


@dataclass(frozen=True, slots=True)
class CallOf(CallWritten):
    """The record of a call, as the data plane writes it: its ID is that of the hold, its charge the amount taken."""

    account_id: str
    log_id: str
    at: int = START

    def row(self, verdict: Verdict) -> CallRow:
        return CallRow(
            account_id=self.account_id,
            log_id=self.log_id,
            gateway_id="default",
            created_at=self.at,
            provider="demo",
            model="demo-1",
            success=True,
            status_code=200,
            duration=1,
            tokens_in=3,
            tokens_out=None,
            cost=verdict.amount,
            charge=verdict.amount,
            detail=CallDetail(),
            receipt=None,
            logged=True,
        )


@dataclass(frozen=True, slots=True)
class UnusualCall(CallWritten):
    """The record of a call, with other columns than those of CallOf."""

    log_id: str
    columns: dict[str, Any]
    account_id: str = ANN
    at: int = START

    def row(self, verdict: Verdict) -> CallRow:
        return replace(CallOf(self.account_id, self.log_id, self.at).row(verdict), **self.columns)


def left_to_jobs(books: Books) -> int:
    """How many of the commands that were carried out the fast path has left to ledger.posting."""
    return slow_commands(books.activity)


def slow_commands(activity: Activity | None) -> int:
    """What the metric farebox_ledger_slow_commands_total counts."""
    assert activity is not None
    return activity.done["ledger", "slow"].value
