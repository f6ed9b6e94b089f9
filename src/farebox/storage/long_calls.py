"""The store of long calls: work at providers that continues after its request was answered, and the worker that looks
at it.

A worker claims a due call by a lease: the claim sets `next_at` to the end of the lease and increments `looks`. The
worker's later writes have an effect only if no other worker has claimed the call since.
"""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row, rows


class LongCall(msgspec.Struct, frozen=True):
    """A long call that has not ended. Times in milliseconds."""

    account_id: str
    log_id: str
    gateway_id: str
    provider: str
    kind: str
    object_id: str
    """The provider's ID; empty while the provider is being asked."""
    key_id: str
    state: str
    """asked, running."""
    work: bytes
    created_at: int
    ends_at: int
    next_at: int
    looks: int = 0


_COLUMNS: Final = (
    "account_id, log_id, gateway_id, provider, kind, object_id, key_id, state, work, created_at, ends_at, next_at, "
    "looks"
)
_KEY: Final = f"{OF_ACCOUNT} AND log_id = ?"


def add_long_call(connection: Connection, call: LongCall) -> None:
    """Store a new long call; storing it again changes nothing."""
    key = find_key(connection, call.account_id)
    if key is not None:
        connection.execute(
            f"INSERT INTO long_calls (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                *key,
                call.log_id,
                call.gateway_id,
                call.provider,
                call.kind,
                call.object_id,
                call.key_id,
                call.state,
                call.work,
                call.created_at,
                call.ends_at,
                call.next_at,
                call.looks,
            ),
        )


def run_long_call(
    connection: Connection, account_id: str, log_id: str, *, object_id: str, key_id: str, next_at: int
) -> bool:
    """Note that the provider has accepted the call; returns whether its state was still `asked`."""
    connection.execute(
        f"UPDATE long_calls SET state = 'running', object_id = ?, key_id = ?, next_at = ? WHERE {_KEY} "
        "AND state = 'asked'",
        (object_id, key_id, next_at, *key_of(connection, account_id), log_id),
    )
    return connection.changes() == 1


def find_long_call(connection: Connection, account_id: str, provider: str, object_id: str) -> LongCall | None:
    """The long call of the provider's object, unless it has ended."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM long_calls INDEXED BY long_calls_of_object "
        f"WHERE {OF_ACCOUNT} AND provider = ? AND object_id = ?",
        (*key_of(connection, account_id), provider, object_id),
    )
    return None if found is None else _call(found)


def due_long_calls(connection: Connection, at: int, limit: int) -> list[LongCall]:
    """Due calls, the most overdue of each bucket first."""
    found = rows_available(
        connection,
        f"SELECT {_COLUMNS} FROM long_calls INDEXED BY long_calls_due WHERE bucket = ? "
        "AND next_at <= ? ORDER BY next_at LIMIT ?",
        at,
        limit,
    )
    return sorted(map(_call, found), key=lambda call: call.next_at)[:limit]


def open_long_calls(connection: Connection, account_id: str, kind: str) -> int:
    """How many calls of a kind the account has that have not ended."""
    found = row(
        connection,
        f"SELECT count(*) FROM long_calls INDEXED BY long_calls_of_object WHERE {OF_ACCOUNT} AND kind = ?",
        (*key_of(connection, account_id), kind),
    )
    return 0 if found is None else int(found[0])


def claim_long_call(connection: Connection, call: LongCall, until: int) -> LongCall | None:
    """Claim the call as it was read; None if another process has it, or it is no longer due."""
    connection.execute(
        f"UPDATE long_calls SET looks = looks + 1, next_at = ? WHERE {_KEY} AND next_at = ? AND looks = ?",
        (until, *key_of(connection, call.account_id), call.log_id, call.next_at, call.looks),
    )
    return replace(call, looks=call.looks + 1, next_at=until) if connection.changes() else None


def postpone_long_call(connection: Connection, claimed: LongCall, next_at: int) -> None:
    """The work continues: look again at `next_at`."""
    connection.execute(
        f"UPDATE long_calls SET next_at = ? WHERE {_KEY} AND looks = ?",
        (next_at, *key_of(connection, claimed.account_id), claimed.log_id, claimed.looks),
    )


def hasten_long_call(connection: Connection, call: LongCall, at: int) -> None:
    """Make the call due at `at`, because a sign of it was seen, unless a worker is looking at it."""
    connection.execute(
        f"UPDATE long_calls SET next_at = ? WHERE {_KEY} AND next_at = ? AND looks = ? AND next_at > ?",
        (at, *key_of(connection, call.account_id), call.log_id, call.next_at, call.looks, at),
    )


def end_long_call(connection: Connection, account_id: str, log_id: str) -> None:
    """Delete the call: its hold has ended, which records the cost."""
    connection.execute(f"DELETE FROM long_calls WHERE {_KEY}", (*key_of(connection, account_id), log_id))


def list_long_calls(connection: Connection, account_id: str) -> list[LongCall]:
    """An account's long calls that have not ended."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM long_calls INDEXED BY long_calls_of_object WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    return [_call(fields) for fields in found]


def _call(fields: tuple[Any, ...]) -> LongCall:
    call = LongCall(*fields)
    return replace(call, work=bytes(call.work))
