"""The database's figures for metrics: a few counts, each over an index that contains only what is open."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """Figures of all accounts and processes together, except accounts on an unavailable Citus node. Times in
    milliseconds, money in nano-dollars."""

    open_holds: int
    open_holds_nanos: int
    oldest_hold_at: int | None
    open_top_ups: Mapping[str, int]
    """Number of open top-ups by state."""
    events_waiting: int
    deliveries_waiting: int
    instances: int


def read_figures(connection: Connection) -> DatabaseFigures:
    """Read the current figures."""
    holds = list(rows_available(connection, _HOLDS))
    top_ups: Counter[str] = Counter()
    for state, count in rows_available(connection, _TOP_UPS):
        top_ups[state] += count
    events = row(connection, "SELECT count(*) FROM processor_events WHERE next_at IS NOT NULL")
    instances = row(connection, "SELECT count(*) FROM instances")
    assert events is not None
    assert instances is not None
    return DatabaseFigures(
        open_holds=sum(count for count, _, _ in holds),
        open_holds_nanos=sum(int(amount or 0) for _, amount, _ in holds),  # PostgreSQL sums to a decimal
        oldest_hold_at=min((at for _, _, at in holds if at is not None), default=None),
        open_top_ups=top_ups,
        events_waiting=events[0],
        deliveries_waiting=sum(count for (count,) in rows_available(connection, _DELIVERIES)),
        instances=instances[0],
    )


_HOLDS = (
    "SELECT count(*), sum(amount), min(created_at) FROM holds INDEXED BY holds_open WHERE bucket = ? AND state = 'open'"
)
_TOP_UPS = (
    "SELECT state, count(*) FROM top_ups INDEXED BY top_ups_due WHERE bucket = ? AND next_at IS NOT NULL GROUP BY state"
)
_DELIVERIES = "SELECT count(*) FROM deliveries INDEXED BY deliveries_due WHERE bucket = ? AND next_at IS NOT NULL"
