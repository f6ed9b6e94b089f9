"""Citus: distributes the tables over its nodes, once, and those that a later release adds."""

import re
from importlib import resources

from farebox.storage.postgres.connecting import Session
from farebox.storage.sql import DatabaseUnavailable

_PLACING = 0x66617267
"""Advisory lock of whoever places tables: several processes may start at once."""

_OF_TABLE = re.compile(r"create_(?:distributed|reference)_table\('(\w+)'")
_COMMENT = re.compile(r"--[^\n]*")


async def is_distributed(session: Session) -> bool:
    """Whether the tables lie on the nodes of a Citus cluster."""
    if await session.fetchval("SELECT to_regclass('pg_catalog.pg_dist_partition')") is None:
        return False
    return "balances" in await _placed(session)


async def distribute(session: Session, buckets: int) -> list[str]:
    """Place every table that is not placed yet, and the functions; returns the names of those tables.

    The schema and the functions must exist. Outside a transaction: each statement commits by itself, and after a
    failure the same call resumes. Raises DatabaseUnavailable if there is no Citus.
    """
    await _require_citus(session)
    await session.execute(f"SELECT pg_advisory_lock({_PLACING})")
    try:
        return await _place(session, buckets)
    finally:
        await session.execute(f"SELECT pg_advisory_unlock({_PLACING})")


async def _place(session: Session, buckets: int) -> list[str]:
    placed = await _placed(session)
    new = []
    for statement in statements(buckets):
        table = _OF_TABLE.search(statement)
        if table is not None and table[1] in placed:
            continue
        await session.execute(statement)
        if table is not None:
            new.append(table[1])
    return new


def statements(buckets: int) -> list[str]:
    """The statements of distribute.sql."""
    text = resources.files("farebox.storage.postgres").joinpath("distribute.sql").read_text()
    text = _COMMENT.sub("", text).replace(":buckets", str(buckets))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


async def _placed(session: Session) -> set[str]:
    found = await session.fetch("SELECT c.relname FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrel")
    return {name for (name,) in found}


async def _require_citus(session: Session) -> None:
    if await session.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'citus'") is None:
        raise DatabaseUnavailable(
            "the database has no Citus: on the coordinator and every worker set shared_preload_libraries = 'citus', "
            "restart, and execute CREATE EXTENSION citus in this database; then SELECT citus_set_coordinator_host(…) "
            "and citus_add_node(…) on the coordinator. On one machine leave --citus out (docs/citus.md)"
        )
