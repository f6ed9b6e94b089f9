from collections.abc import Iterator

import pytest

from tests.exports.receiver import Receiver, receiving
from tests.support import Customer, Farebox, running_farebox


@pytest.fixture(scope="session")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that may send to this machine."""
    with running_farebox(tmp_path_factory.mktemp("exporting"), custom_networks="127.0.0.0/8") as served:
        yield served


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")
