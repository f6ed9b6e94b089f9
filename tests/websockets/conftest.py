"""Shared by the tests of WebSockets."""

from collections.abc import Iterator

import pytest

from tests.websockets.kit import SocketProvider, providing


@pytest.fixture(scope="module")
def provider() -> Iterator[SocketProvider]:
    """A scripted provider at the other end of sessions."""
    with providing() as served:
        yield served
