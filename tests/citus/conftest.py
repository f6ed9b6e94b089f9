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
