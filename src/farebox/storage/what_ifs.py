"""The store of what-ifs: an account's latest replay of past calls, and its progress."""

from typing import Any, NamedTuple

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.sql import Connection, row


class WhatIfRow(NamedTuple):
    """A what-if. Times in milliseconds."""

    what_if_id: str
    scenario: str
    state: str
    replayed: int
    total: int
    report: str | None
    started_at: int
    seen_at: int


_COLUMNS = ", ".join(WhatIfRow._fields)


def find_what_if(connection: Connection, account_id: str) -> WhatIfRow | None:
    found: tuple[Any, ...] | None = row(
        connection, f"SELECT {_COLUMNS} FROM what_ifs WHERE {OF_ACCOUNT}", key_of(connection, account_id)
    )
    return None if found is None else WhatIfRow(*found)


def begin_what_if(
    connection: Connection, account_id: str, what_if_id: str, scenario: str, at: int, *, gone_before: int
) -> bool:
    """Replace the account's latest what-if with a new one, unless it is still running; returns whether it was replaced.
    One that was last seen before `gone_before` is no longer running."""
    key = find_key(connection, account_id)
    latest = find_what_if(connection, account_id)
    if key is None or (latest is not None and latest.state == "running" and latest.seen_at >= gone_before):
        return False
    connection.execute(f"DELETE FROM what_ifs WHERE {OF_ACCOUNT}", key)
    connection.execute(
        f"INSERT INTO what_ifs (bucket, account_id, {_COLUMNS}) VALUES (?, ?, ?, ?, 'running', 0, 0, NULL, ?, ?)",
        (*key, what_if_id, scenario, at, at),
    )
    return True


def renew_what_if(
    connection: Connection, account_id: str, what_if_id: str, *, replayed: int, total: int, at: int
) -> bool:
    """Store its progress; returns False if it was canceled, or another has taken its place."""
    connection.execute(
        f"UPDATE what_ifs SET replayed = ?, total = ?, seen_at = ? WHERE {OF_ACCOUNT} AND what_if_id = ? "
        "AND state = 'running'",
        (replayed, total, at, *key_of(connection, account_id), what_if_id),
    )
    return connection.changes() == 1


def end_what_if(
    connection: Connection, account_id: str, what_if_id: str, state: str, report: str | None = None
) -> bool:
    """End it, unless it has already ended; returns whether it was running."""
    connection.execute(
        f"UPDATE what_ifs SET state = ?, report = ? WHERE {OF_ACCOUNT} AND what_if_id = ? AND state = 'running'",
        (state, report, *key_of(connection, account_id), what_if_id),
    )
    return connection.changes() == 1
