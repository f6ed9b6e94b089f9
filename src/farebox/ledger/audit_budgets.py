"""The audit of budgets: their counters must be the sums of what the holds say that count in them."""

from collections.abc import Iterator

from farebox.ledger.audit_keys import Key
from farebox.ledger.budgets import Slot, slots_of
from farebox.ledger.differences import Difference
from farebox.storage.sql import Connection

_HOLDS = """
SELECT hold_id, state, budgets, coalesce(counted, 0), charge, charge - written_off FROM holds
WHERE bucket = ? AND account_id = ? AND budgets IS NOT NULL AND state IN ('open', 'settled')
"""


def check_budgets(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare each counter with the holds. Those that were forgotten, as no window has them in it any more, are missing
    only if a hold is open that reserves something there."""
    counters = connection.execute(
        "SELECT scope, start, spent, held FROM budgets WHERE bucket = ? AND account_id = ?", key
    ).fetchall()
    sums: dict[Slot, list[int]] = {(scope, start): [0, 0] for scope, start, _, _ in counters}
    for hold_id, state, slots, counted, charge, taken in connection.execute(_HOLDS, key):
        if state == "settled" and charge and counted != taken:  # else the caller's own key paid
            yield _of_hold(key, "hold_counted", hold_id, taken, counted)
        for slot in slots_of(slots):
            if slot in sums:
                sums[slot][state == "open"] += counted
            elif state == "open" and counted:
                yield _of_hold(key, "budget_missing", hold_id, _named(slot), None)
    for scope, start, spent, held in counters:
        wanted_spent, wanted_held = sums[scope, start]
        if spent != wanted_spent:
            yield _of_budget(key, "budget_spent", (scope, start), wanted_spent, spent)
        if held != wanted_held:
            yield _of_budget(key, "budget_held", (scope, start), wanted_held, held)


def _named(slot: Slot) -> str:
    return f"{slot[0]} from {slot[1]}"


def _of_budget(key: Key, what: str, slot: Slot, expected: int, found: int) -> Difference:
    named = _named(slot)
    return Difference(account_id=key[1], what=what, expected=f"{named}: {expected}", found=f"{named}: {found}")


def _of_hold(key: Key, what: str, hold_id: str, expected: int | str, found: int | None) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, hold_id=hold_id)
