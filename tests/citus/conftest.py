from collections.abc import Iterator

import pytest

from tests.citus.cluster import CITUS, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not CITUS:
        pytest.skip("Citus itself was not tested: FAREBOX_TEST_CITUS_URL names no coordinator")
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster_url(cluster: Cluster) -> Iterator[str]:
    """A database of the test's own, distributed in BUCKETS buckets over all workers."""
    url = cluster.distributed()
    yield url
    cluster.drop_database(url)


@pytest.fixture
def kept_transactions(cluster: Cluster) -> Iterator[None]:
    """The cluster keeps its records of two-phase commits for as long as the test runs."""
    cluster.query("ALTER SYSTEM SET citus.recover_2pc_interval = -1")
    cluster.query("SELECT pg_reload_conf()")
    yield
    cluster.query("ALTER SYSTEM RESET citus.recover_2pc_interval")
    cluster.query("SELECT pg_reload_conf()")
