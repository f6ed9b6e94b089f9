"""`kill -9` of PostgreSQL under load, and of the gateway while its journal is full.

FAREBOX_TEST_KILLS says how often PostgreSQL is killed (2), FAREBOX_TEST_SEED which random moments.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.failures.kit import (
    SEED,
    House,
    Load,
    begin,
    call,
    compare,
    new_house,
    served,
    settled,
    stop,
    until,
)
from tests.postgres.server import PostgresServer, start_postgres

KILLS = int(os.environ.get("FAREBOX_TEST_KILLS", "2"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Waits for the disk, and may be killed."""
    with start_postgres(durable=True) as server:
        yield server


@pytest.fixture
def house(postgres: PostgresServer, tmp_path: Path) -> House:
    if not postgres.pids():  # a test that failed
        postgres.start()
    return new_house(tmp_path, postgres.new_database())


async def test_what_was_answered_is_charged_once_however_often_postgres_is_killed(
    house: House, postgres: PostgresServer
) -> None:
    print(f"FAREBOX_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    load = Load(house, chance)
    with served(house) as gateway:
        calling = asyncio.ensure_future(load.run())
        for _ in range(KILLS):
            await load.more(30)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            postgres.kill()
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            await asyncio.to_thread(postgres.start)
            assert not calling.done()
        await load.more(30)
        load.stopped = True
        await asyncio.wait_for(calling, 30)
        await settled(house)
        await asyncio.to_thread(compare, house, load)
        stop(gateway)
    assert house.log.count("call journaled") >= KILLS, "no call ended while PostgreSQL was away"
    assert set(load.statuses) == {200, 503}, load.statuses
    assert load.unclear == 0, "a call was neither answered nor refused"
    assert load.longest_refusal < 2.5
    assert "Traceback" not in house.log


async def test_while_postgres_is_away_calls_are_refused_at_once_and_streams_end(
    house: House, postgres: PostgresServer
) -> None:
    with served(house) as gateway:
        assert (await call(house)).status == 200
        wire = await begin(house, house.customers[0], demo="tokens=20 gap=50", words=3, stream=True)
        await wire.head()
        await wire.until(b"data: ")
        postgres.kill()
        refused = await call(house)
        assert (refused.status, refused.code) == (503, 2913)
        assert refused.headers["retry-after"] == "2"
        await _own_key_refused(house)
        await _control_plane_refused(house)
        whole = await wire.response()
        assert whole.body.endswith(b"data: [DONE]\n\n"), "its charge is journaled: nothing keeps its end back"
        assert house.journal
        await asyncio.to_thread(postgres.start)
        await settled(house)
        load = Load(house, random.Random(0))
        load.note(house.customers[0][0], whole)
        load.unclear = 1  # the first call
        await asyncio.to_thread(compare, house, load)
        stop(gateway)


async def _own_key_refused(house: House) -> None:
    account, token = house.customers[0]
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{house.url}/v1/{account}/default/demo/chat/completions",
            json={"model": "demo-1", "messages": [{"role": "user", "content": "x"}]},
            headers={"authorization": "Bearer own", "cf-aig-authorization": f"Bearer {token}"},
        )
    assert response.status_code == 503
    assert "retry-after" in response.headers


async def _control_plane_refused(house: House) -> None:
    account, token = house.customers[0]
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
        response = await client.get(f"{house.url}/client/v4/accounts/{account}/ai-gateway/gateways", timeout=2)
        ready = await client.get(f"{house.url}/readyz", timeout=2)
        alive = await client.get(f"{house.url}/healthz", timeout=2)
    assert (response.status_code, response.json()["success"]) == (503, False)
    assert response.json()["errors"][0]["code"] == 2913
    assert "retry-after" in response.headers
    assert (ready.status_code, alive.status_code) == (503, 200)


async def test_a_gateway_killed_with_a_full_journal_posts_it_at_its_next_start(
    house: House, postgres: PostgresServer
) -> None:
    load = Load(house, random.Random(SEED))
    with served(house) as gateway:
        wires = [
            await begin(house, customer, demo="tokens=10 gap=40", words=3, stream=True) for customer in house.customers
        ]
        for wire in wires:
            await wire.head()
        await wire.until(b"data: ")
        postgres.kill()
        for wire, (account, _) in zip(wires, house.customers, strict=True):
            load.note(account, await wire.response())
        assert len(load.complete) == len(wires)
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
    assert house.journal
    with house.journal[-1].open("ab") as torn:
        torn.write(b'0badc0de {"ends":"settle","at":1')  # as a crash in the middle of a write leaves it
    await asyncio.to_thread(postgres.start)
    with served(house) as gateway:
        until(lambda: not house.journal, "the journal is posted")
        await settled(house)
        await asyncio.to_thread(compare, house, load)
        assert "journal line not whole" in house.log
        stop(gateway)
