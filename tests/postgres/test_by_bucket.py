"""Writes for many accounts use one transaction per bucket, because each bucket is on one node of Citus."""

import asyncio
from functools import partial

from farebox.runtime.response_cache import DatabaseStore
from farebox.runtime.stored_objects import StoredObjects
from farebox.storage.buckets import bucket_numbers
from farebox.storage.cached_responses import CacheBounds, CachedResponse, generation_prefix
from farebox.storage.gateways import GatewayRow, find_gateway, put_gateway
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import rows
from farebox.storage.stored_objects import StoredObject
from tests.citus.cluster import BUCKETS
from tests.citus.kit import accounts_in_every_bucket, opened


async def buckets_by_transaction(database: PostgresDatabase, table: str) -> list[set[int]]:
    """The buckets whose rows each transaction has written."""
    found = await database.get(partial(rows, sql=f"SELECT xmin::text, bucket FROM {table}"))
    written: dict[str, set[int]] = {}
    for transaction, bucket in found:
        written.setdefault(transaction, set()).add(bucket)
    return list(written.values())


async def response_of(database: PostgresDatabase, account_id: str) -> CachedResponse:
    """A response to store in the cache of a new gateway."""
    await database.write(partial(put_gateway, gateway=GatewayRow(account_id, "default", b"{}", 1, 1)))
    gateway = await database.get(partial(find_gateway, account_id=account_id, gateway_id="default"))
    assert gateway is not None
    key = f"{generation_prefix(gateway.cache_generation)}key"
    return CachedResponse(account_id, "default", key, 2**50, "text/plain", b"x")


async def test_each_bucket_is_written_in_its_own_transaction(postgres_url: str) -> None:
    async with opened(postgres_url) as (database, ledger):
        names = await accounts_in_every_bucket(database, ledger, buckets=BUCKETS, credit=1)
        responses = [await response_of(database, name) for name in names]
        await DatabaseStore(database).keep(responses, CacheBounds(2**30, 2**30))
        objects = StoredObjects(database)
        kept = [StoredObject(name, "default", "openai", "file", "file-1", "", 1) for name in names]
        await asyncio.gather(*(objects.keep([one]) for one in kept))
        for table in ("cached_responses", "kept_objects"):
            written = await buckets_by_transaction(database, table)
            assert set().union(*written) == set(bucket_numbers(BUCKETS))
            assert {len(buckets) for buckets in written} == {1}, table
