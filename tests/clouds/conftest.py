from collections.abc import Iterator

import pytest

from tests.calls.upstream import Upstream, serving
from tests.support import Farebox, running_farebox


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def _afresh(upstream: Upstream) -> None:
    """Reset the upstream for each test."""
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """One server per module; each module sets up its own cloud."""
    with running_farebox(tmp_path_factory.mktemp("clouds")) as served:
        yield served
