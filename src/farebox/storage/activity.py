"""Counts what a database does: the size of batches, the duration of commits, and the work in them.

A job notes its work while it runs. The notes are counted once its transaction has been committed, and discarded if it
is rolled back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from farebox.counts import COUNTING_ERRORS, Counter, Histogram
from farebox.storage.sql import Connection

Notes: TypeAlias = dict[tuple[str, str], int]
"""(what, which one) → how much: `("money", kind of transfer)` in nano-dollars, `("top_up", state)` in top-ups,
`("ledger", "slow")` in commands."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Receives an engine's counts."""

    batch_size: Histogram
    batch_seconds: Histogram
    job_seconds: Histogram
    done: Mapping[tuple[str, str], Counter]

    def batch(self, size: int, seconds: float, notes: Notes) -> None:
        """This many jobs were committed together. Raises nothing, like `job`: the commit must still be reported."""
        try:
            self.batch_size.observe(size)
            self.batch_seconds.observe_seconds(seconds)
            self._count(notes)
        except COUNTING_ERRORS:
            pass

    def job(self, seconds: float, notes: Notes) -> None:
        try:
            self.job_seconds.observe_seconds(seconds)
            self._count(notes)
        except COUNTING_ERRORS:
            pass

    def _count(self, notes: Notes) -> None:
        for key, amount in notes.items():
            self.done[key].add(amount)


def note_activity(connection: Connection, what: str, which: str, amount: int = 1) -> None:
    """Note an amount of work, if the connection takes notes: a server's connections do."""
    notes: Notes | None = getattr(connection, "notes", None)
    if notes is not None:
        key = (what, which)
        notes[key] = notes.get(key, 0) + amount
