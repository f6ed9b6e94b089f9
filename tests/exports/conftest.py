from collections.abc import Iterator

import pytest

from farebox import periodic_jobs
from tests.exports.receiver import Receiver, receiving
from tests.support import Customer, Farebox, running_farebox


@pytest.fixture(scope="session")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that may send to this machine, exports soon, and pushes logs only when a test triggers it."""
    folder = tmp_path_factory.mktemp("exporting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(periodic_jobs, "LOG_PUSH_SECONDS", 3600.0)
        for interval in ("SPANS_SECONDS", "TICK_SECONDS", "QUEUE_SECONDS"):
            patch.setattr(periodic_jobs, interval, 0.05)
        with running_farebox(folder, custom_networks="127.0.0.0/8") as served:
            yield served


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")
