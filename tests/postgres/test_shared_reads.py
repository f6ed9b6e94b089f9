"""Readers of the same data share a query, and nobody gets data that was read before their request."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from farebox.storage.postgres.shared_reads import CONCURRENT_QUERIES, SharedReads
from farebox.storage.sql import DatabaseUnavailable


class Held:
    """A database whose queries see the state at which they are sent, and are answered on the test's command."""

    def __init__(self) -> None:
        self.moment = 0
        self.sent: list[asyncio.Future[Exception | None]] = []

    async def get(self, read: Callable[[Any], Any]) -> Any:
        found = read(self.moment)
        self.sent.append(asyncio.get_running_loop().create_future())
        error = await self.sent[-1]
        if error is not None:
            raise error
        return found

    def answer(self, at: int, error: Exception | None = None) -> None:
        self.sent[at].set_result(error)


def read_moment(connection: Any, account_id: str) -> tuple[int, str]:
    return connection, account_id


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _pending(shared: SharedReads, count: int, account_id: str = "ann") -> list[asyncio.Future[tuple[int, str]]]:
    readers = [shared.read(read_moment, account_id) for _ in range(count)]
    await _turns()
    return readers


async def test_a_query_serves_only_readers_that_came_before_it() -> None:
    database = Held()
    shared = SharedReads(database.get)
    first = await _pending(shared, 3)
    database.moment = 1
    second = await _pending(shared, 3)
    database.moment = 2
    third = await _pending(shared, 4)
    assert len(database.sent) == CONCURRENT_QUERIES == 2, "the third group waits"
    database.moment = 3
    database.answer(0)
    await _turns()
    assert len(database.sent) == 3, "its query is sent when another has been answered"
    database.answer(2)
    database.answer(1)
    assert {task.result() for task in (await asyncio.wait(first))[0]} == {(0, "ann")}
    assert {task.result() for task in (await asyncio.wait(second))[0]} == {(1, "ann")}
    assert {task.result() for task in (await asyncio.wait(third))[0]} == {(3, "ann")}, "not older than the request"
    await _turns()
    assert not shared._pending, "nothing is cached"


async def test_after_a_query_of_several_readers_the_next_waits_a_few_turns_for_more() -> None:
    database = Held()
    shared = SharedReads(database.get)
    first = await _pending(shared, 3)
    other = await _pending(shared, 1)  # as many queries as there may be
    second = [shared.read(read_moment, "ann")]
    database.answer(0)
    for _ in range(3):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.append(shared.read(read_moment, "ann"))
    await _turns()
    assert len(database.sent) == CONCURRENT_QUERIES + 1
    database.answer(1)
    database.answer(2)
    await _turns()
    assert len(database.sent) == CONCURRENT_QUERIES + 1, "one query serves all four"
    await asyncio.gather(*first, *other, *second)
    await _turns()
    assert not shared._pending


async def test_two_queries_that_wait_for_the_same_readers_send_one() -> None:
    database = Held()
    shared = SharedReads(database.get)
    first = await _pending(shared, 2)
    second = await _pending(shared, 2)
    third = await _pending(shared, 2)
    database.answer(0)
    database.answer(1)
    await asyncio.gather(*first, *second)
    await _turns()
    await _turns()
    assert len(database.sent) == CONCURRENT_QUERIES + 1
    database.answer(2)
    assert await third[0] == (0, "ann")
    await _turns()
    assert not shared._pending


async def test_accounts_do_not_share() -> None:
    database = Held()
    shared = SharedReads(database.get)
    ann, bob = await _pending(shared, 1), await _pending(shared, 1, "bob")
    database.answer(1)
    assert await bob[0] == (0, "bob")
    assert not ann[0].done()
    database.answer(0)
    await ann[0]


async def test_a_failed_query_fails_all_its_readers() -> None:
    database = Held()
    shared = SharedReads(database.get)
    first = await _pending(shared, 2)
    for _ in range(CONCURRENT_QUERIES):
        later = await _pending(shared, 1)
    database.answer(0, DatabaseUnavailable("away"))
    for task in first:
        with pytest.raises(DatabaseUnavailable, match="away"):
            await task
    await _turns()
    database.answer(1)
    database.answer(2)
    assert await later[0] == (0, "ann")


async def test_a_canceled_reader_does_not_affect_the_others() -> None:
    database = Held()
    shared = SharedReads(database.get)
    gone, stays = await _pending(shared, 2)
    gone.cancel()
    await _turns()
    database.answer(0)
    assert await stays == (0, "ann")
    assert gone.cancelled()


@pytest.mark.parametrize("seed", range(20))
async def test_readers_that_come_and_go_at_any_turn(seed: int) -> None:
    """Every reader that stays gets data from after its request, or the error of its query."""
    draw = random.Random(seed)
    moment = 0
    failed = 0

    async def get(read: Callable[[Any], Any]) -> Any:
        found = read(moment)
        for _ in range(draw.randrange(20)):
            await asyncio.sleep(0)
        if draw.random() < 0.2:
            raise DatabaseUnavailable("for a moment")
        return found

    shared = SharedReads(get)

    async def reader(name: str) -> None:
        nonlocal moment, failed
        for _ in range(20):
            for _ in range(draw.randrange(12)):
                await asyncio.sleep(0)
            moment += 1
            asked = moment
            try:
                assert (await shared.read(read_moment, name))[0] >= asked
            except DatabaseUnavailable:
                failed += 1

    readers = [asyncio.ensure_future(reader(draw.choice(("ann", "bob")))) for _ in range(15)]
    for gone in draw.sample(readers, 5):
        for _ in range(draw.randrange(20)):
            await asyncio.sleep(0)
        gone.cancel()
    async with asyncio.timeout(20):
        ended = await asyncio.gather(*readers, return_exceptions=True)
    assert [error for error in ended if error is not None and not isinstance(error, asyncio.CancelledError)] == []
    assert failed
    await _turns()
    await asyncio.sleep(0.01)
    assert not shared._pending, "nothing is kept"


@pytest.mark.parametrize("turn", range(4))
async def test_readers_of_a_query_that_is_stopped_at_any_turn_are_answered(turn: int) -> None:
    database = Held()
    shared = SharedReads(database.get)
    before = asyncio.all_tasks()
    readers = [shared.read(read_moment, "ann") for _ in range(CONCURRENT_QUERIES + 1)]
    queries = asyncio.all_tasks() - before
    assert len(queries) == CONCURRENT_QUERIES
    for _ in range(turn):
        await asyncio.sleep(0)
    for query in queries:
        query.cancel()
    done, waiting = await asyncio.wait(readers, timeout=5)
    assert not waiting
    assert {type(reader.exception()) for reader in done} == {DatabaseUnavailable}
    await _turns()
    assert not shared._pending
    sent = len(database.sent)
    later = shared.read(read_moment, "ann")
    await _turns()
    database.answer(sent)
    assert await asyncio.wait_for(later, 5) == (0, "ann"), "the account can be read again"


async def test_a_reader_that_comes_between_the_end_of_all_queries_and_its_notice_is_answered() -> None:
    database = Held()
    shared = SharedReads(database.get)
    groups = [await _pending(shared, 1) for _ in range(CONCURRENT_QUERIES)]
    late: list[asyncio.Future[tuple[int, str]]] = []

    async def read_late(turns: int) -> None:
        await asyncio.wait([reader for group in groups for reader in group])
        for _ in range(turns):
            late.append(shared.read(read_moment, "ann"))
            await asyncio.sleep(0)

    reading = asyncio.ensure_future(read_late(6))
    await _turns()
    for query in range(CONCURRENT_QUERIES):
        database.answer(query)
    await reading
    async with asyncio.timeout(5):
        while not all(reader.done() for reader in late):
            for sent in database.sent:
                if not sent.done():
                    sent.set_result(None)
            await asyncio.sleep(0)
    await _turns()
    assert not shared._pending
