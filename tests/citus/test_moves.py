"""Shards move while calls and jobs run: nothing held is lost, nothing fails, and the books balance.

Before Citus moves a shard, it waits for transactions that have written to it, but not for those that have only locked
rows.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import asyncpg
import pytest

from farebox.ledger.commands import Grant
from farebox.ledger.lanes import LaneLedger
from farebox.ledger.rows import read_balance
from farebox.settings import load
from farebox.storage.database import migrate_now
from farebox.storage.sql import Connection, row
from tests.citus.cluster import BUCKETS, Cluster
from tests.citus.kit import AMOUNT, CLOCK, IDS, accounts_in_every_bucket, call, differences, opened
from tests.ledger.kit import slow_commands
from tests.postgres.server import wait_for
from tests.waiting import until

MODES = ("block_writes", "force_logical")
FEW_BUCKETS = 4
"""Of the database that is rebalanced. Half of them are moved, each with all its tables, which takes Citus a while."""
CALLERS = 3
"""The credit of each account."""
_WAITS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' "
    "AND query ~ 'citus_move_shard_placement|lock_shard_metadata'"
)
"""Where a move waits: on the coordinator in its own session, on a worker in another session."""

Address = tuple[str, int]


@pytest.fixture
def half_url(cluster: Cluster) -> Iterator[str]:
    """A database that is distributed over the first worker alone; the second has yet to be added."""
    url = cluster.new_database(workers=1)
    migrate_now(load({}, database_url=url, buckets=FEW_BUCKETS), citus=True)
    yield url
    cluster.drop_database(url)


def _place(cluster: Cluster, url: str, bucket: int) -> tuple[int, Address, Address]:
    """A bucket's shard, the node that has it, and another worker."""
    found = (
        f"SELECT shardid, nodename, nodeport FROM citus_shards WHERE table_name = 'balances'::regclass "
        f"AND shardid = get_shard_id_for_distribution_column('balances', {bucket})"
    )
    ((shard, host, port),) = cluster.query(found, url)
    other = next(address for address in cluster.nodes[1:] if address != (host, port))
    return shard, (host, port), other


def _move(cluster: Cluster, url: str, bucket: int, mode: str) -> None:
    shard, (host, port), (to_host, to_port) = _place(cluster, url, bucket)
    move = f"SELECT citus_move_shard_placement({shard}, '{host}', {port}, '{to_host}', {to_port}, '{mode}')"
    cluster.query(move, url)


def _rebalance(cluster: Cluster, url: str) -> None:
    """Move half of the buckets to the second worker, in the background as operators do it: no statement waits for more
    than one move."""
    _, _, (_, added) = cluster.nodes
    there = f"SELECT 1 FROM citus_shards WHERE table_name = 'balances'::regclass AND nodeport = {added}"
    cluster.query("SELECT citus_rebalance_start(shard_transfer_mode => 'force_logical')", url)
    for moved in range(1, FEW_BUCKETS // 2 + 1):
        until(lambda moved=moved: len(cluster.query(there, url)) >= moved, f"bucket {moved} is there")  # type: ignore[misc]
    until(lambda: cluster.query("SELECT state FROM citus_rebalance_status()", url)[0][0] == "finished", "the end")


class _Move:
    """The move of a bucket, in a separate thread."""

    def __init__(self, cluster: Cluster, url: str, bucket: int) -> None:
        self._cluster = cluster
        name = urlsplit(url).path[1:]
        self._urls = [cluster.url_of(name, node) for node in range(len(cluster.nodes))]
        self._thread = ThreadPoolExecutor(1)
        self._done = self._thread.submit(_move, cluster, url, bucket, "block_writes")

    def waits(self, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Whether the move waits for a writer of its shards; False if it was completed instead."""

        def known() -> bool:
            meanwhile()
            return self._done.done() or any(map(self._waits_at, self._urls))

        wait_for(known, "the move waits, or is done")
        return not self._done.done()

    def _waits_at(self, url: str) -> bool:
        return bool(self._cluster.query(_WAITS, url))

    def end(self) -> None:
        self._done.result()
        self._thread.shutdown()


async def _calls_and_grants(ledger: LaneLedger, names: list[str], ended: asyncio.Event) -> int:
    """Make calls on all accounts, with grants as jobs between them, until `ended`; the number of calls."""

    async def caller(name: str) -> int:
        made = 0
        while not ended.is_set():
            assert await call(ledger, name)
            made += 1
        return made

    async def grants() -> int:
        while not ended.is_set():
            for name in names:
                grant = Grant(account_id=name, grant_id=IDS.log_id(), amount=AMOUNT, at=CLOCK.now_ms())
                assert (await ledger.do(grant)).ok
        return 0

    return sum(await asyncio.gather(grants(), *(caller(name) for name in names for _ in range(CALLERS))))


@pytest.mark.slow
async def test_moves_and_a_rebalance_under_calls_and_grants(cluster: Cluster, half_url: str) -> None:
    async with opened(half_url, FEW_BUCKETS) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=FEW_BUCKETS, credit=10**12)
        ended = asyncio.Event()
        calls = asyncio.create_task(_calls_and_grants(ledger, names, ended))
        await asyncio.to_thread(cluster.add_worker, half_url, 2)
        await asyncio.to_thread(_rebalance, cluster, half_url)
        buckets = [bucket for (bucket,) in cluster.query("SELECT DISTINCT bucket FROM accounts", half_url)]
        for bucket, mode in zip(buckets, (*MODES, "block_writes"), strict=False):
            await asyncio.to_thread(_move, cluster, half_url, bucket, mode)
        ended.set()
        assert await calls > 0
        assert slow_commands(database.activity) == 0
        assert await differences(database) == []
        held = cluster.query("SELECT coalesce(sum(held), 0) FROM balances", half_url)
        assert held[0][0] == 0


async def test_a_move_waits_for_a_job_that_has_read_a_balance(cluster: Cluster, cluster_url: str) -> None:
    async with opened(cluster_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=AMOUNT)

        def job(connection: Connection) -> bool:
            balance = read_balance(connection, names[0])
            assert balance is not None
            moves.append(_Move(cluster, cluster_url, balance.bucket))
            # Sessions that are idle in a transaction are terminated after a while.
            return moves[0].waits(lambda: row(connection, "SELECT 1"))

        moves: list[_Move] = []
        assert await database.write(job)
        await asyncio.to_thread(moves[0].end)


async def test_a_move_waits_for_a_batch(cluster: Cluster, cluster_url: str) -> None:
    """The batch has begun but read nothing: a locked row of its shard blocks it."""
    async with opened(cluster_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=AMOUNT)
        name = names[0]
        ((bucket,),) = cluster.query(f"SELECT bucket FROM accounts WHERE account_id = '{name}'", cluster_url)
        shard, node, _ = _place(cluster, cluster_url, bucket)
        here = cluster.url_of(urlsplit(cluster_url).path[1:], cluster.nodes.index(node))
        worker = await asyncpg.connect(here, ssl=False)
        transaction = worker.transaction()
        await transaction.start()
        await worker.execute(f"SELECT FROM balances_{shard} WHERE account_id = '{name}' FOR UPDATE")
        calling = asyncio.create_task(call(ledger, name))
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, 'ledger_batch') > 0"
        await asyncio.to_thread(wait_for, lambda: bool(cluster.query(waits, here)), "the batch waits for the row")
        move = _Move(cluster, cluster_url, bucket)
        assert await asyncio.to_thread(move.waits)
        assert not calling.done()
        await transaction.rollback()
        await worker.close()
        await asyncio.to_thread(move.end)
        assert await calling
        assert slow_commands(database.activity) == 0
        assert await differences(database) == []
