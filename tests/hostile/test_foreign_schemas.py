"""A database shared with other programs: their objects are neither mistaken for Farebox's nor touched."""

import asyncio

import asyncpg
import pytest

from farebox.settings import Settings, load
from farebox.storage.database import MigrationResult, migrate_now, opened_for_command
from farebox.storage.sql import SchemaMismatch, rows
from tests import engines
from tests.postgres.server import PostgresServer

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="schemas are PostgreSQL's")

FOREIGN = (
    "CREATE TABLE public.schema_version (installed_rank INT, version TEXT); "
    "INSERT INTO public.schema_version VALUES (1, '99'); "
    "CREATE TABLE public.accounts (name TEXT); CREATE TABLE public.users (name TEXT); "
    "CREATE TABLE public.copy_progress (name TEXT); CREATE TABLE public.lanes (name TEXT); "
    "CREATE FUNCTION public.ledger_batch(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; "
    "CREATE FUNCTION public.ledger_window_start(text, text, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'"
)


def at(url: str, search_path: str) -> Settings:
    return load({}, database_url=f"{url}{'&' if '?' in url else '?'}options=-c%20search_path={search_path}")


async def execute(url: str, sql: str) -> None:
    session = await asyncpg.connect(url)
    await session.execute(sql)
    await session.close()


def theirs(postgres: PostgresServer, url: str) -> list[tuple[str, ...]]:
    columns = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    tables = postgres.query(columns, url)
    functions = postgres.query("SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace", url)
    return [tuple(row) for row in (*tables, *sorted(functions))]


def test_an_installation_in_its_own_schema_sees_none_of_theirs(postgres: PostgresServer, postgres_url: str) -> None:
    asyncio.run(execute(postgres_url, f"{FOREIGN}; CREATE SCHEMA farebox"))
    before = theirs(postgres, postgres_url)
    settings = at(postgres_url, "farebox,public")
    done = migrate_now(settings)
    assert done.applied == [done.version]
    assert migrate_now(settings) == MigrationResult([], done.version)
    with opened_for_command(settings, writing=True) as connection:
        assert rows(connection, "SELECT count(*) FROM accounts") == [(0,)]
        [(at_window,)] = rows(connection, "SELECT ledger_window_start('daily', 'fixed', 86400001)")
    assert at_window == 86_400_000
    assert theirs(postgres, postgres_url) == before


def test_a_role_that_may_not_create_tables_is_refused_with_a_remedy(postgres_url: str) -> None:
    options = f"{'&' if '?' in postgres_url else '?'}options=-c%20role=pg_read_all_stats"
    with pytest.raises(SchemaMismatch, match=r"permission denied for schema public.*GRANT CREATE ON SCHEMA"):
        migrate_now(load({}, database_url=postgres_url + options))


@pytest.mark.parametrize("sql", ["CREATE TABLE schema_version (version TEXT)", "CREATE TABLE accounts (name TEXT)"])
async def test_a_schema_of_another_program_is_refused_with_a_remedy(postgres_url: str, sql: str) -> None:
    await execute(postgres_url, sql)
    with pytest.raises(SchemaMismatch, match="search_path=farebox"):
        await asyncio.to_thread(migrate_now, load({}, database_url=postgres_url))


async def test_an_earlier_schema_in_the_search_path_does_not_hide_the_installation(postgres_url: str) -> None:
    """With `"$user", public`, creating a schema with the role's name would make the books seem lost."""
    await asyncio.to_thread(migrate_now, at(postgres_url, "mine,public"))
    await execute(postgres_url, "CREATE SCHEMA mine")
    with pytest.raises(SchemaMismatch, match="in the schema public"):
        await asyncio.to_thread(migrate_now, at(postgres_url, "mine,public"))
    await asyncio.to_thread(migrate_now, at(postgres_url, "mine"))
    await asyncio.to_thread(migrate_now, at(postgres_url, "public"))


async def test_an_empty_search_path_is_refused_with_a_remedy(postgres_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="CREATE SCHEMA"):
        await asyncio.to_thread(migrate_now, at(postgres_url, "nowhere"))
