"""Connections and schema of the embedded engine."""

import asyncio
import threading
from pathlib import Path

import pytest

from farebox.storage.schema import VERSION
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import connect, migrate, schema_version
from farebox.storage.sqlite.database import SqliteDatabase


def test_migrating_twice_applies_nothing(tmp_path: Path) -> None:
    connection = connect(tmp_path / "new" / "farebox.db")
    applied = migrate(connection)
    assert applied == [VERSION]
    assert migrate(connection) == []
    assert schema_version(connection) == VERSION
    connection.close()


def test_processes_that_migrate_at_once_take_turns(tmp_path: Path) -> None:
    applied: list[int] = []
    start = threading.Barrier(4)

    def work() -> None:
        connection = connect(tmp_path / "farebox.db")
        start.wait(10)
        applied.extend(migrate(connection))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert applied == [VERSION]


def test_commits_are_durable(tmp_path: Path) -> None:
    connection = connect(tmp_path / "farebox.db")
    assert connection.execute("PRAGMA journal_mode").get == "wal"
    assert connection.execute("PRAGMA synchronous").get == 2  # FULL
    connection.close()


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "farebox.db"
    with pytest.raises(DatabaseUnavailable, match=r"farebox\.db"):
        connect(path, readonly=True)
    path.write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(DatabaseUnavailable, match=r"farebox\.db"):
        connect(path)


async def test_a_long_read_does_not_block_others(tmp_path: Path) -> None:
    """One account's long report does not block the lists of others."""
    database = SqliteDatabase(tmp_path / "farebox.db")
    begun, over = threading.Event(), threading.Event()

    def long(connection: Connection) -> str:
        begun.set()
        assert over.wait(10)
        return "long"

    try:
        waiting = asyncio.ensure_future(database.scan(long))
        assert await asyncio.to_thread(begun.wait, 10)
        assert await asyncio.wait_for(database.scan(lambda connection: "short"), 5) == "short"
        over.set()
        assert await waiting == "long"
    finally:
        over.set()
        await database.close()
