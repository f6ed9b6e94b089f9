"""The store of when keys were last used."""

from collections.abc import Iterable, Sequence

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.sql import Connection, rows


def write_uses(connection: Connection, uses: Iterable[tuple[str, str, str, int]]) -> None:
    """Store when keys were used: account, kind, key and time (milliseconds since the epoch) of each. A time before the
    stored one changes nothing."""
    for account_id, kind, key_id, at in uses:
        key = find_key(connection, account_id)
        if key is not None:
            connection.execute(
                "INSERT INTO last_uses (bucket, account_id, kind, key_id, used_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (bucket, account_id, kind, key_id) DO UPDATE SET used_at = excluded.used_at "
                "WHERE last_uses.used_at < excluded.used_at",
                (*key, kind, key_id, at),
            )


def uses_of(connection: Connection, account_id: str, kind: str, key_ids: Sequence[str] | None = None) -> dict[str, int]:
    """When the account's keys of this kind were last used, by their ID; all of them, or only these few."""
    if key_ids is not None and not key_ids:
        return {}
    some = key_ids or ()
    places = ", ".join("?" for _ in some)
    only = f" AND key_id IN ({places})" if key_ids else ""
    found = rows(
        connection,
        f"SELECT key_id, used_at FROM last_uses WHERE {OF_ACCOUNT} AND kind = ?{only}",
        (*key_of(connection, account_id), kind, *some),
    )
    return dict(found)


def all_uses(connection: Connection, kind: str) -> dict[str, int]:
    """The same of all accounts."""
    return dict(
        rows_everywhere(connection, "SELECT key_id, used_at FROM last_uses WHERE bucket = ? AND kind = ?", kind)
    )
