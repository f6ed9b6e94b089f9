"""Facts about the database itself, for the operator: its engine, its size, its replicas."""

from typing import NamedTuple

from farebox.storage.sql import Connection, row, rows
from farebox.storage.sqlite import SqliteConnection


class Standby(NamedTuple):
    """A standby that streams from the database. Fields that the database user may not see are empty."""

    name: str
    state: str
    sync: str
    """sync, quorum, potential or async."""
    behind_ms: int | None


class DatabaseFacts(NamedTuple):
    """Facts as the database reports them."""

    engine: str
    version: str
    size: int
    """Bytes."""
    standbys: list[Standby]
    replicates: bool
    """Whether the engine can have standbys."""


_PG_FACTS = "SELECT current_setting('server_version'), pg_database_size(current_database())"
_PG_STANDBYS = (
    "SELECT application_name, coalesce(state, ''), coalesce(sync_state, ''), "
    "CAST(extract(epoch FROM replay_lag) * 1000 AS BIGINT) FROM pg_stat_replication ORDER BY application_name"
)


def database_facts(connection: Connection) -> DatabaseFacts:
    """Read the facts; on Citus, those of the coordinator."""
    if isinstance(connection, SqliteConnection):
        (version,) = row(connection, "SELECT sqlite_version()") or ("",)
        (pages,) = row(connection, "PRAGMA page_count") or (0,)
        (size,) = row(connection, "PRAGMA page_size") or (0,)
        return DatabaseFacts("SQLite", str(version), int(pages) * int(size), [], replicates=False)
    version, size = row(connection, _PG_FACTS) or ("", 0)
    standbys = [Standby(*fields) for fields in rows(connection, _PG_STANDBYS)]
    return DatabaseFacts("PostgreSQL", str(version), int(size), standbys, replicates=True)
