"""Helper processes: accounts take turns, work that takes too long is killed, and nothing is left behind."""

import asyncio
import contextlib
import gzip
import os
import pickle
import re
import signal
import threading
from pathlib import Path

import pytest

from farebox import memory_files
from farebox.decoding import TooLarge
from farebox.helper_processes import HelperDied, Pool, PoolBusy, PoolStopping, TooMuchWork
from farebox.helper_processes import pool as pools
from farebox.helper_processes.decode import decode_into
from farebox.helper_processes.pool import WAITING_MAX, WAITING_OF_ACCOUNT_MAX
from farebox.helper_processes.process import HelperProcess
from farebox.memory_files import LargeBody, MemoryFile, whole
from tests.waiting import SECONDS, eventually

A_WHILE = (b"(a+)+$", b"a" * 20 + b"b")
"""A search that takes a few tenths of a second, and twice as long with each additional letter."""
FOR_EVER = (b"(a+)+$", b"a" * 60 + b"b")


async def test_accounts_take_turns() -> None:
    pool = Pool(1)
    ended: list[str] = []

    async def work(account: str) -> None:
        assert await pool.run(account, re.match, *A_WHILE) is None
        ended.append(account)

    tasks = [asyncio.create_task(work("greedy")) for _ in range(6)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work("modest")) for _ in range(2)]
    await asyncio.gather(*tasks)
    await pool.close()
    assert ended[:5] == ["greedy", "greedy", "modest", "greedy", "modest"]


async def test_one_account_cannot_use_all_helpers() -> None:
    pool = Pool(2, cpu_seconds=600)
    hopeless = [asyncio.create_task(pool.run("greedy", re.match, *FOR_EVER)) for _ in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(SECONDS):
        for _ in range(3):
            assert await pool.run("modest", bytes.upper, b"word") == b"WORD"
    assert len(pool.alive) == 2
    await pool.close()
    for task in hopeless:
        with pytest.raises(HelperDied):
            await task


async def test_work_that_exceeds_its_limits_is_killed_and_the_next_is_served() -> None:
    pool = Pool(1, cpu_seconds=1)
    with pytest.raises(TooMuchWork, match="processor time"):
        await pool.run("a", re.match, *FOR_EVER)
    with pytest.raises(TooMuchWork, match="memory"):
        await pool.run("a", bytes.ljust, b"x", 2**40)
    assert await pool.run("a", bytes.upper, b"word") == b"WORD"
    await pool.close()


async def test_declared_exceptions_are_raised_and_others_are_failures() -> None:
    pool = Pool(1)
    with pytest.raises(pickle.UnpicklingError):
        await pool.run("a", pickle.loads, b"?", raises=(pickle.UnpicklingError,))
    with pytest.raises(HelperDied):
        await pool.run("a", pickle.loads, b"?")
    await pool.close()


async def test_one_accounts_queued_work_is_limited() -> None:
    pool = Pool(1, cpu_seconds=600)
    tasks = [asyncio.create_task(pool.run("a", re.match, *FOR_EVER)) for _ in range(WAITING_OF_ACCOUNT_MAX + 1)]
    await asyncio.sleep(0)
    with pytest.raises(PoolBusy):
        await pool.run("a", bytes.upper, b"word")
    charge = asyncio.create_task(pool.run("a", bytes.upper, b"word", must=True))
    other = asyncio.create_task(pool.run("b", bytes.upper, b"word"))
    await asyncio.sleep(0)
    assert not charge.done()
    assert not other.done()
    await pool.close()
    for task in (*tasks, charge, other):
        with pytest.raises(HelperDied):
            await task


async def test_a_full_queue_keeps_a_place_for_the_next_account() -> None:
    pool = Pool(1, cpu_seconds=600)
    tasks = [asyncio.create_task(pool.run("0", re.match, *FOR_EVER))]
    await asyncio.sleep(0)
    waits: list[int] = []
    for account in range(6):
        begun = [asyncio.create_task(pool.run(str(account), re.match, *FOR_EVER)) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        waits.append(sum(not task.done() for task in begun))
        tasks += begun
    assert waits[0] == WAITING_OF_ACCOUNT_MAX
    assert all(waits)
    await pool.close()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, (PoolBusy, HelperDied))


async def test_work_whose_helper_dies_is_done_by_another() -> None:
    pool = Pool(1, cpu_seconds=600)
    assert await pool.run("a", bytes.upper, b"word") == b"WORD"
    [idle] = pool.alive
    os.kill(idle.pid, signal.SIGKILL)
    assert await pool.run("a", bytes.upper, b"word") == b"WORD"
    hopeless = asyncio.create_task(pool.run("a", re.match, *FOR_EVER))
    await asyncio.sleep(0)
    killed = {idle.pid}
    for _ in range(2):
        await eventually(lambda: bool({helper.pid for helper in pool.alive} - killed), "a helper at work")
        [pid] = {helper.pid for helper in pool.alive} - killed
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    with pytest.raises(HelperDied):  # work that kills two helpers is not given to a third
        await hopeless
    await pool.close()
    assert not pool.alive


async def test_a_canceled_caller_leaves_nothing_behind() -> None:
    pool = Pool(1, cpu_seconds=600)
    first = asyncio.create_task(pool.run("a", re.match, *FOR_EVER))
    file = MemoryFile(b"a body")
    inode, body = os.fstat(file.fd).st_ino, LargeBody(file, ((0, file.size),))
    gone = [asyncio.create_task(pool.run("a", re.match, rb"x", body)) for _ in range(WAITING_OF_ACCOUNT_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(PoolBusy):
        await pool.run("a", bytes.upper, b"word")
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    assert pool.waiting == 0
    del file, body, gone, task
    assert inode not in files_in_memory()
    first.cancel()
    await pool.close()


def files_in_memory(pid: int | str = "self") -> set[int]:
    """Inodes of the in-memory files that this process, or another, has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(link.readlink()).startswith("/memfd:"):
                found.add(link.stat().st_ino)
    return found


async def test_a_helpers_output_file_is_complete() -> None:
    pool, file = Pool(1), MemoryFile()
    body = gzip.compress(b"word " * 100_000)
    size = await pool.run("a", decode_into, body, ["gzip"], 2**20, into=file)
    assert whole(LargeBody(file, ((0, size),))) == b"word " * 100_000
    with pytest.raises(TooLarge):
        await pool.run("a", decode_into, body, ["gzip"], 2**10, into=MemoryFile(), raises=(TooLarge,))
    await pool.close()


async def test_a_helpers_output_is_not_closed_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    pool, file = Pool(1), MemoryFile()
    await pool.run("a", decode_into, gzip.compress(bytes(2**20)), ["gzip"], 2**20, into=file)
    await pool.close()
    fd = file.fd
    with monkeypatch.context() as patch:
        patch.setattr(memory_files._closer, "close", closed.append)
        del file
    assert closed == [fd]
    os.close(fd)


async def test_refused_work_is_freed_at_once() -> None:
    """It is freed before the next garbage collection: the file's content is no longer counted, and may be as large as
    the largest body."""
    pool, bomb = Pool(1), gzip.compress(bytes(2**20))
    for _ in range(3):
        with pytest.raises(TooLarge):
            await pool.run("a", decode_into, bomb, ["gzip"], 2**10, into=MemoryFile(), raises=(TooLarge,))
    [helper] = pool.alive
    assert files_in_memory(helper.pid) == set()
    await pool.close()


async def test_early_work_is_refused_at_a_stop_and_the_rest_completes() -> None:
    pool = Pool(1)
    first = asyncio.create_task(pool.run("a", re.match, *A_WHILE, early=True))
    await asyncio.sleep(0)
    early = asyncio.create_task(pool.run("a", bytes.upper, b"word", early=True))
    late = asyncio.create_task(pool.run("a", bytes.upper, b"word"))
    await asyncio.sleep(0)
    pool.refuse_early()
    with pytest.raises(PoolStopping):
        await early
    with pytest.raises(PoolStopping):
        await pool.run("a", bytes.upper, b"word", early=True)
    assert await first is None
    assert await late == b"WORD"
    await pool.close()


async def test_a_pool_closes_while_a_helper_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    begins = threading.Event()

    def slow(_helper: HelperProcess, *_: int) -> None:
        begins.wait()
        raise OSError

    monkeypatch.setattr(pools, "CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(HelperProcess, "__init__", slow)
    pool = Pool(1)
    task = asyncio.create_task(pool.run("a", bytes.upper, b"word"))
    waits = asyncio.create_task(pool.run("a", bytes.upper, b"word"))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(SECONDS):
            await pool.close()
        with pytest.raises(HelperDied):
            await waits
    finally:
        begins.set()
    with pytest.raises(HelperDied):
        await task


async def test_a_canceled_caller_frees_its_place_and_idle_helpers_end() -> None:
    pool = Pool(1, idle_seconds=0.01)
    first = asyncio.create_task(pool.run("a", re.match, *A_WHILE))
    await asyncio.sleep(0)
    gone = asyncio.create_task(pool.run("a", re.match, *FOR_EVER))
    await asyncio.sleep(0)
    gone.cancel()
    assert await first is None
    assert await pool.run("a", bytes.upper, b"word") == b"WORD"
    pids = [helper.pid for helper in pool.alive]
    await eventually(lambda: not pool.alive, "the end of idle helpers")
    assert not any(map(exists, pids))
    assert await pool.run("a", bytes.upper, b"word") == b"WORD"
    await pool.close()
    assert not pool.alive


def exists(pid: int) -> bool:
    """Whether the process exists, even as a zombie."""
    return Path(f"/proc/{pid}").exists()
