"""Shared fixtures of the tests of the stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farebox.storage.sqlite.writer import Writer


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    """A writer on the file of the test module's fixture `path`."""
    writer = Writer(path)
    yield writer
    await writer.close()
