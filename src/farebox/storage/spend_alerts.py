"""Reads for spend alerts: budgets and spending limits of which at least half is spent."""

from dataclasses import dataclass

from farebox.storage.account_keys import key_of
from farebox.storage.every_bucket import rows_at_hand
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
class NearBudget:
    """A budget that is nearly used up. Nano-dollars."""

    scope: str
    used: int
    """What is spent of it, and what open holds reserve in it."""
    limit: int
    """As its latest hold knew it."""


_NEARLY_SPENT = (
    "SELECT scope, sum(used) AS used, max(latest) AS most FROM ("
    "SELECT scope, spent + held AS used, first_value(most) OVER (PARTITION BY scope ORDER BY start DESC) AS latest "
    "FROM (SELECT scope, start, spent, held, most FROM budgets WHERE bucket = ? AND account_id = ? AND ends_at > ? "
    "ORDER BY scope, start LIMIT ?) looked_at) slots "
    # The sum is what is multiplied: on PostgreSQL it is numeric, whereas the product of a high limit is no bigint.
    "GROUP BY scope HAVING max(latest) > 0 AND sum(used) * 100 / ? >= max(latest) "
    "ORDER BY sum(used) * 100 / max(latest) DESC, scope LIMIT ?"
)


def nearly_spent(
    connection: Connection, account_id: str, at: int, *, percent: int, looked_at: int, limit: int
) -> list[NearBudget]:
    """Budgets of the account of whose limit at least so many percent are used, the fullest first; of the first
    `looked_at` slots in order of their scopes."""
    found = rows(connection, _NEARLY_SPENT, (*key_of(connection, account_id), at, looked_at, percent, limit))
    return [NearBudget(scope, int(used), int(most)) for scope, used, most in found]


def accounts_with_budgets(connection: Connection, at: int) -> list[str]:
    """Accounts with budgets that count something. Reads all budgets."""
    found = rows_at_hand(
        connection, "SELECT DISTINCT account_id FROM budgets WHERE bucket = ? AND ends_at > ? AND spent > 0", at
    )
    return [account_id for (account_id,) in found]


def limited_accounts(connection: Connection) -> list[str]:
    """Accounts that have spent half of a spending limit, or more."""
    found = rows_at_hand(
        connection,
        "SELECT account_id FROM balances INDEXED BY balances_limited WHERE bucket = ? "
        "AND limit_amount IS NOT NULL AND limit_spent * 2 >= limit_amount",
    )
    return [account_id for (account_id,) in found]
