"""The store of an account's own DLP profiles."""

from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class DlpProfileRow:
    """A profile as stored. `config` is JSON: http.control.dlp_profiles gives it its fields."""

    account_id: str
    profile_id: str
    config: bytes
    created_at: int
    modified_at: int


_COLUMNS = "account_id, profile_id, config, created_at, modified_at"


def find_profile(connection: Connection, account_id: str, profile_id: str) -> DlpProfileRow | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM dlp_profiles WHERE {OF_ACCOUNT} AND profile_id = ?",
        (*key_of(connection, account_id), profile_id),
    )
    return None if found is None else _profile(found)


def list_profiles(connection: Connection, account_id: str) -> list[DlpProfileRow]:
    """The account's, the oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM dlp_profiles WHERE {OF_ACCOUNT} ORDER BY created_at, profile_id",
        key_of(connection, account_id),
    )
    return [_profile(fields) for fields in found]


def put_profile(connection: Connection, profile: DlpProfileRow) -> None:
    """Create the profile, or replace what it looks for; nothing if there is no such account."""
    key = find_key(connection, profile.account_id)
    if key is None:
        return
    note_change(connection, profile.account_id)
    connection.execute(
        f"INSERT INTO dlp_profiles (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, profile_id) "
        "DO UPDATE SET config = excluded.config, modified_at = excluded.modified_at",
        (*key, profile.profile_id, profile.config.decode(), profile.created_at, profile.modified_at),
    )


def delete_profile(connection: Connection, account_id: str, profile_id: str) -> None:
    note_change(connection, account_id)
    connection.execute(
        f"DELETE FROM dlp_profiles WHERE {OF_ACCOUNT} AND profile_id = ?",
        (*key_of(connection, account_id), profile_id),
    )


def _profile(fields: tuple[Any, ...]) -> DlpProfileRow:
    account_id, profile_id, config, created_at, modified_at = fields
    return DlpProfileRow(account_id, profile_id, str(config).encode(), created_at, modified_at)
