"""Checkpoints of the write-ahead log: concurrent with commits, often enough, and whatever goes wrong."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from farebox.storage.sql import Connection
from farebox.storage.sqlite import PAGE_BYTES, SqliteConnection, checkpoints, connect
from farebox.storage.sqlite.checkpoints import PAGES, PAGES_MAX
from farebox.storage.sqlite.writer import Writer
from tests.waiting import SECONDS, eventually

PAGE = PAGE_BYTES
BLOB = b"x" * 100 * PAGE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    connection = connect(path)
    connection.execute("CREATE TABLE blobs (b BLOB)")
    connection.close()
    return path


def insert(connection: Connection, size: int = len(BLOB)) -> None:
    connection.execute("INSERT INTO blobs VALUES (?)", (BLOB[:size],))


def pages(path: Path) -> int:
    return path.stat().st_size // PAGE


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


async def test_the_wal_is_checkpointed_and_restarted(writer: Writer, path: Path) -> None:
    for _ in range(5):
        for _ in range(PAGES // 100 + 1):
            await writer.run(insert)
        before = pages(path)
        await eventually(lambda: not writer._checkpoints._under_way, "the end of what is moved beside")
        await writer.run(partial(insert, size=1))
        assert pages(path) >= before
    assert pages(path) > 4 * PAGES
    assert pages(log_of(path)) < 2 * PAGES


async def test_commits_continue_during_a_checkpoint(
    writer: Writer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_progress, begun, move = threading.Event(), threading.Event(), checkpoints._move

    def slow(connection: SqliteConnection) -> int | None:
        if threading.current_thread().name == "farebox-checkpoint":
            begun.set()
            assert report_progress.wait(SECONDS)
        return move(connection)

    monkeypatch.setattr(checkpoints, "_move", slow)
    async with asyncio.timeout(SECONDS):
        while not begun.is_set():
            await writer.run(insert)
        assert pages(path) < PAGES
        for _ in range(20):
            await writer.run(insert)
    report_progress.set()
    await eventually(lambda: not writer._checkpoints._under_way, "the end of what is moved beside")
    await writer.run(insert)
    assert pages(path) > PAGES


async def test_a_failed_checkpoint_fails_no_commit(writer: Writer, path: Path) -> None:
    writer._checkpoints._connection.close()
    for _ in range(2 * PAGES_MAX // 100):
        await writer.run(insert)
    assert pages(log_of(path)) <= PAGES_MAX * 21 // 20 + 200
    assert pages(path) >= PAGES_MAX
