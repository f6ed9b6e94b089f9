"""What accounts had available after the last hold: a hint at how near a balance is to its end.

It decides how much care a hold is worth, never whether it is admitted.
"""

from typing import Final

ACCOUNTS_MAX: Final = 100_000


class KnownCredit:
    """Nano-dollars, by account; the longest unchanged are forgotten."""

    def __init__(self) -> None:
        self._available: dict[str, int] = {}

    def note(self, account_id: str, available: int) -> None:
        """The account has so much, as the ledger just said."""
        known = self._available
        if account_id not in known and len(known) >= ACCOUNTS_MAX:
            del known[next(iter(known))]
        known[account_id] = available

    def get(self, account_id: str) -> int | None:
        """What it had; None if that is not known."""
        return self._available.get(account_id)
