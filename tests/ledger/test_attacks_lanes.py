"""Attacks on the lanes: the effect of customers' input, operators' settings or unlucky timing on a batch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncpg.exceptions import DeadlockDetectedError

from farebox.ledger.lanes import BATCH_BYTES
from farebox.storage.postgres.connecting import connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.lanes import Lane
from farebox.storage.sql import Connection
from tests import engines
from tests.ledger.kit import ANN, BOB, Books, UnusualCall, hold, left_to_jobs, open_books, settle

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="only PostgreSQL has lanes")


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    engines.use_engine("postgres")
    async with open_books(tmp_path / "books", ANN, BOB) as opened:
        yield opened


# --- what a customer can send -----------------------------------------------------------------------------------------


async def test_a_model_name_with_a_nul_does_not_make_its_batch_slow(books: Books) -> None:
    """PostgreSQL's text cannot contain NUL; jobs write the replacement character."""
    await books.fund(ANN, 100)
    await books.do(hold("a", 10))
    await asyncio.gather(
        books.ledger.record(ANN, UnusualCall("refused", {"model": "x\0y"})),
        books.do(settle("a", 5, record=UnusualCall("a", {"model": "x\0y"}))),
    )
    assert left_to_jobs(books) == 0
    assert await books.sql("SELECT DISTINCT model FROM calls UNION ALL SELECT model FROM usage_hours") == [
        ("x\ufffdy",), ("x\ufffdy",),
    ]  # fmt: skip


async def test_many_large_calls_are_several_batches(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one batch they would be a statement of half a gigabyte, which would time out as a whole."""
    sizes: list[int] = []
    send = Lane.send

    async def measured(self: Lane, arguments: Any) -> Any:
        sizes.append(sum(len(body or b"") for column in arguments[21:23] for body in column or ()))
        return await send(self, arguments)

    monkeypatch.setattr(Lane, "send", measured)
    body = b"x" * 1_000_000
    await asyncio.gather(
        *(
            books.ledger.record(ANN, UnusualCall(f"c{n}", {"request_body": body, "response_body": body}))
            for n in range(12)
        )
    )
    assert sum(sizes) == 24_000_000
    assert max(sizes) < BATCH_BYTES + 2_000_001
    assert await books.sql("SELECT count(*), sum(length(request) + length(response)) FROM calls") == [(12, 24_000_000)]


# --- what an operator's settings can do -------------------------------------------------------------------------------


async def test_the_isolation_level_is_ours_whatever_the_database_has(books: Books) -> None:
    """With repeatable reads a job would continue with the state from before it waited for its turn."""
    assert isinstance(books.database, PostgresDatabase)
    url = books.database.url
    session = await connect(url, timeout=10)
    name = await session.fetchval("SELECT current_database()")
    await session.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    try:
        other = await connect(url, timeout=10)
        assert await other.fetchval("SHOW transaction_isolation") == "read committed"
        other.terminate()
    finally:
        await session.execute(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')
        session.terminate()


# --- what other transactions can do ---------------------------------------------------------------------------------


async def test_a_rolled_back_job_keeps_its_order(books: Books) -> None:
    """A hold and its release may both be jobs: the release must find the hold."""
    order: list[str] = []

    def first(_: Connection) -> None:
        order.append("first")
        if order.count("first") < 3:
            raise DeadlockDetectedError("undone for another's sake")

    def second(_: Connection) -> None:
        order.append("second")

    await asyncio.gather(books.database.write(first), books.database.write(second))
    assert order == ["first", "first", "first", "second"]
