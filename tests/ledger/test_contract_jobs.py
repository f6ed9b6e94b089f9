"""The contract again, with every command as a job: ledger.posting must also handle what the fast paths leave to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import ANN, BOB, Books, open_books
from tests.ledger.test_contract import *  # noqa: F403 - its tests, with the books of this module

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(name="books")
async def books_of_jobs(tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(tmp_path / "books", ANN, BOB, jobs=True) as opened:
        yield opened
