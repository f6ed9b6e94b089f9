"""Accounts whose budgets have changed lately, and how many alerts each was sent today.

Kept only in the memory of this process. The sweep over all budgets finds what it has forgotten
(calls.spending.spend_alerts).
"""

from collections.abc import Mapping
from typing import Final

ACCOUNTS_MAX: Final = 100_000
ALERTS_A_DAY: Final = 200
"""Per account: a rule may have a budget for each end user."""


class SpendWatch:
    """The accounts that the next round of alerts looks at."""

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self._limited: Mapping[str, tuple[int, int]] = {}
        self._day = 0
        self._sent: dict[str, int] = {}

    def touch(self, account_id: str) -> None:
        """Note that a call of the account was counted in a budget."""
        if len(self._touched) < ACCOUNTS_MAX:
            self._touched.add(account_id)

    def take(self) -> list[str]:
        """The accounts noted since the last time, in order."""
        found = sorted(self._touched)
        self._touched.clear()
        return found

    def unexamined(self, limited: Mapping[str, tuple[int, int]]) -> list[str]:
        """Of these accounts with spending limits, those of which another amount is spent than when they were examined
        last, or that have another limit."""
        return [account_id for account_id, spent in limited.items() if self._limited.get(account_id) != spent]

    def examined(self, limited: Mapping[str, tuple[int, int]]) -> None:
        """Note that these accounts have been examined."""
        self._limited = limited

    def room(self, account_id: str, day: int) -> int:
        """How many more alerts the account may be sent on that day."""
        if day != self._day:
            self._day = day
            self._sent.clear()
        return max(0, ALERTS_A_DAY - self._sent.get(account_id, 0))

    def sent(self, account_id: str, count: int) -> None:
        self._sent[account_id] = self._sent.get(account_id, 0) + count
