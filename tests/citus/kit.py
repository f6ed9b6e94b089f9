"""Accounts in every bucket of a cluster, and calls on them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.ledger.commands import Grant, Hold, Outcome, Settle
from farebox.ledger.lanes import LaneLedger
from farebox.metrics.metrics import Metrics
from farebox.storage.accounts import add_account
from farebox.storage.buckets import bucket_numbers
from farebox.storage.database import Database
from farebox.storage.postgres.database import PostgresDatabase
from tests.citus.cluster import BUCKETS
from tests.support import Customer, Farebox

AMOUNT = 1_000
MINUTE = 60_000
CLOCK = SystemClock()
IDS = RandomIds(CLOCK)


@asynccontextmanager
async def opened(url: str, buckets: int = BUCKETS) -> AsyncIterator[tuple[PostgresDatabase, LaneLedger]]:
    """A gateway's database and ledger."""
    database = await PostgresDatabase.open(url, timeout=30, buckets=buckets, activity=Metrics().activity())
    ledger = LaneLedger(database, IDS.log_id())
    try:
        yield database, ledger
    finally:
        await ledger.close()
        await database.close()


async def accounts_in_every_bucket(database: Database, ledger: LaneLedger, *, buckets: int, credit: int) -> list[str]:
    """Funded accounts, at least one in each bucket."""
    found: list[str] = []
    used: set[int] = set()
    while used != set(bucket_numbers(buckets)):
        name = IDS.account_id()
        added = partial(add_account, account_id=name, name=name, at=CLOCK.now_ms(), buckets=buckets)
        used.add((await database.write(added)).bucket)
        assert (await ledger.do(Grant(account_id=name, grant_id=IDS.log_id(), amount=credit, at=CLOCK.now_ms()))).ok
        found.append(name)
    return found


def customers(farebox: Farebox) -> list[Customer]:
    """Customers of a server on a cluster: one in each bucket, with five dollars."""
    found: dict[int, Customer] = {}
    database = farebox.services.database
    while set(found) != set(bucket_numbers(BUCKETS)):
        name = IDS.account_id()
        added = partial(add_account, account_id=name, name=name, at=CLOCK.now_ms(), buckets=BUCKETS)
        bucket = farebox.run(database.write(added)).bucket
        if bucket not in found:
            farebox.grant(name, "5")
            found[bucket] = Customer(farebox, name, farebox.create_token(name))
    return list(found.values())


async def call(ledger: LaneLedger, name: str, *, seconds: float = 0) -> bool:
    """Hold and settle AMOUNT; False if it was refused."""
    at = CLOCK.now_ms()
    hold = Hold(account_id=name, hold_id=IDS.log_id(), amount=AMOUNT, at=at, expires_at=at + MINUTE)
    verdict = await ledger.do(hold)
    if not verdict.ok:
        assert verdict.outcome in (Outcome.REFUSED, Outcome.HELD_ELSEWHERE)
        return False
    await asyncio.sleep(seconds)
    settled = await ledger.do(Settle(account_id=name, hold_id=hold.hold_id, amount=AMOUNT, at=at))
    assert settled.outcome is Outcome.DONE
    return True


async def differences(database: Database) -> list[object]:
    """What `farebox check` finds."""
    return await database.scan(lambda connection: list(audit(connection)))
