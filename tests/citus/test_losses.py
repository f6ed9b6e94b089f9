"""A Farebox server on a cluster whose shards move, and whose nodes and gateways are killed, under continuous calls:
every acknowledged call is charged once, no other call is charged, and the books balance.

FAREBOX_TEST_LOSSES sets how often each happens (2; `make cluster`: 10), FAREBOX_TEST_SEED the random moments. With -s a
line of JSON is printed for each.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farebox.settings import load as load_settings
from farebox.storage.buckets import bucket_numbers
from farebox.storage.database import migrate_now
from tests import processes
from tests.citus.servers import PROGRAMS, Nodes, started
from tests.engines import SQLITE_ONLY
from tests.failures.kit import SEED, Installation, Load, compare, new_installation, served, settled
from tests.postgres.server import PostgresServer
from tests.processes import Process

TIMES = int(os.environ.get("FAREBOX_TEST_LOSSES", "2"))
BUCKETS = 8
ACCOUNTS = 24
MOVES = 3
"""Calls per turn."""
CALLS = 40
"""Calls acknowledged before and after each event."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="FAREBOX_TEST_CITUS_BIN names no PostgreSQL with Citus"),
    SQLITE_ONLY,
]


@dataclass
class World:
    nodes: Nodes
    installation: Installation
    chance: random.Random
    gateway: Process | None = None
    restart: Callable[[], None] = lambda: None

    async def do(self, sql: str) -> list[tuple[object, ...]]:
        return await asyncio.to_thread(self.nodes.query, sql)

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with started() as nodes:
        migrate_now(load_settings({}, database_url=nodes.url, buckets=BUCKETS), citus=True)
        settings = {"buckets": BUCKETS, "database_timeout_ms": 10_000, "instance_timeout_ms": 2_000}
        installation = new_installation(tmp_path, nodes.url, accounts=ACCOUNTS, **settings)
        yield World(nodes, installation, random.Random(SEED))


async def move_shards(world: World) -> None:
    """Move the shards of random buckets to the other worker and back."""
    for _ in range(MOVES):
        await asyncio.to_thread(world.nodes.clean_up)
        shards = await world.do("SELECT shardid, nodeport FROM citus_shards WHERE table_name = 'balances'::regclass")
        shard, port = world.chance.choice(shards)
        other = world.chance.choice([worker.port for worker in world.nodes.workers if worker.port != port])
        mode = world.chance.choice(("block_writes", "force_logical"))
        move = f"citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {other}, '{mode}')"
        await world.do(f"SELECT {move}")


async def add_a_node(world: World) -> None:
    """Add a third worker, move shards to it and back, and remove it."""
    await asyncio.to_thread(world.nodes.clean_up)
    added = await asyncio.to_thread(world.nodes.add_worker)
    await world.do("SELECT rebalance_table_shards('balances', shard_transfer_mode => 'force_logical')")
    held = f"SELECT 1 FROM citus_shards WHERE table_name = 'balances'::regclass AND nodeport = {added.port}"
    assert await world.do(held), "no shard was moved to the new node"
    await asyncio.to_thread(world.nodes.remove_worker, added)


async def give_a_bucket_a_node(world: World) -> None:
    """Add a third worker, and move the bucket with the most accounts there by hand; then undo both."""
    await asyncio.to_thread(world.nodes.clean_up)
    added = await asyncio.to_thread(world.nodes.add_worker)
    await world.do("SELECT replicate_reference_tables()")
    ((bucket,),) = await world.do("SELECT bucket FROM accounts GROUP BY bucket ORDER BY count(*) DESC LIMIT 1")
    shard = f"get_shard_id_for_distribution_column('balances', {bucket})"
    ((port,),) = await world.do(f"SELECT nodeport FROM citus_shards WHERE shardid = {shard}")
    move = f"citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {added.port}, 'force_logical')"
    await world.do(f"SELECT {move}")
    there = f"SELECT shardid FROM citus_shards WHERE table_name = 'balances'::regclass AND nodeport = {added.port}"
    assert await world.do(there) == await world.do(f"SELECT {shard}")
    await asyncio.to_thread(world.nodes.remove_worker, added)


async def move_accounts(world: World) -> None:
    """Move accounts of the largest bucket to others, by the command."""
    found = await world.do("SELECT bucket, count(*) FROM accounts GROUP BY bucket ORDER BY 2 DESC")
    fullest = found[0][0]
    accounts = await world.do(f"SELECT account_id FROM accounts WHERE bucket = {fullest} ORDER BY account_id")
    others = [number for number in bucket_numbers(BUCKETS) if number != fullest]
    for (account_id,) in world.chance.sample(accounts, min(MOVES, len(accounts))):
        to = str(world.chance.choice(others))
        arguments = ["account", "move", str(account_id), "--to", to]
        moved = await asyncio.to_thread(processes.run, arguments, env=world.installation.environment)
        assert moved.returncode == 0, moved.stdout + moved.stderr


async def kill_a_worker(world: World) -> None:
    await _kill(world, world.chance.choice(world.nodes.workers))


async def freeze_a_worker(world: World) -> None:
    """A worker stops running without closing its connections, as with a paused machine or a network that drops
    packets. The rest of the cluster is not affected: accounts of other nodes are served all the time."""
    worker = world.chance.choice(world.nodes.workers)
    with worker.frozen():
        await world.pause(8, 20)


async def kill_the_coordinator(world: World) -> None:
    await _kill(world, world.nodes.coordinator)


async def _kill(world: World, server: PostgresServer) -> None:
    await asyncio.to_thread(server.kill)
    await world.pause(0.2, 3)
    await asyncio.to_thread(server.start)


async def lose_a_worker_with_a_standby(world: World) -> None:
    worker = world.chance.choice(world.nodes.workers)
    standby = await asyncio.to_thread(world.nodes.add_standby, worker)
    await world.pause(0.2, 1)
    await asyncio.to_thread(worker.kill)
    await asyncio.to_thread(world.nodes.replace, worker, standby)


async def lose_the_coordinator_with_a_standby(world: World) -> None:
    coordinator = world.nodes.coordinator
    standby = await asyncio.to_thread(world.nodes.add_standby, coordinator)
    await world.pause(0.2, 1)
    await asyncio.to_thread(coordinator.kill)
    await asyncio.to_thread(world.nodes.replace_coordinator, standby)


async def kill_the_gateway(world: World) -> None:
    assert world.gateway is not None
    world.gateway.send_signal(signal.SIGKILL)
    await asyncio.to_thread(world.gateway.wait)
    await asyncio.to_thread(world.restart)


DONE: list[Callable[[World], Coroutine[Any, Any, None]]] = [
    move_shards,
    add_a_node,
    give_a_bucket_a_node,
    move_accounts,
    kill_a_worker,
    freeze_a_worker,
    kill_the_coordinator,
    lose_a_worker_with_a_standby,
    lose_the_coordinator_with_a_standby,
    kill_the_gateway,
]


@pytest.mark.parametrize("do", DONE, ids=[do.__name__ for do in DONE])
async def test_nothing_acknowledged_is_lost_or_doubled(
    world: World, do: Callable[[World], Coroutine[Any, Any, None]]
) -> None:
    print(f"FAREBOX_TEST_SEED={SEED}", flush=True)
    installation, load = world.installation, Load(world.installation, world.chance)
    running = served(installation)
    world.gateway = running.__enter__()

    def restart() -> None:
        nonlocal running
        running.__exit__(None, None, None)
        running = served(installation)
        world.gateway = running.__enter__()

    world.restart = restart
    try:
        for turn in range(1, TIMES + 1):
            await _turn(world, load, do, turn)
    finally:
        running.__exit__(None, None, None)
    assert set(load.statuses) <= {200, 503}, load.statuses
    assert "Traceback" not in installation.log


async def _turn(world: World, load: Load, do: Callable[[World], Coroutine[Any, Any, None]], turn: int) -> None:
    before, refused, unclear = len(load.complete), load.statuses[503], load.unclear
    load.stopped, load.longest_refusal = False, 0.0
    calling = asyncio.ensure_future(load.run())
    await load.more(CALLS)
    began = time.monotonic()
    await do(world)
    seconds = time.monotonic() - began
    await load.more(CALLS)
    assert not calling.done()
    load.stopped = True
    await calling
    await settled(world.installation)
    await asyncio.to_thread(compare, world.installation, load)
    said = {
        "what": do.__name__,
        "turn": turn,
        "seconds": round(seconds, 1),
        "acknowledged": len(load.complete) - before,
        "refused": load.statuses[503] - refused,
        "broken_off": load.unclear - unclear,
        "slowest_refusal_s": round(load.longest_refusal, 1),
        "lost": 0,
        "doubled": 0,
        "check": "clean",
    }
    print(json.dumps(said), flush=True)
