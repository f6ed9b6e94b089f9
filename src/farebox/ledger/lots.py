"""Lots: what is left of each sum that came in, and the order in which it is spent. Part of posting."""

from typing import NamedTuple, TypeAlias

from farebox.ledger.rows import BalanceRow, part_id, transfer
from farebox.storage.sql import Connection, row, rows

SPENDING_ORDER = "priority, book = 'credit', expires_at IS NULL, expires_at, created_at, lot_id"
"""Lower priority first; then grants before bought credit; then the earliest expiry; then the oldest."""

_UNSPENT = (
    "SELECT lot_id, book, remaining FROM lots INDEXED BY lots_unspent WHERE bucket = ? AND account_id = ? "
    "AND spent = 0 "
)

Unspent: TypeAlias = list[tuple[str, str, int]]
"""Lots as (id, book, what is left), in the order in which they are to be drawn on."""


def all_unspent(connection: Connection, balance: BalanceRow) -> Unspent:
    return rows(connection, f"{_UNSPENT} ORDER BY {SPENDING_ORDER}", (balance.bucket, balance.account_id))


def bought_unspent(connection: Connection, balance: BalanceRow, first: str) -> Unspent:
    """Unspent lots of bought credit only; the lot `first` comes before the others."""
    return rows(
        connection,
        f"{_UNSPENT} AND book = 'credit' ORDER BY lot_id != ?, {SPENDING_ORDER}",
        (balance.bucket, balance.account_id, first),
    )


def draw(
    connection: Connection,
    balance: BalanceRow,
    unspent: Unspent,
    transfer_id: str,
    kind: str,
    to_book: str,
    amount: int,
    at: int,
    note: str = "",
) -> int:
    """Move `amount` out of the lots, one transfer per lot; return how many transfers that took."""
    left = amount
    for part, (lot_id, book, remaining) in enumerate(unspent):
        taken = min(left, remaining)
        take(connection, balance, lot_id, taken)
        transfer(connection, balance, part_id(transfer_id, part), kind, book, to_book, taken, lot_id, at, note)
        left -= taken
        if left == 0:
            return part + 1
    raise AssertionError(f"lots of {balance.account_id} hold {amount - left}, less than the {amount} to draw")


def expire_lots(connection: Connection, balance: BalanceRow, at: int) -> int:
    """Take the remainders of lots whose expiry has passed, as far as open holds do not reserve them; return the sum.

    The balance is changed but not saved.
    """
    due = rows(
        connection,
        f"{_UNSPENT} AND expires_at <= ? ORDER BY expires_at, lot_id",
        (balance.bucket, balance.account_id, at),
    )
    total = 0
    for lot_id, book, remaining in due:
        taken = min(remaining, balance.available)
        if taken == 0:
            break
        take(connection, balance, lot_id, taken)
        transfer_id = f"expiry:{lot_id}/{balance.version + 1}"  # a lot may expire in parts, as holds end
        transfer(connection, balance, transfer_id, "expiry", book, "expired", taken, lot_id, at)
        total += taken
    return total


def open_lot(
    connection: Connection,
    balance: BalanceRow,
    lot_id: str,
    book: str,
    amount: int,
    priority: int,
    expires_at: int | None,
    at: int,
) -> None:
    connection.execute(
        "INSERT INTO lots (bucket, account_id, lot_id, book, amount, remaining, priority, expires_at, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (balance.bucket, balance.account_id, lot_id, book, amount, amount, priority, expires_at, at),
    )


class LotRow(NamedTuple):
    """What is needed of a lot to give money back to it. Nano-dollars, milliseconds."""

    book: str
    lacks: int
    """How much has been taken out of it and not given back."""
    expires_at: int | None

    def expired(self, at: int) -> bool:
        return self.expires_at is not None and self.expires_at <= at


def read_lot(connection: Connection, balance: BalanceRow, lot_id: str) -> LotRow | None:
    found = row(
        connection,
        "SELECT book, amount - remaining, expires_at FROM lots WHERE bucket = ? AND account_id = ? AND lot_id = ?",
        (balance.bucket, balance.account_id, lot_id),
    )
    return None if found is None else LotRow(*found)


def put_back(connection: Connection, balance: BalanceRow, lot_id: str, amount: int) -> None:
    """Update the lot for a transfer that gives back to it; `amount` is above zero."""
    connection.execute(
        "UPDATE lots SET remaining = remaining + ?, spent = 0 WHERE bucket = ? AND account_id = ? AND lot_id = ?",
        (amount, balance.bucket, balance.account_id, lot_id),
    )


def take(connection: Connection, balance: BalanceRow, lot_id: str, amount: int) -> None:
    """Update the lot for a transfer out of it."""
    connection.execute(
        "UPDATE lots SET remaining = remaining - ?1, spent = CASE WHEN remaining = ?1 THEN 1 ELSE 0 END "
        "WHERE bucket = ?2 AND account_id = ?3 AND lot_id = ?4",
        (amount, balance.bucket, balance.account_id, lot_id),
    )
