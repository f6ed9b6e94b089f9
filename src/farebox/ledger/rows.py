"""The ledger's rows: reading and writing one balance, hold or transfer inside the caller's transaction."""

from dataclasses import dataclass

from farebox.ledger.books import OWN_BOOKS, TRANSFERS
from farebox.ledger.commands import Outcome, Verdict
from farebox.storage.sqlite import Connection, row


@dataclass(slots=True)
class Balance:
    """An account's row while a command works on it; `save` writes it back."""

    bucket: int
    account_id: str
    posted: int
    held: int
    version: int

    @property
    def available(self) -> int:
        return self.posted - self.held

    def verdict(self, outcome: Outcome, amount: int = 0, written_off: int = 0, *, late: bool = False) -> Verdict:
        return Verdict(outcome, self.posted, self.held, amount, written_off, late)


@dataclass(frozen=True, slots=True)
class HoldRow:
    asked: int
    amount: int
    state: str
    charge: int
    written_off: int
    expires_at: int


def read_balance(connection: Connection, account_id: str) -> Balance | None:
    found = row(
        connection,
        "SELECT b.bucket, b.account_id, b.posted, b.held, b.version FROM accounts a "
        "JOIN balances b ON b.bucket = a.bucket AND b.account_id = a.account_id WHERE a.account_id = ?",
        (account_id,),
    )
    return None if found is None else Balance(*found)


def save(connection: Connection, balance: Balance) -> None:
    assert 0 <= balance.held <= balance.posted, f"{balance} would break held <= posted"
    connection.execute(
        "UPDATE balances SET posted = ?, held = ?, version = ? WHERE bucket = ? AND account_id = ?",
        (balance.posted, balance.held, balance.version, balance.bucket, balance.account_id),
    )


def read_hold(connection: Connection, balance: Balance, hold_id: str) -> HoldRow | None:
    found = row(
        connection,
        "SELECT asked, amount, state, coalesce(charge, 0), coalesce(written_off, 0), expires_at FROM holds "
        "WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (balance.bucket, balance.account_id, hold_id),
    )
    return None if found is None else HoldRow(*found)


def end_hold(
    connection: Connection, balance: Balance, hold_id: str, state: str, charge: int | None, written_off: int | None
) -> None:
    connection.execute(
        "UPDATE holds SET state = ?, charge = ?, written_off = ? WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (state, charge, written_off, balance.bucket, balance.account_id, hold_id),
    )


def transfer(
    connection: Connection,
    balance: Balance,
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
    balance.version += 1
    if to_book in OWN_BOOKS:
        balance.posted += amount
    elif from_book in OWN_BOOKS:
        balance.posted -= amount
    connection.execute(
        "INSERT INTO transfers "
        "(bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at, note) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            balance.bucket, balance.account_id, balance.version, transfer_id, kind, from_book, to_book, amount,
            lot_id, at, note or None,
        ),
    )  # fmt: skip


def sum_of_parts(connection: Connection, balance: Balance, transfer_id: str) -> int | None:
    """Total of a transfer and its further parts (`…/2`, `…/3`); None where there is none."""
    found = row(
        connection,
        "SELECT sum(amount) FROM transfers WHERE bucket = ? AND account_id = ? "
        "AND (transfer_id = ? OR (transfer_id >= ? AND transfer_id < ?))",
        (balance.bucket, balance.account_id, transfer_id, f"{transfer_id}/", f"{transfer_id}0"),
    )
    return None if found is None else found[0]


def is_credit(connection: Connection, balance: Balance, transfer_id: str) -> bool:
    found = row(
        connection,
        "SELECT to_book = 'credit' FROM transfers WHERE bucket = ? AND account_id = ? AND transfer_id = ?",
        (balance.bucket, balance.account_id, transfer_id),
    )
    return found is not None and bool(found[0])
