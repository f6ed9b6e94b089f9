"""An administrator or a pooler terminates Farebox's sessions during calls: if a new connection works at once, no caller
notices, and nothing is done twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from farebox.storage.accounts import add_account
from farebox.storage.postgres import bridge, health
from farebox.storage.postgres.connecting import RECONNECTS_MAX, Session, connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.lanes import Lane
from farebox.storage.sql import Connection, DatabaseUnavailable, rows
from tests import engines
from tests.calls.kit import differences, price_of
from tests.support import Farebox, running_farebox

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="sessions are PostgreSQL's")

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT LIKE 'third%'"
)
CALLERS = 6


@pytest.fixture
def farebox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    engines.use_engine("postgres")
    with running_farebox(tmp_path_factory.mktemp("farebox")) as served:
        yield served


async def test_no_caller_notices_that_all_sessions_were_ended(farebox: Farebox) -> None:
    customer = await asyncio.to_thread(farebox.funded, "5")
    third = await connect(farebox.services.settings.database_url, timeout=10, name="third")
    responses: list[httpx.Response] = []
    stopped = asyncio.Event()

    async def call(client: httpx.AsyncClient, number: int) -> None:
        while not stopped.is_set():
            body = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
            responses.append(await client.post(f"{customer.gateway_url}/compat/chat/completions", json=body))
            if number == 0:  # reads of reports, and writes by jobs
                responses.append(await client.get(f"{customer.api_url}/ai-gateway/gateways"))

    async with httpx.AsyncClient(headers=customer.headers) as client:
        calling = [asyncio.ensure_future(call(client, number)) for number in range(CALLERS)]
        for _ in range(6):
            seen = len(responses)
            while len(responses) < seen + 3 * CALLERS:  # noqa: ASYNC110 - all have been served since
                await asyncio.sleep(0.005)
            await third.fetch(CUT)
        stopped.set()
        await asyncio.gather(*calling)
    third.terminate()
    assert {response.status_code for response in responses} == {200}
    balance = await asyncio.to_thread(lambda: customer.balance)
    assert balance.held == 0
    assert await asyncio.to_thread(differences, farebox) == []


async def test_repeated_terminations_during_the_retry_go_unnoticed(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions are terminated whenever a batch is about to be sent or a job has begun, five times in a row."""
    customer = await asyncio.to_thread(farebox.funded, "5")
    before = await asyncio.to_thread(lambda: customer.balance.posted)
    url = farebox.services.settings.database_url
    cuts, connect_lane, run_job = Counter[str](), Lane._connect, bridge.run

    async def cut_first(what: str) -> None:
        if cuts[what] < RECONNECTS_MAX - 1:
            cuts[what] += 1
            third = await connect(url, timeout=10, name="third")
            await third.fetch(CUT)
            third.terminate()

    async def connecting(lane: Lane) -> Any:
        call = await connect_lane(lane)

        async def calling(*arguments: Any) -> Any:
            await cut_first("batch")
            return await call(*arguments)

        lane._call = calling
        return calling

    async def running(job: Any, session: Session, *others: Any, **named: Any) -> Any:
        await cut_first("job")
        return await run_job(job, session, *others, **named)

    monkeypatch.setattr(Lane, "_connect", connecting)
    monkeypatch.setattr(bridge, "run", running)
    response = await asyncio.to_thread(customer.chat, "one two three", headers={"x-demo": "tokens=5"})
    assert response.status_code == 200, response.text
    assert cuts == {"batch": RECONNECTS_MAX - 1, "job": RECONNECTS_MAX - 1}
    balance = await asyncio.to_thread(lambda: customer.balance)
    assert (balance.posted, balance.held) == (before - price_of(3, 5), 0)
    assert await asyncio.to_thread(differences, farebox) == []


# --- the progress of a job at the termination -------------------------------------------------------------------------


class World:
    def __init__(self, url: str) -> None:
        self.url = url
        self.database = PostgresDatabase(url, timeout=20)
        self.runs = 0

    def job(self, connection: Connection) -> int:
        self.runs += 1
        add_account(connection, f"a{self.runs}", "", 1)
        return self.runs

    async def accounts(self) -> list[str]:
        found = await self.database.get(lambda connection: rows(connection, "SELECT account_id FROM accounts"))
        return [account_id for (account_id,) in found]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    url = engines.new_database()
    made = World(url)
    yield made
    await made.database.close()
    engines.postgres_server().drop_database(url)


class Commits:
    """Intercepts commits on the test's database, but not those of a server on another thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, to_lose: int, carried_out: int = 0) -> None:
        """The first `to_lose` commits get no response; the first `carried_out` of these are executed."""
        self.lost = 0
        execute: Any = Session.execute
        loop = asyncio.get_running_loop()

        async def losing(session: Session, query: str, *values: object, **more: object) -> object:
            if query == "COMMIT" and self.lost < to_lose and asyncio.get_running_loop() is loop:
                self.lost += 1
                if self.lost <= carried_out:
                    await execute(session, query)
                session.terminate()
                raise ConnectionResetError("the answer was lost")
            return await execute(session, query, *values, **more)

        monkeypatch.setattr(Session, "execute", losing)


async def cut(world: World) -> None:
    third = await connect(world.url, timeout=10, name="third")
    await third.fetch(CUT)
    await third.close()


async def test_a_read_is_repeated(world: World) -> None:
    assert await world.accounts() == []
    await cut(world)
    assert await world.accounts() == []
    tried = 0

    def ends_itself(connection: Connection) -> int:
        nonlocal tried
        tried += 1
        if tried <= RECONNECTS_MAX:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return tried

    assert await world.database.get(ends_itself) == RECONNECTS_MAX + 1
    tried = 0
    assert await world.database.scan(ends_itself) == RECONNECTS_MAX + 1
    tried = -1
    with pytest.raises(DatabaseUnavailable):
        await world.database.get(ends_itself)


async def test_a_statements_error_reaches_its_job(world: World) -> None:
    def job(connection: Connection) -> str:
        try:
            connection.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError:
            return "expected"
        return "nothing was raised"

    assert await world.database.get(job) == "expected"


async def test_a_job_whose_session_ends_before_its_commit_is_rerun(world: World) -> None:
    def job(connection: Connection) -> int:
        result = world.job(connection)
        if result == 1:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return result

    assert await world.database.write(job) == 2
    assert await world.accounts() == ["a2"]


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_commit_without_a_response_is_looked_up_and_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_done: bool
) -> None:
    commits = Commits(monkeypatch, to_lose=1, carried_out=int(is_done))
    assert await world.database.write(world.job) == (1 if is_done else 2)
    assert commits.lost == 1
    assert await world.accounts() == (["a1"] if is_done else ["a2"])


async def test_a_commit_is_not_repeated_if_its_check_has_no_response_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second commit only verified the first, and is rolled back."""
    commits = Commits(monkeypatch, to_lose=3, carried_out=1)
    assert await world.database.write(world.job) == 1
    assert (commits.lost, world.runs) == (3, 1)
    assert await world.accounts() == ["a1"]


async def test_a_commit_without_a_response_of_another_server_stays_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover: on the other server the transaction ID belongs to another transaction, or has not been reached
    yet."""
    fetchrow: Any = Session.fetchrow
    servers, loop = 0, asyncio.get_running_loop()

    async def another(self: Session, query: str, *values: object, **more: object) -> object:
        nonlocal servers
        found = await fetchrow(self, query, *values, **more)
        if (
            "pg_postmaster_start_time" not in query or asyncio.get_running_loop() is not loop
        ):  # a query of the health check, or not ours
            return found
        servers += 1
        return found[0], servers, None

    Commits(monkeypatch, to_lose=RECONNECTS_MAX)
    monkeypatch.setattr(Session, "fetchrow", another)
    with pytest.raises(DatabaseUnavailable, match="unknown"):
        await world.database.write(world.job)
    assert (world.runs, servers) == (1, 2)


async def test_the_database_is_back_only_after_a_successful_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read alone would succeed although its disk is full or a required standby is missing."""
    watched = world.database.health
    watched._watching = asyncio.ensure_future(asyncio.sleep(0))  # the health check runs on the test's command
    watched.failed(DatabaseUnavailable("a commit failed"))
    with monkeypatch.context() as patch:
        patch.setattr(health, "_COMMIT_PROBE", "SELECT 1 / 0")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await watched._probe()
        with pytest.raises(DatabaseUnavailable, match="a commit failed"):
            world.database.check()
    await watched._probe()
    world.database.check()
