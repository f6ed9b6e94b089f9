"""Reads for spend alerts: budgets and spending limits of which at least half is spent."""

from dataclasses import dataclass

from farebox.storage.account_keys import key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, rows


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """A budget in its current window. Nano-dollars, milliseconds."""

    scope: str
    spent: int
    limit: int
    """The limit when its latest hold was opened."""
    start: int
    """Start of its latest slot."""
    ends_at: int
    """When its latest slot no longer counts."""


_HALF_SPENT = (
    "SELECT b.scope, s.spent, b.most, b.start, b.ends_at FROM ("
    "SELECT scope, sum(spent) AS spent, max(start) AS latest FROM budgets "
    "WHERE bucket = ?1 AND account_id = ?2 AND ends_at > ?3 GROUP BY scope) s "
    "JOIN budgets b ON b.bucket = ?1 AND b.account_id = ?2 AND b.scope = s.scope AND b.start = s.latest "
    "WHERE s.spent * 2 >= b.most ORDER BY b.scope LIMIT ?4"
)


def half_spent(connection: Connection, account_id: str, at: int, limit: int) -> list[SpentBudget]:
    """Budgets of the account of whose limit at least half is spent."""
    found = rows(connection, _HALF_SPENT, (*key_of(connection, account_id), at, limit))
    return [SpentBudget(scope, int(spent), int(most), start, ends) for scope, spent, most, start, ends in found]


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of a budget, in whose window it may no longer be. Nano-dollars, milliseconds."""

    scope: str
    start: int
    used: int
    """What is spent, and what open holds reserve."""
    most: int
    """The limit when its latest hold was opened; 0: not known."""


def slots_from(connection: Connection, account_id: str, scope: str, end: str, limit: int) -> list[Slot]:
    """The first `limit` slots of the account's budgets whose scopes are not before `scope`, and are before `end`; in
    the order of the table's key, so that no others are read."""
    found = rows(
        connection,
        "SELECT scope, start, spent + held, coalesce(most, 0) FROM budgets "
        "WHERE bucket = ? AND account_id = ? AND scope >= ? AND scope < ? ORDER BY scope, start LIMIT ?",
        (*key_of(connection, account_id), scope, end, limit),
    )
    return [Slot(name, start, int(used), int(most)) for name, start, used, most in found]


def accounts_with_budgets(connection: Connection, at: int) -> list[str]:
    """Accounts with budgets that count something. Reads all budgets."""
    found = rows_available(
        connection, "SELECT DISTINCT account_id FROM budgets WHERE bucket = ? AND ends_at > ? AND spent > 0", at
    )
    return [account_id for (account_id,) in found]


def limited_accounts(connection: Connection) -> dict[str, tuple[int, int]]:
    """Accounts that have spent half of a spending limit, or more, with what is spent and the limit."""
    found = rows_available(
        connection,
        "SELECT account_id, limit_spent, limit_amount FROM balances INDEXED BY balances_limited WHERE bucket = ? "
        "AND limit_amount IS NOT NULL AND limit_spent * 2 >= limit_amount",
    )
    return {account_id: (int(spent), int(limit)) for account_id, spent, limit in found}
