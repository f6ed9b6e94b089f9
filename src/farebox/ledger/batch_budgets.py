"""What the holds of a batch, and their ends, reserve and count in budgets: read once per batch, written once. For
ledger.batches.

It does the same for a batch as ledger.budgets for a single command.
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
        self._slots: dict[_Scope, dict[int, _Slot]] = {}
        """Scope → slot → what the batch adds there."""
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
        for start, slot in self._slots.get(scope, {}).items():
            if start >= budget.since:
                spent += slot.spent
                held += slot.reserved - slot.given_back
        return spent, held

    def reserve(self, bucket: int, hold: Hold) -> None:
        """Reserve what an admitted hold asks for."""
        for budget in hold.budgets:
            slot = self._slot((bucket, hold.account_id, budget.scope), budget.start)
            slot.reserved += hold.reserved
            slot.ends_at, slot.most = budget.ends_at, budget.limit

    def end(self, key: tuple[int, str, str], slots: str, held: int, counts: int | None) -> None:
        """Record the end of the hold with this key, which reserved `held`; `counts` is None if it was not settled."""
        for name, start in slots_of(slots):
            slot = self._slot((key[0], key[1], name), start)
            slot.spent += counts or 0
            slot.given_back += held
            slot.ended = True
        if counts is not None:
            self._counted.append((counts, *key))

    def _slot(self, scope: _Scope, start: int) -> "_Slot":
        slots = self._slots.get(scope)
        if slots is None:
            slots = self._slots[scope] = {}
        slot = slots.get(start)
        if slot is None:
            slot = slots[start] = _Slot()
        return slot

    def write(self) -> None:
        """Write what was decided. Reservations come first, so that what a hold of this batch gives back is there."""
        many = self._connection.executemany
        slots = [(scope, start, slot) for scope, of_scope in self._slots.items() for start, slot in of_scope.items()]
        reserved = [
            (*s, start, slot.reserved, slot.ends_at, slot.most) for s, start, slot in slots if slot.ends_at is not None
        ]
        if reserved:
            many(RESERVE, reserved)
        given_back = [(slot.spent, slot.given_back, *scope, start) for scope, start, slot in slots if slot.ended]
        if given_back:
            many(GIVE_BACK, given_back)
            many(_COUNT, self._counted)


class _Slot:
    """What a batch adds to a slot of a budget."""

    __slots__ = ("ended", "ends_at", "given_back", "most", "reserved", "spent")

    def __init__(self) -> None:
        self.reserved = self.spent = self.given_back = self.most = 0
        self.ends_at: int | None = None
        """None: no hold of the batch counts in it."""
        self.ended = False
        """Whether a hold that counts in it has ended."""
