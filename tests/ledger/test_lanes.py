"""The lanes of PostgreSQL: what they do without a job, that the effect is the same as that of a job, and what happens
to a batch whose connection dies."""

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.calendar import HOUR_MS
from farebox.ledger import buckets
from farebox.ledger.commands import Command, Conflict, Outcome, Release, Verdict
from farebox.ledger.lanes import LaneLedger
from farebox.ledger.spending import window_start
from farebox.storage.accounts import add_account, find_buckets
from farebox.storage.activity import Activity
from farebox.storage.batch_wait import TURNS_MAX
from farebox.storage.postgres.connecting import connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.lanes import Lane
from farebox.storage.postgres.migrations import TURN
from farebox.storage.spending import Duration, Strategy
from farebox.storage.sql import Connection, DatabaseUnavailable
from tests import engines
from tests.ledger.kit import (
    ANN,
    BOB,
    EVE,
    SECONDS,
    START,
    Books,
    CallOf,
    grant,
    hold,
    left_to_jobs,
    open_books,
    settle,
    top_up,
)

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="only PostgreSQL has lanes")


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    engines.use_engine("postgres")
    async with open_books(tmp_path / "books", ANN, BOB) as opened:
        yield opened


def lanes(books: Books) -> LaneLedger:
    assert isinstance(books.ledger, LaneLedger)
    return books.ledger


def server(books: Books) -> PostgresDatabase:
    assert isinstance(books.database, PostgresDatabase)
    return books.database


def release(hold_id: str, *, account_id: str = ANN, record: CallOf | None = None) -> Release:
    return Release(account_id=account_id, hold_id=hold_id, at=START, record=record)


# --- what needs no job ------------------------------------------------------------------------------------------------


async def test_common_calls_need_no_job(books: Books) -> None:
    await books.do(grant("g", 30))
    await books.do(top_up("p", 100))
    await books.limit(1_000)
    await books.do(hold("first", 1))  # opens the limit's window
    before = left_to_jobs(books)
    assert await books.do(hold("a", 50)) == Verdict(Outcome.DONE, 130, 51, 50)
    assert await books.do(hold("b", 80)) == Verdict(Outcome.HELD_ELSEWHERE, 130, 51, limit=1_000, spent=0)
    assert await books.do(hold("b", 500)) == Verdict(Outcome.REFUSED, 130, 51, limit=1_000, spent=0)
    assert await books.do(hold("b", 1_001)) == Verdict(Outcome.LIMITED, 130, 51, limit=1_000, spent=0)
    assert await books.do(hold("c", 20)) == Verdict(Outcome.DONE, 130, 71, 20)
    record = CallOf(ANN, "a")
    assert await books.do(settle("a", 40, record=record)) == Verdict(Outcome.DONE, 90, 21, 40)
    assert await books.do(settle("c", 0, record=CallOf(ANN, "c"))) == Verdict(Outcome.DONE, 90, 1, 0)
    assert await books.do(release("first", record=CallOf(ANN, "first"))) == Verdict(Outcome.DONE, 90, 0)
    await books.ledger.record(ANN, CallOf(ANN, "free"))
    await books.ledger.record(EVE, CallOf(EVE, "nobody"))
    assert await books.do(hold("h", 1, account_id=EVE)) == Verdict(Outcome.UNKNOWN)
    assert left_to_jobs(books) == before
    assert (await books.moves())[2:] == [
        ("charge:a", "granted", "revenue", 30),
        ("charge:a/2", "credit", "revenue", 10),
    ]
    assert await books.sql("SELECT log_id, charge FROM calls ORDER BY 1") == [
        ("a", 40), ("c", 0), ("first", 0), ("free", 0),
    ]  # fmt: skip
    assert await books.sql("SELECT calls, charge, tokens_in FROM usage_hours") == [(1, 40, 3)]


async def test_buckets_are_queried_together(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.gather(*(books.fund(name, 100) for name in (ANN, BOB)))
    lanes(books)._buckets.known.clear()  # filled by the grants
    asked: list[list[str]] = []

    def found(connection: Connection, account_ids: list[str]) -> dict[str, int]:
        asked.append(account_ids)
        return find_buckets(connection, account_ids)

    monkeypatch.setattr(buckets, "find_buckets", found)
    names = [ANN, EVE, BOB, ANN]
    verdicts = await asyncio.gather(*(books.do(hold(f"h{n}", 1, account_id=name)) for n, name in enumerate(names)))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DONE, Outcome.UNKNOWN, Outcome.DONE, Outcome.DONE]
    assert asked == [[ANN, EVE, BOB]]
    await books.do(hold("again", 1))
    assert len(asked) == 1


async def test_unusual_commands_run_as_jobs(books: Books) -> None:
    await books.do(grant("old", 5, expires_at=START + 10))
    await books.fund(ANN, 100)
    await books.set(low_below=90)
    unusual: list[Command] = [
        hold("due", 1, at=START + 10),  # a lot has expired
        hold("due", 1),  # a repeat
        settle("due", 2),  # more than the hold
        settle("none", 1),  # no such hold
        release("due"),  # already ended
    ]
    for place, command in enumerate(unusual, 1):
        await books.do(command)
        assert left_to_jobs(books) == place, command
    await books.do(hold("low", 20))
    await books.do(settle("low", 20))  # the balance has become low
    assert left_to_jobs(books) == len(unusual) + 1
    assert len(await books.sql("SELECT 1 FROM notices")) == 1


async def test_a_small_hold_behind_a_too_large_one_is_admitted(books: Books) -> None:
    await books.fund(ANN, 100)
    responses = await asyncio.gather(
        *(books.do(hold(f"h{n}", amount)) for n, amount in enumerate((60, 50, 30, 20, 10)))
    )
    assert [(response.ok, response.held) for response in responses] == [
        (True, 60), (False, 60), (True, 90), (False, 90), (True, 100),
    ]  # fmt: skip
    assert left_to_jobs(books) == 0


async def test_one_hold_many_times_in_a_batch(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("first", 1))
    before = left_to_jobs(books)
    same: list[Command] = [hold("h", 40), settle("h", 30), hold("h", 40), hold("h", 41), release("h")]
    responses = await asyncio.gather(*(books.do(each) for each in (*same, hold("i", 59))), return_exceptions=True)
    assert isinstance(responses.pop(3), Conflict)
    assert [response.outcome for response in responses if isinstance(response, Verdict)] == [
        Outcome.DONE, Outcome.DONE, Outcome.REPEATED, Outcome.NOT_OPEN, Outcome.DONE,
    ]  # fmt: skip
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(70, 60)]
    assert left_to_jobs(books) == before + 3, (
        "the first one, and unrelated commands, need no job; the conflict is undone"
    )


async def test_a_repeat_does_not_disturb_its_batch(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("old", 10))
    await books.ledger.record(ANN, CallOf(ANN, "row"))
    verdicts, _ = await asyncio.gather(
        asyncio.gather(*(books.do(hold(name, 10)) for name in ("a", "old", "b"))),
        books.ledger.record(ANN, CallOf(ANN, "row")),
    )
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DONE, Outcome.REPEATED, Outcome.DONE]
    assert left_to_jobs(books) == 1
    assert await books.sql("SELECT count(*) FROM calls") == [(1,)]


async def test_a_canceled_sender_does_not_withdraw_its_command(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("first", 1))  # the account's bucket is cached from here on
    waiting = asyncio.ensure_future(books.do(hold("h", 40)))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await books.do(settle("h", 30))).outcome is Outcome.DONE


async def test_a_closed_ledger_has_finished_and_accepts_no_more_commands(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("first", 1))
    sent = [asyncio.ensure_future(books.do(hold(f"h{n}", 1))) for n in range(5)]
    sent.append(asyncio.ensure_future(books.do(hold("first", 1))))
    await asyncio.sleep(0)
    await books.ledger.close()
    assert all(verdict.ok for verdict in await asyncio.gather(*sent))
    with pytest.raises(DatabaseUnavailable):
        await books.do(hold("late", 1))


async def test_a_closed_ledger_has_waited_for_jobs_that_its_batches_left(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("first", 1))
    third = await connect(server(books).url, timeout=SECONDS, name="third")
    async with third.transaction():
        await third.execute(f"SELECT pg_advisory_xact_lock({TURN})")  # no job can run
        repeated = asyncio.ensure_future(books.do(hold("first", 1)))
        while not await third.fetchval(FOR_A_TURN):  # noqa: ASYNC110 - the server has to be polled
            await asyncio.sleep(0.01)
        server(books).health._unavailable = DatabaseUnavailable("for everything that comes after")
        closing = asyncio.ensure_future(closed(books, repeated))
        for _ in range(3):
            await third.fetchval("SELECT 1")
        assert not closing.done()
    server(books).health._unavailable = None
    third.terminate()
    assert await closing, "the job had not ended"
    assert (await repeated).outcome is Outcome.REPEATED


FOR_A_TURN = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' "
    "AND application_name = 'farebox'"
)


async def closed(books: Books, sent: "asyncio.Future[Verdict]") -> bool:
    """Close the ledger; whether the commands that were sent have been answered by then."""
    await books.ledger.close()
    return sent.done()


async def test_a_failing_command_does_not_fail_the_others_in_its_batch(books: Books) -> None:
    """An account's lots contain less than its posted balance, which must never happen: its charge fails, others' do
    not."""
    await books.fund(ANN, 100)
    await books.fund(BOB, 100)
    for account in (ANN, BOB):
        await books.do(hold(f"of {account}", 10, account_id=account))
    await books.database.write(lambda c: c.execute("UPDATE lots SET remaining = 3 WHERE account_id = ?", (ANN,)))
    before = left_to_jobs(books)
    responses = await asyncio.gather(
        *(books.do(settle(f"of {account}", 10, account_id=account)) for account in (ANN, BOB)),
        books.do(hold("another", 5, account_id=BOB)),
        return_exceptions=True,
    )
    assert left_to_jobs(books) == before + 2, "the whole batch: one failed as a job too"
    assert isinstance(responses[0], Exception)
    assert not isinstance(responses[0], DatabaseUnavailable), "the database is well"
    assert [response.outcome for response in responses[1:] if isinstance(response, Verdict)] == [Outcome.DONE] * 2
    await books.database.write(lambda c: c.execute("UPDATE lots SET remaining = 100 WHERE account_id = ?", (ANN,)))


# --- the same as with jobs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fixed", "sliding"])
@pytest.mark.parametrize("duration", ["daily", "weekly", "monthly"])
async def test_windows_begin_at_the_same_time_as_in_the_ledger(
    books: Books, duration: Duration, strategy: Strategy
) -> None:
    draw = random.Random(f"{duration} {strategy}")
    moments = [draw.randrange(0, 4_102_444_800_000) for _ in range(300)]
    first_of_a_month = (0, 951_868_800_000, 1_709_251_200_000, 1_735_689_600_000)
    moments += [at + more for at in first_of_a_month for more in (0, 1, HOUR_MS)]
    values = ", ".join(f"({at})" for at in moments)
    found = await books.sql(
        f"SELECT at, ledger_window_start('{duration}', '{strategy}', at) FROM (VALUES {values}) moments(at)"
    )
    assert found == [(at, window_start(duration, strategy, at)) for at in moments]


# --- which items share a batch ----------------------------------------------------------------------------------------


@pytest.fixture
async def sizes(books: Books) -> list[int]:
    """The number of items in each batch to come."""
    found: list[int] = []

    class Sizes(Activity):
        def batch(self, size: int, seconds: float, notes: object) -> None:
            found.append(size)

        def job(self, seconds: float, notes: object) -> None:
            pass

    await books.do(hold("first", 0))  # finds the account's bucket
    server(books).activity = Sizes(*[None] * 4)  # type: ignore[arg-type]
    return found


async def _hold_later(books: Books, turns: int, name: str) -> Verdict:
    for _ in range(turns):
        await asyncio.sleep(0)
    return await books.do(hold(name, 0))


async def test_after_a_batch_of_several_the_next_waits_a_few_turns_of_the_loop(books: Books, sizes: list[int]) -> None:
    await asyncio.gather(_hold_later(books, 0, "a"), _hold_later(books, 3, "b"))
    assert sizes == [1, 1], "a single caller does not wait"
    await asyncio.gather(_hold_later(books, 0, "c"), _hold_later(books, 0, "d"))
    await asyncio.gather(*(_hold_later(books, turns, f"e{turns}") for turns in (0, 3, 6)))
    assert sizes == [1, 1, 2, 3]


async def test_a_batch_is_sent_though_items_keep_arriving(books: Books, sizes: list[int]) -> None:
    await asyncio.gather(books.do(hold("a", 0)), books.do(hold("b", 0)))  # the next batch waits for more
    sent = list[asyncio.Future[Verdict]]()
    for number in range(10 * TURNS_MAX):  # one in each turn of the loop
        sent.append(asyncio.ensure_future(books.do(hold(f"h{number}", 0))))
        await asyncio.sleep(0)
    await asyncio.gather(*sent)
    assert sizes[0] == 2
    assert TURNS_MAX <= sizes[1] <= TURNS_MAX + 1


# --- batches that are sent again --------------------------------------------------------------------------------------


async def test_a_resent_batch_takes_effect_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The response to a batch is lost, and its commands are sent a second time."""
    await books.fund(ANN, 100)
    for name in ("settled", "released", "bare"):
        await books.do(hold(name, 10))
    send, careful = Lane.send, True

    async def twice(self: Lane, arguments: Any) -> Any:
        await send(self, arguments)
        assert self._call is not None
        return await self._call(self._bucket, careful, self._instance, self._epoch, *arguments)

    monkeypatch.setattr(Lane, "send", twice)
    items: list[Command] = [settle("settled", 4, record=CallOf(ANN, "settled")), settle("bare", 3), hold("new", 20)]
    verdicts = await asyncio.gather(*map(books.do, items), books.ledger.record(ANN, CallOf(ANN, "alone")))
    assert [verdict.outcome for verdict in verdicts if verdict is not None] == [Outcome.REPEATED] * 3
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(93, 30)]
    assert await books.sql("SELECT log_id FROM calls ORDER BY 1") == [("alone",), ("settled",)]


# --- several processes ------------------------------------------------------------------------------------------------


async def test_three_ledgers_admit_exactly_what_there_is(books: Books) -> None:
    await books.fund(ANN, 37 * 7 + 6)
    ledgers = [LaneLedger(server(books), f"process {number}") for number in range(3)]
    verdicts = await asyncio.gather(*(ledgers[n % 3].do(hold(f"h{n}", 7)) for n in range(600)))
    assert sum(verdict.ok for verdict in verdicts) == 37
    assert {verdict.outcome for verdict in verdicts} == {Outcome.DONE, Outcome.HELD_ELSEWHERE}
    for ledger in ledgers:
        await ledger.close()


async def test_a_storm_of_lanes_and_jobs_has_no_deadlock(books: Books) -> None:
    names = [f"account{n}" for n in range(12)]
    for name in names:
        await books.database.write(partial(add_account, account_id=name, name=name, at=START))
        await books.fund(name, 10_000)
    ledgers = [LaneLedger(server(books), f"process {number}") for number in range(3)]

    async def caller(number: int) -> None:
        draw, ledger = random.Random(number), ledgers[number % 3]
        for turn in range(8):
            account, name = draw.choice(names), f"{number}-{turn}"
            assert (await ledger.do(hold(name, 20, account_id=account))).ok
            charge = draw.choice((5, 20, 25))  # the last is an overrun, which needs a job
            ended = await ledger.do(settle(name, charge, account_id=account, record=CallOf(account, name)))
            assert ended.amount == charge

    await asyncio.gather(*(caller(number) for number in range(48)))
    for ledger in ledgers:
        await ledger.close()
    assert await books.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    assert await books.sql("SELECT sum(held) FROM balances") == [(0,)]


async def test_a_batch_whose_connection_is_cut_is_neither_lost_nor_doubled(books: Books) -> None:
    """The connection dies repeatedly, at any point of a batch; every command is answered, and takes effect once."""
    await books.fund(ANN, 1_000_000)
    answered, cuts, calls = 0, 0, 0

    async def until_answered(command: Command) -> Verdict:
        nonlocal answered, cuts
        while True:
            try:
                verdict = await books.do(command)
            except DatabaseUnavailable:
                continue
            answered += 1
            if answered % 20 == 0:  # the others' batch is in flight
                cuts += len(await books.sql(CUT))
            return verdict

    async def caller(number: int) -> None:
        nonlocal calls
        for turn in range(200):
            if turn >= 10 and cuts > 3:  # on a busy machine the connection is rarely back in time for the next cut
                return
            calls += 1
            name = f"{number}-{turn}"
            assert (await until_answered(hold(name, 20))).ok
            assert (await until_answered(settle(name, 7, record=CallOf(ANN, name)))).amount == 7

    await asyncio.gather(*(caller(number) for number in range(16)))
    assert cuts > 3
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [
        (1_000_000 - calls * 7, 0)
    ]
    assert await books.sql("SELECT count(*), sum(charge) FROM calls") == [(calls, calls * 7)]


CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'farebox lane' "
    "AND datname = current_database()"
)


# --- stopped tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(12))
@pytest.mark.parametrize("what", ["a job", "a lookup of buckets"])
async def test_when_tasks_are_stopped_no_sender_waits_forever(books: Books, what: str, turn: int) -> None:
    """`asyncio.run` stops all tasks when the program fails: a sender that cleans up must not keep it from ending."""
    await books.fund(ANN, 100)
    if what == "a lookup of buckets":
        lanes(books)._buckets.known.clear()
    before = asyncio.all_tasks()
    sent = [asyncio.ensure_future(books.do(settle(f"none{number}", 1))) for number in range(3)]
    for _ in range(turn):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before - set(sent):
        task.cancel()
    async with asyncio.timeout(SECONDS):
        ended = await asyncio.gather(*sent, return_exceptions=True)
        errors = [each for each in ended if isinstance(each, BaseException)]
        assert all(isinstance(error, DatabaseUnavailable | asyncio.CancelledError) for error in errors), errors
        assert (await books.do(hold("next", 5))).ok


@pytest.mark.parametrize("turn", range(3))
async def test_the_sender_of_a_job_that_is_stopped_gets_an_error(books: Books, turn: int) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 1))
    sent = asyncio.ensure_future(books.do(settle("none", 1)))
    for _ in range(100_000):
        if lanes(books)._slow:
            break
        await asyncio.sleep(0)
    for _ in range(turn):
        await asyncio.sleep(0)
    for task in lanes(books)._slow:
        task.cancel()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(DatabaseUnavailable, match="stopped"):
            await sent


@pytest.mark.parametrize("turn", range(4))
async def test_accounts_can_be_looked_up_after_a_lookup_was_stopped(books: Books, turn: int) -> None:
    known = lanes(books)._buckets
    known.known.clear()
    asked = [asyncio.ensure_future(known.find(name)) for name in (ANN, BOB)]
    await asyncio.sleep(0)
    assert known._reading is not None
    for _ in range(turn):
        await asyncio.sleep(0)
    known._reading.cancel()
    await asyncio.sleep(0)
    asked.append(asyncio.ensure_future(known.find(EVE)))
    async with asyncio.timeout(SECONDS):
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in ended[:2]} == {DatabaseUnavailable}
        assert await known.find(ANN) == 0
