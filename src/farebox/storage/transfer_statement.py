"""Reads of an account's money: the statement of transfers, and the lots of its credit."""

from dataclasses import dataclass

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, key_of
from farebox.storage.sql import Connection, row, rows

_SPENDING_ORDER = "priority, book = 'credit', expires_at IS NULL, expires_at, created_at, lot_id"
"""The ledger's order (ledger.posting)."""
NO_CHARGE = "kind <> 'charge'"
"""The transfers that can be found by ID: charges are not in the index transfers_by_id."""


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One transfer of the ledger, as it was written. `amount` in nano-dollars, `at` in milliseconds."""

    version: int
    transfer_id: str
    kind: str
    from_book: str
    to_book: str
    amount: int
    lot_id: str | None
    at: int
    note: str | None


@dataclass(frozen=True, slots=True)
class TransferFilter:
    """Which transfers are wanted: of one kind, posted in [start, end), milliseconds since the Unix epoch. None: any."""

    kind: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class StatementLot:
    """A lot of credit. Amounts in nano-dollars, times in milliseconds since the Unix epoch; `remaining` includes the
    amounts that open calls hold."""

    lot_id: str
    book: str
    amount: int
    remaining: int
    expires_at: int | None
    created_at: int


def list_transfers(
    connection: Connection, account_id: str, offset: int, limit: int, wanted: TransferFilter
) -> tuple[list[TransferRow], int]:
    """The account's transfers, newest first, and how many there are in all."""
    key = key_of(connection, account_id)
    latest = row(connection, f"SELECT version FROM balances WHERE {OF_ACCOUNT}", key)
    total = int(latest[0]) if latest else 0
    columns = "SELECT version, transfer_id, kind, from_book, to_book, amount, lot_id, at, note FROM transfers"
    if wanted == TransferFilter():  # versions have no gaps: no need to count or skip rows
        found = rows(
            connection,
            f"{columns} WHERE {OF_ACCOUNT} AND version <= ? ORDER BY version DESC LIMIT ?",
            (*key, total - offset, limit),
        )
        return [TransferRow(*fields) for fields in found], total
    where, values = _where(key, wanted)
    counted = row(connection, f"SELECT count(*) FROM transfers WHERE {where}", values)
    found = rows(
        connection, f"{columns} WHERE {where} ORDER BY version DESC LIMIT ? OFFSET ?", (*values, limit, offset)
    )
    return [TransferRow(*fields) for fields in found], int(counted[0]) if counted else 0


def _where(key: AccountKey, wanted: TransferFilter) -> tuple[str, tuple[str | int, ...]]:
    parts: list[str] = [OF_ACCOUNT]
    values: list[str | int] = [*key]
    for sql, value in (("kind = ?", wanted.kind), ("at >= ?", wanted.start), ("at < ?", wanted.end)):
        if value is not None:
            parts.append(sql)
            values.append(value)
    return " AND ".join(parts), tuple(values)


def list_lots(
    connection: Connection, account_id: str, offset: int, limit: int, *, spent: bool
) -> tuple[list[StatementLot], int]:
    """The account's lots in the order in which they are spent, and how many there are; with `spent`, including used-up
    lots."""
    where = OF_ACCOUNT if spent else f"{OF_ACCOUNT} AND spent = 0"
    key = key_of(connection, account_id)
    counted = row(connection, f"SELECT count(*) FROM lots WHERE {where}", key)
    found = rows(
        connection,
        f"SELECT lot_id, book, amount, remaining, expires_at, created_at FROM lots WHERE {where} "
        f"ORDER BY {_SPENDING_ORDER} LIMIT ? OFFSET ?",
        (*key, limit, offset),
    )
    return [StatementLot(*fields) for fields in found], int(counted[0]) if counted else 0
