"""Bytes that exchanges keep in memory, counted per account and in total: incoming bodies, and responses that wait to be
sent.

An account may hold up to its limit, and never more than half of what the others leave free, so that there is always
room for the next account. What arrives before authentication (request heads, unrequested bodies) is counted as an
account of its own. A body with a declared length is counted whole before it is read, so that what is admitted can be
finished.
"""

from typing import Final, Literal

from farebox.errors import ACCOUNT_BYTES_FULL, SERVER_BYTES_FULL, Problem

MIB: Final = 2**20
UNCLAIMED: Final = ""
"""The pseudo-account of unrequested data: unfinished request heads, and pipelined requests."""
ANONYMOUS: Final = "?"
"""The prefix of pseudo-accounts for bodies that authenticate themselves by their content: webhooks, and forms of
pages. The client's address follows it: one address never gets more than half of what the others leave free.
"""
_UNOWNED: Final = (UNCLAIMED, ANONYMOUS)
UNCLAIMED_SHARE: Final = 8
"""Each of the two kinds may hold this fraction of the process's bytes."""
RETRY_SECONDS: Final = 2

Scope = Literal["account", "process"]


class ByteBudget:
    """What all exchanges of the process keep in memory. `held_bytes`, `refused` and `by_account` may be read at any
    time."""

    __slots__ = (
        "account_max", "anonymous_bytes", "by_account", "held_bytes", "largest_of_account", "process_max", "refused",
    )  # fmt: skip

    def __init__(self, process_max: int = 512 * MIB, account_max: int = 256 * MIB) -> None:
        self.process_max = process_max
        self.account_max = account_max
        self.largest_of_account = min(account_max, process_max // 2)
        """The maximum size of one body of an account."""
        self.held_bytes = 0
        self.anonymous_bytes = 0
        """The part held by all unauthenticated clients."""
        self.by_account: dict[str, int] = {}
        """Only accounts that hold any bytes."""
        self.refused: dict[Scope, int] = {"account": 0, "process": 0}
        """How often there was no room, by whose limit was reached."""

    def lease(self, account_id: str = UNCLAIMED) -> "ByteLease":
        """An empty lease for the account."""
        return ByteLease(self, account_id)

    def largest(self, account_id: str = UNCLAIMED) -> int:
        """The maximum size of one body of the account."""
        if account_id[:1] not in _UNOWNED:
            return self.largest_of_account
        return min(self._own(account_id), self.process_max // 2)

    def full(self, account_id: str, more: int) -> Scope | None:
        """The budget that has no room for this many more bytes; None if there is room."""
        held, kind = self.by_account.get(account_id, 0), account_id[:1]
        if held + more > (self.account_max if kind not in _UNOWNED else self._own(account_id)):
            return "account"
        if kind == ANONYMOUS:
            left_by_anonymous = self._own(account_id) - (self.anonymous_bytes - held)
            if 2 * (held + more) > left_by_anonymous:
                return "account"
        left_by_others = self.process_max - (self.held_bytes - held)
        return "process" if 2 * (held + more) > left_by_others else None

    def _own(self, account_id: str) -> int:
        return self.account_max if account_id[:1] not in _UNOWNED else self.process_max // UNCLAIMED_SHARE

    def count(self, account_id: str, more: int) -> None:
        """Count bytes that were added, or (negative) removed."""
        self.held_bytes += more
        if account_id[:1] == ANONYMOUS:
            self.anonymous_bytes += more
        by_account = self.by_account
        held = by_account.get(account_id, 0) + more
        if held:
            by_account[account_id] = held
        else:
            by_account.pop(account_id, None)


class ByteLease:
    """The bytes of one exchange. Its creator closes it; nothing is counted afterwards."""

    __slots__ = ("_budget", "_closed", "account_id", "size")

    def __init__(self, budget: ByteBudget, account_id: str) -> None:
        self._budget = budget
        self._closed = False
        self.account_id = account_id
        self.size = 0
        """Bytes it holds."""

    @property
    def largest(self) -> int:
        """The maximum size of one body."""
        return self._budget.largest(self.account_id)

    def take(self, more: int) -> None:
        """Count this many more. Raises Problem (ACCOUNT_BYTES_FULL, SERVER_BYTES_FULL) if there is no room."""
        full = self._budget.full(self.account_id, more)
        if full is not None:
            self._budget.refused[full] += 1
            raise _problem(full, self.account_id, self._budget)
        if not self._closed:
            self.size += more
            self._budget.count(self.account_id, more)

    def room_for(self, more: int) -> bool:
        """Count this many more if there is room; returns whether there was."""
        if self._budget.full(self.account_id, more) is not None:
            return False
        self.force(more)
        return True

    def force(self, more: int) -> None:
        """Count bytes that are already in memory, even above the limit."""
        if not self._closed:
            self.size += more
            self._budget.count(self.account_id, more)

    def shrink(self, size: int) -> None:
        """Reduce the lease to at most this many bytes."""
        if self.size > size:
            self._budget.count(self.account_id, size - self.size)
            self.size = size

    def close(self) -> None:
        """Return all bytes."""
        if self.size:
            self._budget.count(self.account_id, -self.size)
            self.size = 0
        self._closed = True


def _is_unowned(account_id: str) -> bool:
    return account_id[:1] in _UNOWNED


def _problem(full: Scope, account_id: str, budget: ByteBudget) -> Problem:
    if full == "account" and not _is_unowned(account_id):
        return Problem(
            ACCOUNT_BYTES_FULL,
            f"The bodies of this account's calls in flight fill its share of the server's memory "
            f"({budget.account_max} bytes). Nothing was charged; try again when some have ended.",
            retry_after=RETRY_SECONDS,
        )
    return Problem(
        SERVER_BYTES_FULL,
        "The bodies of calls in flight fill the memory that the server has for them, and this account has its fair "
        "share of what is left. Nothing was charged; try again in a moment.",
        retry_after=RETRY_SECONDS,
    )
