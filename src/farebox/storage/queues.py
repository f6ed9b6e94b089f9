"""The queues of background work, and one search for all of them.

The store of each queue has a search that returns what is due. It is needed only if something is: this one says in which
queues, with one statement for each bucket.
"""

import re
from functools import lru_cache
from typing import Final

from farebox.storage.every_bucket import rows_available
from farebox.storage.processor_events import has_due
from farebox.storage.sql import Connection

_DUE: Final = "bucket = ?1 AND next_at <= ?2 ORDER BY next_at"
_BY_GATEWAY: Final = "ORDER BY account_id, gateway_id"  # as in the search of storage.exports: the same index
_IN_BUCKET: Final[dict[str, tuple[str, ...]]] = {
    "top_ups": (f"top_ups INDEXED BY top_ups_due WHERE {_DUE}",),
    "refunds": (f"refunds INDEXED BY refunds_due WHERE {_DUE}",),
    "messages": (
        "notices INDEXED BY notices_new WHERE bucket = ?1 AND fanned_out = 0 ORDER BY created_at",
        f"deliveries INDEXED BY deliveries_due WHERE {_DUE}",
    ),
    "evaluations": (f"evaluations INDEXED BY evaluations_due WHERE {_DUE}",),
    "log_push": (f"calls WHERE bucket = ?1 AND push = 1 {_BY_GATEWAY}",),
    "meter_events": (f"calls WHERE bucket = ?1 AND meter = 1 {_BY_GATEWAY}",),
    "log_classification": (f"calls WHERE bucket = ?1 AND classify = 1 {_BY_GATEWAY}",),
    "long_calls": (f"long_calls INDEXED BY long_calls_due WHERE {_DUE}",),
}
"""Queue → what is due in it, for a bucket (`?1`) and a time (`?2`)."""
_EVENTS: Final = "processor_events"
"""The queue that belongs to no bucket."""
QUEUES: Final = frozenset({*_IN_BUCKET, _EVENTS})
"""The names of the queues. The jobs of farebox.periodic_jobs that process them have the same names."""

_TABLES: Final = frozenset(
    {_EVENTS, *(condition.split(" ", 1)[0] for conditions in _IN_BUCKET.values() for condition in conditions)}
)
_FILLS: Final = re.compile(rf"(?:INSERT INTO|UPDATE) (?:{'|'.join(sorted(_TABLES))})\b")
# A subquery with LIMIT, not EXISTS: PostgreSQL would ignore the order in EXISTS, and might read the whole table.
_SEARCH: Final = "SELECT " + ", ".join(
    f"(SELECT 1 FROM {condition} LIMIT 1)" for conditions in _IN_BUCKET.values() for condition in conditions
)
_FOUND: Final = tuple(queue for queue, conditions in _IN_BUCKET.items() for _ in conditions)
"""The queue of each column of the search."""


def find_due(connection: Connection, at: int, found: set[str]) -> None:
    """Add the queues with something due to `found`, also if it then fails. Buckets of an unavailable node are left
    out."""
    if has_due(connection, at):
        found.add(_EVENTS)
    for columns in rows_available(connection, _SEARCH, at):
        found.update(queue for queue, due in zip(_FOUND, columns, strict=True) if due is not None)


@lru_cache(maxsize=4096)
def fills_queue(sql: str) -> bool:
    """Whether the statement may make something due."""
    return _FILLS.match(sql) is not None
