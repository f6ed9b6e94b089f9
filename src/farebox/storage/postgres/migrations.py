"""The schema of a PostgreSQL database: the same files as SQLite's, then what PostgreSQL alone has."""

import hashlib
from importlib import resources

from farebox.storage.half_copied import COPYING, HALF_COPIED
from farebox.storage.migrations import migrations
from farebox.storage.postgres.connecting import Session
from farebox.storage.postgres.dialect import schema
from farebox.storage.postgres.distributing import distribute, is_distributed
from farebox.storage.sql import SchemaMismatch

TURN = 0x66617265
"""Advisory lock under which the schema is changed, and under which jobs take turns (see database)."""

_FUNCTIONS = ("functions.sql",)


async def schema_version(session: Session) -> int:
    """Number of the latest migration that was applied; 0 for an empty database."""
    if await session.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    return int(await session.fetchval("SELECT version FROM schema_version"))


async def migrate(session: Session, *, half_copied: bool = False) -> list[int]:
    """Apply the migrations that are missing, and the functions as this release has them; return the numbers.

    On Citus, what is new is then placed on its nodes. Raises SchemaMismatch where a newer release wrote the schema, or
    it is half copied and not expected to be.
    """
    numbered = migrations()
    if not half_copied and await session.fetchval(f"SELECT to_regclass('{COPYING}')") is not None:
        raise SchemaMismatch(HALF_COPIED)
    async with session.transaction():
        await session.execute(f"SELECT pg_advisory_xact_lock({TURN})")
        version = await schema_version(session)
        if version > numbered[-1][0]:
            raise SchemaMismatch("the database was written by a newer release of Farebox: install that release")
        if version == 0:
            await session.execute("CREATE TABLE schema_version (version BIGINT NOT NULL, functions TEXT NOT NULL)")
            await session.execute("INSERT INTO schema_version VALUES (0, '')")
        applied = []
        for number, text in numbered:
            if number > version:
                await session.execute(schema(text))
                await session.execute("UPDATE schema_version SET version = $1", number)
                applied.append(number)
        await _define_functions(session, anew=bool(applied))
    if await is_distributed(session):
        await distribute(session, buckets=1)  # what the number is for has been placed long since
    return applied


async def _define_functions(session: Session, *, anew: bool) -> None:
    text = "".join(resources.files("farebox.storage.postgres").joinpath(name).read_text() for name in _FUNCTIONS)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    if anew or await session.fetchval("SELECT functions FROM schema_version") != digest:
        await session.execute(text)
        await session.execute("UPDATE schema_version SET functions = $1", digest)
