"""The database's figures for metrics: a few counts, each over an index that contains only what is open."""

from collections.abc import Mapping
from dataclasses import dataclass

from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all accounts and all processes together. Times in milliseconds, money in nano-dollars."""

    open_holds: int
    open_holds_nanos: int
    oldest_hold_at: int | None
    open_top_ups: Mapping[str, int]
    """By state."""
    events_waiting: int
    deliveries_waiting: int
    instances: int


def read_figures(connection: Connection) -> Figures:
    """The figures as committed now."""
    holds = row(connection, "SELECT count(*), sum(amount), min(created_at) FROM holds WHERE state = 'open'")
    assert holds is not None
    top_ups = rows(connection, "SELECT state, count(*) FROM top_ups WHERE next_at IS NOT NULL GROUP BY state")
    return Figures(
        open_holds=holds[0],
        open_holds_nanos=int(holds[1] or 0),  # PostgreSQL sums to a decimal
        oldest_hold_at=holds[2],
        open_top_ups=dict(top_ups),
        events_waiting=_count(connection, "processor_events WHERE next_at IS NOT NULL"),
        deliveries_waiting=_count(connection, "deliveries WHERE next_at IS NOT NULL"),
        instances=_count(connection, "instances"),
    )


def _count(connection: Connection, of: str) -> int:
    found = row(connection, f"SELECT count(*) FROM {of}")
    assert found is not None
    return int(found[0])
