"""Statements about the accounts of all buckets, executed once for each bucket, because each bucket is on one node of
Citus.

A single statement for all would need every node. So the search for what is due leaves out the buckets of an unavailable
node until the next round; a list says that something is missing (`list_available`); a report, which would be wrong
without them, fails.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from farebox.storage.sql import Connection, NodeUnavailable, rows

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

    Raises NodeUnavailable.
    """
    for bucket in buckets_in_use(connection):
        yield from rows(connection, sql, (bucket, *values))


def rows_available(connection: Connection, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
    """The same without the buckets of an unavailable node. Call it outside a transaction: the failed statement would
    abort it."""
    for found in _by_bucket(connection, sql, values):
        yield from found or ()


class AvailableRows(NamedTuple):
    """The rows of the available buckets, and whether these are all buckets."""

    rows: list[tuple[Any, ...]]
    complete: bool


def list_available(connection: Connection, sql: str, *values: object) -> AvailableRows:
    """Like `rows_available`, for lists that have to say that something is missing."""
    found = list(_by_bucket(connection, sql, values))
    return AvailableRows([fields for some in found for fields in some or ()], None not in found)


def _by_bucket(connection: Connection, sql: str, values: tuple[object, ...]) -> Iterator[list[tuple[Any, ...]] | None]:
    """The rows of each bucket; None: its node is unavailable."""
    for bucket in buckets_in_use(connection):
        try:
            found = rows(connection, sql, (bucket, *values))
        except NodeUnavailable:
            yield None
        else:
            yield found
