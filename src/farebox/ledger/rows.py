"""The ledger's rows: reading and writing one balance, hold or transfer inside the caller's transaction.

Amounts are nano-dollars, and times milliseconds since the Unix epoch.
"""

import msgspec

from farebox.ledger.books import OWN_BOOKS, RECEIVABLE, TRANSFERS
from farebox.ledger.commands import Outcome, Verdict
from farebox.storage.account_keys import find_key, key_of
from farebox.storage.activity import note_activity
from farebox.storage.sql import Connection, NodeUnavailable, locks_rows, row
from farebox.storage.transfer_statement import NO_CHARGE


class BalanceRow(msgspec.Struct):
    """An account's balance row while a command works on it; `save` writes it back."""

    bucket: int
    account_id: str
    posted: int
    held: int
    version: int
    owed: int
    """What was taken back beyond the remaining credit; the next bought credit pays it."""
    top_up_below: int | None
    """Set while auto top-up is armed: `posted` below this requests one."""
    low_below: int | None
    """`posted` below this notifies the owner…"""
    low_notified: int
    """…unless it has been notified since it was last above."""
    limit_amount: int | None
    """The spending limit; storage.spending has the rest of it."""

    @property
    def available(self) -> int:
        return self.posted - self.held

    def verdict(self, outcome: Outcome, amount: int = 0, written_off: int = 0, *, late: bool = False) -> Verdict:
        return Verdict(outcome, self.posted, self.held, amount, written_off, late, self.owed)


class HoldRow(msgspec.Struct, frozen=True):
    asked: int
    amount: int
    state: str
    charge: int
    written_off: int
    expires_at: int
    budgets: str | None
    """The slots of the budgets it counts in (ledger.budgets)."""
    counted: int
    """What it reserves in each budget while open, and what counts there once it is settled."""


_BALANCE = (
    "b.bucket, b.account_id, b.posted, b.held, b.version, b.owed, b.top_up_below, b.low_below, b.low_told, "
    "b.limit_amount"
)


def read_balance(connection: Connection, account_id: str) -> BalanceRow | None:
    """The account's row, locked until the transaction ends; None if there is no such account.

    Raises NodeUnavailable if the account exists but its row does not: the transaction that wrote it on another node has
    been committed, but not on all nodes yet, because that node or the coordinator was lost meanwhile.
    """
    if locks_rows(connection):
        balance = _lock_balance(connection, account_id)
        if balance is None and find_key(connection, account_id) is not None:
            raise NodeUnavailable(f"the account {account_id} has not arrived in its bucket yet")
        return balance
    found = row(
        connection,
        f"SELECT {_BALANCE} FROM balances b WHERE b.bucket = ? AND b.account_id = ?",
        key_of(connection, account_id),
    )
    return None if found is None else BalanceRow(*found)


def _lock_balance(connection: Connection, account_id: str) -> BalanceRow | None:
    """The lock is a write that changes nothing: before Citus moves a shard, it waits for its writers, but not for
    transactions that have only locked rows."""
    found = row(
        connection,
        f"UPDATE balances AS b SET version = version WHERE bucket = ? AND account_id = ? RETURNING {_BALANCE}",
        key_of(connection, account_id),
    )
    return None if found is None else BalanceRow(*found)


def save(connection: Connection, balance: BalanceRow) -> None:
    assert 0 <= balance.held <= balance.posted, f"{balance} would break held <= posted"
    assert balance.owed >= 0, f"{balance} would owe a negative amount"
    connection.execute(
        "UPDATE balances SET posted = ?, held = ?, version = ?, owed = ? WHERE bucket = ? AND account_id = ?",
        (balance.posted, balance.held, balance.version, balance.owed, balance.bucket, balance.account_id),
    )


def read_hold(connection: Connection, balance: BalanceRow, hold_id: str) -> HoldRow | None:
    found = row(
        connection,
        "SELECT asked, amount, state, coalesce(charge, 0), coalesce(written_off, 0), expires_at, budgets, "
        "coalesce(counted, 0) FROM holds "
        "WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (balance.bucket, balance.account_id, hold_id),
    )
    return None if found is None else HoldRow(*found)


def end_hold(
    connection: Connection, balance: BalanceRow, hold_id: str, state: str, charge: int | None, written_off: int | None
) -> None:
    connection.execute(
        "UPDATE holds SET state = ?, charge = ?, written_off = ? WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (state, charge, written_off, balance.bucket, balance.account_id, hold_id),
    )


def transfer(
    connection: Connection,
    balance: BalanceRow,
    transfer_id: str,
    kind: str,
    from_book: str,
    to_book: str,
    amount: int,
    lot_id: str | None,
    at: int,
    note: str = "",
) -> None:
    """Write one transfer and move the balance by it."""
    assert (from_book, to_book) in TRANSFERS[kind], f"{kind} may not go from {from_book} to {to_book}"
    note_activity(connection, "money", kind, amount)
    balance.version += 1
    if to_book in OWN_BOOKS:
        balance.posted += amount
    elif from_book in OWN_BOOKS:
        balance.posted -= amount
    if from_book == RECEIVABLE:
        balance.owed += amount
    elif to_book == RECEIVABLE:
        balance.owed -= amount
    connection.execute(
        "INSERT INTO transfers "
        "(bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at, note) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            balance.bucket, balance.account_id, balance.version, transfer_id, kind, from_book, to_book, amount,
            lot_id, at, note or None,
        ),
    )  # fmt: skip


def sum_of_parts(connection: Connection, balance: BalanceRow, transfer_id: str) -> int | None:
    """Sum of a transfer that is not a charge, and of its further parts (`…/2`, `…/3`); None if there is none."""
    found = row(
        connection,
        f"SELECT sum(amount) FROM transfers WHERE bucket = ? AND account_id = ? AND {NO_CHARGE} "
        "AND (transfer_id = ? OR (transfer_id >= ? AND transfer_id < ?))",
        (balance.bucket, balance.account_id, transfer_id, f"{transfer_id}/", f"{transfer_id}0"),
    )
    return None if found is None else found[0]


def part_id(transfer_id: str, part: int) -> str:
    """The ID of one of the transfers that a command posts, counted from 0."""
    return transfer_id if part == 0 else f"{transfer_id}/{part + 1}"


class TakenBack(msgspec.Struct, frozen=True):
    """What an earlier TakeBack did."""

    amount: int
    from_lots: int
    """The part that the account had; the rest was owed."""
    note: str


def read_taken_back(connection: Connection, balance: BalanceRow, cause: str) -> TakenBack | None:
    found = row(
        connection,
        "SELECT sum(amount), coalesce(sum(CASE WHEN from_book = 'credit' THEN amount END), 0), max(note) "
        f"FROM transfers WHERE bucket = ? AND account_id = ? AND {NO_CHARGE} "
        "AND (transfer_id = ? OR (transfer_id >= ? AND transfer_id < ?))",
        (balance.bucket, balance.account_id, cause, f"{cause}/", f"{cause}0"),
    )
    return None if found is None or found[0] is None else TakenBack(*found)


def gives_back(connection: Connection, balance: BalanceRow, transfer_id: str) -> bool:
    """Whether the correction was in the account's favor."""
    found = row(
        connection,
        "SELECT from_book = 'revenue' FROM transfers "
        f"WHERE bucket = ? AND account_id = ? AND transfer_id = ? AND {NO_CHARGE}",
        (balance.bucket, balance.account_id, transfer_id),
    )
    return found is not None and bool(found[0])
