"""The store of leases: which process does a job that only one may do at a time."""

from typing import NamedTuple

from farebox.storage.sql import Connection, row, rows


class Lease(NamedTuple):
    """A job that one process does for all. Times in milliseconds."""

    name: str
    owner: str
    until: int
    done_at: int | None


def list_leases(connection: Connection) -> list[Lease]:
    """All leases, by name."""
    found = rows(connection, "SELECT name, owner, until, done_at FROM leases ORDER BY name")
    return [Lease(*fields) for fields in found]


def take_lease(connection: Connection, name: str, *, owner: str, every_ms: int, lease_ms: int, at: int) -> int | None:
    """Claim a job that is due and not claimed by another process. Returns the epoch to finish it with, or None."""
    connection.execute(
        "INSERT INTO leases (name, owner, epoch, until) VALUES (?, '', 0, 0) ON CONFLICT DO NOTHING", (name,)
    )
    connection.execute(
        "UPDATE leases SET owner = ?, epoch = epoch + 1, until = ? "
        "WHERE name = ? AND until <= ? AND (done_at IS NULL OR done_at <= ?)",
        (owner, at + lease_ms, name, at, at - every_ms),
    )
    if connection.changes() == 0:
        return None
    found = row(connection, "SELECT epoch FROM leases WHERE name = ?", (name,))
    assert found is not None
    return int(found[0])


def finish_lease(connection: Connection, name: str, epoch: int, *, at: int) -> bool:
    """Record that the job is done: it is due again `every_ms` after `at`. Returns False if another process has taken
    the lease."""
    connection.execute("UPDATE leases SET until = ?, done_at = ? WHERE name = ? AND epoch = ?", (at, at, name, epoch))
    return connection.changes() == 1


def drop_lease(connection: Connection, name: str, epoch: int, *, until: int) -> None:
    """Give up the lease after the job failed: any process may claim it again after `until`."""
    connection.execute("UPDATE leases SET until = ? WHERE name = ? AND epoch = ?", (until, name, epoch))
