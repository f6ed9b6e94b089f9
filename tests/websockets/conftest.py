"""What tests of WebSockets share."""

from collections.abc import Iterator

import pytest

from tests.websockets.kit import SocketProvider, providing


@pytest.fixture(scope="module")
def provider() -> Iterator[SocketProvider]:
    """A scripted provider at the other end of the sessions."""
    with providing() as served:
        yield served
