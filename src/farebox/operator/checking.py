"""`farebox check`: the database itself, the books of all accounts, and the audit log."""

from collections.abc import Callable
from typing import NamedTuple

from farebox.ledger.audit import audit
from farebox.ledger.differences import Difference
from farebox.storage.accounts import count_accounts
from farebox.storage.database import damages_of
from farebox.storage.operator_actions import changed_actions
from farebox.storage.sql import Connection, DatabaseDamaged


class CheckResult(NamedTuple):
    """The findings of a check."""

    damage: list[str]
    """What is wrong with the database itself; the rest was not checked then."""
    accounts: int
    differences: list[Difference]
    actions: list[tuple[int, str]]
    """Rows of the audit log that are not as they were written: `missing` or `changed`, by number."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, and there was something to check."""
        return bool(self.accounts) and not (self.damage or self.differences or self.actions)


def check(connection: Connection, progress: Callable[[int, int], None] | None = None) -> CheckResult:
    """Check everything. `progress` is called with the number of accounts done and in total. The connection must be
    outside a transaction."""
    try:
        if damage := damages_of(connection):
            return CheckResult(damage, 0, [], [])
        accounts = count_accounts(connection)
        return CheckResult([], accounts, list(audit(connection, progress=progress)), list(changed_actions(connection)))
    except DatabaseDamaged as error:
        return CheckResult([" ".join(str(error).split())], 0, [], [])


def action_text(number: int, what: str) -> str:
    """A difference of the audit log as a sentence."""
    return f"audit log: action {number} {'is missing' if what == 'missing' else 'is not as it was written'}"
