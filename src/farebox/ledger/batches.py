"""Batches: how calls' holds and charges reach SQLite, grouped by commit.

The commands of a commit are carried out in the order in which they arrived. Common ones are decided here, on accounts
that are read once per batch, and written for the whole batch at once: a hold that is admitted or refused, a settle
within its hold, a release, a call's row. Any other command is left to ledger.posting, in its place in the order, after
everything decided before it has been written.

So this has no rules that posting does not have: for common commands it must write the same rows as posting
(tests/ledger/test_fast_paths.py).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from farebox.calendar import HOUR_MS
from farebox.ledger.batch_accounts import ACCOUNT, LOTS, BatchAccount, BatchLot
from farebox.ledger.batch_budgets import BatchBudgets
from farebox.ledger.budgets import encode_slots
from farebox.ledger.commands import DONE, CallWritten, Command, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.posting import apply, apply_left
from farebox.ledger.rows import part_id
from farebox.ledger.spending import in_window
from farebox.storage.account_keys import key_of
from farebox.storage.accounts import find_account
from farebox.storage.activity import note_activity
from farebox.storage.calls import ADD_USAGE, INSERT_CALL, UNRECORDED, CallRow, call_values
from farebox.storage.sql import Connection
from farebox.storage.sqlite import SqliteConnection
from farebox.storage.sqlite.database import SqliteDatabase
from farebox.storage.sqlite.writer import by_itself

_Rows: TypeAlias = Sequence[tuple[str, CallWritten]]
"""Rows of calls for which nothing was held, each with its account."""
_Item: TypeAlias = Hold | Settle | Release | _Rows
_COMMON: Final = (Settle, Hold, Release)


class BatchLedger:
    """The ledger that serves calls on SQLite."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def do(self, command: Command) -> Verdict:
        if isinstance(command, _COMMON):
            verdict: Verdict = await self._database.writer.put(self, command)
            return verdict
        return await self._database.write(partial(_apply, command))

    def check(self, account_id: str) -> None:
        """Does nothing: whether the file works shows only when a write runs."""

    async def record(self, account_id: str, record: CallWritten) -> None:
        await self.record_all([(account_id, record)])

    async def record_all(self, records: _Rows) -> None:
        await self._database.writer.put(self, records)

    async def close(self) -> None:
        """Does nothing: the database finishes what was sent."""

    # --- storage.sqlite.writer.GroupedWork ---

    def all_of(self, connection: SqliteConnection, items: Sequence[_Item]) -> list[Verdict | Exception]:
        batch = _Batch(connection)
        responses: list[Verdict | Exception] = []
        for item in items:
            response = batch.do(item)
            if response is None:
                batch.write()
                response = by_itself(connection, partial(self.one_of, item=item))
                batch = _Batch(connection)
            responses.append(response)
        batch.write()
        return responses

    def one_of(self, connection: Connection, item: _Item) -> Verdict:
        if isinstance(item, _COMMON):
            return apply_left(connection, item)
        for account_id, record in item:
            account = find_account(connection, account_id)
            if account is not None:
                record.write(connection, account.bucket, Verdict(Outcome.UNKNOWN))
        return Verdict(Outcome.DONE)


def _apply(command: Command, connection: Connection) -> Verdict:
    return apply(connection, command)


_IS_HELD = "SELECT 1 FROM holds WHERE bucket = ? AND account_id = ? AND hold_id = ?"
_HOLD = (
    "INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at) "
    "VALUES (?, ?, ?, ?, ?, 'open', ?, ?, ?) ON CONFLICT DO NOTHING"
)
_HOLD_IN_BUDGETS = (
    "INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at, budgets, "
    "counted) VALUES (?, ?, ?, ?, ?, 'open', ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_SETTLE = (
    "UPDATE holds SET state = 'settled', charge = ?1, written_off = 0 "
    "WHERE bucket = ?2 AND account_id = ?3 AND hold_id = ?4 AND state = 'open' AND amount >= ?1 "
    "RETURNING amount, budgets, counted"
)
_SETTLE_KNOWN = (
    "UPDATE holds SET state = 'settled', charge = ?1, written_off = 0 "
    "WHERE bucket = ?2 AND account_id = ?3 AND hold_id = ?4 AND state = 'open' AND amount = ?5 AND budgets IS NULL"
)
"""For holds whose amount the command states; executed once per batch, because RETURNING doubles the time."""
_RELEASE = (
    "UPDATE holds SET state = 'released', charge = NULL, written_off = NULL "
    "WHERE bucket = ? AND account_id = ? AND hold_id = ? AND state = 'open' RETURNING amount, budgets, counted"
)
# Those below are executed once per batch, for all its rows.
_TRANSFERS = (
    "INSERT INTO transfers (bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at, "
    "note) VALUES (?, ?, ?, ?, 'charge', ?, 'revenue', ?, ?, ?, ?)"
)
_DRAWN = "UPDATE lots SET remaining = ? WHERE bucket = ? AND account_id = ? AND lot_id = ?"
_EMPTIED = "UPDATE lots SET remaining = ?, spent = 1 WHERE bucket = ? AND account_id = ? AND lot_id = ?"
"""Separate from the other statement, because SQLite rewrites the entry of every index on a column that is set, even if
its value does not change."""
_BALANCES = "UPDATE balances SET posted = ?, held = ?, version = ?, limit_spent = ? WHERE bucket = ? AND account_id = ?"


class _HoldMismatch(Exception):
    """A hold is not open, or its amount is not what its settle says: each command of the batch is then carried out by
    itself."""


class _Batch:
    """The decisions of a batch, and what is still to be written."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._accounts: dict[str, BatchAccount | None] = {}
        self._settled: list[tuple[Any, ...]] = []
        self._transfers: list[tuple[Any, ...]] = []
        self._calls: list[tuple[int, CallRow]] = []
        self._usage: dict[tuple[int, str, int, str, str], list[int]] = {}
        self._charged = 0
        self._budgets: BatchBudgets | None = None
        """None: nothing in the batch counts in a budget."""

    def do(self, item: _Item) -> Verdict | None:
        """Carry out an item and return the verdict; None, and nothing is done, if it is not a common case."""
        if not isinstance(item, _COMMON):
            for account_id, record in item:
                account = self._account(account_id)
                if account is not None:
                    self._calls.append((account.bucket, record.row(Verdict(Outcome.UNKNOWN))))
            return Verdict(Outcome.DONE)
        account = self._accounts.get(item.account_id) or self._account(item.account_id)
        if account is None:
            return Verdict(Outcome.UNKNOWN)
        if isinstance(item, Settle):
            return self._settle(account, item)
        return self._hold(account, item) if isinstance(item, Hold) else self._release(account, item)

    def _account(self, account_id: str) -> BatchAccount | None:
        if account_id in self._accounts:
            return self._accounts[account_id]
        row = self._execute(ACCOUNT, key_of(self._connection, account_id)).fetchone()
        account = None if row is None else BatchAccount(account_id, row)
        self._accounts[account_id] = account
        return account

    # --- holds ---

    def _hold(self, account: BatchAccount, command: Hold) -> Verdict | None:
        amount = command.amount
        if amount < 0 or "/" in command.hold_id or (account.due is not None and account.due <= command.at):
            return None
        limited = account.limit is not None and amount > 0
        at = command.counted_at or command.at
        if limited and not in_window(account.window, account.until, account.duration, account.strategy, at):
            return None
        over = self._in_budgets().refusal(account.bucket, command) if command.budgets else None
        key = (account.bucket, account.account_id, command.hold_id)
        if (
            amount > account.posted - account.held
            or (limited and account.spent + account.held + amount > account.limit)
            or over is not None
        ):
            return self._refusal(account, command, key, over, limited=limited)
        values = (*key, amount, amount, command.owner, command.at, command.expires_at)
        if command.budgets:
            self._execute(_HOLD_IN_BUDGETS, (*values, encode_slots(command.budgets), command.reserved))
        else:
            self._execute(_HOLD, values)
        if self._connection.changes() == 0:
            return None
        if command.budgets:
            self._in_budgets().reserve(account.bucket, command)
        account.held += amount
        account.changed = True
        return account.verdict(DONE, amount)

    def _in_budgets(self) -> BatchBudgets:
        if self._budgets is None:
            self._budgets = BatchBudgets(self._connection)
        return self._budgets

    def _refusal(
        self,
        account: BatchAccount,
        command: Hold,
        key: tuple[object, ...],
        over: tuple[Outcome, int, int, int] | None,
        *,
        limited: bool,
    ) -> Verdict | None:
        """`over` is the refusal by a budget; if it is LIMITED, it takes precedence over the account's own refusal."""
        amount = command.amount
        limit, spent = (account.limit, account.spent) if limited else (None, 0)
        outcome: Outcome | None = None
        if limit is not None and spent + amount > limit:
            outcome = Outcome.LIMITED
        elif amount > account.posted - account.held or (limit is not None and spent + account.held + amount > limit):
            outcome = Outcome.REFUSED if amount > account.posted else Outcome.HELD_ELSEWHERE
        budget, reserved = None, 0
        if over is not None and (outcome is None or over[0] is Outcome.LIMITED):
            outcome, budget, spent, reserved = over
            limit = command.budgets[budget].limit
        assert outcome is not None
        if outcome is Outcome.REFUSED and account.armed:
            return None
        if self._execute(_IS_HELD, key).fetchone() is not None:  # a repeat
            return None
        return Verdict(outcome, account.posted, account.held, 0, 0, False, account.owed, limit, spent, budget, reserved)

    # --- their ends ---

    def _settle(self, account: BatchAccount, command: Settle) -> Verdict | None:
        amount, record = command.amount, command.record
        if amount < 0 or (command.counts or 0) < 0 or (record is not None and not isinstance(record, CallWritten)):
            return None
        if amount and account.floor is not None and account.posted - amount < account.floor:
            return None
        held = command.held
        if held is not None and amount <= held:
            self._settled.append((amount, account.bucket, account.account_id, command.hold_id, held))
            account.held -= held
        elif not self._settle_found(account, command):
            return None
        account.changed = True
        if amount:
            self._draw(account, command)
        verdict = account.verdict(DONE, amount)
        if record is not None:
            self._calls.append((account.bucket, record.row(verdict)))
        elif amount:
            self._count(account.bucket, account.account_id, command.at, UNRECORDED, "", amount, 0, 0)
        return verdict

    def _settle_found(self, account: BatchAccount, command: Settle) -> bool:
        """Settle a hold whose amount only the database knows. Returns whether this was the common case."""
        amount = command.amount
        kept = self._execute(_SETTLE, (amount, account.bucket, account.account_id, command.hold_id)).fetchone()
        if kept is None:
            return False
        account.held -= kept[0]
        if kept[1] is not None:
            counts = amount if command.counts is None else command.counts
            self._in_budgets().end((account.bucket, account.account_id, command.hold_id), kept[1], kept[2], counts)
        return True

    def _draw(self, account: BatchAccount, command: Settle) -> None:
        """Take the charge from the lots, one transfer per lot."""
        if not account.lots:
            found = self._execute(LOTS, (account.bucket, account.account_id))
            account.lots = [BatchLot(*fields) for fields in found]
        left, part = command.amount, 0
        charge_id, note = f"charge:{command.hold_id}", command.note or None
        while left:
            lot = account.lots[account.next_lot]
            taken = min(left, lot.left)
            lot.left -= taken
            lot.drawn = True
            account.version += 1
            transfer_id = part_id(charge_id, part) if part else charge_id
            self._transfers.append(
                (
                    account.bucket, account.account_id, account.version, transfer_id, lot.book, taken, lot.lot_id,
                    command.at, note,
                )
            )  # fmt: skip
            left -= taken
            part += 1
            if lot.left == 0:
                account.next_lot += 1
        account.posted -= command.amount
        self._charged += command.amount
        if account.limit is not None and account.window is not None:
            counted_at = command.at if command.record is None else command.record.at
            if account.window <= counted_at:
                account.spent += command.amount

    def _release(self, account: BatchAccount, command: Release) -> Verdict | None:
        record = command.record
        if record is not None and not isinstance(record, CallWritten):
            return None
        kept = self._execute(_RELEASE, (account.bucket, account.account_id, command.hold_id)).fetchone()
        if kept is None:
            return None
        account.held -= kept[0]
        account.changed = True
        if kept[1] is not None:
            self._in_budgets().end((account.bucket, account.account_id, command.hold_id), kept[1], kept[2], None)
        verdict = account.verdict(Outcome.DONE)
        if record is not None:
            self._calls.append((account.bucket, record.row(verdict)))
        return verdict

    def _count(
        self, bucket: int, account_id: str, at: int, provider: str, model: str, charge: int, came_in: int, went_out: int
    ) -> None:
        """Add a charge to its hour, as storage.calls.add_usage does."""
        sums = self._usage.setdefault((bucket, account_id, at - at % HOUR_MS, provider, model), [0, 0, 0, 0])
        sums[0] += 1
        sums[1] += charge
        sums[2] += came_in
        sums[3] += went_out

    # --- what was decided, written ---

    def write(self) -> None:
        """Write everything that was decided. Raises if a call's row already exists, or a hold's amount is not what its
        settle said; the batch must then be rolled back."""
        changed = [account for account in self._accounts.values() if account is not None and account.changed]
        if not changed and not self._calls:
            return
        many = self._connection.executemany
        if self._settled:
            before = self._connection.total_changes()
            many(_SETTLE_KNOWN, self._settled)
            if self._connection.total_changes() - before != len(self._settled):
                raise _HoldMismatch
        many(
            _BALANCES,
            [(each.posted, each.held, each.version, each.spent, each.bucket, each.account_id) for each in changed],
        )
        if self._transfers:
            many(_TRANSFERS, self._transfers)
            drawn = [
                (lot.left, each.bucket, each.account_id, lot.lot_id)
                for each in changed
                for lot in each.lots[: each.next_lot + 1]
                if lot.drawn
            ]
            many(_DRAWN, [values for values in drawn if values[0]])
            if emptied := [values for values in drawn if not values[0]]:
                many(_EMPTIED, emptied)
            note_activity(self._connection, "money", "charge", self._charged)
        if self._budgets is not None:
            self._budgets.write()
        if self._calls:
            self._write_calls()
        if self._usage:
            many(ADD_USAGE, [(*key, *sums) for key, sums in self._usage.items()])

    def _write_calls(self) -> None:
        """As storage.calls.insert_call does."""
        self._connection.executemany(INSERT_CALL, [call_values(bucket, call) for bucket, call in self._calls])
        for bucket, call in self._calls:
            if call.charge:
                self._count(
                    bucket, call.account_id, call.created_at, call.provider, call.model, call.charge,
                    call.tokens_in or 0, call.tokens_out or 0,
                )  # fmt: skip
