"""A server of three processes for tests that do not need their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.multiprocess.kit import Installation, Server
from tests.postgres.server import PostgresServer
from tests.support import free_port

NewInstallation = Callable[..., Installation]


@pytest.fixture(scope="package")
def new_installation(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewInstallation]:
    """Creates a separate installation with these settings."""
    made: list[str] = []

    def make(**settings: str) -> Installation:
        url = postgres.new_database()
        made.append(url)
        folder: Path = tmp_path_factory.mktemp("installation")
        return Installation(
            folder, url, free_port(), {f"FAREBOX_{name.upper()}": value for name, value in settings.items()}
        )

    yield make
    for url in made:
        postgres.drop_database(url)


@pytest.fixture(scope="package")
def installation(new_installation: NewInstallation) -> Installation:
    """An installation whose calls wait only a tenth of a second for held credit."""
    return new_installation(hold_wait_ms="100")


@pytest.fixture(scope="package")
def server(installation: Installation) -> Iterator[Server]:
    """Three processes that serve `installation`."""
    with installation.serving() as running:
        yield running
