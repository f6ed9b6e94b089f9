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
class _Counted:
    calls: int
    due: float
    """When the log is to be counted again, on the monotonic clock."""


class LogRoom:
    """The number of calls in each such log."""

    def __init__(self) -> None:
        self._counted: dict[Key, _Counted] = {}

    def due(self, key: Key, now: float) -> bool:
        """Whether the calls of this log must be counted in the database first."""
        counted = self._counted.get(key)
        return counted is None or counted.due <= now

    def learn(self, key: Key, calls: int, now: float) -> None:
        """Set the number of calls in the log, as counted in the database."""
        self._counted.pop(key, None)
        if len(self._counted) >= KEYS_MAX:
            del self._counted[next(iter(self._counted))]  # the one counted longest ago: it is counted again
        self._counted[key] = _Counted(calls, now + RECOUNT_SECONDS)

    def admit(self, key: Key, most: int) -> bool:
        """Whether the log accepts another call, which is then counted."""
        counted = self._counted.get(key)
        if counted is None:
            return True
        if counted.calls >= most:
            return False
        counted.calls += 1
        return True

    def forget(self, account_id: str, gateway_id: str) -> None:
        """Forget the count, because calls were deleted from the log."""
        self._counted.pop((account_id, gateway_id), None)
