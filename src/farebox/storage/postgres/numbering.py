"""The number of buckets that a database was made for.

An account keeps its bucket, and on Citus each bucket has a shard to itself: a process with another number would put new
accounts into buckets that have no shard of their own. So the number is stored, and a process with another number is
refused.
"""

from farebox.storage.buckets import bucket_numbers
from farebox.storage.copy_mark import COPY_PROGRESS
from farebox.storage.postgres.connecting import Session
from farebox.storage.postgres.distributing import is_distributed
from farebox.storage.sql import SchemaMismatch

_USED = "SELECT DISTINCT bucket FROM accounts"


async def require_buckets(session: Session, buckets: int, *, may_change: bool = False) -> None:
    """Store the number if none is stored yet, otherwise compare. With `may_change`, another number is stored if that
    does no harm: the tables are not distributed, and every account is in a bucket that would still exist, or is about
    to be copied again. Call it inside a transaction that holds the turn of all jobs.

    Raises SchemaMismatch if the stored number is different.
    """
    stored = await session.fetchval("SELECT buckets FROM schema_version")
    if stored == buckets:
        return
    spread = stored is not None and await is_distributed(session)
    if stored is not None and (spread or not may_change):
        raise SchemaMismatch(_other_count_text(stored, buckets, spread=spread))
    copy_incomplete = await session.fetchval("SELECT to_regclass($1)", COPY_PROGRESS) is not None
    used = set() if copy_incomplete else {bucket for (bucket,) in await session.fetch(_USED)}
    if not used.issubset(bucket_numbers(buckets)):
        raise SchemaMismatch(
            f"the database has accounts in buckets that do not exist with FAREBOX_BUCKETS={buckets}: set it to the "
            "number that it was when they were created, the same for every gateway and every command"
            if stored is None
            else _other_count_text(stored, buckets, spread=spread)
        )
    await session.execute("UPDATE schema_version SET buckets = $1", buckets)


def _other_count_text(stored: int, buckets: int, *, spread: bool) -> str:
    """`spread`: the tables are distributed, so that `farebox migrate` cannot change the number."""
    migrate = "" if spread else "run `farebox migrate` with it while there are no accounts, or "
    return (
        f"the database has FAREBOX_BUCKETS={stored}, and here it is {buckets}: set it to {stored}, the same for every "
        f"gateway and every command. For another number {migrate}run `farebox copy --buckets {buckets}` into a new "
        "database (docs/citus.md)"
    )
