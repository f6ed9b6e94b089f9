"""An account's spending limit: what counts, in which window, and that it is never exceeded."""

import asyncio
import bisect
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from farebox.calendar import HOUR_MS
from farebox.ledger.commands import Correct, Expire, Extend, Outcome, Release, Verdict
from farebox.ledger.spending import SLIDING_MS, window_end, window_start
from farebox.storage.spending import Duration, Strategy
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import ANN, BOB, LATER, START, Books, CallOf, grant, hold, open_books, settle, top_up
from tests.long import times

pytestmark = ON_BOTH_ENGINES


DAY = 24 * HOUR_MS
RICH = 10**9


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    """Books in which Ann and Bob have much more credit than any limit."""
    async with open_books(tmp_path / "books.db", ANN, BOB) as opened:
        await opened.fund(ANN, RICH)
        await opened.fund(BOB, RICH)
        yield opened


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def extend(hold_id: str, amount: int, *, at: int = START, expires_at: int = LATER) -> Extend:
    return Extend(account_id=ANN, hold_id=hold_id, amount=amount, at=at, expires_at=expires_at)


async def spend(books: Books, name: str, amount: int, at: int = START) -> None:
    assert (await books.do(hold(name, amount, at=at, expires_at=at + HOUR_MS))).outcome is Outcome.DONE
    assert (await books.do(settle(name, amount, at=at, record=CallOf(ANN, name, at)))).amount == amount


# --- what counts ------------------------------------------------------------------------------------------------------


async def test_spent_held_and_requested_amounts_are_within_the_limit(books: Books) -> None:
    await books.limit(100)
    await spend(books, "spent", 30)
    assert (await books.do(hold("held", 50))).ok
    assert await books.do(hold("one too many", 21)) == Verdict(
        Outcome.HELD_ELSEWHERE, RICH - 30, 50, limit=100, spent=30
    )
    assert (await books.do(hold("all but what is spent", 70))).outcome is Outcome.HELD_ELSEWHERE
    assert await books.do(hold("never", 71)) == Verdict(Outcome.LIMITED, RICH - 30, 50, limit=100, spent=30)
    assert (await books.do(hold("the rest", 20))).outcome is Outcome.DONE
    assert (await books.do(Release(account_id=ANN, hold_id="held", at=START))).ok
    assert (await books.do(hold("given back", 50))).outcome is Outcome.DONE
    assert (await books.do(hold("of bob", 500, account_id=BOB))).outcome is Outcome.DONE


async def test_a_refusal_reports_the_admissible_amount(books: Books) -> None:
    await books.limit(100)
    await spend(books, "spent", 30)
    await books.do(hold("held", 50))
    refused = await books.do(hold("h", 1000))
    assert (refused.affordable, refused.affordable_in_time) == (20, 70)
    assert (await books.do(hold("h", refused.affordable))).ok
    await books.limit(None)
    refused = await books.do(hold("i", RICH))
    assert (refused.outcome, refused.affordable, refused.affordable_in_time) == (
        Outcome.REFUSED, RICH - 100, RICH - 30,
    )  # fmt: skip


async def test_a_refusal_by_the_limit_does_not_trigger_a_top_up(books: Books) -> None:
    await books.limit(100)
    assert (await books.do(hold("both", RICH + 1))).outcome is Outcome.LIMITED
    await books.do(Correct(account_id=ANN, correction_id="c", amount=-(RICH - 50), at=START))
    assert (await books.do(hold("money", 51))).outcome is Outcome.REFUSED
    assert (await books.do(hold("money", 101))).outcome is Outcome.LIMITED


async def test_the_limit_applies_to_extensions(books: Books) -> None:
    await books.limit(100)
    await books.do(hold("h", 40))
    await books.do(hold("i", 40))
    assert (await books.do(extend("h", 61))).outcome is Outcome.HELD_ELSEWHERE
    assert (await books.do(extend("h", 101))).outcome is Outcome.LIMITED
    assert await books.do(extend("h", 60)) == Verdict(Outcome.DONE, RICH, 100, 60)
    assert (await books.do(extend("h", 60, expires_at=LATER + 1))).outcome is Outcome.DONE, (
        "a longer expiry costs nothing"
    )


async def test_spending_before_the_limit_was_set_counts(books: Books) -> None:
    await spend(books, "before", 60)
    await books.limit(100)
    assert (await books.do(hold("h", 41))).outcome is Outcome.LIMITED
    assert (await books.do(hold("h", 40))).outcome is Outcome.DONE


async def test_a_lower_limit_applies_at_once_and_a_lifted_one_no_longer(books: Books) -> None:
    await books.limit(100)
    await spend(books, "a", 60)
    await books.limit(50)
    refused = await books.do(hold("h", 1))
    assert (refused.outcome, refused.affordable, refused.over_limit) == (Outcome.LIMITED, 0, 10)
    assert (await books.do(hold("free", 0))).outcome is Outcome.DONE, "a free hold exceeds no limit"
    await books.limit(None)
    assert (await books.do(hold("h", 1000))).outcome is Outcome.DONE


async def test_charges_without_a_record_count_and_corrections_do_not(books: Books) -> None:
    await books.limit(100)
    await books.do(hold("in doubt", 60))
    await books.do(settle("in doubt", 60))
    assert await books.sql("SELECT provider, model, calls, charge FROM usage_hours") == [("unrecorded", "", 1, 60)]
    for name, amount in (("c", -30), ("d", 20)):
        await books.do(Correct(account_id=ANN, correction_id=name, amount=amount, at=START))
    assert (await books.do(hold("h", 41))).outcome is Outcome.LIMITED
    assert (await books.do(hold("h", 40))).outcome is Outcome.DONE


async def test_a_refusal_by_the_limit_changes_nothing(books: Books) -> None:
    await books.limit(100)
    await books.set(top_up_below=RICH * 2)
    before = await books.moves()
    for _ in range(3):
        assert (await books.do(hold("h", 101))).outcome is Outcome.LIMITED
    assert await books.moves() == before
    assert await books.sql("SELECT top_up_below FROM balances WHERE account_id = ?", (ANN,)) == [(RICH * 2,)]
    assert await books.sql("SELECT count(*) FROM holds") == [(0,)]


async def test_a_repeated_hold_is_not_counted_twice(books: Books) -> None:
    await books.limit(100)
    for _ in range(3):
        assert (await books.do(hold("h", 60))).ok
        assert (await books.do(settle("h", 60, record=CallOf(ANN, "h")))).ok
    assert (await books.do(hold("i", 40))).outcome is Outcome.DONE


async def test_expired_lots_are_taken_even_if_the_limit_refuses(books: Books) -> None:
    await books.do(grant("g", 5, expires_at=LATER))
    await books.limit(100)
    assert await books.do(hold("h", 101, at=LATER)) == Verdict(Outcome.LIMITED, RICH, 0, limit=100)


# --- above it ---------------------------------------------------------------------------------------------------------


async def test_an_overrun_above_the_limit_is_charged_and_reported(books: Books) -> None:
    await books.limit(100)
    await spend(books, "a", 70)
    await books.do(hold("h", 30))
    done = await books.do(settle("h", 45, record=CallOf(ANN, "h")))
    assert (done.amount, done.limit, done.spent, done.over_limit) == (45, 100, 115, 15)
    assert (await books.do(hold("i", 1))).outcome is Outcome.LIMITED


async def test_an_overrun_within_the_limit_is_not_above_it(books: Books) -> None:
    await books.limit(100)
    await books.do(hold("h", 30))
    assert (await books.do(settle("h", 45, record=CallOf(ANN, "h")))).over_limit == 0


async def test_a_late_settle_above_the_limit_is_reported(books: Books) -> None:
    await books.limit(100)
    await books.do(hold("h", 60, expires_at=START + 1))
    await books.do(Expire(account_id=ANN, at=START + 1))
    await spend(books, "a", 80)
    done = await books.do(settle("h", 60))
    assert (done.late, done.over_limit) == (True, 40)


# --- windows ----------------------------------------------------------------------------------------------------------

WINDOWS: list[tuple[Duration, Strategy, str, str, str | None]] = [
    ("daily", "fixed", "2026-11-22T00:00:00", "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
    ("daily", "fixed", "2026-11-22T23:59:59.999", "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
    ("weekly", "fixed", "2026-11-22T23:59:59.999", "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
    ("weekly", "fixed", "2026-11-23T00:00:00", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
    ("weekly", "fixed", "2027-01-01T12:00:00", "2026-12-28T00:00:00", "2027-01-04T00:00:00"),
    ("monthly", "fixed", "2026-11-22T10:00:00", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
    ("monthly", "fixed", "2026-12-31T23:59:59.999", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ("monthly", "fixed", "2028-02-29T10:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ("daily", "sliding", "2026-11-22T10:20:30", "2026-11-21T10:00:00", None),
    ("daily", "sliding", "2026-11-22T10:00:00", "2026-11-21T10:00:00", None),
    ("weekly", "sliding", "2026-11-22T10:59:59.999", "2026-11-15T10:00:00", None),
    ("monthly", "sliding", "2026-11-22T10:20:30", "2026-10-23T10:00:00", None),
]


@pytest.mark.parametrize(("duration", "strategy", "at", "start", "end"), WINDOWS)
def test_windows_are_those_of_the_calendar_in_utc(
    duration: Duration, strategy: Strategy, at: str, start: str, end: str | None
) -> None:
    assert window_start(duration, strategy, ms(at)) == ms(start)
    assert window_end(duration, strategy, ms(at)) == (None if end is None else ms(end))


@pytest.mark.parametrize("duration", ["daily", "weekly", "monthly"])
async def test_a_fixed_window_resets(books: Books, duration: Duration) -> None:
    await books.limit(100, duration)
    end = window_end(duration, "fixed", START)
    assert end is not None
    await spend(books, "first", 90)
    assert (await books.do(hold("h", 11, at=end - 1, expires_at=end + DAY))).outcome is Outcome.LIMITED
    assert (await books.do(hold("h", 100, at=end, expires_at=end + DAY))).outcome is Outcome.DONE


@pytest.mark.parametrize("duration", ["daily", "weekly", "monthly"])
async def test_a_sliding_window_forgets_hour_by_hour(books: Books, duration: Duration) -> None:
    """The charges of an hour count until the window has passed the whole hour."""
    await books.limit(100, duration, "sliding")
    hour = START - START % HOUR_MS
    await spend(books, "first", 60, hour + 10)
    await spend(books, "second", 40, hour + HOUR_MS)
    free = hour + HOUR_MS + SLIDING_MS[duration]
    assert (await books.do(hold("h", 1, at=free - 1, expires_at=free + DAY))).outcome is Outcome.LIMITED
    assert (await books.do(hold("h", 61, at=free, expires_at=free + DAY))).outcome is Outcome.LIMITED
    assert (await books.do(hold("h", 60, at=free, expires_at=free + DAY))).outcome is Outcome.DONE


async def test_a_call_counts_in_the_hour_in_which_it_began(books: Books) -> None:
    """Begun before midnight, held afterwards: it must fit in its own day, even if the new day has room."""
    await books.limit(100)
    midnight = START - START % DAY + DAY
    await spend(books, "full", 95, midnight - 5)
    await spend(books, "next day", 1, midnight)
    late = hold("h", 10, at=midnight + 3, expires_at=midnight + DAY, counted_at=midnight - 1)
    assert (await books.do(late)).outcome is Outcome.LIMITED
    kept = await books.sql("SELECT limit_from, limit_spent FROM balances WHERE account_id = ?", (ANN,))
    assert kept == [(midnight, 1)], "the sum of the current window stays cached"
    new = hold("h", 10, at=midnight + 3, expires_at=midnight + DAY, counted_at=midnight)
    assert (await books.do(new)).outcome is Outcome.DONE


async def test_a_hold_across_a_window_boundary_counts_in_both(books: Books) -> None:
    await books.limit(100)
    midnight = START - START % DAY + DAY
    await books.do(hold("over", 60, at=midnight - 1, expires_at=midnight + DAY))
    assert (await books.do(hold("h", 41, at=midnight, expires_at=midnight + DAY))).outcome is Outcome.HELD_ELSEWHERE
    await books.do(settle("over", 60, at=midnight + 9, record=CallOf(ANN, "over", midnight - 1)))
    assert (await books.do(hold("h", 100, at=midnight + 9, expires_at=midnight + DAY))).outcome is Outcome.DONE


# --- exactly ----------------------------------------------------------------------------------------------------------


async def test_a_limit_of_k_holds_admits_exactly_k(books: Books) -> None:
    await books.limit(37 * 7 + 6)
    verdicts = await asyncio.gather(*(books.do(hold(f"h{n}", 7)) for n in range(500)))
    assert sum(verdict.ok for verdict in verdicts) == 37
    assert {verdict.outcome for verdict in verdicts} == {Outcome.DONE, Outcome.HELD_ELSEWHERE}
    admitted = [f"h{n}" for n, verdict in enumerate(verdicts) if verdict.ok]
    await asyncio.gather(*(books.do(settle(name, 7, record=CallOf(ANN, name))) for name in admitted))
    verdicts = await asyncio.gather(*(books.do(hold(f"i{n}", 7)) for n in range(50)))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.LIMITED}


@pytest.mark.parametrize("strategy", ["fixed", "sliding"])
@pytest.mark.parametrize("duration", ["daily", "weekly", "monthly"])
@pytest.mark.parametrize("seed", range(times(1, 20)))
async def test_no_window_exceeds_the_limit(books: Books, duration: Duration, strategy: Strategy, seed: int) -> None:
    """Calls wait for their holds, last for hours and past midnight, and charge at most their holds. In no window, to
    the millisecond, do charges exceed the limit; and the limit is used fully."""
    chance, limit, now = random.Random(seed), 1000, START
    await books.limit(limit, duration, strategy)
    step = SLIDING_MS[duration] // 40
    flying: list[tuple[str, int, int]] = []
    charged: list[tuple[int, int]] = []
    for n in range(250):
        now += chance.randrange(2 * step)
        began = now - chance.randrange(HOUR_MS if duration == "daily" else DAY)
        asked = chance.randrange(1, 300)
        command = hold(f"h{n}", asked, at=now, expires_at=now + 100 * DAY, counted_at=began)
        if (await books.do(command)).ok:
            flying.append((f"h{n}", asked, began))
        chance.shuffle(flying)
        while flying and chance.random() < 0.6:
            name, most, began = flying.pop()
            charge = chance.randrange(most + 1) if chance.random() < 0.5 else most
            at = began if chance.random() < 0.7 else now  # a call, or else an application's hold or one in doubt
            await books.do(settle(name, charge, at=now, record=CallOf(ANN, name, at) if at == began else None))
            charged.append((at, charge))
    assert _most_in_a_window(sorted(charged), duration, strategy) in range(limit // 2, limit + 1)


def _most_in_a_window(charged: list[tuple[int, int]], duration: Duration, strategy: Strategy) -> int:
    """The largest sum of any calendar window, or of any interval of the window's length."""
    if strategy == "fixed":
        sums: dict[tuple[int, ...], int] = {}
        for at, charge in charged:
            day = datetime.fromtimestamp(at / 1000, UTC).date()
            key = {
                "daily": (day.toordinal(),), "weekly": tuple(day.isocalendar()[:2]), "monthly": (day.year, day.month),
            }[duration]  # fmt: skip
            sums[key] = sums.get(key, 0) + charge
        return max(sums.values())
    times = [at for at, _ in charged]
    return max(
        sum(charge for _, charge in charged[bisect.bisect_right(times, at - SLIDING_MS[duration]) : n + 1])
        for n, at in enumerate(times)
    )


async def test_balance_and_limit_both_apply(books: Books) -> None:
    await books.do(Correct(account_id=ANN, correction_id="c", amount=-(RICH - 100), at=START))
    await books.limit(60)
    await spend(books, "a", 60)
    assert (await books.do(hold("h", 1))).outcome is Outcome.LIMITED
    await books.limit(1000)
    assert (await books.do(hold("h", 41))).outcome is Outcome.REFUSED
    await books.do(top_up("more", 1))
    assert (await books.do(hold("h", 41))).outcome is Outcome.DONE
