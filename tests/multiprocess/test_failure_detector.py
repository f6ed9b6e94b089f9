"""Which processes are declared dead, and when: the failure detector uses the test's clock and a real database."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from farebox.clock import Ids, RandomIds, SystemClock
from farebox.ledger import recovery
from farebox.ledger.commands import Grant, Hold, Outcome, Settle
from farebox.ledger.ledger import Ledger, ledger_of
from farebox.runtime import instances
from farebox.runtime.instances import FailureDetector
from farebox.runtime.queue_search import QueueSearch
from farebox.runtime.services import Services
from farebox.settings import load
from farebox.storage.accounts import add_account
from farebox.storage.database import Database, open_database
from farebox.storage.instances import list_instances, note_seen
from farebox.storage.sql import Connection, rows
from tests import engines

START = 1_790_000_000_000
LOST_AFTER = 30
STEP = 5


class SteppedClock:
    """A clock that only moves when it is stepped."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return START + int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing here sleeps, not even {seconds} s")


@dataclass(slots=True)
class World:
    database: Database
    ledger: Ledger
    clock: SteppedClock
    ids: Ids

    def services(self, name: str) -> Services:
        """The parts of a process that the failure detector needs."""
        settings = load({}, instance_timeout_ms=LOST_AFTER * 1000)
        parts = SimpleNamespace(
            settings=settings,
            clock=self.clock,
            ids=self.ids,
            database=self.database,
            ledger=self.ledger,
            instance=name,
            queue_search=QueueSearch(self.database, self.clock),
        )
        return cast(Services, parts)

    def detector(self, name: str = "detector") -> FailureDetector:
        return FailureDetector(self.services(name))

    async def seen(self, name: str) -> None:
        await self.database.write(partial(note_seen, instance_id=name, at=self.clock.now_ms()))

    async def instances(self) -> set[str]:
        return set(await self.database.get(list_instances))

    async def hold(self, owner: str, amount: int = 100) -> str:
        hold_id = self.ids.log_id()
        at = self.clock.now_ms()
        verdict = await self.ledger.do(
            Hold(account_id="a", hold_id=hold_id, amount=amount, at=at, expires_at=at + 10**7, owner=owner)
        )
        assert verdict.outcome is Outcome.DONE
        return hold_id

    async def states(self) -> dict[str, str]:
        def read(connection: Connection) -> list[tuple[Any, ...]]:
            return rows(connection, "SELECT hold_id, state FROM holds")

        return dict(await self.database.get(read))

    async def pass_time(self, seconds: int, *detectors: FailureDetector, alive: tuple[str, ...] = ()) -> None:
        """Let time pass in steps; in each step live processes are seen and failure detectors run."""
        for _ in range(0, seconds, STEP):
            self.clock.seconds += STEP
            for name in alive:
                await self.seen(name)
            for detector in detectors:
                await detector.check()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    url = engines.new_database()
    database = await open_database(load({}, database_url=url))
    ledger = ledger_of(database, "world")
    clock = SteppedClock()
    await database.write(lambda connection: add_account(connection, "a", "A", START))
    await ledger.do(Grant(account_id="a", grant_id="g", amount=10_000, at=START))
    yield World(database, ledger, clock, RandomIds(SystemClock()))
    await ledger.close()
    await database.close()
    engines.postgres_server().drop_database(url)


async def test_a_process_that_is_not_seen_is_lost_and_a_living_one_is_not(world: World) -> None:
    detector = world.detector()
    await world.seen("silent")
    await world.seen("living")
    lost, kept, own = await world.hold("silent"), await world.hold("living"), await world.hold("detector")
    nobodys = await world.hold("")
    await detector.check()
    await world.pass_time(LOST_AFTER - STEP, detector, alive=("living",))
    assert set((await world.states()).values()) == {"open"}, "not yet"
    with structlog.testing.capture_logs() as logged:
        await world.pass_time(STEP, detector, alive=("living",))
    assert await world.states() == {lost: "expired", kept: "open", own: "open", nobodys: "open"}
    assert await world.instances() == {"detector", "living"}
    [resolved] = [line for line in logged if line["event"] == "call_in_doubt_resolved"]
    assert (resolved["hold_id"], resolved["owner"], resolved["policy"]) == (lost, "silent", "release")
    # It was only cut off: it comes back, and its charge is posted.
    await world.seen("silent")
    verdict = await world.ledger.do(Settle(account_id="a", hold_id=lost, amount=60, at=world.clock.now_ms()))
    assert (verdict.outcome, verdict.late, verdict.amount) == (Outcome.DONE, True, 60)
    assert await world.instances() == {"detector", "living", "silent"}


async def test_a_failure_detector_that_dies_is_replaced_by_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time it is declared dead itself, its lease has expired."""
    begun, end_lost = asyncio.Event(), instances._end_lost

    async def dies(services: Services, **lost: Any) -> None:
        if services.instance == "first":
            begun.set()
            await asyncio.Event().wait()
        await end_lost(services, **lost)

    monkeypatch.setattr(instances, "_end_lost", dies)
    await world.seen("silent")
    left = [await world.hold("silent"), await world.hold("first")]
    first, second = world.detector("first"), world.detector("second")
    await world.pass_time(LOST_AFTER, first, second)
    world.clock.seconds += STEP
    dying = asyncio.ensure_future(first.check())
    await begun.wait()
    await world.pass_time(LOST_AFTER + STEP, second)
    assert await world.states() == dict.fromkeys(left, "expired")
    assert await world.instances() == {"second"}
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying


async def test_only_holds_of_the_dead_process_are_ended(world: World) -> None:
    names = ("silenc", "silent", "silent2", "zoe")
    for name in names:
        await world.seen(name)
    holds = {name: await world.hold(name) for name in names}
    await world.pass_time(LOST_AFTER + STEP, world.detector(), alive=("silenc", "silent2", "zoe"))
    states = await world.states()
    assert {name for name in names if states[holds[name]] == "expired"} == {"silent"}


async def test_a_process_that_is_seen_while_its_calls_are_ended_keeps_its_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seen("back")
    resolve = recovery.resolve_lost

    async def meanwhile(*parts: Any, **more: Any) -> Any:
        world.clock.seconds += 0.001
        await world.seen("back")
        return await resolve(*parts, **more)

    monkeypatch.setattr(instances, "resolve_lost", meanwhile)
    await world.pass_time(LOST_AFTER + STEP, world.detector())
    assert await world.instances() == {"detector", "back"}


async def test_a_failure_detector_that_was_suspended_starts_over(world: World) -> None:
    detector = world.detector()
    await world.seen("other")
    hold = await world.hold("other")
    await detector.check()
    await world.pass_time(LOST_AFTER - STEP, detector)
    world.clock.seconds += 10 * LOST_AFTER  # the database was unavailable for both
    await detector.check()
    await world.pass_time(LOST_AFTER - STEP, detector)
    assert await world.states() == {hold: "open"}
    await world.pass_time(STEP, detector)
    assert await world.states() == {hold: "expired"}


async def test_a_process_that_was_declared_dead_registers_again(world: World) -> None:
    detector, frozen = world.detector(), world.detector("frozen")
    await frozen.check()
    await world.pass_time(LOST_AFTER + STEP, detector)
    assert await world.instances() == {"detector"}
    await frozen.check()
    assert await world.instances() == {"detector", "frozen"}
    await world.pass_time(2 * LOST_AFTER, detector, frozen)
    assert await world.instances() == {"detector", "frozen"}


async def test_holds_of_a_process_without_a_row_are_ended_and_reported_once(world: World) -> None:
    holds = [await world.hold("gone") for _ in range(20)]
    detectors = [world.detector(f"detector {number}") for number in range(3)]
    await world.pass_time(LOST_AFTER, *detectors)
    assert set((await world.states()).values()) == {"open"}, "it may be back, and just not have been seen yet"
    world.clock.seconds += STEP
    with structlog.testing.capture_logs() as logged:
        await asyncio.gather(*(detector.check() for detector in detectors))
    assert await world.states() == dict.fromkeys(holds, "expired")
    reported = [line["hold_id"] for line in logged if line["event"] == "call_in_doubt_resolved"]
    assert sorted(reported) == sorted(holds)


async def test_holds_of_a_process_without_a_row_are_found_by_processes_that_take_turns(world: World) -> None:
    detectors = [world.detector(f"detector {number}") for number in range(3)]
    await world.pass_time(LOST_AFTER, *detectors)
    hold = await world.hold("gone")
    await world.pass_time(LOST_AFTER, *detectors)
    assert await world.states() == {hold: "open"}, "it may be back, and just not have been seen yet"
    await world.pass_time(LOST_AFTER, *detectors)
    assert await world.states() == {hold: "expired"}
    assert await world.instances() == {f"detector {number}" for number in range(3)}


async def test_calls_of_a_restarted_process_are_not_ended(world: World) -> None:
    """It was cut off, and its row was deleted. Its next call may arrive before it has been seen again."""
    detectors = [world.detector("detector"), world.detector("rival")]
    await world.seen("cut off")
    lost = await world.hold("cut off")
    await world.pass_time(LOST_AFTER + STEP, *detectors)
    assert await world.states() == {lost: "expired"}
    assert await world.instances() == {"detector", "rival"}
    begun = await world.hold("cut off")
    await world.pass_time(STEP, *detectors)
    await world.seen("cut off")
    await world.pass_time(2 * LOST_AFTER, *detectors, alive=("cut off",))
    assert await world.states() == {lost: "expired", begun: "open"}
