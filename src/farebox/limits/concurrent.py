"""The number of calls in flight in this process, per account and in total.

An account may have up to its limit, and never more than half of what the others leave free, so that there is always
room for the next account.
"""

from typing import Literal

Scope = Literal["account", "process"]


class CallsInFlight:
    """Counts calls by account; `by_account` and `total` may be read at any time."""

    __slots__ = ("account_max", "by_account", "process_max", "total")

    def __init__(self, process_max: int = 2000, account_max: int = 1000) -> None:
        self.process_max = process_max
        self.account_max = account_max
        self.by_account: dict[str, int] = {}
        """Only accounts that have calls in flight."""
        self.total = 0

    def full(self, account_id: str) -> Scope | None:
        """Whose limit one more call of the account would exceed; None if there is room. An account without calls is
        admitted until the process is full.
        """
        count = self.by_account.get(account_id, 0)
        if count >= self.account_max:
            return "account"
        left_by_others = self.process_max - (self.total - count)
        return "process" if left_by_others <= 0 or (count and 2 * (count + 1) > left_by_others) else None

    def begin(self, account_id: str) -> Scope | None:
        """Count one more call if there is room; otherwise return whose limit it would exceed."""
        count = self.by_account.get(account_id, 0)
        if count >= self.account_max or 2 * (count + 1) > self.process_max - self.total + count:
            full = self.full(account_id)
            if full is not None:
                return full
        self.by_account[account_id] = count + 1
        self.total += 1
        return None

    def end(self, account_id: str) -> None:
        """A counted call has ended."""
        self.total -= 1
        count = self.by_account[account_id] - 1
        if count:
            self.by_account[account_id] = count
        else:
            del self.by_account[account_id]
