"""The store of destinations, to which accounts have their logs pushed: one for each account.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass, field

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, key_of
from farebox.storage.sql import Connection, row


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A destination as stored. `config` is JSON (log_destination.LogDestination) and contains only what may be
    shown."""

    config: str
    sealed: bytes = field(repr=False)
    """Its secrets, encrypted (runtime.gateway_secrets)."""
    created_at: int
    modified_at: int


_COLUMNS = "config, sealed, created_at, modified_at"


def find_destination(connection: Connection, account_id: str) -> DestinationRow | None:
    found = row(
        connection, f"SELECT {_COLUMNS} FROM log_destinations WHERE {OF_ACCOUNT}", key_of(connection, account_id)
    )
    if found is None:
        return None
    config, sealed, created_at, modified_at = found
    return DestinationRow(config, bytes(sealed), created_at, modified_at)


def put_destination(connection: Connection, key: AccountKey, destination: DestinationRow) -> None:
    """Store the account's destination, in place of the previous one."""
    connection.execute(
        f"INSERT INTO log_destinations (bucket, account_id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET config = excluded.config, sealed = excluded.sealed, "
        "modified_at = excluded.modified_at",
        (*key, destination.config, destination.sealed, destination.created_at, destination.modified_at),
    )


def delete_destination(connection: Connection, account_id: str) -> None:
    connection.execute(f"DELETE FROM log_destinations WHERE {OF_ACCOUNT}", key_of(connection, account_id))
