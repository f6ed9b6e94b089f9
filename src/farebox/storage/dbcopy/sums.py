"""What two databases with the same content must agree on, without comparing them row by row."""

from typing import TypeAlias

from farebox.storage.sql import Connection, rows
from farebox.storage.tables import Table

Sums: TypeAlias = dict[str, int]
"""Name of the count or sum → its value."""

_OWN = ("bucket",)
"""Columns that a copy may change."""
_HALF = 2**32


def sums_of(connection: Connection, table: Table) -> Sums:
    """The number of rows and, for each column, the number of its values and their sum: of integers, or else of the
    lengths in bytes.

    For transfers, also by kind.
    """
    columns = [column for column in table.columns if column not in _OWN]
    terms = ["count(*)"]
    for column in columns:
        terms += [f"count({column})", *_halves(table, column)]
    (figures,) = rows(connection, f"SELECT {', '.join(terms)} FROM {table.name}")
    sums = {"rows": figures[0]}
    for place, column in enumerate(columns):
        with_value, high, low = figures[1 + 3 * place : 4 + 3 * place]
        sums[f"{column} present"] = with_value
        sums[f"sum of {column}" if column in table.whole_numbers else f"bytes of {column}"] = high * _HALF + low
    if table.in_buckets:
        sums["rows in the bucket of their account"] = _in_place(connection, table)
    if table.name == "transfers":
        sums |= {f"amount of {kind}": amount for kind, amount in _by_kind(connection)}
    return sums


def _halves(table: Table, column: str) -> tuple[str, str]:
    """The two halves of a sum: SQLite refuses sums above 2⁶³, and sums of times come near it."""
    if column not in table.whole_numbers:
        return "0", f"coalesce(sum(octet_length({column})), 0)"
    whole = f"CAST({column} AS BIGINT)"
    return f"coalesce(sum({whole} >> 32), 0)", f"coalesce(sum({whole} & 4294967295), 0)"


def _in_place(connection: Connection, table: Table) -> int:
    ((count,),) = rows(
        connection,
        f"SELECT count(*) FROM {table.name} t JOIN accounts a ON a.account_id = t.account_id AND a.bucket = t.bucket",
    )
    return int(count)


def _by_kind(connection: Connection) -> list[tuple[str, int]]:
    found = rows(connection, "SELECT kind, sum(amount) FROM transfers GROUP BY kind ORDER BY kind")
    return [(kind, int(amount)) for kind, amount in found]
