"""Objects kept together: a write that is stopped leaves nothing behind that later ones wait for."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from farebox.runtime.stored_objects import StoredObjects
from farebox.storage.accounts import add_account
from farebox.storage.stored_objects import StoredObject
from tests.engines import ON_BOTH_ENGINES
from tests.ledger.kit import database_at

pytestmark = ON_BOTH_ENGINES


@pytest.mark.parametrize("turn", range(3))
async def test_after_a_write_that_was_stopped_at_any_turn_objects_can_be_kept(tmp_path: Path, turn: int) -> None:
    database = database_at(tmp_path / "kept.db")
    account = f"ann{turn}"
    await database.write(partial(add_account, account_id=account, name=account, at=1))
    objects = StoredObjects(database)
    one, other = (StoredObject(account, "default", "openai", "file", name, "", 1) for name in ("file-1", "file-2"))
    before = asyncio.all_tasks()
    keeping = asyncio.ensure_future(objects.keep([one]))
    for _ in range(100_000):  # on PostgreSQL, the bucket is looked up first
        if objects._lanes:
            break
        await asyncio.sleep(0)
    for _ in range(turn):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before - {keeping}:
        task.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(keeping, return_exceptions=True)
        await objects.keep([other])
        assert await objects.find(account, "default", "openai", "file", "file-2", 1) == other
    await database.close()
