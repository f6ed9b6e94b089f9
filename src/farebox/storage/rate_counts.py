"""The store of call counts per gateway and window, across all processes. PostgreSQL only: SQLite has one process."""

from collections.abc import Sequence

from farebox.storage.sql import Connection, rows

Count = tuple[str, str, int, int, int]
"""Account, gateway, length of the window in milliseconds, number of the window, calls."""


def add_counts(connection: Connection, counts: Sequence[Count]) -> list[Count]:
    """Add this many calls to each window. Returns the sums of these windows and of the previous ones."""
    columns = tuple(list(column) for column in zip(*counts, strict=True))
    connection.execute(
        "INSERT INTO rate_counts (account_id, gateway_id, length, number, calls) "
        "SELECT * FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[]) "
        "ON CONFLICT (account_id, gateway_id, length, number) DO UPDATE SET calls = rate_counts.calls + excluded.calls",
        columns,
    )
    found = rows(
        connection,
        "SELECT r.account_id, r.gateway_id, r.length, r.number, r.calls "
        "FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[]) AS w (account_id, gateway_id, length, number) "
        "JOIN rate_counts r ON r.account_id = w.account_id AND r.gateway_id = w.gateway_id "
        "AND r.length = w.length AND r.number IN (w.number, w.number - 1)",
        columns[:4],
    )
    return [tuple(fields) for fields in found]


def forget_windows(connection: Connection, at: int) -> None:
    """Delete windows that ended before the one before now."""
    connection.execute("DELETE FROM rate_counts WHERE (number + 3) * length < ?", (at,))
