"""Citus: distributes the tables over its nodes once, and later the tables that a newer release adds."""

import re
from dataclasses import dataclass
from importlib import resources

from farebox.storage.postgres.connecting import Session
from farebox.storage.postgres.splitting import split
from farebox.storage.sql import DatabaseUnavailable

_PLACING = 0x66617267
"""Advisory lock for placing tables: several processes may start at once."""

_OF_TABLE = re.compile(r"(?:create|citus_add)_(distributed|reference|local)_table(?:_to_metadata)?\('(\w+)'")

ONE_BY_ONE = "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"
"""The first statement of a transaction that changes the schema of a cluster: otherwise Citus changes the shards of a
node in parallel, and rejects statements of the same transaction that depend on the change."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What `distribute` did, and the resulting number of nodes."""

    distributed: list[str]
    """Tables that were distributed over the nodes."""
    replicated: list[str]
    """Tables that were copied to every node."""
    nodes: int
    """Nodes that have shards."""


async def is_distributed(session: Session) -> bool:
    """Whether the tables are distributed over the nodes of a Citus cluster."""
    if await session.fetchval("SELECT to_regclass('pg_catalog.pg_dist_partition')") is None:
        return False
    return "balances" in await _distributed_tables(session)


async def distribute(session: Session, buckets: int) -> Distribution:
    """Place every table that is not placed yet, and the functions.

    The schema and the functions must exist. Call it outside a transaction: each statement commits by itself, and
    repeating the call after a failure resumes. Raises DatabaseUnavailable if there is no Citus.
    """
    await _require_citus(session)
    await session.execute(f"SELECT pg_advisory_lock({_PLACING})")
    try:
        return await _distribute(session, buckets)
    finally:
        await session.execute(f"SELECT pg_advisory_unlock({_PLACING})")


async def _distribute(session: Session, buckets: int) -> Distribution:
    placed = await _distributed_tables(session)
    new: dict[str, list[str]] = {"distributed": [], "reference": [], "local": []}
    for statement in statements(buckets):
        table = _OF_TABLE.search(statement)
        if table is not None and table[2] in placed:
            continue
        await session.execute(statement)
        if table is not None:
            new[table[1]].append(table[2])
    nodes = await session.fetchval("SELECT count(*) FROM pg_dist_node WHERE shouldhaveshards")
    return Distribution(new["distributed"], new["reference"], nodes)


def statements(buckets: int) -> list[str]:
    """The statements of distribute.sql."""
    text = resources.files("farebox.storage.postgres").joinpath("distribute.sql").read_text()
    return split(text.replace(":buckets", str(buckets)))


async def _distributed_tables(session: Session) -> set[str]:
    found = await session.fetch("SELECT c.relname FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid")
    return {name for (name,) in found}


async def _require_citus(session: Session) -> None:
    if await session.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'citus'") is None:
        raise DatabaseUnavailable(
            "the database has no Citus: on the coordinator and every worker set shared_preload_libraries = 'citus', "
            "restart, and execute CREATE EXTENSION citus in this database; then SELECT citus_set_coordinator_host(…) "
            "and citus_add_node(…) on the coordinator. On one machine leave --citus out (docs/citus.md)"
        )
