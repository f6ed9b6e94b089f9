"""Commits and reads beside an event loop that always has something to do.

Such a loop releases the GIL only for microseconds at a time, so that a thread may wait for thousands of its turns.
Turns are counted, not time.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from farebox import app
from farebox.storage.sql import Connection
from farebox.storage.sqlite.database import SqliteDatabase
from tests.support import running_farebox

pytestmark = pytest.mark.sqlite_only

COMMITS = 5
SCANNED = 100
TURN_SECONDS = 0.001
TURNS_MAX = 1_000
"""Without the measures of the writer and the application, each commit and each scan took thousands."""


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads take turns as in a server."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(app.SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def _switching_rarely() -> Iterator[None]:
    """Threads take turns as Python does by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


async def _while_busy(work: Callable[[], Awaitable[object]]) -> int:
    """The turns that a busy loop makes until the work is done; at most TURNS_MAX, after which the loop is idle."""
    done = asyncio.ensure_future(work())
    turns = 0
    while not done.done() and turns < TURNS_MAX:
        until = time.perf_counter() + TURN_SECONDS
        while time.perf_counter() < until:
            pass
        turns += 1
        await asyncio.sleep(0)
    await done
    return turns


def _add(connection: Connection) -> None:
    connection.execute("INSERT INTO busy VALUES (1)")


def _in_turn(path: Path, work: Callable[[SqliteDatabase], Awaitable[object]], loop: str) -> int:
    async def run() -> int:
        database = SqliteDatabase(path / "books.db")
        try:
            await database.write(lambda connection: connection.execute("CREATE TABLE busy (number INTEGER)"))
            for _ in range(SCANNED):
                await database.write(_add)
            await database.scan(lambda connection: None)  # the thread has a connection
            return await _while_busy(lambda: work(database))
        finally:
            await database.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        return runner.run(run())


@pytest.mark.usefixtures("_switching_rarely")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_commits_do_not_wait_until_the_loop_is_idle(tmp_path: Path, loop: str) -> None:
    async def commit(database: SqliteDatabase) -> None:
        for _ in range(COMMITS):
            await database.write(_add)

    assert _in_turn(tmp_path, commit, loop) < TURNS_MAX


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_reads_do_not_wait_until_the_loop_is_idle(tmp_path: Path, loop: str) -> None:
    async def scan(database: SqliteDatabase) -> None:
        await database.scan(lambda connection: list(connection.execute("SELECT * FROM busy")))

    assert _in_turn(tmp_path, scan, loop) < TURNS_MAX


def test_threads_of_a_server_take_turns(tmp_path: Path) -> None:
    with running_farebox(tmp_path):
        assert sys.getswitchinterval() == pytest.approx(app.SWITCH_SECONDS)
