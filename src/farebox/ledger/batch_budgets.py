"""What a batch of holds and their ends reserves and counts in budgets: read once a batch, written once. For
ledger.batches.

It does what ledger.budgets does for one command.
"""

from typing import Any

from farebox.ledger.budgets import GIVE_BACK, IN_WINDOW, RESERVE, slots_of, tightest
from farebox.ledger.commands import Budget, Hold, Outcome
from farebox.storage.sqlite import SqliteConnection

_COUNT = "UPDATE holds SET counted = ? WHERE bucket = ? AND account_id = ? AND hold_id = ?"

_Scope = tuple[int, str, str]
"""Bucket, account and scope."""


class BatchBudgets:
    """The budgets of a batch."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._stored: dict[tuple[_Scope, int], tuple[int, int]] = {}
        """Scope and first slot of a window → what was spent and held in it before the batch."""
        self._since: dict[_Scope, dict[int, list[int]]] = {}
        """Scope → slot → what the batch adds to what is spent and held there."""
        self._reserved: list[tuple[Any, ...]] = []
        self._given_back: list[tuple[Any, ...]] = []
        self._counted: list[tuple[Any, ...]] = []

    def refusal(self, bucket: int, hold: Hold) -> tuple[Outcome, int, int, int] | None:
        """See ledger.budgets.tightest."""
        counted = [self._in_window((bucket, hold.account_id, each.scope), each) for each in hold.budgets]
        return tightest(hold.budgets, counted, hold.reserved)

    def _in_window(self, scope: _Scope, budget: Budget) -> tuple[int, int]:
        key = (scope, budget.since)
        stored = self._stored.get(key)
        if stored is None:
            stored = self._connection.execute(IN_WINDOW, (*scope, budget.since)).fetchone()
            assert stored is not None
            self._stored[key] = stored
        spent, held = stored
        for start, (more_spent, more_held) in self._since.get(scope, {}).items():
            if start >= budget.since:
                spent += more_spent
                held += more_held
        return spent, held

    def reserve(self, bucket: int, hold: Hold) -> None:
        """The hold is admitted."""
        for budget in hold.budgets:
            scope = (bucket, hold.account_id, budget.scope)
            self._add(scope, budget.start, 0, hold.reserved)
            self._reserved.append((*scope, budget.start, hold.reserved, budget.ends_at))

    def end(self, key: tuple[int, str, str], slots: str, held: int, counts: int | None) -> None:
        """The hold of this key, which reserved `held`, has ended; `counts` is None if it was not settled."""
        for name, start in slots_of(slots):
            scope = (*key[:2], name)
            self._add(scope, start, counts or 0, -held)
            self._given_back.append((counts or 0, held, *scope, start))
        if counts is not None:
            self._counted.append((counts, *key))

    def _add(self, scope: _Scope, start: int, spent: int, held: int) -> None:
        sums = self._since.setdefault(scope, {}).setdefault(start, [0, 0])
        sums[0] += spent
        sums[1] += held

    def write(self) -> None:
        """Write what was decided. Reservations first: what a hold of this batch gives back is then there."""
        many = self._connection.executemany
        if self._reserved:
            many(RESERVE, self._reserved)
        if self._given_back:
            many(GIVE_BACK, self._given_back)
            many(_COUNT, self._counted)
