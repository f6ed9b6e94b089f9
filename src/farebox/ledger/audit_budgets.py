"""The audit of budgets: their counters must equal the sums of the amounts on the holds that count in them."""

from collections.abc import Iterator

from farebox.ledger.audit_keys import IN_PAGE, Key, Page
from farebox.ledger.budgets import Slot, slots_of
from farebox.ledger.differences import Difference
from farebox.storage.sql import Connection

_COUNTERS = (
    f"SELECT account_id, scope, start, spent, held FROM budgets WHERE {IN_PAGE} ORDER BY account_id, scope, start"
)
_HOLDS = f"""
SELECT account_id, hold_id, state, budgets, coalesce(counted, 0), charge, charge - written_off FROM holds
WHERE {IN_PAGE} AND budgets IS NOT NULL AND state IN ('open', 'settled') ORDER BY account_id, hold_id
"""


def check_budgets(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare each counter with the holds. A counter that was deleted because no window contains its slot any more
    counts as missing only if an open hold reserves something there."""
    counters = connection.execute(_COUNTERS, page).fetchall()
    sums: dict[tuple[str, Slot], list[int]] = {
        (account, (scope, start)): [0, 0] for account, scope, start, *_ in counters
    }
    for account_id, hold_id, state, slots, counted, charge, taken in connection.execute(_HOLDS, page):
        key = page[0], account_id
        if state == "settled" and charge and counted != taken:  # otherwise the caller's own key paid
            yield _of_hold(key, "hold_counted", hold_id, taken, counted)
        for slot in slots_of(slots):
            if (account_id, slot) in sums:
                sums[account_id, slot][state == "open"] += counted
            elif state == "open" and counted:
                yield _of_hold(key, "budget_missing", hold_id, _named(slot), None)
    for account_id, scope, start, spent, held in counters:
        key = page[0], account_id
        wanted_spent, wanted_held = sums[account_id, (scope, start)]
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
