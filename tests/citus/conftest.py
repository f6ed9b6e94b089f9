from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.citus.cluster import BUCKETS, CITUS, Cluster, alone
from tests.citus.statements import Statements, recorded
from tests.support import Farebox, running_farebox


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not CITUS:
        pytest.skip("Citus itself was not tested: FAREBOX_TEST_CITUS_URL names no coordinator")
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster_url(cluster: Cluster) -> Iterator[str]:
    """A new database, distributed in BUCKETS buckets over all workers."""
    url = cluster.distributed()
    yield url
    cluster.drop_database(url)


@pytest.fixture
def kept_transactions(cluster: Cluster) -> Iterator[None]:
    """Have the cluster keep its records of two-phase commits while the test runs. The setting is cluster-wide, so only
    one test uses it at a time."""
    with alone("transactions"):
        cluster.query("ALTER SYSTEM SET citus.recover_2pc_interval = -1")
        cluster.query("SELECT pg_reload_conf()")
        yield
        cluster.query("ALTER SYSTEM RESET citus.recover_2pc_interval")
        cluster.query("SELECT pg_reload_conf()")


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    return recorded(monkeypatch)


@pytest.fixture
def farebox(cluster_url: str, statements: Statements, tmp_path: Path) -> Iterator[Farebox]:
    """A server on the cluster whose statements are recorded."""
    with running_farebox(tmp_path, database_url=cluster_url, buckets=BUCKETS) as served:
        yield served
