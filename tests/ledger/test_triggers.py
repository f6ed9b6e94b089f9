"""The triggers of a falling posted balance: one request for an auto top-up, one message."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.ledger.commands import Command, Correct, Expire, Extend, Outcome
from farebox.storage.sql import Connection
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import ANN, LATER, START, Books, grant, hold, open_books, settle, take_back, top_up

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    """Books in which Ann has 100 and an active rule."""
    async with open_books(tmp_path / "books.db", ANN) as opened:
        await opened.database.write(_add_rule)
        await opened.do(top_up("p", 100))
        yield opened


def _add_rule(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO top_up_rules (bucket, account_id, amount_cents, threshold_cents, monthly_cap_cents, state, "
        "updated_at) SELECT bucket, account_id, 1000, 500, 10000, 'active', 1 FROM accounts"
    )


async def requests(books: Books) -> list[tuple[object, ...]]:
    return await books.sql("SELECT top_up_id, kind, state, next_at FROM top_ups ORDER BY top_up_id")


async def armed(books: Books) -> int | None:
    [(below,)] = await books.sql("SELECT top_up_below FROM balances")
    return None if below is None else int(below)


async def notices(books: Books) -> list[tuple[str, dict[str, int]]]:
    found = await books.sql("SELECT notice_id, content FROM notices WHERE kind = 'low_balance' ORDER BY created_at")
    return [(name, json.loads(content)) for name, content in found]


async def charge(books: Books, name: str, amount: int) -> None:
    assert (await books.do(hold(name, amount))).ok
    assert (await books.do(settle(name, amount))).ok


# --- auto top-up ------------------------------------------------------------------------------------------------------


async def test_the_charge_that_crosses_the_threshold_requests_once(books: Books) -> None:
    await books.set(top_up_below=50)
    await charge(books, "to it", 50)
    assert (await requests(books), await armed(books)) == ([], 50), "a balance at the threshold is not below it"
    await charge(books, "below", 1)
    asked = [("auto-1", "auto", "requested", START)]
    assert (await requests(books), await armed(books)) == (asked, None)
    await charge(books, "further", 1)
    assert await requests(books) == asked


async def test_holds_do_not_trigger_a_top_up(books: Books) -> None:
    await books.set(top_up_below=50)
    await books.do(hold("h", 100))
    assert (await books.do(hold("i", 1))).outcome is Outcome.HELD_ELSEWHERE
    assert await requests(books) == []


FALLS: dict[str, tuple[Command, ...]] = {
    "charge": (hold("h", 60), settle("h", 60)),
    "correction": (Correct(account_id=ANN, correction_id="c", amount=-60, at=START),),
    "expiry": (grant("g", 1), Expire(account_id=ANN, at=LATER)),
    "expiry on the way": (hold("h", 100, at=LATER),),
    "refund": (take_back("refund:r", 60),),
    "dispute": (take_back("dispute:d", 60),),
}


@pytest.mark.parametrize("name", FALLS)
async def test_every_decrease_of_the_balance_triggers_top_up_and_notice(books: Books, name: str) -> None:
    if name.startswith("expiry"):
        await books.do(take_back("refund:seed", 100))
        await books.do(top_up("q", 10))
        await books.do(top_up("short", 90, expires_at=LATER))
    await books.set(top_up_below=50, low_below=60)
    assert await requests(books) == []
    for command in FALLS[name]:
        await books.do(command)
    assert len(await requests(books)) == 1
    assert len(await notices(books)) == 1
    assert await armed(books) is None


async def test_a_refused_hold_triggers_a_top_up(books: Books) -> None:
    await books.set(top_up_below=50)
    assert (await books.do(hold("large", 200))).outcome is Outcome.REFUSED
    assert await requests(books) == [], "the balance is above the threshold: the call is merely too large"
    await books.set(top_up_below=101)  # a rule that was saved when the balance was already below
    assert (await books.do(hold("large", 200))).outcome is Outcome.REFUSED
    assert len(await requests(books)) == 1
    assert (await books.do(hold("large", 200))).outcome is Outcome.REFUSED
    assert len(await requests(books)) == 1


async def test_a_refused_extension_triggers_a_top_up(books: Books) -> None:
    await books.do(hold("h", 10))
    await books.set(top_up_below=101)
    extend = Extend(account_id=ANN, hold_id="h", amount=200, at=START, expires_at=LATER)
    assert (await books.do(extend)).outcome is Outcome.REFUSED
    assert len(await requests(books)) == 1


async def test_an_open_request_is_not_repeated(books: Books) -> None:
    await books.set(top_up_below=90)
    await charge(books, "a", 20)
    await books.set(top_up_below=90)  # armed again by mistake
    await charge(books, "b", 20)
    assert len(await requests(books)) == 1
    assert await armed(books) is None


async def test_a_suspended_rule_is_not_triggered(books: Books) -> None:
    await books.database.write(lambda c: c.execute("UPDATE top_up_rules SET state = 'suspended'").fetchall())
    await books.set(top_up_below=90)
    await charge(books, "a", 20)
    assert await requests(books) == []


async def test_a_hundred_charges_across_the_threshold_request_credit_once(books: Books) -> None:
    await books.set(top_up_below=60, low_below=60)
    await asyncio.gather(*(books.do(hold(f"h{n}", 1)) for n in range(100)))
    await asyncio.gather(*(books.do(settle(f"h{n}", 1)) for n in range(100)))
    assert await books.sql("SELECT posted FROM balances") == [(0,)]
    assert await requests(books) == [("auto-1", "auto", "requested", START)]
    assert [content["posted_nanos"] for _, content in await notices(books)] == [59]


async def test_a_rolled_back_command_triggers_nothing(books: Books) -> None:
    """A command whose transaction fails leaves neither request nor notice, and the rule stays armed."""
    await books.set(top_up_below=90, low_below=90)
    await books.do(hold("h", 20))

    class Broken:
        at = START

        def write(self, *_: object) -> None:
            raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError, match="broken"):
        await books.do(settle("h", 20, record=Broken()))
    assert (await requests(books), await notices(books), await armed(books)) == ([], [], 90)


# --- a low balance ----------------------------------------------------------------------------------------------------


async def test_a_low_balance_is_notified_once_until_it_recovers(books: Books) -> None:
    await books.set(low_below=50)
    await charge(books, "a", 60)
    reported = ("low_balance:2", {"posted_nanos": 40, "low_below_nanos": 50})
    assert await notices(books) == [reported]
    await charge(books, "b", 10)
    await books.do(top_up("little", 5))
    await charge(books, "c", 5)
    assert await notices(books) == [reported], "it was low all the time"
    await books.do(grant("enough", 20))
    await charge(books, "d", 1)
    assert await notices(books) == [reported, ("low_balance:7", {"posted_nanos": 49, "low_below_nanos": 50})]


async def test_a_lowered_threshold_applies(books: Books) -> None:
    await books.set(low_below=50)
    await charge(books, "a", 60)
    await books.set(low_below=30)
    await charge(books, "b", 5)
    assert len(await notices(books)) == 1, "35 is not below 30"
    await charge(books, "c", 10)
    assert [content["low_below_nanos"] for _, content in await notices(books)] == [50, 30]


async def test_a_payment_that_stays_below_the_threshold_sends_no_notice(books: Books) -> None:
    await books.do(take_back("refund:r", 100))
    await books.set(low_below=50)
    await books.do(top_up("little", 10))
    assert await notices(books) == []


async def test_without_a_threshold_there_is_no_notice(books: Books) -> None:
    await charge(books, "a", 100)
    assert await notices(books) == []
    await books.set(low_below=50, low_told=1)
    await books.set(low_below=None)
    await books.do(top_up("q", 1))
    assert await books.sql("SELECT low_told FROM balances") == [(0,)]
