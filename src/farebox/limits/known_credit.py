"""What accounts had available after the last hold: a hint at how near a balance is to its end.

It decides how much care a hold is worth, never whether it is admitted.
"""

from typing import Final

ACCOUNTS_MAX: Final = 100_000


class KnownCredit:
    """Nano-dollars, by account; the first that were noted are forgotten first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, account_id: str, posted: int, available: int) -> None:
        """The account has so much, as the ledger just said."""
        known = self._known
        if account_id not in known and len(known) >= ACCOUNTS_MAX:
            del known[next(iter(known))]
        known[account_id] = (posted, available)

    def get(self, account_id: str) -> tuple[int, int] | None:
        """What it had posted and available; None if that is not known."""
        return self._known.get(account_id)
