"""What each account had available after its last hold: a hint at how close its balance is to zero.

It decides how much care a hold is worth, never whether it is admitted.
"""

from typing import Final

ACCOUNTS_MAX: Final = 100_000


class KnownCredit:
    """Posted and available nano-dollars by account; the oldest entries are forgotten first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, account_id: str, posted: int, available: int) -> None:
        """Remember the account's balance, as the ledger has just reported it."""
        known = self._known
        if account_id not in known and len(known) >= ACCOUNTS_MAX:
            del known[next(iter(known))]
        known[account_id] = (posted, available)

    def get(self, account_id: str) -> tuple[int, int] | None:
        """The account's posted and available balance; None if unknown."""
        return self._known.get(account_id)
