"""Stored provider objects: for each ID that a provider keeps under an operator's key, the account it belongs to.

An ID is known only to the gateway through which it was created. An ID that was never stored, has been deleted or has
expired belongs to no account.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row, rows

_STEP = 500
"""Rows that are removed in one transaction."""
_TOGETHER = 64
"""Rows that are written by one statement."""


class StoredObject(msgspec.Struct, frozen=True):
    """An object at a provider. Times in milliseconds."""

    account_id: str
    gateway_id: str
    provider: str
    kind: str
    """One of providers.objects."""
    object_id: str
    """The provider's ID."""
    key_id: str
    """ID of the operator's key that it was created with."""
    created_at: int
    expires_at: int | None = None
    """When it is forgotten."""
    size: int = 0
    content: bytes | None = None
    """The object as the provider last described it; None: it is in no list."""


_OF_KIND = f"{OF_ACCOUNT} AND gateway_id = ? AND provider = ? AND kind = ?"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "account_id, gateway_id, provider, kind, object_id, key_id, created_at, expires_at, size, content"


def keep_objects(connection: Connection, objects: Iterable[StoredObject]) -> None:
    """Store which account these belong to. An object that is already known is replaced, except for its creation
    time."""
    by_bucket: dict[int, dict[tuple[object, ...], tuple[object, ...]]] = {}
    for kept in objects:
        key = find_key(connection, kept.account_id)
        if key is not None:
            named = (*key, kept.gateway_id, kept.provider, kept.kind, kept.object_id)
            values = (*named, kept.key_id, kept.created_at, kept.expires_at, kept.size, kept.content)
            by_bucket.setdefault(key.bucket, {})[named] = values  # of two that are the same, the last is stored
    for found in by_bucket.values():
        rest = list(found.values())
        while rest:
            some, rest = rest[:_TOGETHER], rest[_TOGETHER:]
            connection.execute(
                f"INSERT INTO kept_objects (bucket, {_COLUMNS}) VALUES {', '.join(_ROW for _ in some)} "
                "ON CONFLICT (bucket, account_id, gateway_id, provider, kind, object_id) DO UPDATE SET "
                "expires_at = excluded.expires_at, size = excluded.size, content = excluded.content",
                tuple(chain.from_iterable(some)),
            )


def find_object(
    connection: Connection, account_id: str, gateway_id: str, provider: str, kind: str, object_id: str, at: int
) -> StoredObject | None:
    """The object; None if it is not this gateway's."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM kept_objects WHERE {_OF_KIND} AND object_id = ? "
        "AND (expires_at IS NULL OR expires_at > ?)",
        (*key_of(connection, account_id), gateway_id, provider, kind, object_id, at),
    )
    return None if found is None else _object(found)


def forget_object(connection: Connection, kept: StoredObject) -> None:
    """Remove the object: it no longer belongs to the account."""
    connection.execute(
        f"DELETE FROM kept_objects WHERE {_OF_KIND} AND object_id = ?",
        (*key_of(connection, kept.account_id), kept.gateway_id, kept.provider, kept.kind, kept.object_id),
    )


def list_objects(
    connection: Connection, account_id: str, gateway_id: str, provider: str, kind: str, at: int
) -> list[StoredObject]:
    """All of a gateway's objects that are in lists, oldest first; their number is bounded for each account and kind."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM kept_objects WHERE {_OF_KIND} AND content IS NOT NULL "
        "AND (expires_at IS NULL OR expires_at > ?) ORDER BY created_at, object_id",
        (*key_of(connection, account_id), gateway_id, provider, kind, at),
    )
    return [_object(fields) for fields in found]


def count_objects(connection: Connection, account_id: str, kind: str, at: int) -> tuple[int, int]:
    """How many objects of a kind the account has at all providers together, and their size in bytes."""
    found = row(
        connection,
        f"SELECT count(*), coalesce(sum(size), 0) FROM kept_objects WHERE {OF_ACCOUNT} AND kind = ? "
        "AND (expires_at IS NULL OR expires_at > ?)",
        (*key_of(connection, account_id), kind, at),
    )
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


def accounts_with_expired(connection: Connection, at: int) -> list[str]:
    """Accounts that have objects which have expired."""
    found = rows_available(
        connection,
        "SELECT DISTINCT account_id FROM kept_objects INDEXED BY kept_objects_expiring "
        "WHERE bucket = ? AND expires_at IS NOT NULL AND expires_at <= ?",
        at,
    )
    return [str(account_id) for (account_id,) in found]


def accounts_beyond(connection: Connection, most: int) -> list[str]:
    """Accounts that have more than `most` objects that expire. Walks an index of all of these."""
    found = rows_available(
        connection,
        "SELECT account_id FROM kept_objects WHERE bucket = ? AND expires_at IS NOT NULL "
        "GROUP BY account_id HAVING count(*) > ?",
        most,
    )
    return [str(account_id) for (account_id,) in found]


def expiry_beyond(connection: Connection, account_id: str, most: int) -> int | None:
    """The expiry of the first object beyond the `most` that expire last: that object and those that expire before it
    are too many."""
    found = row(
        connection,
        f"SELECT expires_at FROM kept_objects WHERE {OF_ACCOUNT} AND expires_at IS NOT NULL "
        "ORDER BY expires_at DESC LIMIT 1 OFFSET ?",
        (*key_of(connection, account_id), most),
    )
    return None if found is None else int(found[0])


def forget_expired_objects(connection: Connection, account_id: str, at: int) -> bool:
    """Remove some of the account's expired objects; returns whether there may be more."""
    key = key_of(connection, account_id)
    found = rows(
        connection,
        "SELECT gateway_id, provider, kind, object_id FROM kept_objects "
        f"WHERE {OF_ACCOUNT} AND expires_at <= ? LIMIT ?",
        (*key, at, _STEP),
    )
    for of_object in found:
        connection.execute(
            f"DELETE FROM kept_objects WHERE {_OF_KIND} AND object_id = ? AND expires_at <= ?", (*key, *of_object, at)
        )
    return len(found) == _STEP


def _object(fields: Sequence[Any]) -> StoredObject:
    content: bytes | None = None if fields[-1] is None else bytes(fields[-1])
    return msgspec.structs.replace(StoredObject(*fields), content=content)
