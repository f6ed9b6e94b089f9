"""Holds and lots left open by a crash or due by the clock are found, closed by the configured policy, and logged."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from farebox.calendar import HOUR_MS
from farebox.ledger.commands import Command, Extend, Settle, Verdict
from farebox.ledger.job_ledger import JobLedger
from farebox.ledger.recovery import (
    BATCH_SIZE,
    OpenHold,
    Policy,
    expire_due,
    expired_accounts,
    expired_holds,
    left_open,
    resolve_left_open,
)
from tests.engines import ON_BOTH_ENGINES, SQLITE_ONLY
from tests.ledger.kit import ANN, BOB, LATER, START, Books, grant, hold, open_books, top_up

pytestmark = ON_BOTH_ENGINES


LOG: FilteringBoundLogger = structlog.get_logger()


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books.db", ANN, BOB) as opened:
        await opened.fund(ANN, 100)
        await opened.fund(BOB, 100)
        yield opened


async def _a_crash(books: Books) -> None:
    """Holds of a dead process, of this process, of the command line, and one that had ended in time."""
    await books.do(hold("dead1", 10, owner="former"))
    await books.do(hold("dead2", 20, owner="former", account_id=BOB))
    await books.do(hold("mine", 5, owner="now"))
    await books.do(hold("nobody", 6))
    await books.do(hold("ended", 7, owner="former"))
    await books.do(Settle(account_id=ANN, hold_id="ended", amount=7, at=START))


async def test_calls_in_doubt_are_those_of_former_processes(books: Books) -> None:
    await _a_crash(books)
    found = await books.database.get(lambda connection: left_open(connection, "now"))
    assert sorted(found, key=lambda each: each.hold_id) == [
        OpenHold(ANN, "dead1", 10, "former"),
        OpenHold(BOB, "dead2", 20, "former"),
    ]


async def test_the_policy_release_gives_the_holds_back(books: Books) -> None:
    await _a_crash(books)
    with capture_logs() as lines:
        await resolve_left_open(books.ledger, books.database, instance="now", policy="release", at=START, log=LOG)
    assert min(lines, key=lambda line: str(line["hold_id"])) == {
        "event": "call_in_doubt_resolved", "log_level": "warning", "account_id": ANN, "hold_id": "dead1",
        "amount": 10, "owner": "former", "policy": "release",
    }  # fmt: skip
    assert len(lines) == 2
    assert await books.sql("SELECT account_id, posted, held FROM balances ORDER BY 1") == [(ANN, 93, 11), (BOB, 100, 0)]


async def test_the_policy_charge_takes_the_holds(books: Books) -> None:
    await _a_crash(books)
    with capture_logs() as lines:
        await resolve_left_open(books.ledger, books.database, instance="now", policy="charge", at=START, log=LOG)
    assert [line["policy"] for line in lines] == ["charge", "charge"]
    assert await books.sql("SELECT account_id, posted, held FROM balances ORDER BY 1") == [(ANN, 83, 11), (BOB, 80, 0)]
    with capture_logs() as lines:
        await resolve_left_open(books.ledger, books.database, instance="now", policy="charge", at=START, log=LOG)
    assert lines == []


async def test_more_calls_in_doubt_than_one_round_takes(books: Books) -> None:
    count = BATCH_SIZE * 2 + 3
    await books.fund(BOB, 100)
    await books.do(top_up("more", 10_000))
    for n in range(count):
        await books.do(hold(f"h{n}", 2, owner="former"))
    with capture_logs() as lines:
        await resolve_left_open(books.ledger, books.database, instance="now", policy="release", at=START, log=LOG)
    assert len(lines) == count
    assert await books.sql("SELECT held FROM balances WHERE account_id = ?", (BOB,)) == [(0,)]


async def test_expired_holds_are_found(books: Books) -> None:
    await books.do(hold("h", 10, expires_at=LATER, owner="former"))
    await books.do(grant("g", 10, account_id=BOB, expires_at=LATER))
    get = books.database.get
    assert await get(lambda connection: expired_accounts(connection, LATER - 1)) == []
    assert await get(lambda connection: expired_accounts(connection, LATER)) == [ANN, BOB]
    assert await get(lambda connection: expired_holds(connection, LATER)) == [OpenHold(ANN, "h", 10, "former")]


async def test_expiry_ends_holds_and_lots_and_logs_it(books: Books) -> None:
    await books.do(hold("h", 10, expires_at=LATER))
    await books.do(hold("i", 10, expires_at=LATER + 1))
    await books.do(grant("g", 8, account_id=BOB, expires_at=LATER))
    with capture_logs() as lines:
        await expire_due(books.ledger, books.database, LATER, LOG)
    assert lines == [
        {"event": "credit_expired", "log_level": "info", "account_id": BOB, "amount": 8},
        {
            "event": "hold_expired", "log_level": "warning", "account_id": ANN, "hold_id": "h", "amount": 10,
            "owner": "",
        },
    ]  # fmt: skip
    assert await books.sql("SELECT account_id, posted, held FROM balances ORDER BY 1") == [
        (ANN, 100, 10),
        (BOB, 100, 0),
    ]
    with capture_logs() as lines:
        await expire_due(books.ledger, books.database, LATER, LOG)
    assert lines == []


async def test_a_lot_kept_by_holds_expires_in_a_later_run(books: Books) -> None:
    await books.do(grant("g", 8, expires_at=LATER))
    await books.do(hold("h", 105, expires_at=LATER + 9))
    with capture_logs() as lines:
        await expire_due(books.ledger, books.database, LATER, LOG)
    assert [(line["event"], line["amount"]) for line in lines] == [("credit_expired", 3)]
    with capture_logs() as lines:
        await expire_due(books.ledger, books.database, LATER + 9, LOG)
    assert [(line["event"], line["amount"]) for line in lines] == [("credit_expired", 5), ("hold_expired", 105)]


class _Overtaken(JobLedger):
    """A ledger on which another command is executed just before each given one."""

    def __init__(self, books: Books, earlier: Command) -> None:
        super().__init__(books.database)
        self.books, self.earlier = books, earlier

    async def do(self, command: Command) -> Verdict:
        assert (await self.books.do(self.earlier)).ok
        return await self.books.do(command)


async def test_a_hold_that_was_extended_meanwhile_is_left_alone(books: Books) -> None:
    await books.do(hold("h", 10, expires_at=LATER))
    extend = Extend(account_id=ANN, hold_id="h", amount=10, at=LATER, expires_at=LATER + 9)
    with capture_logs() as lines:
        await expire_due(_Overtaken(books, extend), books.database, LATER, LOG)
    assert lines == []


@pytest.mark.parametrize("policy", ["release", "charge"])
async def test_a_call_that_was_settled_meanwhile_is_not_in_doubt(books: Books, policy: Policy) -> None:
    await books.do(hold("h", 10, owner="former"))
    settle = Settle(account_id=ANN, hold_id="h", amount=10, at=START)
    with capture_logs() as lines:
        await resolve_left_open(
            _Overtaken(books, settle), books.database, instance="now", policy=policy, at=START, log=LOG
        )
    assert lines == []


async def test_a_charge_in_doubt_counts_in_the_hour_of_its_recovery(books: Books) -> None:
    await _a_crash(books)
    later = START + 3 * HOUR_MS
    await resolve_left_open(books.ledger, books.database, instance="now", policy="charge", at=later, log=LOG)
    assert sorted(await books.sql("SELECT account_id, hour, provider, model, calls, charge FROM usage_hours")) == [
        (ANN, START - START % HOUR_MS, "unrecorded", "", 1, 7),
        (ANN, later - later % HOUR_MS, "unrecorded", "", 1, 10),
        (BOB, later - later % HOUR_MS, "unrecorded", "", 1, 20),
    ]


@SQLITE_ONLY
@pytest.mark.parametrize("query", [left_open, expired_holds, expired_accounts])
async def test_recovery_reads_only_open_rows(books: Books, query: object) -> None:
    """No table is scanned: only open or unspent rows are visited, after one step per bucket."""
    plans: list[str] = []

    def plan(connection: object) -> None:
        class Explaining:
            def execute(self, sql: str, values: tuple[object, ...]) -> object:
                steps = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)  # type: ignore[attr-defined]
                plans.extend(step[-1] for step in steps)
                return connection.execute(sql, values)  # type: ignore[attr-defined]

        query(Explaining(), START)  # type: ignore[operator]

    await books.database.scan(plan)
    reads = [step for step in plans if step.startswith(("SCAN", "SEARCH"))]
    assert reads
    indexes = ("holds_open", "lots_expiring", "accounts_of_bucket", "SCAN used")
    assert all(any(index in step for index in indexes) for step in reads), reads
