"""A database of the previous release gets the schema of a new one, and keeps its rows; an older one is refused."""

import asyncio
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import asyncpg
import pytest

from farebox.model import Role
from farebox.settings import Settings, load
from farebox.storage.database import MigrationResult, migrate_now, opened_for_command
from farebox.storage.postgres.dialect import schema
from farebox.storage.schema import OLDEST, VERSION, missing
from farebox.storage.sessions import find
from farebox.storage.sql import Connection, SchemaMismatch, row, rows
from tests import engines
from tests.engines import ON_BOTH_ENGINES

pytestmark = ON_BOTH_ENGINES

Rows: TypeAlias = dict[str, list[dict[str, Any]]]
"""By table."""

_OLD = Path(__file__).with_name("version_7.sql").read_text()
"""The migration files of that release, in order, which create a database of version 7."""
_VERSION_TABLE = "CREATE TABLE schema_version (version BIGINT NOT NULL, functions TEXT NOT NULL)"
DROPPED = {("cards", "warned_at")}
DROPPED_TABLES = {"owner_sessions"}
"""Links are now in `sessions`."""


def _empty(tmp_path: Path) -> Settings:
    if engines.engine_now() == "sqlite":
        return load({}, data_dir=str(tmp_path / "data"))
    return load({}, data_dir=str(tmp_path / "data"), database_url=engines.postgres_server().new_database())


def execute(settings: Settings, *statements: str) -> None:
    """Execute statements without upgrading the schema first."""
    if settings.engine == "sqlite":
        settings.database_path.parent.mkdir(exist_ok=True)
        connection = apsw.Connection(str(settings.database_path))
        for statement in statements:
            connection.execute(statement)
        connection.close()
        return

    async def execute() -> None:
        connection = await asyncpg.connect(settings.database_url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


def of_version(settings: Settings, version: int) -> None:
    if settings.engine == "sqlite":
        text = _OLD.replace("/* clustered */", "WITHOUT ROWID")
        execute(settings, text, f"PRAGMA user_version = {version}")
    else:
        execute(settings, _VERSION_TABLE, f"INSERT INTO schema_version VALUES ({version}, '')", schema(_OLD))


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """A database created by the previous release, with two rows in each table."""
    settings = _empty(tmp_path)
    of_version(settings, OLDEST)
    execute(settings, *inserts(settings))
    return settings


# What is in the tables. -----------------------------------------------------------------------------------------------


def inserts(settings: Settings) -> Iterator[str]:
    """Two rows for each table: one with a value in every column, one with as few values as possible."""
    for table, columns in old_columns().items():
        if table == "config_version":  # has its one row
            yield "UPDATE config_version SET version = 41"
            continue
        for number in (1,) if "one" in columns else (1, 2):
            values = {
                name: _value(settings, name, kind, number)
                for name, (kind, optional) in columns.items()
                if number == 1 or not optional
            }
            yield f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def old_columns() -> dict[str, dict[str, tuple[str, bool]]]:
    """The columns of each table of version 7: type, and whether it may be omitted."""
    connection = apsw.Connection(":memory:")
    connection.execute(_OLD.replace("/* clustered */", "WITHOUT ROWID"))
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        table: {
            name: (kind, not needed and not key)
            for name, kind, needed, key in connection.execute(
                'SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)
            )
        }
        for table in tables
    }


def _value(settings: Settings, name: str, kind: str, number: int) -> str:
    if name == "bucket":
        return "0"
    if kind in ("INTEGER", "BIGINT"):
        return str(number)
    if kind == "BYTEA":
        digits = f"{name}\0{number}".encode().hex()
        return f"x'{digits}'" if settings.engine == "sqlite" else f"'\\x{digits}'"
    return f"'{name} {number} \u2026'"


def read_old(settings: Settings) -> Rows:
    wanted = {table: list(columns) for table, columns in old_columns().items()}
    if settings.engine == "sqlite":
        connection = apsw.Connection(str(settings.database_path))
        found = {
            table: [dict(zip(columns, values, strict=True)) for values in connection.execute(_select(table, columns))]
            for table, columns in wanted.items()
        }
        connection.close()
        return found

    async def read() -> Rows:
        connection = await asyncpg.connect(settings.database_url)
        found = {
            table: [dict(values) for values in await connection.fetch(_select(table, columns))]
            for table, columns in wanted.items()
        }
        await connection.close()
        return found

    return asyncio.run(read())


def _select(table: str, columns: list[str]) -> str:
    return f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns)}"


def test_an_upgrade_keeps_every_row(old: Settings) -> None:
    before = read_old(old)
    assert len(before) > 40
    assert all(len(found) == (1 if "one" in found[0] else 2) for found in before.values())
    assert migrate_now(old) == MigrationResult(list(range(OLDEST + 1, VERSION + 1)), VERSION)
    with opened_for_command(old) as connection:
        for table, were in before.items():
            if table in DROPPED_TABLES:
                continue
            columns = [name for name in were[0] if (table, name) not in DROPPED]
            now = rows(connection, _select(table, columns))
            assert sorted(now, key=repr) == sorted((tuple(row[name] for name in columns) for row in were), key=repr)
    assert migrate_now(old) == MigrationResult([], VERSION)


def test_links_to_the_billing_page_keep_working(old: Settings) -> None:
    columns = "hash, kind, account_id, created_at, expires_at"
    empty = "x''" if old.engine == "sqlite" else "''::bytea"
    execute(old, f"INSERT INTO owner_sessions ({columns}) VALUES ({empty}, 'link', 'acme', 1, 7)")
    migrate_now(old)
    with opened_for_command(old) as connection:
        found = find(connection, b"", "link", at=6)
    assert found is not None
    assert (found.account_id, found.role, found.email, found.operator) == ("acme", Role.OWNER, None, False)


def test_lots_that_are_spent_are_marked(old: Settings) -> None:
    columns = "bucket, account_id, lot_id, book, amount, remaining, priority, created_at"
    for lot_id, remaining in (("spent", 0), ("some left", 1)):
        execute(old, f"INSERT INTO lots ({columns}) VALUES (9, 'a', '{lot_id}', 'credit', 5, {remaining}, 50, 1)")
    migrate_now(old)
    with opened_for_command(old) as connection:
        found = rows(connection, "SELECT lot_id, spent FROM lots WHERE bucket = 9 ORDER BY lot_id")
    assert found == [("some left", 0), ("spent", 1)]


def test_names_of_accounts_that_do_not_fit_into_the_index_are_shortened(old: Settings) -> None:
    noise = "".join(
        random.Random(7).choices(string.ascii_letters, k=9000)
    )  # PostgreSQL would compress a repeated character
    execute(old, f"UPDATE accounts SET name = '{noise}' WHERE name LIKE '% 1 %'")
    migrate_now(old)
    with opened_for_command(old) as connection:
        assert row(connection, "SELECT name FROM accounts WHERE length(name) > 100") == (noise[:200],)


# What the tables are. -------------------------------------------------------------------------------------------------


def test_an_upgraded_schema_is_that_of_a_new_database(old: Settings, tmp_path: Path) -> None:
    new = _empty(tmp_path / "new")
    assert migrate_now(new) == MigrationResult([VERSION], VERSION)
    migrate_now(old)
    upgraded, made = described(old), described(new)
    assert len(made) > 60
    assert upgraded == made


def described(settings: Settings) -> dict[str, Any]:
    """Every table, index and constraint by name, as the database describes it."""
    with opened_for_command(settings) as connection:
        return _of_file(connection) if settings.engine == "sqlite" else _of_catalog(connection)


def _of_file(connection: Connection) -> dict[str, Any]:
    """The definition of an altered table is rewritten, including its comments, which are ignored here."""
    found = rows(connection, "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {name: _parts(sql) for name, sql in found}


def _parts(sql: str) -> Any:
    """The text before, in and after the outer parentheses of a table: its columns in order, and its constraints."""
    text = " ".join(re.sub(r"--[^\n]*", "", sql).replace('"', "").split())
    text = re.sub(r" ?([(),]) ?", r"\1", text)
    if not text.startswith("CREATE TABLE"):
        return text
    head, inner, tail = text[: text.index("(")], text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") :]
    items = re.findall(r"(?:[^,()]|\((?:[^()]|\([^()]*\))*\))+", inner)
    of_table = [item for item in items if item.startswith(("PRIMARY KEY", "CHECK", "UNIQUE"))]
    return head, [item for item in items if item not in of_table], sorted(of_table), tail


def _of_catalog(connection: Connection) -> dict[str, Any]:
    columns = rows(
        connection,
        "SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
        "l.collname, pg_get_expr(d.adbin, d.adrelid) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum "
        "LEFT JOIN pg_collation l ON l.oid = a.attcollation "
        "WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped "
        "ORDER BY c.relname, a.attnum",
    )
    found: dict[str, Any] = {}
    for name, kind, *column in columns:
        found.setdefault(f"{kind} {name}", []).append(column)
    indexes = rows(connection, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    constraints = rows(
        connection,
        "SELECT conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace AND contype != 'n'",
    )
    functions = rows(
        connection,
        "SELECT oid::regprocedure::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    )
    return found | dict(indexes) | dict(constraints) | dict(functions)


# What is refused. -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, OLDEST - 1])
def test_an_older_database_names_the_release_to_step_through(version: int, tmp_path: Path) -> None:
    settings = _empty(tmp_path)
    of_version(settings, version)
    with pytest.raises(SchemaMismatch, match=rf"\(schema version {version}; .*: install Farebox 0\.5\.0,"):
        migrate_now(settings)
    assert _version(settings) == version


def test_a_newer_database_names_the_remedy(tmp_path: Path) -> None:
    settings = _empty(tmp_path)
    of_version(settings, VERSION + 1)
    with pytest.raises(SchemaMismatch, match="install that release"):
        migrate_now(settings)
    assert _version(settings) == VERSION + 1


def _version(settings: Settings) -> int:
    if settings.engine == "sqlite":
        connection = apsw.Connection(str(settings.database_path))
        return int(connection.execute("PRAGMA user_version").get)
    return int(asyncio.run(_fetch_version(settings.database_url)))


async def _fetch_version(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT version FROM schema_version")
    finally:
        await connection.close()


def test_every_version_has_its_upgrade() -> None:
    assert [number for number, _ in missing(OLDEST)] == list(range(OLDEST + 1, VERSION + 1))
    assert missing(VERSION) == []
