"""PostgreSQL's plans for reads."""

from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection, row


def _plans(connection: Connection) -> str:
    found = row(connection, "SELECT current_setting('plan_cache_mode')")
    assert found is not None
    return str(found[0])


async def test_lists_and_reports_are_planned_for_their_account(postgres_url: str) -> None:
    database = await PostgresDatabase.open(postgres_url, timeout=10)
    try:
        assert await database.scan(_plans) == "force_custom_plan"
        assert await database.get(_plans) == "auto", "a generic plan is good if rows are read by key"
    finally:
        await database.close()
