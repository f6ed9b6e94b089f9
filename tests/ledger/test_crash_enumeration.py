"""The process dies at every point of calls that count in several budgets, and of calls whose holds are raised while
they run. The counters always equal the charges.

Ten times as many calls as fit are made at once, and admitted calls end in every possible way. Commands without an
answer are sent again, as a journal does, or open holds are closed by the operator's policy, as at a start. By default
some points are tried, different ones in each variant; `make long` tries them all.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import pytest
import structlog
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from farebox.calendar import HOUR_MS
from farebox.ledger.audit import audit
from farebox.ledger.commands import Budget, Command, Extend, Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.ledger import Ledger, ledger_of
from farebox.ledger.recovery import Policy, resolve_left_open
from farebox.settings import Settings
from farebox.storage.accounts import add_account
from farebox.storage.database import Database
from farebox.storage.sql import Connection
from tests.engines import ON_BOTH_ENGINES, looking, settings_for
from tests.ledger.kit import LATER, START, CallOf, top_up
from tests.long import LONG
from tests.payments.crash_injection import Crash, Mortal, open_with_crashes

pytestmark = ON_BOTH_ENGINES

SAMPLE: Final = 4
"""The number of points tried by default."""
K: Final = 4
PRICE: Final = 100
"""The hold of a call; its charge is less, the same, more, or nothing."""
CHARGES: Final = (30, 100, 250)
"""Charges of the admitted calls in turn; the fourth call is released."""
SCOPES: Final = ("account", "wide", "slides", "token", "user")
After = Literal["asked again", "release", "charge"]

_LOG: FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True)
class World:
    """A new account for each life, and the progress of its calls."""

    settings: Settings
    account_id: str
    tightest: str
    step: int = 0
    admitted: list[str] = field(default_factory=list)
    charged: int = 0
    raised: list[str] = field(default_factory=list)

    @property
    def room(self) -> dict[str, int]:
        return {scope: PRICE * (K if scope == self.tightest else 2 * K) for scope in SCOPES}

    def hold(self, number: int) -> Hold:
        start = START - START % HOUR_MS
        budgets = tuple(
            Budget(scope, self.room[scope], start, start - (24 * HOUR_MS if scope == "slides" else 0), start + HOUR_MS)
            for scope in SCOPES[1:]
        )
        return Hold(
            account_id=self.account_id, hold_id=f"c{number:02}", amount=PRICE, at=START, expires_at=LATER,
            owner="former", budgets=budgets,
        )  # fmt: skip

    def extend(self, hold_id: str, times: int) -> Extend:
        """Extend a hold to `times` its original amount."""
        return Extend(account_id=self.account_id, hold_id=hold_id, amount=PRICE * times, at=START, expires_at=0)

    def settle(self, hold_id: str, amount: int) -> Settle:
        record = CallOf(self.account_id, hold_id)
        return Settle(account_id=self.account_id, hold_id=hold_id, amount=amount, at=START, record=record)


async def asks(world: World, ledger: Ledger) -> None:
    """Make ten times as many calls as there is room for, at once: exactly as many as fit are admitted."""
    commands = [world.hold(number) for number in range(10 * K)]
    verdicts = await asyncio.gather(*(_done(ledger, command) for command in commands))
    world.admitted = [command.hold_id for command, verdict in zip(commands, verdicts, strict=True) if verdict.ok]
    assert len(world.admitted) == K
    refused = {verdict.outcome for verdict in verdicts if not verdict.ok}
    assert refused == {Outcome.HELD_ELSEWHERE}


async def ends(world: World, ledger: Ledger) -> None:
    """End all of them at once; the last is released."""
    last = world.admitted[-1]
    charged: list[Command] = [
        world.settle(hold_id, amount) for hold_id, amount in zip(world.admitted, CHARGES, strict=False)
    ]
    released = Release(account_id=world.account_id, hold_id=last, at=START)
    verdicts = await asyncio.gather(*(_done(ledger, command) for command in [*charged, released]))
    world.charged = sum(verdict.amount for verdict in verdicts)
    assert world.charged == sum(CHARGES) or (world.tightest == "account" and world.charged < sum(CHARGES))


async def asks_for_the_rest(world: World, ledger: Ledger) -> None:
    """Exactly the released amount is available to others, in all scopes."""
    commands = [world.hold(number) for number in range(10 * K, 20 * K)]
    verdicts = await asyncio.gather(*(_done(ledger, command) for command in commands))
    more = [command.hold_id for command, verdict in zip(commands, verdicts, strict=True) if verdict.ok]
    assert len(more) == (world.room[world.tightest] - world.charged) // PRICE
    await asyncio.gather(*(_done(ledger, world.settle(hold_id, PRICE)) for hold_id in more))


Step = Callable[[World, Ledger], Coroutine[Any, Any, None]]
STEPS: Final[tuple[Step, ...]] = (asks, ends, asks_for_the_rest)


# Calls whose holds are raised: at first half of the account's money is held, by K of 10 K calls, each of which holds
# part of its maximum cost.


async def asks_for_parts(world: World, ledger: Ledger) -> None:
    commands = [structs.replace(world.hold(number), budgets=()) for number in range(K)]
    verdicts = await asyncio.gather(*(_done(ledger, command) for command in commands))
    world.admitted = [command.hold_id for command, verdict in zip(commands, verdicts, strict=True) if verdict.ok]
    assert len(world.admitted) == K


async def raises(world: World, ledger: Ledger) -> None:
    """Raise each hold to three times its amount, at once; the money covers half of the raises."""
    verdicts = await asyncio.gather(*(_done(ledger, world.extend(hold_id, 3)) for hold_id in world.admitted))
    world.raised = [hold_id for hold_id, verdict in zip(world.admitted, verdicts, strict=True) if verdict.ok]
    assert len(world.raised) == K // 2
    assert {verdict.outcome for verdict in verdicts if not verdict.ok} == {Outcome.HELD_ELSEWHERE}


async def ends_as_held(world: World, ledger: Ledger) -> None:
    """Calls whose raise was refused cost the part that they held; no charge exceeds its hold."""
    charges = [world.settle(hold_id, PRICE * (3 if hold_id in world.raised else 1)) for hold_id in world.admitted]
    verdicts = await asyncio.gather(*(_done(ledger, command) for command in charges))
    world.charged = sum(verdict.amount for verdict in verdicts)
    assert [verdict.written_off for verdict in verdicts] == [0] * K
    assert world.charged == 2 * K * PRICE


RAISED_STEPS: Final[tuple[Step, ...]] = (asks_for_parts, raises, ends_as_held)


async def _done(ledger: Ledger, command: Command) -> Verdict:
    return await ledger.do(command)


async def live(world: World, die_at: int | None, after: After, steps: tuple[Step, ...] = STEPS) -> list[str]:
    """Run all steps, dying once; the number of points passed."""
    points: list[str] = []
    for number, death in enumerate((die_at, None)):
        process = Mortal(death)
        injection = await open_with_crashes(world.settings, process)
        ledger = ledger_of(injection.database, ("former", "next")[number])
        try:
            if number and after != "asked again":
                await process.run(_resolve(ledger, injection.database, after))
                return points
            while world.step < len(steps):
                await process.run(steps[world.step](world, ledger))
                world.step += 1
            return points or list(process.points)
        except Crash:
            points = list(process.points)
        finally:
            await process.cancel_tasks()
            if not process.dead:
                await ledger.close()
            await injection.end()
    raise AssertionError("died twice")


async def _resolve(ledger: Ledger, database: Database, policy: Policy) -> None:
    await resolve_left_open(ledger, database, instance="next", policy=policy, at=START, log=_LOG)


def begin(folder: Path, account_id: str, tightest: str) -> World:
    return World(settings_for(folder), account_id, tightest)


async def funded(world: World) -> World:
    injection = await open_with_crashes(world.settings, Mortal(None))
    ledger = ledger_of(injection.database, "first")
    await injection.database.write(
        lambda connection: add_account(connection, world.account_id, world.account_id, START)
    )
    assert (await ledger.do(top_up("p", world.room["account"], account_id=world.account_id))).ok
    await ledger.close()
    await injection.end()
    return world


def counted(connection: Connection, account_id: str) -> dict[str, object]:
    """The final state."""
    balance = connection.execute("SELECT posted, held FROM balances WHERE account_id = ?", (account_id,)).fetchone()
    scopes = connection.execute(
        "SELECT scope, sum(spent), sum(held) FROM budgets WHERE account_id = ? GROUP BY scope", (account_id,)
    ).fetchall()
    charges = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM transfers WHERE account_id = ? AND kind = 'charge'", (account_id,)
    ).fetchone()
    assert balance is not None
    assert charges is not None
    return {
        "posted": int(balance[0]),
        "held": int(balance[1]),
        "scopes": {scope: (int(spent), int(held)) for scope, spent, held in scopes},
        "charged": int(charges[0]),
    }


def check(world: World) -> dict[str, object]:
    """Check that nothing is held, that each counter is the sum of the charges, and that the audit agrees."""
    with looking(world.settings) as connection:
        found = counted(connection, world.account_id)
        assert [difference.message for difference in audit(connection)] == []
    assert found["held"] == 0
    assert found["scopes"] in ({}, dict.fromkeys(SCOPES[1:], (found["charged"], 0)))
    assert found["posted"] == world.room["account"] - cast(int, found["charged"])
    return found


@pytest.mark.parametrize("after", ["asked again", "release", "charge"])
async def test_after_a_crash_anywhere_the_counters_equal_the_charges(tmp_path: Path, after: After) -> None:
    whole = await funded(begin(tmp_path, "whole", "user"))
    points = await live(whole, None, after)
    expected = check(whole)
    assert len(points) > 2 * len(STEPS)
    for die_at in range(1, len(points) + 1) if LONG else _sample(len(points), len(after)):
        tightest = SCOPES[die_at % len(SCOPES)]
        world = await funded(begin(tmp_path, f"{after[0]}{die_at}", tightest))
        await live(world, die_at, after)
        found = check(world)
        if (
            after == "asked again" and tightest != "account"
        ):  # which pays the part of the overrun that is available then
            assert (found["charged"], found["scopes"]) == (expected["charged"], expected["scopes"]), points[die_at - 1]


@pytest.mark.parametrize("after", ["asked again", "release", "charge"])
async def test_after_a_crash_anywhere_each_hold_was_raised_or_not(tmp_path: Path, after: After) -> None:
    whole = await funded(begin(tmp_path, "whole", "wide"))
    points = await live(whole, None, after, RAISED_STEPS)
    assert check(whole)["charged"] == 2 * K * PRICE
    for die_at in range(1, len(points) + 1) if LONG else _sample(len(points), len(after)):
        world = await funded(begin(tmp_path, f"r{after[0]}{die_at}", "wide"))
        await live(world, die_at, after, RAISED_STEPS)
        charged = cast(int, check(world)["charged"])
        assert charged == 2 * K * PRICE if after == "asked again" else charged <= 2 * K * PRICE, points[die_at - 1]


def _sample(count: int, shift: int) -> list[int]:
    """A sample of the points, spread over the life."""
    return sorted({1 + (count * part // SAMPLE + shift) % count for part in range(SAMPLE)})
