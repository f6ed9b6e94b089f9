"""The store of instances: the processes that serve this database. Their calls' holds name them as owners."""

from farebox.storage.sql import Connection, rows


def note_seen(connection: Connection, instance_id: str, at: int) -> None:
    """The process lives; `at` differs from call to call. A row that others have taken away comes back."""
    connection.execute(
        "INSERT INTO instances (instance_id, started_at, seen_at) VALUES (?, ?, ?) "
        "ON CONFLICT (instance_id) DO UPDATE SET seen_at = excluded.seen_at",
        (instance_id, at, at),
    )


def list_instances(connection: Connection) -> dict[str, int]:
    """When each was last seen, by its own clock."""
    return dict(rows(connection, "SELECT instance_id, seen_at FROM instances"))


def remove_instance(connection: Connection, instance_id: str, seen_at: int | None = None) -> None:
    """Take the row away; with `seen_at` only where the process has not been seen since."""
    if seen_at is None:
        connection.execute("DELETE FROM instances WHERE instance_id = ?", (instance_id,))
    else:
        connection.execute("DELETE FROM instances WHERE instance_id = ? AND seen_at = ?", (instance_id, seen_at))
