"""`kill -9` of PostgreSQL under load, and of the gateway while its journal has entries.

FAREBOX_TEST_KILLS sets how often PostgreSQL is killed (2), FAREBOX_TEST_SEED the random moments.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.failures.kit import SEED, Installation, Load, begin, call, compare, new_installation, served, settled, stop
from tests.postgres.server import PostgresServer, start_postgres
from tests.waiting import until

KILLS = int(os.environ.get("FAREBOX_TEST_KILLS", "2"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that syncs to disk, and may be killed."""
    with start_postgres(durable=True) as server:
        yield server


@pytest.fixture
def installation(postgres: PostgresServer, tmp_path: Path) -> Installation:
    if not postgres.pids():  # after a failed test
        postgres.start()
    return new_installation(tmp_path, postgres.new_database())


async def test_completed_calls_are_charged_once_despite_postgres_kills(
    installation: Installation, postgres: PostgresServer
) -> None:
    print(f"FAREBOX_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    load = Load(installation, chance)
    with served(installation) as gateway:
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
        await settled(installation)
        await asyncio.to_thread(compare, installation, load)
        stop(gateway)
    assert installation.log.count("call journaled") >= KILLS, "no call ended while PostgreSQL was away"
    assert set(load.statuses) == {200, 503}, load.statuses
    assert load.unclear == 0, "a call was neither answered nor refused"
    assert load.longest_refusal < 2.5
    assert "Traceback" not in installation.log


async def test_while_postgres_is_down_calls_are_refused_at_once_and_streams_end(
    installation: Installation, postgres: PostgresServer
) -> None:
    with served(installation) as gateway:
        assert (await call(installation)).status == 200
        wire = await begin(installation, installation.customers[0], demo="tokens=20 gap=50", words=3, stream=True)
        await wire.head()
        await wire.until(b"data: ")
        postgres.kill()
        refused = await call(installation)
        assert (refused.status, refused.code) == (503, 2913)
        assert refused.headers["retry-after"] == "2"
        await _own_key_refused(installation)
        await _control_plane_refused(installation)
        whole = await wire.response()
        assert whole.body.endswith(b"data: [DONE]\n\n"), "its charge is journaled, so its end is not delayed"
        assert installation.journal
        await asyncio.to_thread(postgres.start)
        await settled(installation)
        load = Load(installation, random.Random(0))
        load.note(installation.customers[0][0], whole)
        load.unclear = 1  # the first call
        await asyncio.to_thread(compare, installation, load)
        stop(gateway)


async def _own_key_refused(installation: Installation) -> None:
    account, token = installation.customers[0]
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{installation.url}/v1/{account}/default/demo/chat/completions",
            json={"model": "demo-1", "messages": [{"role": "user", "content": "x"}]},
            headers={"authorization": "Bearer own", "cf-aig-authorization": f"Bearer {token}"},
        )
    assert response.status_code == 503
    assert "retry-after" in response.headers


async def _control_plane_refused(installation: Installation) -> None:
    account, token = installation.customers[0]
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
        response = await client.get(f"{installation.url}/client/v4/accounts/{account}/ai-gateway/gateways", timeout=2)
        ready = await client.get(f"{installation.url}/readyz", timeout=2)
        alive = await client.get(f"{installation.url}/healthz", timeout=2)
    assert (response.status_code, response.json()["success"]) == (503, False)
    assert response.json()["errors"][0]["code"] == 2913
    assert "retry-after" in response.headers
    assert (ready.status_code, alive.status_code) == (503, 200)


async def test_a_gateway_killed_with_journal_entries_posts_them_at_its_next_start(
    installation: Installation, postgres: PostgresServer
) -> None:
    load = Load(installation, random.Random(SEED))
    with served(installation) as gateway:
        wires = [
            await begin(installation, customer, demo="tokens=10 gap=40", words=3, stream=True)
            for customer in installation.customers
        ]
        for wire in wires:
            await wire.head()
        await wire.until(b"data: ")
        postgres.kill()
        for wire, (account, _) in zip(wires, installation.customers, strict=True):
            load.note(account, await wire.response())
        assert len(load.complete) == len(wires)
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
    assert installation.journal
    with installation.journal[-1].open("ab") as torn:
        torn.write(b'0badc0de {"ends":"settle","at":1')  # as after a crash in the middle of a write
    await asyncio.to_thread(postgres.start)
    with served(installation) as gateway:
        until(lambda: not installation.journal, "the journal is posted")
        await settled(installation)
        await asyncio.to_thread(compare, installation, load)
        assert "journal line damaged" in installation.log
        stop(gateway)
