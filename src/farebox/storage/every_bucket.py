"""Statements about the accounts of all buckets, executed once for each bucket, because each bucket is on one node of
Citus.

A single statement for all would need every node. So the search for what is due leaves out the buckets of a node that is
away, until the next round; a report, which would be wrong without them, fails.
"""

from collections.abc import Iterator
from typing import Any

from farebox.storage.sql import Connection, NodeAway, rows

_USED = (
    "WITH RECURSIVE used (bucket) AS (SELECT min(bucket) FROM accounts UNION ALL "
    "SELECT (SELECT min(bucket) FROM accounts WHERE bucket > used.bucket) FROM used WHERE used.bucket IS NOT NULL) "
    "SELECT bucket FROM used WHERE bucket IS NOT NULL"
)
"""Takes one step in the index for each bucket, however many accounts there are."""


def buckets_in_use(connection: Connection) -> list[int]:
    """The buckets that have accounts, and the bucket of the operator's own rows; in order."""
    return sorted({0, *(bucket for (bucket,) in rows(connection, _USED))})


def rows_everywhere(connection: Connection, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
    """The rows of all buckets, one bucket after another; the bucket is the statement's first value.

    Raises NodeAway.
    """
    for bucket in buckets_in_use(connection):
        yield from rows(connection, sql, (bucket, *values))


def rows_at_hand(connection: Connection, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
    """The same without the buckets of a node that is away. Call it outside a transaction: the failed statement would
    abort it."""
    for bucket in buckets_in_use(connection):
        try:
            found = rows(connection, sql, (bucket, *values))
        except NodeAway:
            continue
        yield from found
