"""A primary with a synchronous standby: failover under load, and what happens if the standby is missing."""

import asyncio
import random
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from farebox.storage.postgres.connecting import connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection, DatabaseUnavailable, StandbyMissing
from tests.calls.wire import WireResponse
from tests.failures.kit import SEED, Installation, Load, begin, call, compare, new_installation, served, settled, stop
from tests.postgres.server import PostgresServer, standby_of, start_postgres
from tests.waiting import eventually

pytestmark = pytest.mark.slow

WORKERS = 3


@dataclass
class Pair:
    primary: PostgresServer
    standby: PostgresServer

    def new_database(self) -> str:
        """A database that both servers have; its URL names both."""
        url = self.primary.new_database()
        first = f"127.0.0.1:{self.primary.port}"
        return url.replace(first, f"{first},127.0.0.1:{self.standby.port}")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = stack.enter_context(start_postgres(durable=True))
        standby = stack.enter_context(standby_of(primary, synchronous=True))
        yield Pair(primary, standby)


async def test_after_a_promotion_the_gateways_go_on_and_no_charge_is_lost_or_doubled(
    pair: Pair, tmp_path: Path
) -> None:
    installation = await asyncio.to_thread(new_installation, tmp_path, pair.new_database())
    load = Load(installation, random.Random(SEED))
    with served(installation, workers=WORKERS) as gateway:
        calling = asyncio.ensure_future(load.run())
        await load.more(40)
        pair.primary.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(pair.standby.promote)
        await load.more(40)
        load.stopped = True
        await asyncio.wait_for(calling, 30)
        await settled(installation)
        await asyncio.to_thread(compare, installation, load)
        stop(gateway)
    assert "call journaled" in installation.log, "no call ended while there was no primary"
    assert set(load.statuses) == {200, 503}
    assert load.unclear == 0
    assert load.longest_refusal < 5


async def test_without_a_standby_calls_are_refused_until_one_streams_where_it_is_required(
    pair: Pair, tmp_path: Path
) -> None:
    installation = await asyncio.to_thread(new_installation, tmp_path, pair.new_database(), standby="require")
    load = Load(installation, random.Random(SEED))
    with served(installation) as gateway:
        wire = await begin(installation, installation.customers[0], demo="tokens=30 gap=80", words=3, stream=True)
        await wire.head()
        await wire.until(b"data: ")
        calling = asyncio.ensure_future(load.run())
        await load.more(20)
        await asyncio.to_thread(pair.standby.kill)
        await _refused_soon(installation, load)
        whole = await asyncio.wait_for(wire.response(), 10)
        assert whole.body.endswith(b"data: [DONE]\n\n")
        load.note(installation.customers[0][0], whole)
        assert not calling.done()
        assert installation.journal
        await asyncio.to_thread(pair.standby.start)
        await load.more(20)
        load.stopped = True
        await asyncio.wait_for(calling, 30)
        await settled(installation)
        await asyncio.to_thread(compare, installation, load)
        stop(gateway)
    assert load.longest_refusal < 5, "nothing waits longer than the timeouts of one call"
    assert installation.log.count("standby missing") == 1
    assert "database back" in installation.log


async def _refused_soon(installation: Installation, load: Load) -> None:
    """Make successive calls; those before the health check has noticed the loss wait for a timeout."""
    began = time.monotonic()
    probes: list[asyncio.Task[WireResponse]] = []
    while not (done := [probe for probe in probes if probe.done() and probe.result().status == 503]):
        assert time.monotonic() - began < 3, "no call was refused"
        probes.append(asyncio.ensure_future(call(installation)))
        await asyncio.sleep(0.1)
    response = done[0].result()
    assert response.code == 2913
    assert "standby" in response.json()["errors"][0]["message"]
    for response in await asyncio.wait_for(asyncio.gather(*probes), 20):
        load.note(installation.customers[0][0], response)


async def test_without_a_required_standby_the_database_is_not_written(
    postgres_url: str,
) -> None:
    database = await PostgresDatabase.open(postgres_url, timeout=2, standby="require")
    try:
        await eventually(lambda: _refusal(database), "the watch has looked")
        with pytest.raises(StandbyMissing):
            await database.write(lambda connection: None)
        assert await database.get(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,), (
            "reads are allowed"
        )
    finally:
        await database.close()


def _refusal(database: PostgresDatabase) -> str | None:
    try:
        database.check()
    except DatabaseUnavailable as error:
        return str(error)
    return None


async def test_a_role_that_cannot_see_the_standby_gets_the_missing_permission(
    postgres: PostgresServer, postgres_url: str
) -> None:
    role = "plain_" + postgres_url.rpartition("_")[2][:12]
    await asyncio.to_thread(postgres.query, f"CREATE ROLE {role} LOGIN")
    url = re.sub(r"//\w+@", f"//{role}@", postgres_url)
    try:
        with pytest.raises(DatabaseUnavailable, match="GRANT pg_monitor"):
            await PostgresDatabase.open(url, timeout=2, standby="require")
    finally:
        await asyncio.to_thread(postgres.query, f"DROP ROLE {role}")


async def test_a_single_failure_triggers_a_probe_at_once(postgres: PostgresServer, postgres_url: str) -> None:
    """A connection terminated by an administrator is not an outage."""
    database = await PostgresDatabase.open(postgres_url, timeout=2)
    try:

        def end_own(connection: Connection) -> None:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(DatabaseUnavailable):
            await database.write(end_own)
        assert _refusal(database), "no other attempt until the result is known"
        began = time.monotonic()
        await eventually(lambda: _refusal(database) is None, "it works")
        assert time.monotonic() - began < 0.9, "before the next regular check"
        await database.write(lambda connection: None)
    finally:
        await database.close()


async def test_the_primary_is_found_although_another_host_never_responds(postgres: PostgresServer) -> None:
    writers: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda reader, writer: writers.append(writer), "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        url = postgres.url.replace("127.0.0.1", f"127.0.0.1:{port},127.0.0.1")
        began = time.monotonic()
        session = await connect(url, timeout=4)
        assert time.monotonic() - began < 2
        session.terminate()
        with pytest.raises(DatabaseUnavailable):
            await connect(f"postgresql://farebox@127.0.0.1:{port}/x", timeout=0.3)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
