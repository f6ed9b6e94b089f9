"""A cluster is set up by one command, by several processes at once, and upgraded while calls run."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.storage.buckets import bucket_numbers
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import SchemaMismatch
from tests.citus.cluster import BUCKETS, Cluster
from tests.citus.kit import accounts_in_every_bucket, call, opened
from tests.citus.test_rules import DISTRIBUTED, KNOWN, REFERENCE
from tests.dbcopy.kit import farebox


@pytest.fixture
def empty_url(cluster: Cluster) -> Iterator[str]:
    url = cluster.new_database()
    yield url
    cluster.drop_database(url)


def test_migrate_distributes_and_says_what_it_did(cluster: Cluster, empty_url: str, tmp_path: Path) -> None:
    setting = {"FAREBOX_DATABASE_URL": empty_url, "FAREBOX_BUCKETS": str(BUCKETS)}
    workers = len(cluster.nodes) - 1
    first = farebox(tmp_path, "migrate", "--citus", **setting)
    assert first.returncode == 0, first.stderr
    assert f"Distributed {len(DISTRIBUTED)} tables over {BUCKETS} buckets on {workers} nodes" in first.stdout
    assert f"copied {len(REFERENCE)} to every node" in first.stdout
    again = farebox(tmp_path, "migrate", "--citus", "--json", **setting)
    assert again.returncode == 0, again.stderr
    reported = json.loads(again.stdout)
    assert reported["applied"] == []
    assert reported["citus"] == {"buckets": BUCKETS, "nodes": workers, "distributed": [], "replicated": []}

    placed = cluster.query("SELECT logicalrelid::text, partmethod::text FROM pg_dist_partition", empty_url)
    assert {name for name, method in placed if method == "h"} == DISTRIBUTED
    assert {name for name, method in placed if method == "n"} >= REFERENCE | KNOWN
    numbers = ", ".join(map(str, bucket_numbers(BUCKETS)))
    owner = f"SELECT get_shard_id_for_distribution_column('balances', n) FROM unnest(ARRAY[{numbers}]) n"
    assert len(set(map(tuple, cluster.query(owner, empty_url)))) == BUCKETS, "each bucket has its own shard"

    other = farebox(tmp_path, "check", **setting | {"FAREBOX_BUCKETS": "16"})
    assert other.returncode == 1
    assert f"the database has FAREBOX_BUCKETS={BUCKETS}, and here it is 16" in other.stderr
    assert "farebox migrate" not in other.stderr, "it could not change the number"
    assert "farebox copy --buckets 16" in other.stderr
    wider = farebox(tmp_path, "migrate", "--citus", **setting | {"FAREBOX_BUCKETS": "16"})
    assert wider.returncode == 1


async def test_four_gateways_upgrade_a_live_cluster_at_once(cluster: Cluster, cluster_url: str) -> None:
    async with opened(cluster_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=10**9)
        going = asyncio.create_task(_calls_until_canceled(ledger, names))
        cluster.query("UPDATE schema_version SET functions = 'of an older release'", cluster_url)
        started = await asyncio.gather(
            *(PostgresDatabase.open(cluster_url, timeout=60, buckets=BUCKETS) for _ in range(4))
        )
        for other in started:
            await other.close()
        going.cancel()
        await asyncio.wait([going])
        assert going.cancelled(), going.exception()
        await asyncio.gather(*(call(ledger, name) for name in names))
    with pytest.raises(SchemaMismatch, match="FAREBOX_BUCKETS=8, and here it is 9"):
        await PostgresDatabase.open(cluster_url, timeout=60, buckets=9)
    functions = cluster.query("SELECT proname FROM pg_proc WHERE proname LIKE 'ledger\\_batch%'", cluster_url)
    shards = cluster.query("SELECT shardid FROM pg_dist_shard WHERE logicalrelid = 'balances'::regclass", cluster_url)
    assert {name for (name,) in functions} == {"ledger_batch", *(f"ledger_batch_{shard}" for (shard,) in shards)}


async def _calls_until_canceled(ledger: object, names: list[str]) -> None:
    while True:
        await asyncio.gather(*(call(ledger, name) for name in names))  # type: ignore[arg-type]


def test_no_statement_of_a_bucket_function_names_a_distributed_table(cluster: Cluster, cluster_url: str) -> None:
    """Citus would have to plan it."""
    found = cluster.query("SELECT proname, prosrc FROM pg_proc WHERE proname ~ 'ledger_batch_'", cluster_url)
    assert len(found) == BUCKETS
    for name, text in found:
        named = re.findall(rf"\b(?:FROM|INTO|JOIN|UPDATE) (?:\w+\.)?({'|'.join(DISTRIBUTED)})\b", text)
        assert named == [], name
