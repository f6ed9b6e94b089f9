"""The store of instances: the processes that serve this database. Their calls' holds name them as owners."""

from typing import NamedTuple

from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.sql import Connection, row, rows


def note_seen(connection: Connection, instance_id: str, at: int) -> None:
    """Renew the row of a live process; `at` must differ from call to call. A row that another process has removed is
    created again."""
    connection.execute(
        "INSERT INTO instances (instance_id, started_at, seen_at) VALUES (?, ?, ?) "
        "ON CONFLICT (instance_id) DO UPDATE SET seen_at = excluded.seen_at",
        (instance_id, at, at),
    )


class Instance(NamedTuple):
    """A gateway process. Times in milliseconds, by its own clock."""

    instance_id: str
    started_at: int
    seen_at: int


def every_instance(connection: Connection) -> list[Instance]:
    """The processes that have a row, in the order in which they started; none on SQLite."""
    found = rows(connection, "SELECT instance_id, started_at, seen_at FROM instances ORDER BY started_at, instance_id")
    return [Instance(*fields) for fields in found]


def list_instances(connection: Connection) -> dict[str, int]:
    """When each process last renewed its row, by its own clock."""
    return dict(rows(connection, "SELECT instance_id, seen_at FROM instances"))


def count_seen_since(connection: Connection, at: int) -> int:
    """How many processes have renewed their rows since then."""
    found = row(connection, "SELECT count(*) FROM instances WHERE seen_at > ?", (at,))
    return 0 if found is None else int(found[0])


def fence(connection: Connection, instance_id: str) -> bool:
    """Revoke the process's right to create holds in batches; a live one regains it by reconnecting.

    Returns False, and does nothing, if a batch of that process is in progress, since it may still commit. Once this has
    committed, no batch sent before can commit. Jobs take turns, so no other job is in progress.
    """
    found = rows_everywhere(connection, "SELECT bucket FROM lanes WHERE bucket = ? AND instance_id = ?", instance_id)
    buckets = [bucket for (bucket,) in found]
    free = "SELECT 1 FROM lanes WHERE bucket = ? AND instance_id = ? /* FOR UPDATE SKIP LOCKED */"
    if any(row(connection, free, (bucket, instance_id)) is None for bucket in buckets):
        return False
    for bucket in buckets:  # one by one, as Citus requires
        connection.execute("DELETE FROM lanes WHERE bucket = ? AND instance_id = ?", (bucket, instance_id))
    return True


def remove_instance(connection: Connection, instance_id: str, seen_at: int | None = None) -> None:
    """Remove the row; with `seen_at` only if the process has not been seen since."""
    if seen_at is None:
        connection.execute("DELETE FROM instances WHERE instance_id = ?", (instance_id,))
    else:
        connection.execute("DELETE FROM instances WHERE instance_id = ? AND seen_at = ?", (instance_id, seen_at))
