"""The number of calls in logs that have a limit and accept no more calls once they are full (`STOP_INSERTING`).

Counted in this process: the number at the last count in the database, plus the calls admitted since.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

RECOUNT_SECONDS: Final = 10.0
"""How soon a process notices rows that other processes added, and deletions that it did not make itself."""
KEYS_MAX: Final = 100_000

Key: TypeAlias = tuple[str, str]
"""Account ID and gateway ID."""


@dataclass(slots=True)
class _LogCount:
    calls: int
    due: float
    """When the log is to be counted again, on the monotonic clock."""


class LogRoom:
    """The number of calls in each such log."""

    def __init__(self) -> None:
        self._counts: dict[Key, _LogCount] = {}

    def due(self, key: Key, now: float) -> bool:
        """Whether the calls of this log must be counted in the database first."""
        count = self._counts.get(key)
        return count is None or count.due <= now

    def learn(self, key: Key, calls: int, now: float) -> None:
        """Set the number of calls in the log, as counted in the database."""
        self._counts.pop(key, None)
        if len(self._counts) >= KEYS_MAX:
            del self._counts[next(iter(self._counts))]  # the one counted longest ago: it is counted again
        self._counts[key] = _LogCount(calls, now + RECOUNT_SECONDS)

    def admit(self, key: Key, most: int) -> bool:
        """Whether the log accepts another call, which is then counted."""
        count = self._counts.get(key)
        if count is None:
            return True
        if count.calls >= most:
            return False
        count.calls += 1
        return True

    def forget(self, account_id: str, gateway_id: str) -> None:
        """Forget the count, because calls were deleted from the log."""
        self._counts.pop((account_id, gateway_id), None)
