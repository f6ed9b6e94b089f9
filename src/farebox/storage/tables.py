"""The tables as the schema creates them: all stored data of an installation."""

from dataclasses import dataclass
from functools import lru_cache

from farebox.storage.sql import Connection, rows
from farebox.storage.sqlite import SqliteConnection, migrate


@dataclass(frozen=True, slots=True)
class Table:
    """A table. All have a primary key; its columns, in the order in which rows are sorted."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    whole_numbers: tuple[str, ...]
    """The columns that hold integers; all others hold text or bytes."""

    @property
    def in_buckets(self) -> bool:
        """Whether its rows have the bucket of their account."""
        return "bucket" in self.columns and "account_id" in self.columns


@lru_cache
def tables() -> tuple[Table, ...]:
    """Every table of the schema, by name. Read from an empty database, so that none is forgotten."""
    connection = SqliteConnection(":memory:")
    migrate(connection)
    names = rows(
        connection, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1"
    )
    found = tuple(_table(connection, name) for (name,) in names)
    connection.close()
    return found


def count_rows(connection: Connection, table: Table) -> int:
    """How many rows the table has."""
    ((count,),) = rows(connection, f"SELECT count(*) FROM {table.name}")
    return int(count)


def _table(connection: SqliteConnection, name: str) -> Table:
    described = rows(connection, "SELECT name, type, pk FROM pragma_table_info(?) ORDER BY cid", (name,))
    key = sorted((place, column) for column, _, place in described if place)
    return Table(
        name=name,
        columns=tuple(column for column, _, _ in described),
        key=tuple(column for _, column in key),
        whole_numbers=tuple(column for column, kind, _ in described if kind in ("INTEGER", "BIGINT")),
    )
