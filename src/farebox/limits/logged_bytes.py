"""Limits how many bytes of large bodies are logged per account: writing a megabyte to the database delays all other
writes by some milliseconds, and disk space is finite. Counted in this process.
"""

from typing import Final

LARGE_BYTES: Final = 64 * 2**10
"""Bodies up to this size are not counted."""
BURST_BYTES: Final = 16 * 2**20
BYTES_PER_SECOND: Final = 2**20
ACCOUNTS_MAX: Final = 10_000


class LoggedBytes:
    """A token bucket per account with a capacity of BURST_BYTES, refilled with BYTES_PER_SECOND."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, int]] = {}
        """By account: a time, and how many bytes were missing from the bucket at that time."""

    def takes(self, account_id: str, size: int, now: float) -> bool:
        """Whether a body of this many bytes may be logged; if so, it is counted. `now`: seconds, monotonic."""
        if size <= LARGE_BYTES:
            return True
        last, missing = self._taken.get(account_id, (now, 0))
        missing = max(0, missing - round((now - last) * BYTES_PER_SECOND))
        if missing + size > BURST_BYTES:
            return False
        self._taken.pop(account_id, None)
        if len(self._taken) >= ACCOUNTS_MAX:
            del self._taken[next(iter(self._taken))]  # the one that has logged nothing for the longest time
        self._taken[account_id] = (now, missing + size)
        return True
