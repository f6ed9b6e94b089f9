"""What the audit goes through: the buckets, and in each the accounts that have rows anywhere in the ledger."""

from collections.abc import Iterator
from typing import TypeAlias

from farebox.storage.every_bucket import buckets_in_use
from farebox.storage.sql import Connection, NodeAway, row

Key: TypeAlias = tuple[int, str]
"""Bucket and account_id: the beginning of every key of an account's rows."""

WITHOUT_BALANCE = (
    "SELECT a.account_id FROM accounts a WHERE a.bucket = ?1 AND NOT EXISTS "
    "(SELECT 1 FROM balances b WHERE b.bucket = ?1 AND b.account_id = a.account_id)"
)
"""The accounts of a bucket that have no balance row."""

_TABLES = ("balances", "transfers", "lots", "holds", "calls", "usage_hours", "app_holds", "budgets")

_NEXT_ACCOUNT = " UNION ALL ".join(
    f"SELECT * FROM (SELECT account_id FROM {table} WHERE bucket = ?1 AND account_id > ?2 "
    f"ORDER BY account_id LIMIT 1) of_{table}"
    for table in _TABLES
)

_NEXT_BUCKET = {table: f"SELECT min(bucket) FROM {table} WHERE bucket > ?" for table in _TABLES}


def every_bucket(connection: Connection) -> list[int]:
    """The buckets of all accounts and, if every node can be asked, those that have rows of no account."""
    buckets = set(buckets_in_use(connection))
    try:
        for sql in _NEXT_BUCKET.values():
            bucket: int | None = -1
            while bucket is not None:
                found = row(connection, sql, (bucket,))
                bucket = None if found is None else found[0]
                if bucket is not None:
                    buckets.add(bucket)
    except NodeAway:
        pass  # what can be read is checked all the same
    return sorted(buckets)


def keys(connection: Connection, bucket: int) -> Iterator[Key]:
    """Every account of the bucket that has rows anywhere in the ledger, in order; each is found by one step in every
    table."""
    account_id = ""
    while True:
        found = row(connection, f"SELECT min(account_id) FROM ({_NEXT_ACCOUNT}) found", (bucket, account_id))
        if found is None or found[0] is None:
            return
        account_id = found[0]
        yield bucket, account_id
