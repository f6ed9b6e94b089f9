"""The key of an account: its bucket and its ID, which every key of the account's tables begins with.

A statement on an account's tables names the bucket as a value, because only then does Citus know which node to send it
to. A subquery or a join that finds the bucket goes to every node and fails if any is unavailable. Reads look it
up once for all connections of a process, and again when the account has changed (runtime.configuration). A transaction
that writes looks it up itself: accounts are moved between such transactions, never during one (storage.bucket_moves).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from farebox.storage.buckets import OPERATOR
from farebox.storage.sql import Connection, row

NO_BUCKET = -1
"""Stands for the bucket of an account that does not exist: no row has it."""

T = TypeVar("T")

OF_ACCOUNT = "bucket = ? AND account_id = ?"
"""The condition that takes a key as its values."""


class AccountKey(NamedTuple):
    """In the order of the columns: `(*key, …)` are the values of a statement."""

    bucket: int
    account_id: str


def find_key(connection: Connection, account_id: str) -> AccountKey | None:
    """The account's key; None if there is no such account."""
    if account_id == OPERATOR:
        return AccountKey(0, OPERATOR)
    known = connection.buckets
    bucket = known.get(account_id)
    if bucket is None:
        read_at = known.forgotten
        found = row(connection, "SELECT bucket FROM accounts WHERE account_id = ?", (account_id,))
        if found is None:
            return None
        bucket = int(found[0])
        known.remember({account_id: bucket}, read_at=read_at)
    return AccountKey(bucket, account_id)


def key_of(connection: Connection, account_id: str) -> AccountKey:
    """The account's key; if there is no such account, a key that no row has. For reads, updates and deletions."""
    return find_key(connection, account_id) or AccountKey(NO_BUCKET, account_id)


def by_bucket(connection: Connection, items: Iterable[T], account_of: Callable[[T], str]) -> dict[int, list[T]]:
    """The items grouped by the bucket of their account. Write each group in a transaction of its own: a transaction
    that writes on several nodes of Citus is a two-phase commit, and fails if any of them is unavailable."""
    found: dict[int, list[T]] = {}
    for item in items:
        found.setdefault(key_of(connection, account_of(item)).bucket, []).append(item)
    return found


def was_moved(connection: Connection, account_id: str) -> bool:
    """Whether the account is no longer in the bucket that this process knows. For reads that have found nothing there:
    another process may have moved it a moment ago."""
    known = connection.buckets.pop(account_id, None)
    return known is not None and key_of(connection, account_id).bucket != known
