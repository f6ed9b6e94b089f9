"""The calls of a bucket go to its node in batches: none is left to a job, and none needs a two-phase commit."""

import asyncio

import pytest

from tests.citus.cluster import BUCKETS, Cluster
from tests.citus.kit import AMOUNT, accounts_in_every_bucket, call, differences, opened
from tests.ledger.kit import slow_commands


@pytest.mark.usefixtures("kept_transactions")
async def test_batches_take_the_fast_path_and_commit_on_one_node(cluster: Cluster, cluster_url: str) -> None:
    each, admitted = 8, 5
    async with opened(cluster_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=admitted * AMOUNT)
        before = cluster.two_phase_commits(cluster_url)
        done = await asyncio.gather(*(call(ledger, name, seconds=0.2) for name in names for _ in range(each)))
        assert cluster.two_phase_commits(cluster_url) == before
        assert slow_commands(database.activity) == 0
        assert sum(done) == admitted * len(names)
        assert await differences(database) == []
    assert cluster.query("SELECT gid FROM pg_prepared_xacts", cluster_url) == []
