"""Copies a whole installation from one database to another, and verifies that nothing is missing.

It resumes where an earlier copy was interrupted. The target is complete only when `copy_installation` returns: until
then no other command opens it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from farebox.ledger.audit import audit
from farebox.storage.buckets import bucket_of
from farebox.storage.config import find_installation
from farebox.storage.dbcopy import CopySource, CopyTarget, Progress, Row
from farebox.storage.dbcopy.ends import TableHasRows, begin, progress_of
from farebox.storage.dbcopy.sums import sums_of
from farebox.storage.instances import count_seen_since
from farebox.storage.sql import Connection
from farebox.storage.tables import Table, count_rows, tables

BATCH_ROWS = 5_000
BATCH_BYTES = 8_000_000
"""Bytes of text and binary values in one batch; the row that exceeds it is the last one."""
ACTIVE_MS = 30_000
"""A process that has reported itself within this time may be serving."""
DIFFERENCES_SHOWN = 10

Report = Callable[[str, int, int], None]
"""Progress callback: the step, how much of it is done, and how much there is."""


class CopyRefused(Exception):
    """Nothing was copied, or the copy is incomplete; the message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A complete copy."""

    tables: int
    rows: int
    """All rows, including those of an earlier interrupted run."""
    rows_now: int
    accounts: int
    buckets: int


def copy_installation(
    source: CopySource, target: CopyTarget, *, origin: str, buckets: int, now_ms: int, report: Report
) -> CopyResult:
    """Copy every table, compare both sides, and mark the target as complete. `origin` names the source in messages.

    Raises CopyRefused, DatabaseUnavailable.
    """
    _refuse_served(source.connection, now_ms)
    _begin(source.connection, target.connection, origin, buckets)
    begun = progress_of(target.connection)
    copied = before = sum(progress.rows for progress in begun.values())
    counts = {table.name: count_rows(source.connection, table) for table in tables()}
    total = sum(counts.values())
    for table in tables():
        for batch in _copy_table(source, target, table, begun.get(table.name, Progress()), buckets):
            copied += batch
            report(f"Copying {table.name}", copied, total)
    target.tidy()
    _compare(source.connection, target.connection, report)
    _audit(source.connection, "source", report)
    _audit(target.connection, "target", report)
    target.finish()
    return CopyResult(len(tables()), total, copied - before, counts["accounts"], buckets)


def _refuse_served(connection: Connection, now_ms: int) -> None:
    """Refuse if processes serve the source. On PostgreSQL they report themselves in a table; the server of an SQLite
    file holds its lock."""
    active = count_seen_since(connection, now_ms - ACTIVE_MS)
    if active:
        raise CopyRefused(
            f"{active} processes serve the source: stop them first. One that was killed is forgotten after "
            f"{ACTIVE_MS // 1000} seconds"
        )


def _begin(source: Connection, target: Connection, origin: str, buckets: int) -> None:
    """Mark the target, and refuse one that contains anything but this copy."""
    copy = {"of": find_installation(source) or origin, "buckets": buckets}
    try:
        begun = begin(target, copy)
    except TableHasRows as error:
        raise CopyRefused(
            f"the target already has data: its table {error} has rows. Copy into an empty database"
        ) from error
    if begun != copy:
        raise CopyRefused(
            f"the target holds part of another copy, of {begun['of']} into {begun['buckets']} buckets; this one is of "
            f"{copy['of']} into {buckets}. Resume that copy, or empty the target"
        )


# --- rows -------------------------------------------------------------------------------------------------------------


def _copy_table(
    source: CopySource, target: CopyTarget, table: Table, progress: Progress, buckets: int
) -> Iterator[int]:
    """Copy one table from its current position; yields the size of each batch."""
    if progress.done:
        return
    places = [table.columns.index(column) for column in table.key]
    waiting = source.rows_of(table, progress.after)
    while batch := _next_batch(waiting):
        progress = Progress(progress.rows + len(batch), [batch[-1][place] for place in places])
        target.add(table, _rebucketed(table, batch, buckets), progress)
        yield len(batch)
    target.add(table, [], Progress(progress.rows, progress.after, done=True))


def _next_batch(waiting: Iterator[Row]) -> list[Row]:
    batch: list[Row] = []
    size = 0
    for fields in islice(waiting, BATCH_ROWS):
        batch.append(fields)
        size += sum(len(field) for field in fields if isinstance(field, str | bytes))
        if size > BATCH_BYTES:
            break
    return batch


def _rebucketed(table: Table, batch: list[Row], buckets: int) -> list[Row]:
    """The rows for the target, with each account in its bucket there."""
    if not table.in_buckets:
        return batch
    bucket, account = table.columns.index("bucket"), table.columns.index("account_id")
    return [(*fields[:bucket], bucket_of(fields[account], buckets), *fields[bucket + 1 :]) for fields in batch]


# --- verification -----------------------------------------------------------------------------------------------------


def _compare(source: Connection, target: Connection, report: Report) -> None:
    """Compare counts and sums of every column of every table."""
    differences: list[str] = []
    for done, table in enumerate(tables(), 1):
        left, right = sums_of(source, table), sums_of(target, table)
        differences += [
            f"{table.name}, {what}: {left.get(what)} in the source, {right.get(what)} in the target"
            for what in dict.fromkeys((*left, *right))
            if left.get(what) != right.get(what)
        ]
        report("Comparing", done, len(tables()))
    if differences:
        raise CopyRefused(
            f"the two do not agree: {_first(differences)}. Was the source written to between two runs of the copy? "
            "Empty the target and start again"
        )


def _audit(connection: Connection, side: str, report: Report) -> None:
    """Run `farebox check` on one side."""
    differences = [
        difference.message
        for difference in audit(connection, progress=lambda done, total: report(f"Checking the {side}", done, total))
    ]
    if differences:
        remedy = "find out why before you move it" if side == "source" else "empty the target and start again"
        raise CopyRefused(f"the books of the {side} do not balance: {_first(differences)}: {remedy}")


def _first(differences: list[str]) -> str:
    more = len(differences) - DIFFERENCES_SHOWN
    return "; ".join(differences[:DIFFERENCES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
