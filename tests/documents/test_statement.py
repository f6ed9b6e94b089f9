"""The monthly statement: its sums are those of the transfers, whatever happened in the month."""

import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from farebox.billing.documents import statement_of
from farebox.calendar import month_span
from farebox.documents.content import Statement
from farebox.errors import Problem
from farebox.ledger.commands import Correct, Expire, Grant, Hold, Settle, TopUp, Verdict
from farebox.runtime.services import Services
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.sql import Connection
from tests.messages.kit import ANN, ManualClock, open_services, sql

DAY = 86_400_000
NOVEMBER = 1_793_491_200_000
DECEMBER = NOVEMBER + 30 * DAY
SIGN = {"granted": 1, "credit": 1}


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(tmp_path, ManualClock(DECEMBER + 40 * DAY)) as made:
        yield made


@dataclass
class Called:
    """The record of a call (ledger.commands.Record)."""

    log_id: str
    at: int
    model: str

    def write(self, connection: Connection, bucket: int, verdict: Verdict) -> None:
        call = CallRow(
            account_id=ANN, log_id=self.log_id, gateway_id="default", created_at=self.at, provider="openai",
            model=self.model, success=True, status_code=200, duration=1, tokens_in=100, tokens_out=7,
            cost=verdict.amount, charge=verdict.amount, detail=CallDetail(), receipt=None, logged=True,
        )  # fmt: skip
        insert_call(connection, bucket, call)


class Life:
    """An account with seeded random activity."""

    def __init__(self, services: Services, seed: int) -> None:
        self.services = services
        self.random = random.Random(seed)
        self.count = 0

    async def act(self, at: int) -> None:
        self.count += 1
        name, amount = f"{self.count}", self.random.randrange(1, 3_000_000_000)
        kind = self.random.choice(("top_up", "grant", "call", "call", "call", "correct", "expire"))
        if kind == "top_up":
            await self.services.ledger.do(TopUp(account_id=ANN, payment_id=name, amount=amount, at=at))
        elif kind == "grant":
            expires = self.random.choice((None, at + 3 * DAY))
            await self.services.ledger.do(
                Grant(account_id=ANN, grant_id=name, amount=amount, at=at, expires_at=expires)
            )
        elif kind == "correct":
            sign = self.random.choice((1, -1))
            await self.services.ledger.do(Correct(account_id=ANN, correction_id=name, amount=sign * amount, at=at))
        elif kind == "expire":
            await self.services.ledger.do(Expire(account_id=ANN, at=at))
        else:
            await self.call(name, at, amount)

    async def call(self, name: str, began: int, charge: int, *, took: int = 90_000, model: str = "") -> None:
        hold = Hold(account_id=ANN, hold_id=name, amount=charge // 2 + 1, at=began, expires_at=began + DAY)
        if not (await self.services.ledger.do(hold)).ok:
            return
        record = Called(name, began, model or self.random.choice(("gpt-5", "gpt-5-mini")))
        settle = Settle(account_id=ANN, hold_id=name, amount=charge, at=began + took, record=record)
        await self.services.ledger.do(settle)


def check(made: Statement) -> None:
    """Check the invariants of every statement."""
    movements = {item.kind: item.amount_nanos for item in made.movements}
    assert made.opening_nanos + sum(movements.values()) == made.closing_nanos
    assert made.usage_nanos + made.shifted_nanos == -movements.get("charged", 0)


@pytest.mark.parametrize("seed", range(6))
async def test_the_sums_are_those_of_the_transfers(services: Services, seed: int) -> None:
    life = Life(services, seed)
    at = NOVEMBER - 5 * DAY
    while at < DECEMBER + 5 * DAY:
        await life.act(at)
        at += life.random.randrange(3_600_000, 16 * 3_600_000)
    months = [await statement_of(services, ANN, month) for month in ("2026-10", "2026-11", "2026-12", "2027-01")]
    assert months[0].opening_nanos == 0
    for earlier, later in itertools.pairwise(months):
        assert earlier.closing_nanos == later.opening_nanos
    for made in months:
        check(made)
        transfers = await sql(
            services,
            "SELECT kind, from_book, to_book, amount FROM transfers WHERE at >= ? AND at < ?",
            (made.start, made.end),
        )
        moved: dict[str, int] = {}
        for kind, source, to, amount in transfers:
            moved[kind] = moved.get(kind, 0) + amount * (SIGN.get(to, 0) - SIGN.get(source, 0))
        said = {item.kind: item.amount_nanos for item in made.movements}
        for kind, word in (
            ("top_up", "bought"), ("grant", "granted"), ("charge", "charged"), ("correction", "corrected"),
            ("expiry", "expired"),
        ):  # fmt: skip
            assert said.get(word, 0) == moved.get(kind, 0)
        hours = await sql(
            services,
            "SELECT model, sum(calls), sum(tokens_in), sum(charge) FROM usage_hours WHERE hour >= ? AND hour < ? "
            "GROUP BY model ORDER BY model",
            (made.start, made.end),
        )
        assert [(line.model, line.calls, line.tokens_in, line.charge_nanos) for line in made.usage] == hours
    balance = await sql(services, "SELECT posted FROM balances WHERE account_id = ?", (ANN,))
    assert balance == [(months[-1].closing_nanos,)]


async def test_a_call_across_midnight_is_shown_in_both_months(services: Services) -> None:
    life = Life(services, 0)
    await services.ledger.do(TopUp(account_id=ANN, payment_id="p", amount=10_000_000_000, at=NOVEMBER))
    await life.call("over", DECEMBER - 30_000, 1_000, took=60_000, model="gpt-5")
    november = await statement_of(services, ANN, "2026-11")
    december = await statement_of(services, ANN, "2026-12")
    check(november)
    check(december)
    assert (november.usage_nanos, november.shifted_nanos, november.closing_nanos) == (1_000, -1_000, 10_000_000_000)
    assert (december.usage_nanos, december.shifted_nanos, december.closing_nanos) == (0, 1_000, 9_999_999_000)


async def test_written_off_amounts_are_not_charged_to_the_customer(services: Services) -> None:
    await services.ledger.do(TopUp(account_id=ANN, payment_id="p", amount=700, at=NOVEMBER))
    await Life(services, 0).call("over", NOVEMBER + DAY, 1_000)
    made = await statement_of(services, ANN, "2026-11")
    check(made)
    assert (made.usage_nanos, made.shifted_nanos, made.closing_nanos) == (700, 0, 0)


async def test_a_month_is_final_once_its_calls_are_over(services: Services) -> None:
    clock = services.clock
    assert isinstance(clock, ManualClock)
    clock.now = DECEMBER + 60_000
    assert not (await statement_of(services, ANN, "2026-11")).final
    clock.now = DECEMBER + 2 * 3_600_000
    assert (await statement_of(services, ANN, "2026-11")).final
    assert not (await statement_of(services, ANN, "2026-12")).final


@pytest.mark.parametrize("month", ["2099-01", "2026-13", "2026-1", "november", "2026-00", "2026-11-01", ""])
async def test_other_months_have_no_statement(services: Services, month: str) -> None:
    with pytest.raises(Problem, match="no statement"):
        await statement_of(services, ANN, month)


def test_months_end_where_the_next_begins() -> None:
    assert month_span("2026-11") == (NOVEMBER, DECEMBER)
    assert month_span("2026-12") == (DECEMBER, DECEMBER + 31 * DAY)
    assert month_span("2028-02") is not None
