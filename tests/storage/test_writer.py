"""The writer: group commit, and what happens to a batch if one of its jobs or the database fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from farebox.storage.activity import Activity
from farebox.storage.batch_wait import TURNS_MAX
from farebox.storage.sql import Connection, DatabaseLocked, DatabaseUnavailable
from farebox.storage.sqlite import SqliteConnection, connect
from farebox.storage.sqlite.checkpoints import Checkpoints
from farebox.storage.sqlite.writer import Writer

Job = Callable[[Connection], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "writer.db"
    connection = connect(path)
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    connection.close()
    return path


def insert(number: int) -> Job:
    def job(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return job


def insert_then_raise(number: int, error: Exception) -> Job:
    def job(connection: Connection) -> int:
        insert(number)(connection)
        raise error

    return job


def numbers(path: Path) -> list[int]:
    """The numbers as another process sees them."""
    connection = connect(path, readonly=True)
    found = [number for (number,) in connection.execute("SELECT n FROM numbers ORDER BY n")]
    connection.close()
    return found


class OtherProcessTurn:
    """Another process holds the write lock, so that jobs sent meanwhile wait and form one batch."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)

    async def __aenter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    async def __aexit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def noting(sizes: list[int]) -> Activity:
    """Records the number of jobs in each commit."""

    class Sizes(Activity):
        def batch(self, size: int, seconds: float, notes: object) -> None:
            sizes.append(size)

    return Sizes(*[None] * 4)  # type: ignore[arg-type]


async def _batch(writer: Writer, path: Path, *jobs: Job) -> list[int | BaseException]:
    async with OtherProcessTurn(path):
        sent = [asyncio.ensure_future(writer.run(job)) for job in jobs]
        await asyncio.sleep(0.01)
    return await asyncio.gather(*sent, return_exceptions=True)


async def test_a_result_is_delivered_after_its_commit(writer: Writer, path: Path) -> None:
    assert await writer.run(insert(1)) == 1
    assert numbers(path) == [1]


async def test_jobs_that_wait_together_share_a_commit(writer: Writer, path: Path) -> None:
    connection = connect(path)
    before = connection.execute("PRAGMA data_version").get
    seen: set[object] = set()

    def look(_: Connection) -> int:
        seen.add(connection.execute("PRAGMA data_version").get)
        return 0

    await _batch(writer, path, *(job for number in range(50) for job in (insert(number), look)))
    assert seen == {before}  # while the batch ran, nothing was committed
    assert connection.execute("PRAGMA data_version").get != before
    connection.close()
    assert numbers(path) == list(range(50))


async def test_after_a_batch_of_several_the_next_waits_a_few_turns_of_the_loop_for_more(path: Path) -> None:
    sizes: list[int] = []
    writer = Writer(path, noting(sizes))

    async def later(turns: int, number: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await writer.run(insert(number))

    await later(0, 1)
    await asyncio.gather(later(0, 2), later(3, 3))
    assert sizes == [1, 1, 1], "a single caller does not wait"
    await asyncio.gather(later(0, 4), later(0, 5))
    await asyncio.gather(later(0, 6), later(3, 7), later(6, 8))
    assert sizes == [1, 1, 1, 2, 3]
    await writer.close()
    assert numbers(path) == list(range(1, 9))


async def test_a_batch_begins_though_jobs_keep_arriving(path: Path) -> None:
    sizes: list[int] = []
    writer = Writer(path, noting(sizes))
    await asyncio.gather(writer.run(insert(100)), writer.run(insert(101)))  # the next batch waits for more
    sent = list[asyncio.Future[int]]()
    for number in range(100):  # one in each turn of the loop
        sent.append(asyncio.ensure_future(writer.run(insert(number))))
        await asyncio.sleep(0)
    await asyncio.gather(*sent)
    await writer.close()
    assert sizes[0] == 2
    assert TURNS_MAX <= sizes[1] <= TURNS_MAX + 1


async def test_a_failing_job_does_not_fail_others(writer: Writer, path: Path) -> None:
    failing = insert_then_raise(99, ValueError("mine"))
    first, failed, repeated, last = await _batch(writer, path, insert(1), failing, insert(1), insert(2))
    assert (first, last) == (1, 2)
    assert isinstance(failed, ValueError)
    assert isinstance(repeated, apsw.ConstraintError)
    assert numbers(path) == [1, 2]


async def test_a_job_that_raises_stop_iteration_completes(writer: Writer, path: Path) -> None:
    failed, fine = await _batch(writer, path, insert_then_raise(1, StopIteration()), insert(2))
    assert isinstance(failed, RuntimeError)
    assert fine == 2


async def test_the_commit_of_a_canceled_caller_stands(writer: Writer, path: Path) -> None:
    async with OtherProcessTurn(path):
        gone, stays = (asyncio.ensure_future(writer.run(insert(number))) for number in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
    assert await stays == 2
    assert gone.cancelled()
    assert numbers(path) == [1, 2]


async def test_closing_commits_queued_jobs_and_accepts_no_more(path: Path) -> None:
    writer = Writer(path)
    async with OtherProcessTurn(path):
        sent = [asyncio.ensure_future(writer.run(insert(number))) for number in range(1000)]
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(writer.close())
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await writer.run(insert(5000))
    await closing
    assert await asyncio.gather(*sent) == list(range(1000))
    assert numbers(path) == list(range(1000))
    await writer.close()


async def test_a_database_locked_for_too_long_fails_the_batch_once(
    writer: Writer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job gets the error, and none is retried alone, which would wait for the full timeout for each."""
    monkeypatch.setattr("farebox.storage.sqlite.writer.BUSY_TIMEOUT_MS", 100)
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    sent = asyncio.gather(*(writer.run(insert(number)) for number in range(50)), return_exceptions=True)
    responses = await asyncio.wait_for(sent, 2)
    assert {type(response) for response in responses} == {DatabaseLocked}
    other.execute("ROLLBACK")
    other.close()
    assert await writer.run(insert(100)) == 100
    assert numbers(path) == [100]


async def test_the_event_loop_is_not_blocked_by_another_writer(writer: Writer, path: Path) -> None:
    async with OtherProcessTurn(path):
        waiting = asyncio.ensure_future(writer.run(insert(1)))
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - started < 5  # far below the time it would wait for its turn
        assert not waiting.done()
    assert await waiting == 1


async def test_a_full_disk_refuses_the_write_and_leaves_the_file_whole(writer: Writer, path: Path) -> None:
    pages = await writer.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    jobs = [insert(number * 1_000_000_007) for number in range(2000)]
    responses = await asyncio.gather(*(writer.run(job) for job in jobs), return_exceptions=True)
    refused = sum(isinstance(response, DatabaseUnavailable) for response in responses)
    assert refused > 0
    assert len(numbers(path)) == len(responses) - refused
    await writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await writer.run(insert(7)) == 7


async def test_errors_after_a_commit_do_not_report_it_as_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Checkpoints, connection: SqliteConnection) -> None:
        raise MemoryError

    failed: list[tuple[str, type]] = []
    monkeypatch.setattr(Checkpoints, "committed", broken)
    writer = Writer(path, failed=lambda job, error: failed.append((job, type(error))))
    assert await writer.run(insert(1)) == 1
    assert numbers(path) == [1]
    assert await writer.run(insert(2)) == 2
    await writer.close()
    assert failed == [("sqlite_writer", MemoryError)] * 2
