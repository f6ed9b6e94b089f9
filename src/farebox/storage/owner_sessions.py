"""The store of the billing page's links and sessions: keyed hashes of random secrets, never the secrets."""

from typing import Literal, TypeAlias

from farebox.storage.sql import Connection, row

Kind: TypeAlias = Literal["link", "session"]


def add(connection: Connection, secret_hash: bytes, kind: Kind, account_id: str, *, at: int, expires_at: int) -> None:
    """Store a new link or session, and delete those that have expired."""
    connection.execute("DELETE FROM owner_sessions WHERE expires_at <= ?", (at,))
    connection.execute(
        "INSERT INTO owner_sessions (hash, kind, account_id, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
        (secret_hash, kind, account_id, at, expires_at),
    )


def find(connection: Connection, secret_hash: bytes, kind: Kind, at: int) -> str | None:
    """The account of a link or session that is valid at `at`."""
    found = row(
        connection,
        "SELECT account_id FROM owner_sessions WHERE hash = ? AND kind = ? AND expires_at > ?",
        (secret_hash, kind, at),
    )
    return None if found is None else str(found[0])


def remove(connection: Connection, secret_hash: bytes) -> None:
    connection.execute("DELETE FROM owner_sessions WHERE hash = ?", (secret_hash,))
