"""The calls of a bucket go to its node in batches: none is left to jobs, and none is a two-phase commit."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.citus.cluster import BUCKETS, Cluster
from tests.citus.kit import AMOUNT, accounts_in_every_bucket, call, differences, opened


@pytest.fixture
def kept(cluster: Cluster) -> Iterator[None]:
    """The cluster keeps its records of two-phase commits for as long as the test runs."""
    cluster.query("ALTER SYSTEM SET citus.recover_2pc_interval = -1")
    cluster.query("SELECT pg_reload_conf()")
    yield
    cluster.query("ALTER SYSTEM RESET citus.recover_2pc_interval")
    cluster.query("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("kept")
async def test_batches_take_the_fast_path_and_commit_on_one_node(cluster: Cluster, cluster_url: str) -> None:
    each, admitted = 8, 5
    async with opened(cluster_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=admitted * AMOUNT)
        before = _two_phase_commits(cluster, cluster_url)
        done = await asyncio.gather(*(call(ledger, name, seconds=0.2) for name in names for _ in range(each)))
        assert _two_phase_commits(cluster, cluster_url) == before
        assert ledger.slow == 0
        assert sum(done) == admitted * len(names)
        assert await differences(database) == []
    assert cluster.query("SELECT gid FROM pg_prepared_xacts", cluster_url) == []


def _two_phase_commits(cluster: Cluster, url: str) -> object:
    """How many each node has begun: it writes a record of each, and removes it when all is well, now and then."""
    count = "SELECT nodeid, result FROM run_command_on_all_nodes('SELECT count(*) FROM pg_dist_transaction') ORDER BY 1"
    return [tuple(row) for row in cluster.query(count, url)]
