from collections.abc import Iterator

import pytest

from tests.postgres.server import PostgresServer, start_postgres
from tests.support import Customer, Farebox, quiet_logs, running_farebox


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    quiet_logs()


@pytest.fixture(scope="session")
def farebox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """One server for all tests that do not need settings of their own; each makes its own account."""
    with running_farebox(tmp_path_factory.mktemp("farebox")) as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    """An account of the test's own with five dollars and a token."""
    return farebox.funded("5")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test process's own, started when the first test asks for it."""
    with start_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database of the test's own."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)
