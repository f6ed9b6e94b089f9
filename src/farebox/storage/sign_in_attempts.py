"""The store of sign-in attempts: each was begun in a browser, and must be completed there, once and soon."""

from farebox.storage.sql import Connection, row


def add(connection: Connection, secret_hash: bytes, content: bytes, *, at: int, expires_at: int) -> None:
    """Store an attempt, and delete those that have expired."""
    connection.execute("DELETE FROM sign_in_attempts WHERE expires_at <= ?", (at,))
    connection.execute(
        "INSERT INTO sign_in_attempts (hash, content, expires_at) VALUES (?, ?, ?)", (secret_hash, content, expires_at)
    )


def take(connection: Connection, secret_hash: bytes, at: int) -> bytes | None:
    """The content of an attempt that has not expired; it is gone afterwards."""
    found = row(connection, "SELECT content FROM sign_in_attempts WHERE hash = ? AND expires_at > ?", (secret_hash, at))
    connection.execute("DELETE FROM sign_in_attempts WHERE hash = ?", (secret_hash,))
    return None if found is None else bytes(found[0])
