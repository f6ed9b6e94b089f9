"""Credit taken back by refunds and disputes, the resulting debt, and how it is paid."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.ledger.commands import Command, Conflict, Correct, Outcome, Release, Verdict
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import (
    ANN,
    EVE,
    LATER,
    START,
    Books,
    give_back,
    grant,
    hold,
    open_books,
    settle,
    take_back,
    top_up,
)

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books.db", ANN) as opened:
        yield opened


# --- taken ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cause", "book"), [("refund:r", "refunded"), ("dispute:d", "disputed")])
async def test_unspent_credit_is_returned_to_its_book(books: Books, cause: str, book: str) -> None:
    await books.do(top_up("p", 100))
    assert await books.do(take_back(cause, 60)) == Verdict(Outcome.DONE, 40, 0, 60)
    assert (await books.moves())[1:] == [(cause, "credit", book, 60)]
    assert await books.lots() == {"top_up:p": 40}
    assert await books.sql("SELECT kind, note FROM transfers WHERE transfer_id = ?", (cause,)) == [
        (cause.split(":")[0], "top_up:p")
    ]


async def test_the_lot_of_the_payment_is_taken_first_then_other_bought_credit_in_spending_order(books: Books) -> None:
    for command in (
        top_up("last", 10), top_up("first", 10, priority=10), top_up("soon", 10, expires_at=LATER),
        grant("g", 1000, priority=1), top_up("p", 10, priority=90),
    ):  # fmt: skip
        await books.do(command)
    assert await books.do(take_back("refund:r", 35)) == Verdict(Outcome.DONE, 1005, 0, 35)
    names = [lot for (lot,) in await books.sql("SELECT lot_id FROM transfers WHERE kind = 'refund' ORDER BY version")]
    assert names == ["top_up:p", "top_up:first", "top_up:soon", "top_up:last"]
    assert await books.lots() == {"top_up:last": 5, "grant:g": 1000}


async def test_a_shortfall_is_owed_and_grants_are_not_touched(books: Books) -> None:
    await books.do(grant("g", 50))
    await books.do(top_up("p", 100))
    await books.do(hold("h", 120))
    await books.do(settle("h", 120))
    assert await books.do(grant("more", 5)) == Verdict(Outcome.DONE, 35, 0, 5)
    assert await books.do(take_back("refund:r", 100)) == Verdict(Outcome.DONE, 5, 0, 30, owed=70)
    assert (await books.moves())[-2:] == [
        ("refund:r", "credit", "refunded", 30),
        ("refund:r/2", "receivable", "refunded", 70),
    ]
    assert await books.lots() == {"grant:more": 5}
    assert (await books.do(hold("i", 5))).ok, "grants are spendable whatever is owed"


async def test_open_holds_keep_their_money(books: Books) -> None:
    await books.do(top_up("p", 100))
    await books.do(hold("h", 70))
    assert await books.do(take_back("dispute:d", 100)) == Verdict(Outcome.DONE, 70, 70, 30, owed=70)
    assert await books.do(settle("h", 65)) == Verdict(Outcome.DONE, 5, 0, 65, owed=70)
    assert (await books.do(hold("i", 5))).ok, "released money belongs to the account and is not taken later"


async def test_holds_that_grants_can_keep_do_not_keep_bought_credit(books: Books) -> None:
    await books.do(grant("g", 60))
    await books.do(top_up("p", 100))
    await books.do(hold("h", 60))
    assert await books.do(take_back("refund:r", 100)) == Verdict(Outcome.DONE, 60, 60, 100)
    assert await books.do(settle("h", 60)) == Verdict(Outcome.DONE, 0, 0, 60)


async def test_an_expired_lot_is_gone_and_not_taken(books: Books) -> None:
    await books.do(top_up("p", 100, expires_at=LATER))
    taken = await books.do(take_back("refund:r", 100, at=LATER))
    assert taken == Verdict(Outcome.DONE, 0, 0, 0, owed=100)
    assert (await books.moves())[1:] == [
        ("expiry:top_up:p/2", "credit", "expired", 100),
        ("refund:r", "receivable", "refunded", 100),
    ]


async def test_a_repeat_returns_the_amount_taken_the_first_time(books: Books) -> None:
    await books.do(top_up("q", 5))
    await books.do(top_up("p", 100))
    await books.do(hold("h", 40))
    await books.do(settle("h", 40))
    first = await books.do(take_back("refund:r", 100))
    assert first == Verdict(Outcome.DONE, 0, 0, 65, owed=35)
    await books.do(top_up("new", 50))
    assert await books.do(take_back("refund:r", 100)) == Verdict(Outcome.REPEATED, 15, 0, 65)
    for other in (take_back("refund:r", 99), take_back("refund:r", 100, payment_id="q")):
        with pytest.raises(Conflict, match="refund:r"):
            await books.do(other)
    assert (await books.do(take_back("dispute:r", 1))).outcome is Outcome.DONE, "a different kind is a different cause"


async def test_a_dispute_event_may_arrive_before_the_credit(books: Books) -> None:
    assert await books.do(take_back("dispute:d", 100)) == Verdict(Outcome.DONE, 0, 0, 0, owed=100)
    assert await books.do(top_up("p", 100)) == Verdict(Outcome.DONE, 0, 0, 100)
    assert await books.lots() == {}


# --- paid -------------------------------------------------------------------------------------------------------------


async def _owing(books: Books, amount: int) -> None:
    assert await books.do(take_back("refund:r", amount)) == Verdict(Outcome.DONE, 0, 0, 0, owed=amount)


async def test_bought_credit_pays_what_is_owed_first(books: Books) -> None:
    await _owing(books, 70)
    assert await books.do(top_up("a", 50)) == Verdict(Outcome.DONE, 0, 0, 50, owed=20)
    assert await books.do(top_up("b", 50)) == Verdict(Outcome.DONE, 30, 0, 50)
    assert await books.do(top_up("b", 50)) == Verdict(Outcome.REPEATED, 30, 0, 50)
    assert (await books.moves())[1:] == [
        ("top_up:a", "processor", "credit", 50),
        ("collection:top_up:a", "credit", "receivable", 50),
        ("top_up:b", "processor", "credit", 50),
        ("collection:top_up:b", "credit", "receivable", 20),
    ]
    assert await books.lots() == {"top_up:b": 30}


async def test_a_correction_pays_debt_and_a_grant_does_not(books: Books) -> None:
    await _owing(books, 70)
    assert await books.do(grant("g", 50)) == Verdict(Outcome.DONE, 50, 0, 50, owed=70)
    command = Correct(account_id=ANN, correction_id="c", amount=30, at=START)
    assert await books.do(command) == Verdict(Outcome.DONE, 50, 0, 30, owed=40)
    assert await books.do(command) == Verdict(Outcome.REPEATED, 50, 0, 30, owed=40)
    assert (await books.moves())[-1] == ("collection:correction:c", "credit", "receivable", 30)


# --- given back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "given", "book"),
    [("refund:x", "refund_failed:x", "refunded"), ("dispute:x", "dispute_won:x", "disputed")],
)
async def test_taken_credit_is_returned_once(books: Books, taken: str, given: str, book: str) -> None:
    await books.do(top_up("p", 100))
    await books.do(take_back(taken, 60))
    assert await books.do(give_back(given, 60)) == Verdict(Outcome.DONE, 100, 0, 60)
    assert await books.do(give_back(given, 60)) == Verdict(Outcome.REPEATED, 100, 0, 60)
    with pytest.raises(Conflict):
        await books.do(give_back(given, 59))
    assert (await books.moves())[-1] == (given, book, "credit", 60)
    assert await books.lots() == {"top_up:p": 40, given: 60}


async def test_returned_credit_pays_the_related_debt(books: Books) -> None:
    await books.do(top_up("p", 100))
    await books.do(hold("h", 70))
    await books.do(settle("h", 70))
    assert await books.do(take_back("dispute:d", 100)) == Verdict(Outcome.DONE, 0, 0, 30, owed=70)
    assert await books.do(give_back("dispute_won:d", 100)) == Verdict(Outcome.DONE, 30, 0, 100)
    assert (await books.moves())[-1] == ("collection:dispute_won:d", "credit", "receivable", 70)


async def test_no_more_is_returned_than_was_taken(books: Books) -> None:
    await books.do(top_up("p", 100))
    assert await books.do(give_back("refund_failed:r", 1)) == Verdict(Outcome.UNKNOWN, 100, 0)
    await books.do(take_back("refund:r", 60))
    assert await books.do(give_back("dispute_won:r", 1)) == Verdict(Outcome.UNKNOWN, 40, 0)
    assert await books.do(give_back("refund_failed:r", 61)) == Verdict(Outcome.REFUSED, 40, 0)
    assert await books.do(give_back("refund_failed:r", 59)) == Verdict(Outcome.DONE, 99, 0, 59)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        take_back("refund:r", 0), take_back("refund:r", -1), take_back("refund", 1), take_back("refund:", 1),
        take_back("refund:r/2", 1), take_back("charge:r", 1), take_back("refund_failed:r", 1),
        give_back("refund_failed:r", 0), give_back("refund:r", 1), give_back("dispute_won:a/b", 1),
    ],
)  # fmt: skip
async def test_an_invalid_command_leaves_no_trace(books: Books, command: Command) -> None:
    await books.do(top_up("p", 100))
    await books.do(take_back("dispute:d", 1))
    before = await books.moves()
    with pytest.raises(ValueError, match=r"cause|id|above zero"):
        await books.do(command)
    assert await books.moves() == before


async def test_nothing_is_taken_from_unknown_accounts(books: Books) -> None:
    assert await books.do(take_back("refund:r", 1, account_id=EVE)) == Verdict(Outcome.UNKNOWN)
    assert await books.do(give_back("refund_failed:r", 1, account_id=EVE)) == Verdict(Outcome.UNKNOWN)


async def test_every_verdict_states_what_is_owed(books: Books) -> None:
    await _owing(books, 7)
    await books.do(grant("g", 10))
    verdicts = [
        await books.do(hold("h", 10)),
        await books.do(hold("i", 1)),
        await books.do(Release(account_id=ANN, hold_id="h", at=START)),
    ]
    assert [verdict.owed for verdict in verdicts] == [7, 7, 7]
