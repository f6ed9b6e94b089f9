"""What stores can rely on with each engine's connection."""

from pathlib import Path

from farebox.storage.sql import Connection, row, rows
from tests.engines import ON_BOTH_ENGINES, settings_for, write_now

pytestmark = ON_BOTH_ENGINES


def test_changes_are_those_of_the_latest_statement_that_changes_rows(tmp_path: Path) -> None:
    """Even after reads: a store may read before it asks for the number of changes."""

    def job(connection: Connection) -> list[int]:
        counts = []
        for name in "ab":
            connection.execute("INSERT INTO series (name, next) VALUES (?, 1)", (name,))
        counts.append(connection.changes())
        connection.execute("UPDATE series SET next = 5")
        assert len(rows(connection, "SELECT name FROM series WHERE next = 0")) == 0
        counts.append(connection.changes())
        connection.execute("UPDATE series SET next = 6 WHERE name = 'c'")
        assert row(connection, "SELECT name FROM series") is not None
        counts.append(connection.changes())
        assert row(connection, "UPDATE series SET next = 7 WHERE name = 'a' RETURNING next") == (7,)
        assert rows(connection, "SELECT 1 UNION SELECT 2") == [(1,), (2,)]
        counts.append(connection.changes())
        return counts

    assert write_now(settings_for(tmp_path), job) == [1, 2, 0, 1]
