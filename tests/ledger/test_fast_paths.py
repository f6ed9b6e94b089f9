"""The fast paths of both engines, ledger.batches and the function `ledger_batch`, have the same effects as
ledger.posting.

Compares the rows after random batches, and tests small cases that random batches rarely contain, many of which have
caught a planted fault.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.calendar import HOUR_MS
from farebox.ledger.budgets import accounts_to_forget, forget_slots
from farebox.ledger.commands import Budget, Command, Conflict, Expire, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.lanes import LaneLedger
from farebox.ledger.posting import apply
from farebox.storage.calls import METER, PUSH
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.spending import Duration
from farebox.storage.sql import Connection
from tests import engines
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import (
    ANN,
    BOB,
    LATER,
    START,
    Books,
    CallOf,
    UnusualCall,
    grant,
    hold,
    left_to_jobs,
    open_books,
    settle,
    take_back,
    top_up,
)
from tests.long import times

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books", ANN, BOB) as opened:
        yield opened


async def charge(books: Books, name: str, amount: int, *, account_id: str = ANN) -> Verdict:
    assert (await books.do(hold(name, amount, account_id=account_id))).ok
    return await books.do(settle(name, amount, account_id=account_id))


async def test_a_balance_below_a_raised_threshold_is_notified_once(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.set(low_below=200)  # the threshold was raised above the balance
    await charge(books, "a", 10)
    assert len(await books.sql("SELECT 1 FROM notices")) == 1
    before = left_to_jobs(books)
    await charge(books, "b", 10)
    assert left_to_jobs(books) == before, "it has been notified"


async def test_a_balance_above_its_threshold_is_notified_when_it_falls_below(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.set(low_below=95, low_told=1)
    await charge(books, "a", 10)
    assert len(await books.sql("SELECT 1 FROM notices")) == 1


async def test_a_refusal_below_the_threshold_requests_credit(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.set(top_up_below=101)
    assert (await books.do(hold("a", 100))).ok
    assert (await books.do(hold("b", 50))).outcome is Outcome.HELD_ELSEWHERE
    assert left_to_jobs(books) == 0, "that is not for lack of credit"
    assert (await books.do(hold("b", 101))).outcome is Outcome.REFUSED
    assert left_to_jobs(books) == 1
    assert await books.sql("SELECT top_up_below FROM balances WHERE account_id = ?", (ANN,)) == [(None,)]


async def test_below_the_threshold_a_zero_charge_needs_no_job(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 1))
    await books.set(low_below=200)
    assert (await books.do(settle("a", 0))).ok
    assert left_to_jobs(books) == 0


@pytest.mark.parametrize(("low", "mark"), [(70, 40), (40, 70), (90, 40), (40, 90)])
async def test_crossing_either_of_two_thresholds_is_noticed(books: Books, low: int, mark: int) -> None:
    await books.fund(ANN, 100)
    await books.set(low_below=low, top_up_below=mark)
    for name in range(4):
        before = left_to_jobs(books)
        [(posted,)] = await books.sql("SELECT posted FROM balances WHERE account_id = ?", (ANN,))
        await charge(books, f"c{name}", 10)
        crosses = any(posted - 10 < at <= posted for at in (low, mark))
        assert left_to_jobs(books) - before == int(crosses), (posted, low, mark)
    await charge(books, "to the mark exactly", 1)
    [(reported, armed)] = await books.sql("SELECT low_told, top_up_below FROM balances WHERE account_id = ?", (ANN,))
    assert (reported, armed) == (int(low > 59), mark if mark <= 59 else None)


async def test_a_balance_exactly_at_the_threshold_is_not_below_it(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.set(low_below=60, top_up_below=60)
    await charge(books, "a", 40)
    assert left_to_jobs(books) == 0
    assert (await books.do(hold("b", 61))).outcome is Outcome.REFUSED
    assert left_to_jobs(books) == 0, "only below its threshold would a refusal request credit"


async def test_the_earliest_expiry_decides_whether_a_hold_needs_a_job(books: Books) -> None:
    for number, expires in enumerate((START + 50, START + 10, None, START + 90)):
        await books.do(grant(f"g{number}", 10, expires_at=expires, priority=number))
    await books.do(hold("a", 1, at=START + 9))
    assert left_to_jobs(books) == 0
    await books.do(hold("b", 1, at=START + 10))
    assert left_to_jobs(books) == 1
    assert await books.lots() == {"grant:g0": 10, "grant:g2": 10, "grant:g3": 10}


async def test_lots_are_drawn_in_their_order_across_a_batch(books: Books) -> None:
    """Every rule of the order decides between two lots, and charges of one batch continue where the previous one
    ended."""
    await books.do(top_up("aa", 10, at=START + 2))
    await books.do(top_up("zz", 10, at=START + 1))
    await books.do(top_up("b", 10))
    await books.do(top_up("a", 10))
    await books.do(top_up("expires", 10, expires_at=START + 90))
    await books.do(top_up("sooner", 10, expires_at=START + 80))
    await books.do(grant("g", 10))
    await books.do(top_up("first", 10, priority=1))
    await books.do(grant("last", 10, priority=90))
    names = [f"h{number}" for number in range(6)]
    await asyncio.gather(*(books.do(hold(name, 15)) for name in names))
    await asyncio.gather(*(books.do(settle(name, 15)) for name in names))
    assert left_to_jobs(books) == 0
    charges = "SELECT transfer_id, lot_id, amount FROM transfers WHERE kind = 'charge' ORDER BY version"
    assert await books.sql(charges) == [
        ("charge:h0", "top_up:first", 10), ("charge:h0/2", "grant:g", 5),
        ("charge:h1", "grant:g", 5), ("charge:h1/2", "top_up:sooner", 10),
        ("charge:h2", "top_up:expires", 10), ("charge:h2/2", "top_up:a", 5),
        ("charge:h3", "top_up:a", 5), ("charge:h3/2", "top_up:b", 10),
        ("charge:h4", "top_up:zz", 10), ("charge:h4/2", "top_up:aa", 5),
        ("charge:h5", "top_up:aa", 5), ("charge:h5/2", "grant:last", 10),
    ]  # fmt: skip


async def test_a_hold_above_available_may_wait_and_above_posted_is_refused(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 1))
    assert (await books.do(hold("b", 100))).outcome is Outcome.HELD_ELSEWHERE
    assert (await books.do(hold("b", 101))).outcome is Outcome.REFUSED
    assert (await books.do(hold("b", 99))).ok
    assert left_to_jobs(books) == 0


async def test_a_charge_of_four_lots_has_four_parts(books: Books) -> None:
    for number in range(4):
        await books.do(top_up(f"p{number}", 10, at=START + number))
    await charge(books, "a", 35)
    assert [move[0] for move in (await books.moves())[4:]] == ["charge:a", "charge:a/2", "charge:a/3", "charge:a/4"]


async def test_a_commands_details_are_stored(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("plain", 10, at=START + 1))
    await books.do(hold("owned", 10, at=START + 2, expires_at=START + 3, owner="process 1"))
    found = "SELECT hold_id, owner, created_at, expires_at, asked, amount FROM holds ORDER BY 3"
    assert await books.sql(found) == [
        ("plain", "", START + 1, LATER, 10, 10), ("owned", "process 1", START + 2, START + 3, 10, 10),
    ]  # fmt: skip
    noted = settle("owned", 4, at=START + 9, note="for what", record=UnusualCall("owned", {}, at=START + 2))
    await asyncio.gather(books.do(settle("plain", 5, at=START + 8)), books.do(noted))
    charges = "SELECT transfer_id, at, note FROM transfers WHERE kind = 'charge' ORDER BY version"
    assert await books.sql(charges) == [("charge:plain", START + 8, None), ("charge:owned", START + 9, "for what")]
    await books.do(hold("given back", 10))
    await books.do(Release(account_id=ANN, hold_id="given back", at=START))
    ended = "SELECT hold_id, state, charge, written_off FROM holds ORDER BY 1"
    assert await books.sql(ended) == [
        ("given back", "released", None, None), ("owned", "settled", 4, 0), ("plain", "settled", 5, 0),
    ]  # fmt: skip
    assert left_to_jobs(books) == 0


async def test_two_accounts_may_have_holds_with_the_same_id(books: Books) -> None:
    for account in (ANN, BOB):
        await books.do(top_up("p", 100, account_id=account))
    await asyncio.gather(*(books.do(hold("same", 10, account_id=account)) for account in (ANN, BOB)))
    both: list[Command] = [settle("same", 4), settle("same", 7, account_id=BOB)]
    assert [verdict.posted for verdict in await asyncio.gather(*map(books.do, both))] == [96, 93]
    await asyncio.gather(*(books.do(hold("again", 10, account_id=account)) for account in (ANN, BOB)))
    await books.do(settle("again", 10))
    held = "SELECT account_id, posted, held FROM balances ORDER BY 1"
    assert await books.sql(held) == [(ANN, 86, 0), (BOB, 93, 10)]
    await asyncio.gather(*(books.do(hold("third", 10, account_id=account)) for account in (ANN, BOB)))
    await books.do(Release(account_id=ANN, hold_id="third", at=START))
    assert await books.sql(held) == [(ANN, 86, 0), (BOB, 93, 20)]
    assert await books.sql("SELECT account_id FROM holds WHERE hold_id = 'third' AND state = 'open'") == [(BOB,)]
    assert left_to_jobs(books) == 0


async def test_unknown_accounts_do_not_shift_the_results_of_others(books: Books) -> None:
    """In sort order, the missing account comes first, in the middle and last."""
    for account in (ANN, BOB):
        await books.do(top_up("p", 100, account_id=account))
    if isinstance(books.ledger, LaneLedger):
        for nobody in ("aaa", "anz", "zzz"):
            books.ledger._buckets.known[nobody] = 0  # as after restoring a database to a point before it was created
    await books.do(hold("warm", 1))
    names = ["zzz", BOB, "anz", ANN, "aaa"]
    verdicts = await asyncio.gather(*(books.do(hold("h", 10, account_id=name)) for name in names))
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.UNKNOWN, Outcome.DONE, Outcome.UNKNOWN, Outcome.DONE, Outcome.UNKNOWN,
    ]  # fmt: skip
    ends = await asyncio.gather(*(books.do(settle("h", 3, account_id=name)) for name in names))
    assert [verdict.posted for verdict in ends] == [0, 97, 0, 97, 0]
    # A job checks whether they were moved; after that they are known to be missing.
    assert left_to_jobs(books) == (3 if isinstance(books.ledger, LaneLedger) else 0)


async def test_usage_is_summed_by_hour_provider_and_model(books: Books) -> None:
    """With several calls of one hour in a batch, added to the hour's sum, and across hours; zero charges do not
    count."""
    await books.fund(ANN, 1000)
    rows = [("m1", 0, 5), ("m1", 0, 7), ("m2", 0, 1), ("m1", 3_600_000, 2), ("m1", 1, 0), ("m1", 3_599_999, 4)]
    for turn in range(2):
        names = [f"t{turn}-{number}" for number in range(len(rows))]
        await asyncio.gather(*(books.do(hold(name, 10)) for name in names))
        hour = START - START % 3_600_000
        records = [
            UnusualCall(name, {"model": model, "tokens_out": 2}, at=hour + at)
            for name, (model, at, _) in zip(names, rows, strict=True)
        ]
        ends = [
            settle(name, amount, record=record)
            for name, (_, _, amount), record in zip(names, rows, records, strict=True)
        ]
        await asyncio.gather(*map(books.do, ends))
    assert left_to_jobs(books) == 0
    assert await books.sql(
        "SELECT hour - ?, provider, model, calls, charge, tokens_in, tokens_out FROM usage_hours ORDER BY 1, 3", (hour,)
    ) == [
        (0, "demo", "m1", 6, 32, 18, 12), (0, "demo", "m2", 2, 2, 6, 4), (3_600_000, "demo", "m1", 2, 4, 6, 4),
    ]  # fmt: skip


async def test_bodies_are_kept_as_they_came(books: Books) -> None:
    await books.fund(ANN, 100)
    kept = {
        "both": (b"ask", b"\x00\xff"), "ask": (b"ask", None), "answer": (None, b"answer"), "none": (None, None),
        "empty": (b"", None),
    }  # fmt: skip
    for name in kept:
        await books.do(hold(name, 10))
    ends: list[Command] = [
        settle(name, 1, record=UnusualCall(name, {"request_body": ask, "response_body": response}))
        for name, (ask, response) in kept.items()
    ]
    await asyncio.gather(*map(books.do, ends))
    found = {
        name: (ask, response) for name, ask, response in await books.sql("SELECT log_id, request, response FROM calls")
    }
    assert found == kept
    assert left_to_jobs(books) == 0


async def test_a_response_is_kept_without_its_request(books: Books) -> None:
    await books.ledger.record(ANN, UnusualCall("a", {"response_body": b"answer"}))
    assert await books.sql("SELECT log_id, request, response FROM calls") == [("a", None, b"answer")]


async def test_calls_to_export_are_marked(books: Books) -> None:
    """By batches and by jobs, for calls with and without holds."""
    rows = {
        f"{path} {exports} {logged}": (exports, logged)
        for path in ("batch", "alone")
        for exports in (0, PUSH, METER, PUSH | METER)
        for logged in (True, False)
    }
    await books.do(top_up("p", 1_000))
    for name, (exports, logged) in rows.items():
        record = UnusualCall(name, {"exports": exports, "logged": logged})
        if name.startswith("alone"):
            await books.ledger.record(ANN, record)
        else:
            await books.do(hold(name, 10))
            await books.do(settle(name, 1, record=record))
    found = {name: marks for name, *marks in await books.sql("SELECT log_id, logged, push, meter FROM calls")}
    assert found == {
        name: [int(logged), 1 if exports & PUSH else None, 1 if exports & METER else None]
        for name, (exports, logged) in rows.items()
    }
    assert left_to_jobs(books) == 0


async def test_verdicts_report_what_is_owed(books: Books) -> None:
    await books.do(top_up("p", 100))
    await charge(books, "a", 90)
    await books.do(take_back("refund:r", 60, payment_id="p"))  # ten are available, fifty are owed
    await books.do(grant("g", 100))
    before = left_to_jobs(books)
    assert await books.do(hold("b", 10)) == Verdict(Outcome.DONE, 100, 10, 10, owed=50)
    assert await books.do(hold("c", 200)) == Verdict(Outcome.REFUSED, 100, 10, owed=50)
    assert await books.do(settle("b", 10)) == Verdict(Outcome.DONE, 90, 0, 10, owed=50)
    assert left_to_jobs(books) == before


# --- the spending limit -----------------------------------------------------------------------------------------------


async def test_a_limit_is_reached_exactly_with_what_is_held(books: Books) -> None:
    await books.fund(ANN, 1000)
    await books.limit(100)
    await charge(books, "a", 40)  # opens the window
    await books.do(hold("b", 30))
    before = left_to_jobs(books)
    assert await books.do(hold("c", 31)) == Verdict(Outcome.HELD_ELSEWHERE, 960, 30, limit=100, spent=40)
    assert await books.do(hold("c", 60)) == Verdict(Outcome.HELD_ELSEWHERE, 960, 30, limit=100, spent=40)
    assert await books.do(hold("c", 61)) == Verdict(Outcome.LIMITED, 960, 30, limit=100, spent=40)
    assert (await books.do(hold("c", 30))).ok
    assert (await books.do(hold("nothing", 0))).ok
    assert left_to_jobs(books) == before


async def test_a_hold_of_nothing_is_admitted_above_the_limit(books: Books) -> None:
    await books.fund(ANN, 1000)
    await books.limit(100)
    await charge(books, "a", 90)
    await books.limit(50)
    assert (await books.do(hold("b", 1))).outcome is Outcome.LIMITED  # recounts the window
    before = left_to_jobs(books)
    assert await books.do(hold("b", 1)) == Verdict(Outcome.LIMITED, 910, 0, limit=50, spent=90)
    assert await books.do(hold("nothing", 0)) == Verdict(Outcome.DONE, 910, 0)
    assert left_to_jobs(books) == before


async def test_top_ups_are_triggered_under_a_limit_too(books: Books) -> None:
    await books.fund(ANN, 50)
    await books.limit(1000)
    await books.do(hold("a", 20))
    before = left_to_jobs(books)
    assert await books.do(hold("b", 31)) == Verdict(Outcome.HELD_ELSEWHERE, 50, 20, limit=1000, spent=0)
    assert await books.do(hold("b", 51)) == Verdict(Outcome.REFUSED, 50, 20, limit=1000, spent=0)
    assert left_to_jobs(books) == before


async def test_a_limit_counts_by_the_hour_in_which_a_call_began(books: Books) -> None:
    """A call that began before midnight and gets its hold afterwards counts in yesterday's window, and so does its
    charge."""
    await books.fund(ANN, 1000)
    await books.limit(100)
    midnight = START - START % 86_400_000 + 86_400_000
    await books.do(hold("today", 10, at=midnight, expires_at=midnight + 10**7))  # opens today's window
    before = left_to_jobs(books)
    late = Hold(
        account_id=ANN, hold_id="late", amount=10, at=midnight + 1, expires_at=midnight + 10**7, counted_at=midnight - 1
    )
    assert (await books.do(late)).ok
    assert left_to_jobs(books) == before + 1, "in another window: a job counts it"
    await books.do(settle("late", 7, at=midnight + 2, record=UnusualCall("late", {}, at=midnight - 1)))
    await books.do(settle("today", 5, at=midnight + 2, record=UnusualCall("today", {}, at=midnight)))
    counted = "SELECT limit_from, limit_spent FROM balances WHERE account_id = ?"
    assert await books.sql(counted, (ANN,)) == [(midnight, 5)]
    assert left_to_jobs(books) == before + 1
    old = hold("before", 1, at=midnight - 1, expires_at=midnight + 10**7)
    assert (await books.do(old)).ok
    assert left_to_jobs(books) == before + 2, "the function counts neither an older nor a newer window"


# --- budgets ----------------------------------------------------------------------------------------------------------


def budget(scope: str, limit: int, start: int = START, since: int | None = None) -> Budget:
    return Budget(scope, limit, start, start if since is None else since, start + HOUR_MS)


async def counters(books: Books) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Account, scope and slot → spent and held."""
    found = await books.sql("SELECT account_id, scope, start - ?, spent, held FROM budgets", (START,))
    return {(account, scope, start): (spent, held) for account, scope, start, spent, held in found}


async def forget(books: Books, at: int) -> int:
    accounts = await books.database.scan(partial(accounts_to_forget, at=at))
    deleted = [await books.database.write(partial(forget_slots, account_id=name, at=at)) for name in accounts]
    return sum(deleted)


async def test_the_tightest_budget_decides_how_many_holds_are_admitted(books: Books) -> None:
    await books.fund(ANN, 1000)
    limits = (budget("wide", 100), budget("tight", 75), budget("other", 1000))
    verdicts = await asyncio.gather(*(books.do(hold(f"h{n}", 10, budgets=limits)) for n in range(70)))
    assert [verdict.ok for verdict in verdicts].count(True) == 7
    assert verdicts[-1] == Verdict(Outcome.HELD_ELSEWHERE, 1000, 70, limit=75, budget=1, reserved=70)
    assert set((await counters(books)).values()) == {(0, 70)}
    ends = [settle(f"h{n}", 4) for n in range(5)]
    await asyncio.gather(*map(books.do, ends), books.do(Release(account_id=ANN, hold_id="h5", at=START)))
    assert set((await counters(books)).values()) == {(20, 10)}
    refused = await books.do(hold("i", 56, budgets=limits))
    assert refused == Verdict(Outcome.LIMITED, 980, 10, limit=75, spent=20, budget=1, reserved=10)
    assert refused.affordable == 45
    assert (await books.do(hold("i", 45, budgets=limits))).ok
    assert left_to_jobs(books) == 0


async def test_a_budget_whose_window_slides_counts_all_of_its_slots(books: Books) -> None:
    await books.fund(ANN, 1000)
    for number, spent in enumerate((30, 40, 20)):
        slot = budget("s", 100, START + number, START + number - 2)
        assert (await books.do(hold(f"h{number}", spent, at=START + number, budgets=(slot,)))).ok
        await books.do(settle(f"h{number}", spent))
    full = hold("i", 11, budgets=(budget("s", 100, START + 2, START),))
    assert (await books.do(full)).outcome is Outcome.LIMITED
    assert (await books.do(hold("i", 40, budgets=(budget("s", 100, START + 3, START + 1),)))).ok
    assert await counters(books) == {
        (ANN, "s", 0): (30, 0), (ANN, "s", 1): (40, 0), (ANN, "s", 2): (20, 0), (ANN, "s", 3): (0, 40),
    }  # fmt: skip
    assert left_to_jobs(books) == 0


async def test_two_windows_of_one_budget_in_a_batch_are_kept_apart(books: Books) -> None:
    """When the slot changes, the first hold's reserve counts for the second, because both are in its window."""
    await books.fund(ANN, 1000)
    slots = [budget("s", 10, START + number, START - 5) for number in (0, 1)]
    verdicts = await asyncio.gather(*(books.do(hold(f"h{n}", 1, budgets=(slots[n % 2],))) for n in range(30)))
    assert [verdict.ok for verdict in verdicts].count(True) == 10
    both = await counters(books)
    assert sum(held for _, held in both.values()) == 10


async def test_budgets_of_two_accounts_are_kept_apart(books: Books) -> None:
    for account in (ANN, BOB):
        await books.do(top_up("p", 100, account_id=account))
    limits = (budget("same", 25),)
    names = [(account, f"h{n}") for n in range(5) for account in (ANN, BOB)]
    verdicts = await asyncio.gather(*(books.do(hold(n, 10, account_id=a, budgets=limits)) for a, n in names))
    assert [verdict.ok for verdict in verdicts] == [True] * 4 + [False] * 6
    await asyncio.gather(*(books.do(settle(n, 6, account_id=a)) for a, n in names[:3]))
    assert await counters(books) == {(ANN, "same", 0): (12, 0), (BOB, "same", 0): (6, 10)}
    assert left_to_jobs(books) == 0


async def test_without_money_a_held_budget_is_not_reported(books: Books) -> None:
    await books.fund(ANN, 50)
    await books.do(hold("a", 10, budgets=(budget("s", 65),)))
    assert (await books.do(hold("b", 60, budgets=(budget("s", 65),)))).outcome is Outcome.REFUSED
    assert (await books.do(hold("b", 66, budgets=(budget("s", 65),)))).outcome is Outcome.LIMITED
    assert (await books.do(hold("b", 45, budgets=(budget("s", 50),)))).budget is None, "the money is held as well"
    assert left_to_jobs(books) == 0


async def test_a_hold_of_nothing_fits_in_a_budget_that_is_spent(books: Books) -> None:
    await books.fund(ANN, 50)
    limits = (budget("s", 10),)
    await books.do(hold("a", 10, budgets=limits))
    await books.do(settle("a", 10))
    assert (await books.do(hold("b", 1, budgets=limits))).outcome is Outcome.LIMITED
    assert (await books.do(hold("b", 0, budgets=limits))).ok
    assert (await books.do(settle("b", 0))).ok
    assert left_to_jobs(books) == 0


async def test_the_callers_own_key_counts_what_it_costs(books: Books) -> None:
    """Nothing is held or charged on the account, so it needs no money."""
    limits = (budget("s", 100),)
    own = [hold(f"h{n}", 0, budgets=limits, reserve=30) for n in range(5)]
    verdicts = await asyncio.gather(*map(books.do, own))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DONE] * 3 + [Outcome.HELD_ELSEWHERE] * 2
    await asyncio.gather(*(books.do(settle(f"h{n}", 0, counts=40)) for n in range(2)))
    assert await counters(books) == {(ANN, "s", 0): (80, 30)}
    assert (await books.do(Release(account_id=ANN, hold_id="h2", at=START))).ok
    assert await counters(books) == {(ANN, "s", 0): (80, 0)}
    assert left_to_jobs(books) == 0


async def test_a_deleted_slot_is_not_recreated(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 0, budgets=(budget("s", 10),)))
    await forget(books, START + HOUR_MS + 1)
    assert await counters(books) == {}
    assert (await books.do(settle("a", 0, counts=3))).ok
    assert await counters(books) == {}
    assert left_to_jobs(books) == 0


async def test_only_past_slots_without_holds_are_deleted(books: Books) -> None:
    await books.fund(ANN, 100)
    for number in (0, 1, 2):
        await books.do(hold(f"h{number}", 1, budgets=(budget("s", 10, START + number),)))
    for number in (1, 2):
        await books.do(settle(f"h{number}", 1))
    await forget(books, START + HOUR_MS + 1)
    assert await counters(books) == {(ANN, "s", 0): (0, 1), (ANN, "s", 2): (1, 0)}
    await books.do(Expire(account_id=ANN, at=LATER))
    assert await forget(books, START + HOUR_MS + 9) == 2
    late = await books.do(settle("h0", 1, at=LATER))
    assert (late.late, await counters(books)) == (True, {})


# --- repeats ----------------------------------------------------------------------------------------------------------


async def test_a_refused_repeat_of_an_open_hold_is_a_repeat(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 100))
    assert (await books.do(hold("a", 100))).outcome is Outcome.REPEATED
    await books.do(settle("a", 100))
    assert (await books.do(hold("a", 100))).outcome is Outcome.REPEATED, "the present lack of money changes nothing"


@pytest.mark.parametrize("said", [10, 9, 11])
async def test_a_settle_with_wrong_details_of_its_hold_is_correct(books: Books, said: int) -> None:
    await books.fund(ANN, 100)
    await asyncio.gather(*(books.do(hold(name, 10)) for name in ("a", "b", "c")))
    before = left_to_jobs(books)
    charges = {"a": (4, 10), "b": (5, said), "c": (6, 10)}
    verdicts = await asyncio.gather(
        *(books.do(settle(name, amount, held=held)) for name, (amount, held) in charges.items())
    )
    assert [verdict.amount for verdict in verdicts] == [4, 5, 6]
    assert [verdict.available for verdict in verdicts] == [76, 81, 85]
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(85, 0)]
    settled = await books.sql("SELECT hold_id, amount, charge, written_off FROM holds ORDER BY hold_id")
    assert settled == [("a", 10, 4, 0), ("b", 10, 5, 0), ("c", 10, 6, 0)]
    sqlite_is_wrong = engines.engine_now() == "sqlite" and said != 10
    assert left_to_jobs(books) - before == (3 if sqlite_is_wrong else 0)


async def test_a_hold_is_settled_once_whatever_the_command_says(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("a", 10))
    twice = [settle("a", 4, held=10), settle("a", 4, held=10)]
    verdicts = await asyncio.gather(*(books.do(each) for each in twice))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DONE, Outcome.REPEATED]
    with pytest.raises(Conflict):
        await books.do(settle("a", 5, held=10))
    assert (await books.do(settle("none", 5, held=10))).outcome is Outcome.UNKNOWN
    await books.do(hold("b", 10, budgets=(budget("hour", 100),)))
    assert (await books.do(settle("b", 0, held=10))).ok
    assert set((await counters(books)).values()) == {(0, 0)}
    assert await books.sql("SELECT posted, held FROM balances WHERE account_id = ?", (ANN,)) == [(96, 0)]


# --- random batches ---------------------------------------------------------------------------------------------------


TABLES = {
    "balances": "posted, held, version, owed, top_up_below, low_told, limit_from, limit_spent",
    "holds": "hold_id, asked, amount, state, charge, written_off, owner, created_at, expires_at, budgets, counted",
    "budgets": "scope, start, spent, held, ends_at",
    "lots": "lot_id, book, amount, remaining, spent",
    "transfers": "version, transfer_id, kind, from_book, to_book, amount, lot_id, at, note",
    "usage_hours": "hour, provider, model, calls, charge, tokens_in, tokens_out",
    "calls": "log_id, gateway_id, created_at, provider, model, success, status_code, duration, tokens_in, tokens_out, "
    "cost, charge, detail, receipt, logged, push, meter",
    "notices": "notice_id, content",
}


async def all_rows(books: Books) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: sorted(await books.sql(f"SELECT account_id, {columns} FROM {table}"), key=repr)
        for table, columns in TABLES.items()
    }


class Watched(LaneLedger):
    """Lanes that record what they left to jobs, in order."""

    def __init__(self, database: PostgresDatabase, left: list[int]) -> None:
        super().__init__(database, "watched")
        self.left = left

    def do_slowly(self, item: Any) -> None:
        self.left.append(id(item.command))
        super().do_slowly(item)


def some_budgets(draw: random.Random, now: int) -> tuple[Budget, ...]:
    """Budgets of a few scopes; the slot of some changes with each command, which only jobs can handle."""
    slots = {"hour": HOUR_MS, "slides": HOUR_MS, "other": HOUR_MS, "turns": 1}
    found = []
    for scope in draw.sample(sorted(slots), draw.randrange(1, 4)):
        start = now - now % slots[scope] - (draw.randrange(3) if scope == "turns" and draw.random() < 0.3 else 0)
        since = start - (3 * HOUR_MS if scope == "slides" else 0)
        found.append(Budget(scope, {"hour": 150, "slides": 400, "other": 250, "turns": 90}[scope], start, since, 1))
    return tuple(found)


def some_commands(
    draw: random.Random, held: list[str], plain: dict[str, int], count: int, now: int
) -> list[Hold | Settle | Release]:
    """A batch of mostly common commands, some of which affect the same holds. `plain`: holds without budgets."""
    commands: list[Hold | Settle | Release] = []
    for _ in range(count):
        kind, is_common = draw.random(), draw.random() < 0.9
        name = f"{draw.choice((ANN, BOB))}-{draw.randrange(10**6)}"
        if kind < 0.5:
            name = name if is_common else draw.choice(held or [name])
            held.append(name)
        elif held:
            name = held.pop(draw.randrange(len(held))) if is_common else draw.choice(held)
        account = name.partition("-")[0]
        if kind < 0.5:
            more: dict[str, Any] = {"budgets": some_budgets(draw, now)} if draw.random() < 0.5 else {}
            if more and draw.random() < 0.2:
                more["reserve"] = draw.randrange(60)
            ends, amount = now + 10 * HOUR_MS, draw.randrange(40)
            if not more:
                plain[name] = amount
            commands.append(hold(name, amount, account_id=account, at=now, expires_at=ends, **more))
        elif kind < 0.9:
            record = CallOf(account, name, now - draw.choice((0, 0, 1)) * HOUR_MS) if draw.random() < 0.7 else None
            charge = draw.randrange(10) if is_common else draw.randrange(60)
            counts = draw.randrange(50) if charge == 0 and record is None else None
            known = plain.get(name) if draw.random() < 0.2 else None
            commands.append(settle(name, charge, account_id=account, at=now, record=record, counts=counts, held=known))
        else:
            record = CallOf(account, name, now) if draw.random() < 0.5 else None
            commands.append(Release(account_id=account, hold_id=name, at=now, record=record))
    return commands


def in_order(commands: Sequence[Hold | Settle | Release], left: list[int]) -> list[Hold | Settle | Release]:
    """The order of execution of a batch. On SQLite it is the given order; lanes execute ends, then holds, then what
    they left to jobs."""
    if engines.engine_now() == "sqlite":
        return list(commands)
    fast = sorted((each for each in commands if id(each) not in left), key=lambda each: isinstance(each, Hold))
    by_id = {id(each): each for each in commands}
    return fast + [by_id[each] for each in left]


async def _prepare(books: Books, draw: random.Random) -> None:
    for account in (ANN, BOB):
        await books.do(grant("g1", draw.randrange(1, 60), account_id=account, expires_at=START + 3 * HOUR_MS))
        await books.do(grant("g2", draw.randrange(1, 60), account_id=account, priority=10))
        await books.do(top_up("p1", draw.randrange(400, 900), account_id=account))
    duration: Duration = draw.choice(("daily", "monthly"))
    await books.limit(draw.randrange(200, 500), duration, draw.choice(("fixed", "sliding")), BOB)
    await books.set(low_below=draw.randrange(100))


@pytest.mark.parametrize("seed", range(times(2, 40)))
async def test_batches_and_jobs_leave_the_same_rows(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    sent: list[tuple[Hold | Settle | Release, Verdict | type[BaseException]]] = []
    async with open_books(tmp_path / "batches", ANN, BOB) as books:
        left: list[int] = []
        if isinstance(books.database, PostgresDatabase):
            books.ledger = Watched(books.database, left)
        await _prepare(books, draw)
        held: list[str] = []
        plain: dict[str, int] = {}
        for turn in range(12):
            commands = some_commands(draw, held, plain, draw.choice((1, 3, 20, 60)), START + turn * HOUR_MS // 2)
            left.clear()
            responses = await asyncio.gather(*(books.do(each) for each in commands), return_exceptions=True)
            verdicts = {id(each): response for each, response in zip(commands, responses, strict=True)}
            for each in in_order(commands, left):
                response = verdicts[id(each)]
                sent.append((each, response if isinstance(response, Verdict) else type(response)))
        fast = sum(1 for _, response in sent if isinstance(response, Verdict)) - left_to_jobs(books)
        by_batches = await all_rows(books)
    assert fast > len(sent) / 6
    async with open_books(tmp_path / "jobs", ANN, BOB, jobs=True) as books:
        await _prepare(books, random.Random(seed))
        wanted = await books.database.write(partial(_all_at_once, commands=[each for each, _ in sent]))
        assert [response for _, response in sent] == wanted
        assert await all_rows(books) == by_batches


def _all_at_once(connection: Connection, commands: Sequence[Command]) -> list[Verdict | type[BaseException]]:
    responses: list[Verdict | type[BaseException]] = []
    for command in commands:
        try:
            responses.append(apply(connection, command))
        except Conflict as error:
            responses.append(type(error))
    return responses
