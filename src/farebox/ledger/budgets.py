"""Budgets: what holds reserve in them and charges count in them, slot by slot. Part of posting.

A budget's counters belong to its account: they are changed only in a transaction that has locked the account's balance,
so that a hold is admitted by the account and by all of its budgets, or by none.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from farebox.ledger.commands import Budget, Hold, Outcome, Verdict
from farebox.ledger.rows import BalanceRow, HoldRow, read_balance
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row, rows

Slot: TypeAlias = tuple[str, int]
"""Scope and start: the rest of a counter's key."""

IN_WINDOW = (
    "SELECT coalesce(sum(spent), 0), coalesce(sum(held), 0) FROM budgets "
    f"WHERE {OF_ACCOUNT} AND scope = ? AND start >= ?"
)
RESERVE = (
    "INSERT INTO budgets (bucket, account_id, scope, start, spent, held, ends_at, most) "
    "VALUES (?, ?, ?, ?, 0, ?, ?, ?) "
    "ON CONFLICT (bucket, account_id, scope, start) "
    "DO UPDATE SET held = budgets.held + excluded.held, most = excluded.most"
)
GIVE_BACK = f"UPDATE budgets SET spent = spent + ?, held = held - ? WHERE {OF_ACCOUNT} AND scope = ? AND start = ?"
"""Not an INSERT: what arrives late for a slot that was deleted is not counted anywhere."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Slot]).decode


def encode_slots(budgets: Iterable[Budget]) -> str | None:
    """The text that a hold's row has for the budgets it counts in; None if it counts in none."""
    slots = [(budget.scope, budget.start) for budget in budgets]
    return _encode(slots).decode() if slots else None


def slots_of(stored: str) -> list[Slot]:
    """The counters that a hold counts in."""
    return _decode(stored)


def tightest(
    budgets: Sequence[Budget], counted: Iterable[tuple[int, int]], amount: int
) -> tuple[Outcome, int, int, int] | None:
    """The budget that refuses to reserve `amount`: the outcome, its place, what is spent and what is held in it. None
    if all have room. `counted` has what is spent and held in each.

    Of several, preferably one that would refuse even without open holds; of these, the one with the least room.
    """
    if amount == 0:
        return None
    found: tuple[Outcome, int, int, int] | None = None
    worst = (False, 0)
    for place, (budget, (spent, held)) in enumerate(zip(budgets, counted, strict=True)):
        if spent + held + amount > budget.limit:
            limited = spent + amount > budget.limit
            rank = (limited, spent + held - budget.limit)
            if found is None or rank > worst:
                found = (Outcome.LIMITED if limited else Outcome.HELD_ELSEWHERE, place, spent, held)
                worst = rank
    return found


def over_budget(connection: Connection, balance: BalanceRow, hold: Hold) -> Verdict | None:
    """The refusal of the hold by one of its budgets; None if it fits in all."""
    counted = [in_window(connection, balance, budget) for budget in hold.budgets]
    found = tightest(hold.budgets, counted, hold.reserved)
    if found is None:
        return None
    outcome, place, spent, held = found
    return Verdict(
        outcome, balance.posted, balance.held, owed=balance.owed, limit=hold.budgets[place].limit, spent=spent,
        budget=place, reserved=held,
    )  # fmt: skip


def in_window(connection: Connection, balance: BalanceRow, budget: Budget) -> tuple[int, int]:
    """What is spent and what is held in the budget's window."""
    found = row(connection, IN_WINDOW, (balance.bucket, balance.account_id, budget.scope, budget.since))
    assert found is not None
    return int(found[0]), int(found[1])


class ScopeUsage(NamedTuple):
    """What counts in one scope's window. Nano-dollars, milliseconds."""

    scope: str
    spent: int
    held: int
    ends_at: int
    """When none of it counts any more."""


_UNDER = "bucket = ?1 AND account_id = ?2 AND scope >= ?3 AND scope < ?3 || '0' AND start >= ?4"
"""The scopes of a name, and those below it, which continue with `/`."""


def count_scopes(connection: Connection, account_id: str, name: str, since: int) -> int:
    """How many scopes of this name, and below it, have counts from `since` on."""
    found = row(
        connection,
        f"SELECT count(DISTINCT scope) FROM budgets WHERE {_UNDER}",
        (*key_of(connection, account_id), name, since),
    )
    return 0 if found is None else int(found[0])


def list_scopes(
    connection: Connection, account_id: str, name: str, since: int, limit: int, offset: int
) -> list[ScopeUsage]:
    """These scopes, in order."""
    found = rows(
        connection,
        f"SELECT scope, sum(spent), sum(held), max(ends_at) FROM budgets WHERE {_UNDER} "
        "GROUP BY scope ORDER BY scope LIMIT ?5 OFFSET ?6",
        (*key_of(connection, account_id), name, since, limit, offset),
    )
    return [ScopeUsage(scope, int(spent), int(held), int(ends_at)) for scope, spent, held, ends_at in found]


SCOPES_AT_ONCE: Final = 200


def read_scopes(connection: Connection, account_id: str, scopes: Sequence[str], since: int) -> dict[str, ScopeUsage]:
    """What counts from `since` on in these scopes; those in which nothing does are left out."""
    found: dict[str, ScopeUsage] = {}
    for start in range(0, len(scopes), SCOPES_AT_ONCE):
        some = scopes[start : start + SCOPES_AT_ONCE]
        places = ", ".join("?" for _ in some)
        sql = (
            f"SELECT scope, sum(spent), sum(held), max(ends_at) FROM budgets WHERE {OF_ACCOUNT} "
            f"AND scope IN ({places}) AND start >= ? GROUP BY scope"
        )
        for scope, spent, held, ends_at in rows(connection, sql, (*key_of(connection, account_id), *some, since)):
            found[scope] = ScopeUsage(scope, int(spent), int(held), int(ends_at))
    return found


def room_at(connection: Connection, *, account_id: str, scope: str, since: int, limit: int, needed: int) -> int | None:
    """When `needed` fits in the budget, if nothing more is spent until then: the first slots of its window stop
    counting one by one. None if never."""
    spent = rows(
        connection,
        f"SELECT spent, ends_at FROM budgets WHERE {OF_ACCOUNT} AND scope = ? AND start >= ? AND spent > 0 "
        "ORDER BY start",
        (*key_of(connection, account_id), scope, since),
    )
    left = sum(amount for amount, _ in spent)
    for amount, ends_at in spent:
        left -= amount
        if left + needed <= limit:
            return int(ends_at)
    return None


def reserve(connection: Connection, balance: BalanceRow, hold: Hold) -> None:
    """Reserve what an admitted hold asks for in each of its budgets, and write that on the hold."""
    for budget in hold.budgets:
        key = (balance.bucket, balance.account_id, budget.scope, budget.start)
        connection.execute(RESERVE, (*key, hold.reserved, budget.ends_at, budget.limit))
    connection.execute(
        f"UPDATE holds SET budgets = ?, counted = ? WHERE {OF_ACCOUNT} AND hold_id = ?",
        (encode_slots(hold.budgets), hold.reserved, balance.bucket, balance.account_id, hold.hold_id),
    )


def give_back(connection: Connection, balance: BalanceRow, hold_id: str, hold: HoldRow, counts: int | None) -> None:
    """Give back what an ending hold reserves, and count what it was charged (`counts`; None if it was not settled)."""
    if hold.budgets is None:
        return
    held = hold.counted if hold.state == "open" else 0
    for scope, start in slots_of(hold.budgets):
        connection.execute(GIVE_BACK, (counts or 0, held, balance.bucket, balance.account_id, scope, start))
    if counts is not None:
        connection.execute(
            f"UPDATE holds SET counted = ? WHERE {OF_ACCOUNT} AND hold_id = ?",
            (counts, balance.bucket, balance.account_id, hold_id),
        )


def accounts_to_forget(connection: Connection, at: int) -> list[str]:
    """Accounts with budget slots that no window contains any more at `at`."""
    found = rows_available(
        connection,
        "SELECT DISTINCT account_id FROM budgets INDEXED BY budgets_ended "
        "WHERE bucket = ? AND ends_at <= ? AND held = 0 ORDER BY account_id",
        at,
    )
    return [account_id for (account_id,) in found]


def forget_slots(connection: Connection, account_id: str, at: int, limit: int = 500) -> int:
    """Delete such slots of the account, at most `limit`, unless an open hold reserves something in them; returns how
    many were deleted."""
    balance = read_balance(connection, account_id)  # locks it before the counters are changed
    if balance is None:
        return 0
    ended = rows(
        connection,
        "SELECT scope, start FROM budgets INDEXED BY budgets_ended "
        f"WHERE {OF_ACCOUNT} AND ends_at <= ? AND held = 0 LIMIT ?",
        (balance.bucket, account_id, at, limit),
    )
    for scope, start in ended:
        connection.execute(
            f"DELETE FROM budgets WHERE {OF_ACCOUNT} AND scope = ? AND start = ?",
            (balance.bucket, account_id, scope, start),
        )
    return len(ended)
