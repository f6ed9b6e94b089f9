"""While a batch waits for more commands, callers come and go, and the ledger may be closed or stopped: every caller
that is still there gets an answer, and everything that was sent takes effect once."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.ledger.commands import Outcome, Verdict
from farebox.storage.sql import DatabaseUnavailable
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import ANN, BOB, Books, hold, open_books, settle

pytestmark = ON_BOTH_ENGINES
SECONDS = 20


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    """The next batch waits for more commands, because the last one had several."""
    async with open_books(tmp_path / "books.db", ANN, BOB) as opened:
        await opened.fund(ANN, 1_000_000)
        await opened.fund(BOB, 1_000_000)
        await asyncio.gather(opened.do(hold("first", 1)), opened.do(hold("second", 1)))
        yield opened


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turn", range(1, 9))
async def test_a_canceled_caller_delays_nobody_and_withdraws_nothing(books: Books, turn: int) -> None:
    gone, stays = (asyncio.ensure_future(books.do(hold(name, 5))) for name in ("gone", "stays"))
    await turns(turn)
    gone.cancel()
    async with asyncio.timeout(SECONDS):
        assert (await stays).ok
    assert (await books.do(settle("gone", 5))).outcome is Outcome.DONE


@pytest.mark.parametrize("turn", range(1, 9))
async def test_closing_sends_what_waits(books: Books, turn: int) -> None:
    closing = Books(books.path)
    await asyncio.gather(closing.do(hold("third", 1)), closing.do(hold("fourth", 1)))
    sent = [asyncio.ensure_future(closing.do(hold(f"h{number}", 5))) for number in range(3)]
    await turns(turn)
    async with asyncio.timeout(SECONDS):
        await closing.close()
        assert all(verdict.ok for verdict in await asyncio.gather(*sent))
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await closing.do(hold("late", 5))
    assert await books.sql("SELECT count(*) FROM holds WHERE amount = 5") == [(3,)]


@pytest.mark.parametrize("seed", range(6))
async def test_callers_that_come_and_go_at_any_turn(books: Books, seed: int) -> None:
    draw = random.Random(seed)
    answered: list[str] = []

    async def caller(number: int, account: str, waits: list[int]) -> None:
        for place, wait in enumerate(waits):
            await turns(wait)
            name = f"{number}-{place}"
            assert (await books.do(hold(name, 5, account_id=account))).ok
            assert (await books.do(settle(name, 5, account_id=account))).outcome is Outcome.DONE
            answered.append(name)

    callers = [
        asyncio.ensure_future(caller(number, draw.choice((ANN, BOB)), [draw.randrange(12) for _ in range(10)]))
        for number in range(20)
    ]
    leaving = draw.sample(callers, 7)
    for each in leaving:
        await turns(draw.randrange(30))
        each.cancel()
    async with asyncio.timeout(SECONDS):
        ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [error for error in ended if error is not None and not isinstance(error, asyncio.CancelledError)] == []
    assert sum(error is None for error in ended) >= 13
    [(charges,)] = await books.sql("SELECT count(*) FROM transfers WHERE kind = 'charge'")
    assert len(answered) <= charges <= len(answered) + len(leaving)


@pytest.mark.parametrize("turn", range(1, 9))
async def test_when_all_tasks_are_stopped_those_that_clean_up_are_answered(books: Books, turn: int) -> None:
    """`asyncio.run` does this when the program fails: without an answer, the process would never end."""

    async def call(number: int) -> Verdict | DatabaseUnavailable:
        try:
            return await books.do(hold(f"h{number}", 5))
        except asyncio.CancelledError:
            try:
                return await books.do(hold(f"after{number}", 5))
            except DatabaseUnavailable as error:
                return error

    calls = [asyncio.ensure_future(call(number)) for number in range(3)]
    await turns(turn)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*calls)
        assert (await books.do(hold("next", 5))).ok
