"""Moves an account to another bucket: all its rows, in the caller's transaction.

Transactions that write take turns, so none changes the account's rows meanwhile. Only batches of calls (ledger.lanes)
may run at the same time: they lock the account's balance, and wait for the move. Afterwards they find no balance in the
former bucket, and leave what they were to do for the account to a job, which looks the bucket up.
"""

from farebox.storage.config import note_change
from farebox.storage.sql import Connection, rows
from farebox.storage.tables import Table, tables

LOCK = "UPDATE balances SET version = version WHERE bucket = ? AND account_id = ?"
"""A write, because moves of shards wait for writes (ledger.rows)."""


def lock_rows(connection: Connection, bucket: int, account_id: str) -> dict[Table, int]:
    """How many rows the account has in each table that has any. They stay as they are until the transaction ends."""
    connection.execute(LOCK, (bucket, account_id))
    counts = dict(rows(connection, count_all(), (bucket, account_id)))
    return {table: counts[table.name] for table in moved_tables() if counts[table.name]}


def move_rows(connection: Connection, account_id: str, bucket: int, to: int, locked: dict[Table, int]) -> None:
    """Move the rows that `lock_rows` found in `bucket`."""
    for table, expected in locked.items():
        connection.execute(copy(table), (to, bucket, account_id))
        assert connection.changes() == expected, f"{table.name} was written to while the account was moved"
        connection.execute(delete(table), (bucket, account_id))
    connection.execute("UPDATE accounts SET bucket = ? WHERE account_id = ?", (to, account_id))
    note_change(connection, account_id)


def moved_tables() -> list[Table]:
    return [table for table in tables() if table.in_buckets and table.name != "accounts"]


def count_all() -> str:
    """One statement for all tables: on Citus each statement takes at least a millisecond."""
    return " UNION ALL ".join(
        f"SELECT '{table.name}', count(*) FROM {table.name} WHERE bucket = ?1 AND account_id = ?2"
        for table in moved_tables()
    )


def copy(table: Table) -> str:
    others = ", ".join(column for column in table.columns if column != "bucket")
    return (
        f"INSERT INTO {table.name} (bucket, {others}) SELECT CAST(? AS INTEGER), {others} FROM {table.name} "
        "WHERE bucket = ? AND account_id = ?"
    )


def delete(table: Table) -> str:
    return f"DELETE FROM {table.name} WHERE bucket = ? AND account_id = ?"
