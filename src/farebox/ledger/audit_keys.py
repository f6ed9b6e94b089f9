"""The order in which the audit reads: bucket by bucket and, in each, page by page of the accounts that have rows in the
ledger."""

from collections.abc import Iterator
from typing import TypeAlias

from farebox.storage.every_bucket import buckets_in_use
from farebox.storage.sql import Connection, NodeUnavailable, row

Key: TypeAlias = tuple[int, str]
"""Bucket and account_id: the beginning of every key of an account's rows."""

WITHOUT_BALANCE = (
    "SELECT a.account_id FROM accounts a WHERE a.bucket = ?1 AND NOT EXISTS "
    "(SELECT 1 FROM balances b WHERE b.bucket = ?1 AND b.account_id = a.account_id)"
)
"""The accounts of a bucket that have no balance row."""

Page: TypeAlias = tuple[int, str, str]
"""Bucket, and the first and last of the accounts that are read together, because on Citus each statement takes a
millisecond, however little it finds."""

IN_PAGE = "bucket = ?1 AND account_id BETWEEN ?2 AND ?3"

ACCOUNTS, TRANSFERS = 100, 20_000
"""The most accounts and transfers on a page. An account with more transfers is a page of its own."""

_TABLES = ("balances", "transfers", "lots", "holds", "calls", "usage_hours", "app_holds", "budgets")


def _next_account(after: str) -> str:
    """Finds the next account with one step in every table, however many rows an account has."""
    steps = " UNION ALL ".join(
        f"SELECT * FROM (SELECT account_id FROM {table} WHERE bucket = ?1 AND account_id > {after} "
        f"ORDER BY account_id LIMIT 1) of_{table}"
        for table in _TABLES
    )
    return f"SELECT min(account_id) FROM ({steps}) found"


_WALK = (
    f"WITH RECURSIVE walk (account_id) AS (SELECT ({_next_account('?2')}) "
    f"UNION ALL SELECT ({_next_account('walk.account_id')}) FROM walk WHERE account_id IS NOT NULL) "
    "SELECT account_id FROM walk WHERE account_id IS NOT NULL LIMIT ?3"
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
    except NodeUnavailable:
        pass  # what can be read is checked anyway
    return sorted(buckets)


def pages(connection: Connection, bucket: int) -> Iterator[list[str]]:
    """Every account of the bucket that has rows anywhere in the ledger, in order, page by page."""
    after = ""
    while found := [account_id for (account_id,) in connection.execute(_WALK, (bucket, after, ACCOUNTS))]:
        after = found[-1]
        of_page = f"SELECT account_id, version FROM balances WHERE {IN_PAGE}"
        transfers = dict(connection.execute(of_page, (bucket, found[0], after)))
        page, many = list[str](), 0
        for account_id in found:
            many += transfers.get(account_id, 0)
            if page and many > TRANSFERS:
                yield page
                page, many = [], transfers.get(account_id, 0)
            page.append(account_id)
        yield page
