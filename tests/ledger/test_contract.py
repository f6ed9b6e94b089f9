"""Every command and every verdict, through the real ledger. An engine that passes these tests is a Farebox ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.ledger.commands import (
    Command,
    Conflict,
    Correct,
    Expire,
    Extend,
    Outcome,
    Release,
    Settle,
    Verdict,
)
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import ANN, BOB, EVE, LATER, START, Books, CallOf, grant, hold, open_books, top_up

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books.db", ANN, BOB) as opened:
        yield opened


def settle(hold_id: str, amount: int, *, at: int = START, record: CallOf | None = None) -> Settle:
    return Settle(account_id=ANN, hold_id=hold_id, amount=amount, at=at, record=record)


def release(hold_id: str, *, record: CallOf | None = None) -> Release:
    return Release(account_id=ANN, hold_id=hold_id, at=START, record=record)


def extend(hold_id: str, amount: int, *, at: int = START, expires_at: int = LATER) -> Extend:
    return Extend(account_id=ANN, hold_id=hold_id, amount=amount, at=at, expires_at=expires_at)


def correct(correction_id: str, amount: int, *, at: int = START, reason: str = "") -> Correct:
    return Correct(account_id=ANN, correction_id=correction_id, amount=amount, at=at, reason=reason)


def expire(at: int) -> Expire:
    return Expire(account_id=ANN, at=at)


# --- money in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [top_up("p", 100), grant("g", 100)])
async def test_money_comes_in_once(books: Books, command: Command) -> None:
    assert await books.do(command) == Verdict(Outcome.DONE, 100, 0, 100)
    assert await books.do(command) == Verdict(Outcome.REPEATED, 100, 0, 100)
    assert len(await books.moves()) == 1


@pytest.mark.parametrize(
    "changed", [top_up("p", 101), top_up("p", 100, priority=10), top_up("p", 100, expires_at=LATER)]
)
async def test_the_same_payment_with_other_content_conflicts(books: Books, changed: Command) -> None:
    await books.do(top_up("p", 100))
    with pytest.raises(Conflict, match="top_up:p"):
        await books.do(changed)
    assert await books.lots() == {"top_up:p": 100}


async def test_a_payment_and_a_grant_may_share_an_id(books: Books) -> None:
    await books.do(top_up("1", 100))
    assert await books.do(grant("1", 50)) == Verdict(Outcome.DONE, 150, 0, 50)
    assert await books.moves() == [
        ("top_up:1", "processor", "credit", 100),
        ("grant:1", "promotion", "granted", 50),
    ]


@pytest.mark.parametrize("amount", [0, -5])
async def test_only_positive_amounts_are_credited(books: Books, amount: int) -> None:
    with pytest.raises(ValueError, match="above zero"):
        await books.do(top_up("p", amount))
    assert await books.moves() == []


# --- holds ------------------------------------------------------------------------------------------------------------


async def test_a_hold_keeps_money_without_moving_it(books: Books) -> None:
    await books.fund(ANN, 100)
    assert await books.do(hold("h", 70)) == Verdict(Outcome.DONE, 100, 70, 70)
    assert await books.do(hold("h", 70, at=LATER, expires_at=LATER + 1)) == Verdict(Outcome.REPEATED, 100, 70, 70)
    with pytest.raises(Conflict):
        await books.do(hold("h", 71))
    assert [move[0] for move in await books.moves()] == ["top_up:seed"]


async def test_a_refusal_says_whether_waiting_can_help(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 70))
    assert await books.do(hold("i", 31)) == Verdict(Outcome.HELD_ELSEWHERE, 100, 70)
    assert await books.do(hold("i", 101)) == Verdict(Outcome.REFUSED, 100, 70)
    await books.do(release("h"))
    assert (await books.do(hold("i", 31))).outcome is Outcome.DONE  # a refusal is not remembered


async def test_a_hold_of_all_or_of_nothing_is_admitted(books: Books) -> None:
    await books.fund(ANN, 100)
    assert (await books.do(hold("all", 100))).available == 0
    assert await books.do(hold("none", 0)) == Verdict(Outcome.DONE, 100, 100, 0)
    assert await books.do(settle("none", 0)) == Verdict(Outcome.DONE, 100, 100, 0)


async def test_ids_that_collide_with_parts_are_refused(books: Books) -> None:
    await books.fund(ANN, 100)
    for command in (hold("h/2", 1), correct("c/2", 1)):
        with pytest.raises(ValueError, match="cannot be an id"):
            await books.do(command)
    with pytest.raises(ValueError, match="negative"):
        await books.do(hold("h", -1))
    await books.do(hold("h", 1))
    with pytest.raises(ValueError, match="negative"):
        await books.do(settle("h", -1))


async def test_extending_raises_amount_and_expiry_and_never_lowers_either(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 40))
    assert await books.do(extend("h", 60)) == Verdict(Outcome.DONE, 100, 60, 60)
    assert await books.do(extend("h", 60)) == Verdict(Outcome.REPEATED, 100, 60, 60)
    assert await books.do(extend("h", 10)) == Verdict(Outcome.REPEATED, 100, 60, 60)
    assert await books.do(extend("h", 10, expires_at=LATER + 9)) == Verdict(Outcome.DONE, 100, 60, 60)
    assert await books.do(extend("h", 90, expires_at=START)) == Verdict(Outcome.DONE, 100, 90, 90)
    assert await books.sql("SELECT asked, amount, expires_at FROM holds") == [(40, 90, LATER + 9)]
    assert await books.do(hold("h", 40)) == Verdict(Outcome.REPEATED, 100, 90, 90)  # the original amount counts


async def test_an_extension_is_refused_like_a_hold(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 40))
    await books.do(hold("i", 40))
    assert await books.do(extend("h", 61)) == Verdict(Outcome.HELD_ELSEWHERE, 100, 80)
    assert await books.do(extend("h", 101)) == Verdict(Outcome.REFUSED, 100, 80)
    assert (await books.do(extend("h", 60))).outcome is Outcome.DONE


# --- how a hold ends --------------------------------------------------------------------------------------------------


async def test_settling_charges_and_gives_the_rest_back(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 70))
    assert await books.do(settle("h", 25)) == Verdict(Outcome.DONE, 75, 0, 25)
    assert await books.do(settle("h", 25, at=LATER)) == Verdict(Outcome.REPEATED, 75, 0, 25)
    with pytest.raises(Conflict):
        await books.do(settle("h", 26))
    assert (await books.moves())[1:] == [("charge:h", "credit", "revenue", 25)]


async def test_an_overrun_takes_what_is_available_and_the_rest_is_written_off(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("other", 50))
    await books.do(hold("h", 20))
    done = await books.do(settle("h", 65))
    assert done == Verdict(Outcome.DONE, 50, 50, 50, written_off=15)
    assert done.available == 0
    assert await books.do(settle("h", 65)) == Verdict(Outcome.REPEATED, 50, 50, 50, written_off=15)
    assert (await books.moves())[1:] == [
        ("charge:h", "credit", "revenue", 50),
        ("write_off:h", "written_off", "revenue", 15),
    ]
    assert (await books.do(settle("other", 50))).posted == 0  # the other call's hold was not affected


async def test_released_and_settled_holds_stay_as_they_ended(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 70))
    assert await books.do(release("h")) == Verdict(Outcome.DONE, 100, 0)
    assert await books.do(release("h")) == Verdict(Outcome.REPEATED, 100, 0)
    assert await books.do(settle("h", 5)) == Verdict(Outcome.NOT_OPEN, 100, 0)
    assert await books.do(extend("h", 80)) == Verdict(Outcome.NOT_OPEN, 100, 0)
    await books.do(hold("i", 10))
    await books.do(settle("i", 5))
    assert await books.do(release("i")) == Verdict(Outcome.NOT_OPEN, 95, 0)
    assert await books.do(extend("i", 80)) == Verdict(Outcome.NOT_OPEN, 95, 0)


async def test_a_settle_after_expiry_charges_and_is_marked_late(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 70))
    await books.do(expire(LATER))
    await books.do(hold("i", 80, at=LATER, expires_at=LATER + 9))
    assert await books.do(release("h")) == Verdict(Outcome.NOT_OPEN, 100, 80)
    assert await books.do(settle("h", 30, at=LATER)) == Verdict(Outcome.DONE, 80, 80, 20, written_off=10, late=True)
    assert (await books.do(settle("h", 30, at=LATER))).outcome is Outcome.REPEATED


async def test_unknown_accounts_and_holds_are_not_refusals(books: Books) -> None:
    strangers: list[Command] = [
        top_up("p", 1, account_id=EVE), grant("g", 1, account_id=EVE), hold("h", 1, account_id=EVE),
        Expire(account_id=EVE, at=START), Release(account_id=EVE, hold_id="h", at=START),
    ]  # fmt: skip
    for command in strangers:
        assert await books.do(command) == Verdict(Outcome.UNKNOWN)
    await books.fund(ANN, 5)
    for ending in (settle("h", 1), release("h"), extend("h", 1)):
        assert await books.do(ending) == Verdict(Outcome.UNKNOWN, 5, 0)


async def test_the_same_hold_id_on_two_accounts_is_two_holds(books: Books) -> None:
    await books.fund(ANN, 10)
    await books.fund(BOB, 10)
    await books.do(hold("h", 10))
    assert (await books.do(hold("h", 9, account_id=BOB))).outcome is Outcome.DONE
    await books.do(settle("h", 10))
    assert await books.sql("SELECT account_id, posted, held FROM balances ORDER BY 1") == [(ANN, 0, 0), (BOB, 10, 9)]


# --- records ----------------------------------------------------------------------------------------------------------


async def test_the_record_of_a_call_is_written_once_with_what_was_taken(books: Books) -> None:
    await books.fund(ANN, 10)
    await books.do(hold("h", 10))
    for _ in range(2):
        await books.do(settle("h", 15, record=CallOf(ANN, "h")))
    assert await books.sql("SELECT log_id, charge FROM calls") == [("h", 10)]
    assert await books.sql("SELECT calls, charge FROM usage_hours") == [(1, 10)]


async def test_a_call_has_a_record_however_its_hold_ended(books: Books) -> None:
    await books.fund(ANN, 100)
    for name in ("released", "expired", "free"):
        await books.do(hold(name, 10, expires_at=START + 1 if name == "expired" else LATER))
    await books.do(expire(START + 1))
    await books.do(release("free"))
    await books.do(release("released", record=CallOf(ANN, "released")))
    await books.do(release("expired", record=CallOf(ANN, "expired")))
    await books.do(settle("free", 7, record=CallOf(ANN, "free")))  # too late: it had been released
    assert dict(await books.sql("SELECT log_id, charge FROM calls")) == {"released": 0, "expired": 0, "free": 0}


# --- lots -------------------------------------------------------------------------------------------------------------


async def test_lots_are_spent_by_priority_then_grants_then_expiry_then_age(books: Books) -> None:
    order: list[Command] = [
        top_up("first", 10, priority=10),
        grant("soon", 10, expires_at=LATER),
        grant("later", 10, expires_at=LATER + 1, at=START - 5),
        grant("senior", 10, at=START - 5),
        grant("junior", 10),
        top_up("soon", 10, expires_at=LATER),
        top_up("senior", 10, at=START - 5),
        top_up("junior", 10),
        grant("last", 10, priority=90),
    ]
    for command in reversed(order):
        await books.do(command)
    await books.do(hold("h", 90))
    assert (await books.do(settle("h", 90))).amount == 90
    names = [lot for (lot,) in await books.sql("SELECT lot_id FROM transfers WHERE kind = 'charge' ORDER BY version")]
    assert names == [
        "top_up:first", "grant:soon", "grant:later", "grant:senior", "grant:junior", "top_up:soon", "top_up:senior",
        "top_up:junior", "grant:last",
    ]  # fmt: skip
    ids = [move[0] for move in (await books.moves())[9:]]
    assert ids == ["charge:h", *(f"charge:h/{part}" for part in range(2, 10))]


async def test_a_charge_takes_no_more_lots_than_it_needs(books: Books) -> None:
    await books.do(grant("g", 10))
    await books.do(top_up("p", 10))
    await books.do(hold("h", 20))
    await books.do(settle("h", 13))
    assert await books.lots() == {"top_up:p": 7}
    assert (await books.moves())[2:] == [
        ("charge:h", "granted", "revenue", 10),
        ("charge:h/2", "credit", "revenue", 3),
    ]


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_expiry_takes_only_what_is_left(books: Books) -> None:
    await books.do(grant("g", 10, expires_at=LATER))
    await books.do(top_up("p", 10))
    await books.do(hold("h", 4))
    await books.do(settle("h", 4))
    assert await books.do(expire(LATER - 1)) == Verdict(Outcome.REPEATED, 16, 0)
    assert await books.do(expire(LATER)) == Verdict(Outcome.DONE, 10, 0, 6)
    assert await books.do(expire(LATER)) == Verdict(Outcome.REPEATED, 10, 0)
    assert await books.lots() == {"top_up:p": 10}
    assert (await books.moves())[-1] == ("expiry:grant:g/4", "granted", "expired", 6)


async def test_expiry_leaves_what_open_holds_keep_and_takes_it_later(books: Books) -> None:
    await books.do(grant("g", 10, expires_at=LATER))
    await books.do(hold("h", 7, expires_at=LATER + 100))
    assert await books.do(expire(LATER)) == Verdict(Outcome.DONE, 7, 7, 3)
    assert await books.do(settle("h", 5, at=LATER)) == Verdict(
        Outcome.DONE, 2, 0, 5
    )  # it was valid when the hold was made
    assert await books.do(expire(LATER)) == Verdict(Outcome.DONE, 0, 0, 2)


async def test_an_expired_lot_is_unspendable_at_once(books: Books) -> None:
    await books.do(grant("g", 10, expires_at=LATER))
    await books.do(top_up("p", 5))
    assert await books.do(hold("h", 6, at=LATER, expires_at=LATER + 9)) == Verdict(Outcome.REFUSED, 5, 0)
    assert (await books.do(hold("i", 5, at=LATER, expires_at=LATER + 9))).outcome is Outcome.DONE
    assert (await books.moves())[-1] == ("expiry:grant:g/3", "granted", "expired", 10)


async def test_an_expired_lot_pays_neither_an_extension_nor_an_overrun_nor_a_correction(books: Books) -> None:
    await books.do(top_up("p", 5))
    await books.do(hold("h", 5))
    await books.do(grant("g1", 10, expires_at=LATER))
    assert (await books.do(extend("h", 6, at=LATER))).outcome is Outcome.REFUSED
    await books.do(grant("g2", 10, expires_at=LATER))
    assert await books.do(settle("h", 9, at=LATER)) == Verdict(Outcome.DONE, 0, 0, 5, written_off=4)
    await books.do(grant("g3", 10, expires_at=LATER))
    assert await books.do(correct("c", -3, at=LATER)) == Verdict(Outcome.REFUSED, 0, 0)
    assert await books.lots() == {}


async def test_a_late_settle_is_not_paid_from_an_expired_lot(books: Books) -> None:
    await books.do(grant("g", 10, expires_at=LATER + 5))
    await books.do(hold("h", 10))
    await books.do(expire(LATER))
    assert await books.do(settle("h", 10, at=LATER + 5)) == Verdict(Outcome.DONE, 0, 0, 0, written_off=10, late=True)


async def test_holds_expire_and_give_back(books: Books) -> None:
    await books.fund(ANN, 100)
    await books.do(hold("h", 30, expires_at=START + 10))
    await books.do(hold("i", 30, expires_at=START + 20))
    assert await books.do(expire(START + 9)) == Verdict(Outcome.REPEATED, 100, 60)
    assert await books.do(expire(START + 10)) == Verdict(Outcome.DONE, 100, 30)
    assert (await books.do(extend("h", 30, expires_at=START + 99))).outcome is Outcome.NOT_OPEN
    assert (await books.do(extend("i", 30, expires_at=START + 99))).outcome is Outcome.DONE
    assert await books.do(expire(START + 20)) == Verdict(Outcome.REPEATED, 100, 30)


# --- corrections ------------------------------------------------------------------------------------------------------


async def test_a_correction_gives_back_as_credit(books: Books) -> None:
    assert await books.do(correct("c", 30, reason="priced twice")) == Verdict(Outcome.DONE, 30, 0, 30)
    assert await books.do(correct("c", 30)) == Verdict(Outcome.REPEATED, 30, 0, 30)
    assert await books.lots() == {"correction:c": 30}
    assert await books.sql("SELECT kind, from_book, to_book, note FROM transfers") == [
        ("correction", "revenue", "credit", "priced twice")
    ]


async def test_a_correction_charges_within_what_is_available(books: Books) -> None:
    await books.do(grant("g", 10))
    await books.do(top_up("p", 10))
    await books.do(hold("h", 5))
    assert await books.do(correct("c", -16)) == Verdict(Outcome.HELD_ELSEWHERE, 20, 5)
    assert await books.do(correct("c", -21)) == Verdict(Outcome.REFUSED, 20, 5)
    assert await books.do(correct("c", -12)) == Verdict(Outcome.DONE, 8, 5, -12)
    assert await books.do(correct("c", -12)) == Verdict(Outcome.REPEATED, 8, 5, -12)
    assert await books.lots() == {"top_up:p": 8}


@pytest.mark.parametrize("changed", [-11, -13, 12])
async def test_a_correction_with_other_content_conflicts(books: Books, changed: int) -> None:
    await books.do(grant("g", 10))
    await books.do(top_up("p", 10))
    await books.do(correct("c", -12))
    with pytest.raises(Conflict):
        await books.do(correct("c", changed))


async def test_a_correction_of_zero_is_rejected(books: Books) -> None:
    with pytest.raises(ValueError, match="above zero"):
        await books.do(correct("c", 0))
