"""PostgreSQL executes a batch after its gateway was declared dead: no hold stays behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from farebox.ledger.commands import Hold, Outcome, Release, Settle, Verdict
from farebox.ledger.lanes import LaneLedger
from farebox.metrics.metrics import Metrics
from farebox.storage.instances import fence
from farebox.storage.postgres.connecting import Session, connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.lanes import Lane
from farebox.storage.sql import DatabaseUnavailable, rows
from tests import engines
from tests.ledger.kit import slow_commands
from tests.multiprocess.test_failure_detector import LOST_AFTER, STEP, World, world

__all__ = ["world"]

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="only PostgreSQL has lanes")

OF_THE_LANE = "application_name = 'farebox lane' AND datname = current_database()"


class Gateway:
    """Another process on the database: its ledger, and its death."""

    name = "gateway"

    def __init__(self, world: World) -> None:
        assert isinstance(world.database, PostgresDatabase)
        self._world = world
        self.url = world.database.url
        self.database = PostgresDatabase(self.url, timeout=30, activity=Metrics().activity())
        self.ledger = LaneLedger(self.database, self.name)

    @property
    def lane(self) -> Lane:
        return self.ledger._lanes[0]._sender

    async def close(self) -> None:
        await self.ledger.close()
        await self.database.close()

    async def hold(self, hold_id: str, owner: str | None = None) -> Verdict:
        at = self._world.clock.now_ms()
        owner = self.name if owner is None else owner
        command = Hold(account_id="a", hold_id=hold_id, amount=100, at=at, expires_at=at + 10**7, owner=owner)
        return await self.ledger.do(command)

    async def send_hold(self, hold_id: str) -> "asyncio.Task[Verdict]":
        """Send a hold; returns when its batch has been sent."""
        call, left = self.lane._call, asyncio.Event()
        assert call is not None

        def calling(*arguments: Any) -> Any:
            left.set()  # written before other tasks run
            return call(*arguments)

        self.lane._call = calling
        sent = asyncio.ensure_future(self.hold(hold_id))
        await left.wait()
        return sent

    def cut_off(self) -> None:
        assert self.lane._session is not None
        self.lane._session._transport.abort()

    def die(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Die as by SIGKILL: the connection is lost without a message, and no other is opened."""

        async def never(_: Lane) -> Any:
            raise DatabaseUnavailable("it is dead")

        monkeypatch.setattr(Lane, "_connect", never)
        self.cut_off()


@pytest.fixture
async def gateway(world: World) -> AsyncIterator[Gateway]:
    made = Gateway(world)
    yield made
    await made.close()


@asynccontextmanager
async def watching(gateway: Gateway) -> AsyncIterator[Session]:
    session = await connect(gateway.url, timeout=30, name="third")
    try:
        yield session
    finally:
        session.terminate()


async def until(session: Session, sql: str) -> None:
    """Wait until the query finds a row."""
    while not await session.fetch(sql):  # noqa: ASYNC110 - the server has to be polled
        await asyncio.sleep(0.01)


async def opened(world: World) -> list[str]:
    return [name for name, state in (await world.states()).items() if state == "open"]


async def test_a_batch_begun_after_the_fence_creates_no_hold(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = world.detector()
    await world.seen("gateway")
    assert (await gateway.hold("before")).ok
    await detector.check()
    async with watching(gateway) as third:
        backend = await third.fetchval(f"SELECT pid FROM pg_stat_activity WHERE {OF_THE_LANE}")
        os.kill(backend, signal.SIGSTOP)  # the batch has arrived, and has not been executed yet
        sent = await gateway.send_hold("late")
        gateway.die(monkeypatch)
        with suppress(DatabaseUnavailable):
            await sent
        await world.pass_time(LOST_AFTER, detector)
        assert await world.states() == {"before": "expired"}
        assert await world.instances() == {"detector"}
        os.kill(backend, signal.SIGCONT)
        await until(third, f"SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {backend})")
    assert await world.states() == {"before": "expired"}
    assert await world.database.get(partial(rows, sql="SELECT held FROM balances")) == [(0,)]


async def test_a_batch_waiting_for_a_lock_is_waited_for(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = world.detector()
    await world.seen("gateway")
    assert (await gateway.hold("before")).ok
    await detector.check()
    async with watching(gateway) as third, third.transaction():
        await third.execute("SELECT FROM balances WHERE bucket = 0 AND account_id = 'a' FOR UPDATE")
        sent = await gateway.send_hold("late")
        async with watching(gateway) as other:
            await until(other, engines.waiting_for_a_lock("farebox lane"))
        gateway.die(monkeypatch)
        with suppress(DatabaseUnavailable):
            await sent
        with capture_logs() as logged:
            await world.pass_time(LOST_AFTER, detector)
            for _ in range(3):
                await world.pass_time(STEP, detector)
        assert [line["event"] for line in logged] == ["instance_lost_has_batch"], "it is logged once"
        assert await world.instances() == {"detector", "gateway"}, "what it leaves behind is not known yet"
    async with watching(gateway) as third:
        await until(third, f"SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE {OF_THE_LANE})")
    assert sorted(await opened(world)) == ["before", "late"]
    await world.pass_time(STEP, detector)
    assert await opened(world) == []
    assert await world.instances() == {"detector"}


async def test_a_process_wrongly_declared_dead_holds_and_charges_again(world: World, gateway: Gateway) -> None:
    detector = world.detector()
    await world.seen("gateway")
    for name in ("expires", "charged"):
        assert (await gateway.hold(name)).ok
    at = world.clock.now_ms()
    await world.pass_time(LOST_AFTER + STEP, detector)
    assert set((await world.states()).values()) == {"expired"}
    # Concurrently: its charges are posted although it is fenced, and its holds are sent again under a new epoch.
    responses = await asyncio.gather(
        gateway.ledger.do(Settle(account_id="a", hold_id="charged", amount=60, at=at)),
        gateway.hold("again"),
        gateway.ledger.do(Release(account_id="a", hold_id="again", at=at)),
        gateway.hold("app:1", owner=""),
    )
    assert [response.outcome for response in responses] == [Outcome.DONE] * 4
    assert responses[0].late
    assert (await gateway.hold("after")).ok
    await world.seen("gateway")
    await world.pass_time(2 * LOST_AFTER, detector, alive=("gateway",))
    assert await world.states() == {
        "expires": "expired", "charged": "settled", "again": "released", "app:1": "open", "after": "open",
    }  # fmt: skip


async def test_an_open_hold_of_a_fenced_process_is_charged_at_once(world: World, gateway: Gateway) -> None:
    assert (await gateway.hold("h")).ok
    assert await world.database.write(partial(fence, instance_id="gateway"))
    verdict = await gateway.ledger.do(Settle(account_id="a", hold_id="h", amount=60, at=world.clock.now_ms()))
    assert (verdict.outcome, verdict.amount, verdict.late) == (Outcome.DONE, 60, False)
    assert slow_commands(gateway.database.activity) == 0


async def test_a_stopped_process_leaves_no_valid_epoch(world: World, gateway: Gateway) -> None:
    assert (await gateway.hold("h")).ok
    registered = partial(rows, sql="SELECT instance_id FROM lanes WHERE instance_id = 'gateway'")
    assert await world.database.get(registered) == [("gateway",)]
    await gateway.ledger.close()
    assert await world.database.get(registered) == []


async def test_a_repeatedly_fenced_process_is_refused(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would retry forever."""
    assert (await gateway.hold("h")).ok
    send = Lane.send

    async def fenced(self: Lane, arguments: Any) -> Any:
        if self._call is None:
            await self._connect()
        self._epoch += 1
        return await send(self, arguments)

    monkeypatch.setattr(Lane, "send", fenced)
    with pytest.raises(DatabaseUnavailable, match="again and again"):
        await gateway.hold("i")
    monkeypatch.undo()
    assert (await gateway.hold("j")).ok


async def test_a_former_connection_of_the_same_process_makes_no_hold(
    world: World, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network was cut: the batch is in doubt, and its hold is released over a new connection. If the server later
    executes the batch from the old connection, no unknown hold appears."""
    assert (await gateway.hold("before")).ok
    async with watching(gateway) as third:
        backend = await third.fetchval(f"SELECT pid FROM pg_stat_activity WHERE {OF_THE_LANE}")
        os.kill(backend, signal.SIGSTOP)
        sent = await gateway.send_hold("in doubt")
        with monkeypatch.context() as patch:
            gateway.die(patch)
            with suppress(DatabaseUnavailable):
                await sent
        given_back = await gateway.ledger.do(Release(account_id="a", hold_id="in doubt", at=world.clock.now_ms()))
        os.kill(backend, signal.SIGCONT)
        await until(third, f"SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {backend})")
    assert given_back.outcome is Outcome.UNKNOWN
    assert await world.states() == {"before": "open"}
