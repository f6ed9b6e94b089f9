"""The contract once more on PostgreSQL, with every command as a job: what the lanes answer `slow` comes to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import engines
from tests.ledger.kit import ANN, BOB, Books, open_books
from tests.ledger.test_contract import *  # noqa: F403 - its tests, with the books of this module

pytestmark = [pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="on SQLite every command is a job anyway")]


@pytest.fixture(name="books")
async def books_of_jobs(tmp_path: Path) -> AsyncIterator[Books]:
    engines.use_engine("postgres")
    async with open_books(tmp_path / "books", ANN, BOB, jobs=True) as opened:
        yield opened
