"""A database of the release before: what its rows become."""

import asyncio
from pathlib import Path

import apsw
import asyncpg
import pytest

from farebox.ledger.audit import audit
from farebox.settings import load
from farebox.storage.database import migrate_now, opened_for_command
from farebox.storage.migrations import migrations
from farebox.storage.postgres.dialect import schema
from farebox.storage.reports import find_log
from tests import engines
from tests.engines import ON_BOTH_ENGINES

pytestmark = ON_BOTH_ENGINES

BEFORE = 6
"""The latest migration that the database has had."""

_CALL = (
    "INSERT INTO calls (bucket, account_id, log_id, gateway_id, created_at, provider, model, success, status_code, "
    "duration, cost, charge, detail, logged) VALUES (0, 'a', '{}', 'default', 1, 'demo', 'demo-1', 1, 200, 5, 0, 0, "
    "'{{{{}}}}', 1)"
)
ROWS = (
    "INSERT INTO accounts VALUES ('a', 0, 'A', 1)",
    "INSERT INTO balances (bucket, account_id) VALUES (0, 'a')",
    *(_CALL.format(log_id) for log_id in ("both", "request", "response", "none")),
    "INSERT INTO call_bodies SELECT 0, 'a', 'both', {0}, {1}",
    "INSERT INTO call_bodies SELECT 0, 'a', 'request', {0}, NULL",
    "INSERT INTO call_bodies SELECT 0, 'a', 'response', NULL, {1}",
)


def _old_file(path: Path) -> None:
    connection = apsw.Connection(str(path))
    for number, text in migrations()[:BEFORE]:
        connection.execute(text.replace("/* clustered */", "WITHOUT ROWID"))
        connection.execute(f"PRAGMA user_version = {number}")
    for statement in ROWS:
        connection.execute(statement.format("x'61736b'", "x'00ff'"))
    connection.close()


async def _old_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE schema_version (version BIGINT NOT NULL, functions TEXT NOT NULL)")
    await connection.execute(f"INSERT INTO schema_version VALUES ({BEFORE}, '')")
    for _, text in migrations()[:BEFORE]:
        await connection.execute(schema(text))
    for statement in ROWS:
        await connection.execute(statement.format(r"'\x61736b'::bytea", r"'\x00ff'::bytea"))
    await connection.close()


def test_bodies_of_calls_are_where_they_belong(tmp_path: Path) -> None:
    if engines.engine_now() == "sqlite":
        _old_file(tmp_path / "farebox.db")
        settings = load({}, data_dir=str(tmp_path))
    else:
        settings = load({}, database_url=engines.postgres_server().new_database())
        asyncio.run(_old_database(settings.database_url))
    applied, _ = migrate_now(settings)
    assert applied[0] == BEFORE + 1
    with opened_for_command(settings) as connection:
        names = ("both", "request", "response", "none")
        found = {log_id: find_log(connection, "a", "default", log_id) for log_id in names}
        bodies = {log_id: call and (call.request_body, call.response_body) for log_id, call in found.items()}
        assert bodies == {
            "both": (b"ask", b"\x00\xff"), "request": (b"ask", None), "response": (None, b"\x00\xff"),
            "none": (None, None),
        }  # fmt: skip
        with pytest.raises((apsw.SQLError, asyncpg.UndefinedTableError)):
            connection.execute("SELECT 1 FROM call_bodies")
    with opened_for_command(settings) as connection:
        assert list(audit(connection)) == []
