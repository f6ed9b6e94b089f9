"""How much of large bodies the log takes of each account: a database that writes a megabyte keeps all others waiting
for some milliseconds, and nobody's disk is without end. Counted in this process."""

from typing import Final

LARGE_BYTES: Final = 64 * 2**10
"""Bodies up to this size are not counted."""
AT_ONCE_BYTES: Final = 16 * 2**20
BYTES_PER_SECOND: Final = 2**20
ACCOUNTS_MAX: Final = 10_000


class LoggedBytes:
    """For each account a bucket that fills up to AT_ONCE_BYTES, by BYTES_PER_SECOND."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: dict[str, tuple[float, int]] = {}
        """When, and how many bytes were missing from the bucket then."""

    def takes(self, account_id: str, size: int, now: float) -> bool:
        """Whether the log takes a body of so many bytes, which are then counted. `now`: seconds, monotonic."""
        if size <= LARGE_BYTES:
            return True
        last, missing = self._taken.get(account_id, (now, 0))
        missing = max(0, missing - round((now - last) * BYTES_PER_SECOND))
        if missing + size > AT_ONCE_BYTES:
            return False
        if len(self._taken) >= ACCOUNTS_MAX:
            self._taken.clear()
        self._taken[account_id] = (now, missing + size)
        return True
