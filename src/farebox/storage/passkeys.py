"""The store of passkeys: public keys by which people sign in, stored by e-mail address.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from typing import Any

from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    credential_id: bytes
    passkey_id: str
    """Its ID in lists."""
    email: str
    name: str
    public_key: bytes
    """A COSE key."""
    sign_count: int
    """0 if the authenticator does not count."""
    created_at: int
    used_at: int | None = None


_FIELDS = "credential_id, passkey_id, email, name, public_key, sign_count, created_at, used_at"


def add(connection: Connection, passkey: Passkey) -> bool:
    """Store a passkey; returns False if the credential is already known."""
    connection.execute(
        f"INSERT INTO passkeys ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            passkey.credential_id,
            passkey.passkey_id,
            passkey.email,
            passkey.name,
            passkey.public_key,
            passkey.sign_count,
            passkey.created_at,
            passkey.used_at,
        ),
    )
    return connection.changes() == 1


def find(connection: Connection, credential_id: bytes) -> Passkey | None:
    found = row(connection, f"SELECT {_FIELDS} FROM passkeys WHERE credential_id = ?", (credential_id,))
    return None if found is None else _passkey(found)


def list_of(connection: Connection, email: str) -> list[Passkey]:
    """A person's passkeys, oldest first."""
    found = rows(
        connection, f"SELECT {_FIELDS} FROM passkeys WHERE email = ? ORDER BY created_at, passkey_id", (email,)
    )
    return [_passkey(fields) for fields in found]


def note_use(connection: Connection, used: Passkey, sign_count: int, at: int) -> bool:
    """Record a use, with the new count. Returns False if the passkey was removed or used in the meantime, because the
    stored count is then not the one that this use was compared with."""
    connection.execute(
        "UPDATE passkeys SET sign_count = ?, used_at = ? WHERE credential_id = ? AND sign_count = ?",
        (sign_count, at, used.credential_id, used.sign_count),
    )
    return connection.changes() == 1


def rename(connection: Connection, email: str, passkey_id: str, name: str) -> bool:
    """Rename a passkey; returns whether there is one."""
    connection.execute("UPDATE passkeys SET name = ? WHERE email = ? AND passkey_id = ?", (name, email, passkey_id))
    return connection.changes() == 1


def remove(connection: Connection, email: str, passkey_id: str) -> bool:
    """Delete a passkey; returns whether there was one."""
    connection.execute("DELETE FROM passkeys WHERE email = ? AND passkey_id = ?", (email, passkey_id))
    return connection.changes() == 1


def remove_all(connection: Connection, email: str) -> None:
    """Delete all passkeys of a person who is no longer a member of anything."""
    connection.execute("DELETE FROM passkeys WHERE email = ?", (email,))


def _passkey(fields: tuple[Any, ...]) -> Passkey:
    credential_id, passkey_id, email, name, public_key, sign_count, created_at, used_at = fields
    return Passkey(
        credential_id=bytes(credential_id),
        passkey_id=passkey_id,
        email=email,
        name=name,
        public_key=bytes(public_key),
        sign_count=sign_count,
        created_at=created_at,
        used_at=used_at,
    )
