"""The real ledger, including group commit, against the pure model: every command, repeats, crashes; on both engines.

A crash on SQLite is simulated as kill -9: the database and its write-ahead log are copied while a transaction is open,
and the copy is opened. On PostgreSQL the connections are cut in the middle of a transaction. `make long` runs it for
longer.
"""

import asyncio
import contextlib
import copy
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from farebox.calendar import HOUR_MS
from farebox.ledger.commands import (
    Budget,
    Command,
    Conflict,
    Correct,
    Expire,
    Extend,
    GiveBack,
    Grant,
    Hold,
    Release,
    Settle,
    TakeBack,
    TopUp,
    Verdict,
)
from farebox.ledger.lanes import LaneLedger
from farebox.ledger.posting import apply
from farebox.storage.accounts import add_account
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.spending import Duration, Strategy
from farebox.storage.sql import Connection
from tests import engines
from tests.ledger.kit import ANN, BOB, EVE, START, Books, CallOf, emptied
from tests.ledger.model import Model
from tests.long import times

pytestmark = pytest.mark.slow

MEMORY = Path("/dev/shm")
"""A folder in which syncs are free: copying the files simulates a crash of the process, not of the machine."""

accounts = st.sampled_from([ANN, BOB])
ids = st.sampled_from(["1", "2", "3", "4", "5", "6"])
amounts = st.integers(1, 150)
charges = st.one_of(st.integers(0, 60), st.integers(0, 250))
moments = st.integers(-20, 120)
"""Offsets from now, in milliseconds."""
ends = st.one_of(st.none(), moments)
priorities = st.sampled_from([10, 50, 50, 50])
marks = st.one_of(st.none(), st.integers(1, 120))
kinds = st.sampled_from(["refund", "dispute"])
hours_ago = st.sampled_from([0, 0, 1, 30])
durations = st.sampled_from(["daily", "weekly", "monthly"])
strategies = st.sampled_from(["fixed", "sliding"])
budgets: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}), st.dictionaries(st.sampled_from(["fixed", "other", "slides"]), st.integers(1, 150), max_size=3)
)
"""Scope → limit."""


class Died(Exception):
    """Aborts a transaction."""


class LedgerAgainstModel(RuleBasedStateMachine):
    engine = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        engines.use_engine(self.engine)
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="farebox-", dir=MEMORY if MEMORY.is_dir() else None))
        self.lives = 0
        self.now = START
        self.sent: list[Command] = []
        self.model = Model(ANN, BOB)
        self.books = self.open()
        self.loop.run_until_complete(emptied(self.books))
        self.loop.run_until_complete(self.add_accounts())

    async def add_accounts(self) -> None:
        for name in (ANN, BOB):
            await self.books.database.write(partial(add_account, account_id=name, name=name, at=START))
        await self.books.database.write(
            lambda connection: connection.execute(
                "INSERT INTO top_up_rules (bucket, account_id, amount_cents, threshold_cents, monthly_cap_cents, "
                "state, updated_at) SELECT bucket, account_id, 1, 1, 1, 'active', 1 FROM accounts"
            ).fetchall()
        )

    def open(self) -> Books:
        async def opened() -> Books:
            return Books(self.folder / f"{self.lives}.db")

        return self.loop.run_until_complete(opened())

    def teardown(self) -> None:
        self.loop.run_until_complete(self.books.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- the two sides ---

    def both(self, *commands: Command) -> None:
        """Send the commands concurrently, so that they may share a commit; each response must equal the model's."""

        commands = tuple(copy.copy(command) for command in commands)  # a command that is there twice is sent twice
        responses = self.send(commands)
        for place in self.carried_out(commands):
            command, response = commands[place], responses[place]
            assert self.expected(command) == (type(response) if isinstance(response, Exception) else response), command
        self.sent += commands

    def send(self, commands: tuple[Command, ...]) -> list[Verdict | BaseException]:
        async def all_at_once() -> list[Verdict | BaseException]:
            return await asyncio.gather(*(self.books.do(each) for each in commands), return_exceptions=True)

        return self.loop.run_until_complete(all_at_once())

    def carried_out(self, commands: tuple[Command, ...]) -> list[int]:
        """The indices of the commands in the order in which the ledger executed them."""
        return list(range(len(commands)))

    def expected(self, command: Command) -> Verdict | type[Exception]:
        try:
            return self.model.do(command)
        except (Conflict, ValueError) as error:
            return type(error)

    def when(self, offset: int | None) -> int | None:
        return None if offset is None else self.now + offset

    # --- commands ---

    @rule(account=accounts, name=ids, amount=amounts, priority=priorities, end=ends)
    def top_up(self, account: str, name: str, amount: int, priority: int, end: int | None) -> None:
        command = TopUp(
            account_id=account,
            payment_id=name,
            amount=amount,
            at=self.now,
            priority=priority,
            expires_at=self.when(end),
        )
        self.both(command)

    @rule(account=accounts, name=ids, amount=amounts, priority=priorities, end=ends)
    def grant(self, account: str, name: str, amount: int, priority: int, end: int | None) -> None:
        command = Grant(
            account_id=account, grant_id=name, amount=amount, at=self.now, priority=priority, expires_at=self.when(end)
        )
        self.both(command)

    def a_hold(self, account: str, name: str, amount: int, end: int, limits: dict[str, int] | None = None) -> Hold:
        budgets = tuple(self.budget(scope, limit) for scope, limit in (limits or {}).items())
        return Hold(
            account_id=account, hold_id=name, amount=amount, at=self.now, expires_at=self.now + end, budgets=budgets
        )

    def budget(self, scope: str, limit: int) -> Budget:
        """Its window is a fixed hour, or slides over twenty-four hours."""
        start = self.now - self.now % HOUR_MS
        since = start - 24 * HOUR_MS if scope == "slides" else start
        return Budget(scope, limit, start, since, start + 25 * HOUR_MS)

    @rule(account=accounts, name=ids, amount=charges, end=moments, limits=budgets)
    def hold(self, account: str, name: str, amount: int, end: int, limits: dict[str, int]) -> None:
        self.both(self.a_hold(account, name, amount, end, limits))

    @rule(account=accounts, name=ids, reserve=charges, end=moments, limits=budgets)
    def hold_on_the_callers_own_key(
        self, account: str, name: str, reserve: int, end: int, limits: dict[str, int]
    ) -> None:
        self.both(structs.replace(self.a_hold(account, name, 0, end, limits), reserve=reserve))

    @rule(account=accounts, name=ids, counts=charges)
    def settle_on_the_callers_own_key(self, account: str, name: str, counts: int) -> None:
        self.both(Settle(account_id=account, hold_id=name, amount=0, at=self.now, counts=counts))

    @rule(
        account=accounts, names=st.lists(ids, min_size=2, max_size=6), amount=st.integers(1, 40), end=moments,
        limits=budgets,
    )  # fmt: skip
    def many_holds(self, account: str, names: list[str], amount: int, end: int, limits: dict[str, int]) -> None:
        self.both(*(self.a_hold(account, name, amount + extra, end, limits) for extra, name in enumerate(names)))

    @rule(account=accounts, name=ids, amount=charges, end=moments, ago=hours_ago)
    def extend(self, account: str, name: str, amount: int, end: int, ago: int) -> None:
        self.both(
            Extend(
                account_id=account, hold_id=name, amount=amount, at=self.now, expires_at=self.now + end,
                counted_at=self.now - ago * HOUR_MS if ago else None,
            )
        )  # fmt: skip

    @rule(account=accounts, name=ids, amount=charges, recorded=st.booleans(), ago=hours_ago)
    def settle(self, account: str, name: str, amount: int, recorded: bool, ago: int) -> None:
        record = CallOf(account, name, self.now - ago * HOUR_MS) if recorded else None
        self.both(Settle(account_id=account, hold_id=name, amount=amount, at=self.now, record=record))

    @rule(account=accounts, name=ids)
    def release(self, account: str, name: str) -> None:
        self.both(Release(account_id=account, hold_id=name, at=self.now))

    @rule(account=accounts)
    def expire(self, account: str) -> None:
        self.both(Expire(account_id=account, at=self.now))

    @rule(account=accounts, name=ids, amount=st.integers(-80, 80).filter(bool))
    def correct(self, account: str, name: str, amount: int) -> None:
        self.both(Correct(account_id=account, correction_id=name, amount=amount, at=self.now))

    @rule(
        account=accounts, name=ids, amount=amounts, lots=st.lists(st.tuples(st.sampled_from(["top_up", "grant"]), ids)),
        most=amounts, book=st.sampled_from(["credit", "granted"]),
    )  # fmt: skip
    def return_to_lots(
        self, account: str, name: str, amount: int, lots: list[tuple[str, str]], most: int, book: str
    ) -> None:
        into = tuple((f"{kind}:{lot}", most) for kind, lot in dict.fromkeys(lots))
        command = Correct(account_id=account, correction_id=name, amount=amount, at=self.now, into=into)
        self.both(structs.replace(command, book=book))

    @rule(account=accounts, kind=kinds, name=ids, payment=ids, amount=charges.filter(bool))
    def take_back(self, account: str, kind: str, name: str, payment: str, amount: int) -> None:
        cause = f"{kind}:{name}"
        self.both(TakeBack(account_id=account, cause=cause, payment_id=payment, amount=amount, at=self.now))

    @rule(account=accounts, kind=st.sampled_from(["refund_failed", "dispute_won"]), name=ids, amount=amounts)
    def give_back(self, account: str, kind: str, name: str, amount: int) -> None:
        self.both(GiveBack(account_id=account, cause=f"{kind}:{name}", amount=amount, at=self.now))

    # --- what is set on an account ---

    @rule(account=accounts, amount=st.one_of(st.none(), st.integers(1, 200)), duration=durations, strategy=strategies)
    def limit(self, account: str, amount: int | None, duration: Duration, strategy: Strategy) -> None:
        self.loop.run_until_complete(self.books.limit(amount, duration, strategy, account))
        self.model.wallets[account].limit = None if amount is None else (amount, duration, strategy)

    @rule(account=accounts, below=marks)
    def arm(self, account: str, below: int | None) -> None:
        """The open auto top-up has ended, and the rule is armed again."""
        wallet = self.model.wallets[account]
        wallet.armed, wallet.requested = below, False
        self.loop.run_until_complete(self.books.set(account, top_up_below=below))
        sql = "UPDATE top_ups SET state = 'canceled' WHERE account_id = ?"
        self.loop.run_until_complete(self.books.database.write(lambda c: c.execute(sql, (account,)).fetchall()))

    @rule(account=accounts, below=marks)
    def mark_low(self, account: str, below: int | None) -> None:
        self.model.wallets[account].low = below
        self.loop.run_until_complete(self.books.set(account, low_below=below))

    @rule()
    def unknown_account(self) -> None:
        self.both(self.a_hold(EVE, "1", 1, 1))

    # --- repeats, time, crashes ---

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.both(data.draw(st.sampled_from(self.sent[-8:])))

    @precondition(lambda self: any(hasattr(command, "amount") for command in self.sent[-8:]))
    @rule(data=st.data(), more=st.integers(1, 3))
    def repeat_with_other_content(self, data: st.DataObject, more: int) -> None:
        with_amounts = [command for command in self.sent[-8:] if hasattr(command, "amount")]
        command: Any = data.draw(st.sampled_from(with_amounts))
        self.both(structs.replace(command, amount=command.amount + (more if command.amount >= 0 else -more)))

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data(), count=st.integers(2, 6))
    def a_batch(self, data: st.DataObject, count: int) -> None:
        """Old commands are repeated concurrently: some are refused, some conflict, independently of each other."""
        self.both(*(data.draw(st.sampled_from(self.sent)) for _ in range(count)))

    @rule(milliseconds=st.integers(1, 60))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule(hours=st.sampled_from([1, 5, 23, 24, 24 * 6, 24 * 29]))
    def hours_pass(self, hours: int) -> None:
        self.now += hours * HOUR_MS

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data(), name=ids, amount=amounts, committed=st.booleans())
    def crash(self, data: st.DataObject, name: str, amount: int, committed: bool) -> None:
        """Die with a command half executed, or executed but not answered."""
        old = data.draw(st.sampled_from(self.sent))
        command: Command = Grant(account_id=old.account_id, grant_id=f"crash{name}", amount=amount, at=self.now)
        self.loop.run_until_complete(self.die(command, committed))
        self.books = self.open()
        if committed:
            self.expected(command)
        self.sent.append(command)  # the caller got no response, so it will retry

    async def die(self, command: Command, committed: bool) -> None:
        def job(connection: Connection) -> None:
            connection.execute("PRAGMA cache_size = 1")  # uncommitted pages then reach the log too
            apply(connection, Expire(account_id=command.account_id, at=self.now + 1000))
            with contextlib.suppress(Conflict):
                apply(connection, command)
            self.copy_remains()  # in the middle of the transaction

        if committed:
            await asyncio.gather(self.books.do(command), return_exceptions=True)
        await self.books.database.write(job)
        await self.books.close()

    def copy_remains(self) -> None:
        self.lives += 1
        for suffix in ("", "-wal"):
            remains = Path(f"{self.books.path}{suffix}")
            if remains.exists():
                shutil.copy(remains, self.folder / f"{self.lives}.db{suffix}")

    # --- what must hold after every step ---

    @invariant()
    def the_books_balance(self) -> None:
        assert self.loop.run_until_complete(self.books.check()) == []

    @invariant()
    def the_rows_are_the_models(self) -> None:
        sql = self.loop.run_until_complete(self.rows())
        for account, wallet in self.model.wallets.items():
            assert 0 <= wallet.held <= wallet.posted
            assert sql["balances"][account] == (wallet.posted, wallet.held, wallet.owed, wallet.armed, wallet.notified)
            assert sql["asked"].get(account, 0) == wallet.asked
            assert sql["notices"].get(account, []) == wallet.notices
            assert sql["usage"].get(account, 0) == sum(charge for _, charge in wallet.usage)
            assert sql["lots"].get(account, {}) == {lot.lot_id: lot.left for lot in wallet.lots}
            assert sql["holds"].get(account, {}) == {
                name: (hold.asked, hold.amount, hold.state, hold.ends, hold.charge, hold.lost)
                for name, hold in wallet.holds.items()
            }
            assert sql["budgets"].get(account, {}) == wallet.counters()

    async def rows(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {"balances": {}, "lots": {}, "holds": {}, "notices": {}, "budgets": {}}
        for account, *slot, spent, held in await self.books.sql(
            "SELECT account_id, scope, start, spent, held FROM budgets"
        ):
            found["budgets"].setdefault(account, {})[tuple(slot)] = (spent, held)
        for account, *content in await self.books.sql(
            "SELECT account_id, posted, held, owed, top_up_below, low_told FROM balances"
        ):
            found["balances"][account] = tuple(content)
        for name, sql in (("asked", "count(*) FROM top_ups"), ("usage", "sum(charge) FROM usage_hours")):
            found[name] = dict(await self.books.sql(f"SELECT account_id, {sql} GROUP BY account_id"))
        for account, content in await self.books.sql(
            "SELECT account_id, content FROM notices ORDER BY CAST(substr(notice_id, 13) AS INTEGER)"
        ):
            found["notices"].setdefault(account, []).append(json.loads(content)["posted_nanos"])
        for account, lot, left in await self.books.sql("SELECT account_id, lot_id, remaining FROM lots"):
            found["lots"].setdefault(account, {})[lot] = left
        for account, name, *content in await self.books.sql(
            "SELECT account_id, hold_id, asked, amount, state, expires_at, coalesce(charge, 0), "
            "coalesce(written_off, 0) FROM holds"
        ):
            found["holds"].setdefault(account, {})[name] = tuple(content)
        return found


LedgerAgainstModel.TestCase.settings = settings(
    max_examples=times(40, 3000),
    stateful_step_count=times(30, 80),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerAgainstModel = LedgerAgainstModel.TestCase


class LanesAgainstModel(LedgerAgainstModel):
    """The same test on PostgreSQL, through the lanes."""

    engine = "postgres"

    def both(self, *commands: Command) -> None:
        """Only commands for lanes are sent concurrently: with jobs, any order could be right."""
        if all(isinstance(command, Hold | Settle | Release) for command in commands):
            super().both(*commands)
        else:
            for command in commands:
                super().both(command)

    def send(self, commands: tuple[Command, ...]) -> list[Verdict | BaseException]:
        self.watched().left_to_jobs.clear()
        return super().send(commands)

    def carried_out(self, commands: tuple[Command, ...]) -> list[int]:
        """Ends, then holds, then what was left to jobs. Each of `commands` is a distinct object here."""
        slow = [id(command) for command in self.watched().left_to_jobs]
        fast = [place for place, command in enumerate(commands) if id(command) not in slow]
        places = {id(command): place for place, command in enumerate(commands)}
        return sorted(fast, key=lambda place: isinstance(commands[place], Hold)) + [places[each] for each in slow]

    def watched(self) -> "Watched":
        assert isinstance(self.books.ledger, Watched)
        return self.books.ledger

    def open(self) -> Books:
        books = super().open()
        assert isinstance(books.database, PostgresDatabase)

        async def watching() -> Watched:
            assert isinstance(books.database, PostgresDatabase)
            return Watched(books.database)

        books.ledger = self.loop.run_until_complete(watching())
        return books

    async def die(self, command: Command, committed: bool) -> None:
        def job(connection: Connection) -> None:
            apply(connection, Expire(account_id=command.account_id, at=self.now + 1000))
            with contextlib.suppress(Conflict):
                apply(connection, command)
            raise Died

        if committed:
            await asyncio.gather(self.books.do(command), return_exceptions=True)
        with pytest.raises(Died):
            await self.books.database.write(job)
        await self.books.close()


class Watched(LaneLedger):
    """Lanes that record what they left to jobs, in order."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database, "beside the model")
        self.left_to_jobs: list[Command | None] = []

    def do_slowly(self, item: Any) -> None:
        self.left_to_jobs.append(item.command)
        super().do_slowly(item)


LanesAgainstModel.TestCase.settings = settings(
    max_examples=times(8, 1000),
    stateful_step_count=times(30, 80),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLanesAgainstModel = LanesAgainstModel.TestCase
