"""How many calls of each account are in flight in this process."""


class CallsInFlight:
    """Counts calls by account; `by_account` may be read at any time."""

    __slots__ = ("by_account", "most", "refused")

    def __init__(self, most: int = 1000) -> None:
        """`most`: calls that one account may have in flight."""
        self.most = most
        self.by_account: dict[str, int] = {}
        """Of accounts that have any."""
        self.refused = 0

    def begin(self, account_id: str) -> bool:
        """Count one more and return True, or False where it is one too many."""
        count = self.by_account.get(account_id, 0)
        if count >= self.most:
            self.refused += 1
            return False
        self.by_account[account_id] = count + 1
        return True

    def end(self, account_id: str) -> None:
        """One that was counted is over."""
        count = self.by_account[account_id] - 1
        if count:
            self.by_account[account_id] = count
        else:
            del self.by_account[account_id]
