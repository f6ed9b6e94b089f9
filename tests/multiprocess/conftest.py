"""A server of three processes for the tests that need none of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.multiprocess.kit import House, Server
from tests.postgres.server import PostgresServer
from tests.support import free_port

NewHouse = Callable[..., House]


@pytest.fixture(scope="package")
def new_house(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHouse]:
    """Makes a house of its own, with these settings."""
    made: list[str] = []

    def make(**settings: str) -> House:
        url = postgres.new_database()
        made.append(url)
        folder: Path = tmp_path_factory.mktemp("house")
        return House(folder, url, free_port(), {f"FAREBOX_{name.upper()}": value for name, value in settings.items()})

    yield make
    for url in made:
        postgres.drop_database(url)


@pytest.fixture(scope="package")
def house(new_house: NewHouse) -> House:
    """Holds are waited for a tenth of a second only."""
    return new_house(hold_wait_ms="100")


@pytest.fixture(scope="package")
def server(house: House) -> Iterator[Server]:
    """Three processes that serve `house`."""
    with house.serving() as running:
        yield running
