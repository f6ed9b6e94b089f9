"""The schema of a PostgreSQL database: the same files as for SQLite, then the functions that only PostgreSQL has."""

import hashlib
from importlib import resources

from asyncpg.exceptions import DuplicateTableError, InsufficientPrivilegeError

from farebox.storage.copy_mark import COPY_INCOMPLETE, COPY_PROGRESS
from farebox.storage.postgres.connecting import Session
from farebox.storage.postgres.dialect import schema
from farebox.storage.postgres.distributing import ONE_BY_ONE, Distribution, distribute, is_distributed
from farebox.storage.postgres.numbering import require_buckets
from farebox.storage.postgres.sharding import ENTRY, functions_of, shards_of
from farebox.storage.postgres.splitting import split
from farebox.storage.schema import missing
from farebox.storage.sql import SchemaMismatch

TURN = 0x66617265
"""Advisory lock under which the schema is changed, and under which jobs take turns (see database)."""

_VERSION_COLUMNS = {"version", "functions", "buckets"}
_VERSION_TABLES = (
    "SELECT n.nspname::text, array_agg(a.attname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "WHERE c.relname = 'schema_version' AND n.nspname = ANY (current_schemas(false)) GROUP BY 1 "
    "ORDER BY min(array_position(current_schemas(false), n.nspname))"
)
_HAS_BUCKETS = (
    "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'schema_version'::regclass AND attname = 'buckets')"
)
_IS_THERE = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1)"
_SHARED = (
    "the schema {own} has tables of another program: give Farebox a database of its own, or a schema: CREATE SCHEMA "
    "farebox, and options=-c%20search_path=farebox in FAREBOX_DATABASE_URL"
)

_NO_RIGHT = (
    "{error}, and Farebox has to create its tables there: make the role the owner of the database or of its own "
    "schema, or GRANT CREATE ON SCHEMA to it (docs/postgresql.md)"
)


async def _found(session: Session) -> tuple[str, int]:
    """The schema in which tables are created, and the version of Farebox's schema there; 0 if it has none of its
    tables. Tables in other schemas of the `search_path` belong to other programs.

    Raises SchemaMismatch if the schema is not Farebox's, or Farebox's tables are in another one.
    """
    own = await session.fetchval("SELECT current_schema()")
    if own is None:
        raise SchemaMismatch("no schema of the search_path exists: CREATE SCHEMA it, owned by this role")
    found = {schema: set(columns) for schema, columns in await session.fetch(_VERSION_TABLES)}
    if own not in found:
        for schema, columns in found.items():
            if columns | {"buckets"} == _VERSION_COLUMNS:
                raise SchemaMismatch(
                    f"Farebox's tables are in the schema {schema}, and the search_path now begins with {own}: write "
                    f"options=-c%20search_path={schema} into FAREBOX_DATABASE_URL, or for another installation "
                    f"options=-c%20search_path={own}"
                )
        return own, 0
    if found[own] | {"buckets"} != _VERSION_COLUMNS:  # an older release did not have that column
        raise SchemaMismatch(_SHARED.format(own=own))
    return own, int(await session.fetchval("SELECT version FROM schema_version"))


async def migrate(
    session: Session, *, copy_incomplete: bool = False, buckets: int | None = None, may_change: bool = False
) -> list[int]:
    """Bring the schema to this release's version, and define the functions as this release has them; return the
    versions that were applied. With `buckets`, that number is stored, or compared with the stored one
    (numbering.require_buckets).

    On Citus, new tables are then placed on its nodes. Raises SchemaMismatch if the database was written by a newer
    release or one too old to upgrade from, is unexpectedly half copied, or has another number of buckets.
    """
    if not copy_incomplete and await session.fetchval(_IS_THERE, COPY_PROGRESS):
        raise SchemaMismatch(COPY_INCOMPLETE)
    spread = await is_distributed(session)
    async with session.transaction():
        if spread:
            await session.execute(ONE_BY_ONE)
        await session.execute(f"SELECT pg_advisory_xact_lock({TURN})")
        own, version = await _found(session)
        lacking = missing(version)
        await _note_version(session, version)
        for number, text in lacking:
            await _execute(session, schema(text), own)
            await session.execute("UPDATE schema_version SET version = $1", number)
        await _define_functions(session, spread=spread, replace=bool(lacking))
        if buckets is not None:
            await require_buckets(session, buckets, may_change=may_change)
    if spread:
        await distribute(session, buckets=1)  # the tables to which the number applies are already placed
    return [number for number, _ in lacking]


async def place(session: Session, buckets: int) -> Distribution:
    """Distribute the tables of a migrated database over the nodes of its cluster, and define the functions as Citus
    needs them. May be repeated. Raises DatabaseUnavailable if there is no Citus."""
    distribution = await distribute(session, buckets)
    await migrate(session, buckets=buckets)
    return distribution


async def _note_version(session: Session, version: int) -> None:
    """Create or update the table that records the database's version."""
    if version == 0:
        try:
            await session.execute(
                "CREATE TABLE schema_version (version BIGINT NOT NULL, functions TEXT NOT NULL, buckets BIGINT)"
            )
        except InsufficientPrivilegeError as error:
            raise SchemaMismatch(_NO_RIGHT.format(error=error)) from error
        await session.execute("INSERT INTO schema_version VALUES (0, '')")
    elif not await session.fetchval(_HAS_BUCKETS):  # only if needed: it would wait for a backup in progress
        await session.execute("ALTER TABLE schema_version ADD COLUMN buckets BIGINT")


async def _execute(session: Session, text: str, own: str) -> None:
    try:
        for statement in split(text):
            await session.execute(statement)
    except DuplicateTableError as error:
        raise SchemaMismatch(_SHARED.format(own=own)) from error


async def _define_functions(session: Session, *, spread: bool, replace: bool) -> None:
    defined = split(resources.files("farebox.storage.postgres").joinpath("functions.sql").read_text())
    if spread:
        schema = await session.fetchval("SELECT quote_ident(current_schema())")
        buckets = await shards_of(session)
        place = next(place for place, text in enumerate(defined) if text.startswith(ENTRY))
        defined[place : place + 1] = functions_of(defined[place], schema, buckets)
    digest = hashlib.sha256("".join(defined).encode()).hexdigest()[:16]
    if replace or await session.fetchval("SELECT functions FROM schema_version") != digest:
        for statement in defined:
            await session.execute(statement)
        await session.execute("UPDATE schema_version SET functions = $1", digest)
