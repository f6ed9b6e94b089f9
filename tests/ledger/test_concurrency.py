"""Many concurrent callers, and a second process on the same file."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.ledger.commands import Conflict, Outcome, Release, Settle, Verdict
from tests.engines import ON_BOTH_ENGINES, SQLITE_ONLY
from tests.ledger.kit import ANN, BOB, START, Books, hold, open_books

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books.db", ANN, BOB) as opened:
        yield opened


async def test_a_balance_that_covers_k_holds_admits_exactly_k(books: Books) -> None:
    covered, asked = 37, 1000
    await books.fund(ANN, covered * 7 + 6)
    verdicts = await asyncio.gather(*(books.do(hold(f"h{n}", 7)) for n in range(asked)))
    assert sum(verdict.ok for verdict in verdicts) == covered
    assert {verdict.outcome for verdict in verdicts} == {Outcome.DONE, Outcome.HELD_ELSEWHERE}
    assert min(verdict.available for verdict in verdicts) == 6
    admitted = [f"h{n}" for n, verdict in enumerate(verdicts) if verdict.ok]
    await asyncio.gather(
        *(books.do(Release(account_id=ANN, hold_id=name, at=START)) for name in admitted[:30]),
        *(books.do(Settle(account_id=ANN, hold_id=name, amount=2, at=START)) for name in admitted[30:]),
    )
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(37 * 7 + 6 - 14, 0)]
    assert (await books.do(hold("again", 37 * 7 + 6 - 14))).ok  # released credit is spendable at once


async def test_available_is_never_below_zero_while_calls_come_and_go(books: Books) -> None:
    await books.fund(ANN, 100)
    low = 100

    async def call(name: str) -> None:
        nonlocal low
        opened = await books.do(hold(name, 30))
        if opened.ok:
            ended = await books.do(Settle(account_id=ANN, hold_id=name, amount=45, at=START))  # always an overrun
            low = min(low, ended.available)
        low = min(low, opened.available)

    await asyncio.gather(*(call(f"h{n}") for n in range(300)))
    assert low == 0
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(0, 0)]


async def test_repeats_in_flight_together_take_effect_once(books: Books) -> None:
    await books.fund(ANN, 100)
    verdicts = await asyncio.gather(*(books.do(hold("h", 30)) for _ in range(50)))
    assert sorted(verdict.outcome for verdict in verdicts) == [Outcome.DONE] + [Outcome.REPEATED] * 49
    settled = await asyncio.gather(
        *(books.do(Settle(account_id=ANN, hold_id="h", amount=20, at=START)) for _ in range(50))
    )
    assert {verdict.amount for verdict in settled} == {20}
    assert settled[0].posted == 80


async def test_a_conflict_within_a_batch_fails_alone(books: Books) -> None:
    await books.fund(ANN, 1000)
    await books.do(hold("taken", 5))
    commands = [hold("taken", 6) if n == 20 else hold(f"h{n}", 10) for n in range(40)]
    responses = await asyncio.gather(*(books.do(command) for command in commands), return_exceptions=True)
    assert isinstance(responses[20], Conflict)
    others = responses[:20] + responses[21:]
    assert all(isinstance(response, Verdict) and response.outcome is Outcome.DONE for response in others)
    assert await books.sql("SELECT count(*), sum(amount) FROM holds") == [(40, 395)]


OTHER_PROCESS = """
import sys
from pathlib import Path
from farebox.ledger.commands import Grant, Hold, Settle
from farebox.ledger.posting import apply
from farebox.storage.sqlite import open_file

connection = open_file(Path(sys.argv[1]))
done = 0
for n in range(int(sys.argv[2])):
    for command in (
        Grant(account_id="ann", grant_id=f"other{n}", amount=3, at=1),
        Hold(account_id="ann", hold_id=f"other{n}", amount=3, at=1, expires_at=10**15),
        Settle(account_id="ann", hold_id=f"other{n}", amount=2, at=1),
    ):
        connection.execute("BEGIN IMMEDIATE")
        done += apply(connection, command).ok
        connection.execute("COMMIT")
print(done)
"""


@SQLITE_ONLY
async def test_another_process_may_write_at_the_same_time(books: Books) -> None:
    times = 100
    await books.fund(ANN, 100_000)
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, str(books.path), str(times), stdout=subprocess.PIPE
    )
    ours = 0
    ended = asyncio.ensure_future(other.communicate())
    while not ended.done():
        name = f"ours{ours}"
        assert (await books.do(hold(name, 10))).outcome is Outcome.DONE
        assert (await books.do(Settle(account_id=ANN, hold_id=name, amount=1, at=START))).outcome is Outcome.DONE
        ours += 1
    out, _ = await ended
    assert (other.returncode, out.strip()) == (0, str(3 * times).encode())
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [
        (100_000 + times - ours, 0)
    ]
