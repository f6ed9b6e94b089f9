"""Fixtures with fake Stripes: one shared by tests that only create their own customers, one for tests that control
it."""

from collections.abc import Iterator

import pytest

from support import SECRET, Fake, Receiver, running_fake


@pytest.fixture(scope="session")
def shared() -> Iterator[Fake]:
    with running_fake() as fake:
        yield fake


@pytest.fixture
def fake(shared: Fake) -> Iterator[Fake]:
    """The same server, empty."""
    shared.control("DELETE", "state")
    yield shared
    shared.control("DELETE", "state")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    served = Receiver()
    yield served
    served.close()


@pytest.fixture
def notified(fake: Fake, receiver: Receiver) -> Fake:
    """A fake that sends all its events to the receiver."""
    response = fake.http.post("/_config/webhooks/w1", json={"url": receiver.url, "secret": SECRET})
    assert response.status_code == 200
    return fake
