"""Gateways whose log has a limit and takes no more calls once it is full (`STOP_INSERTING`).

Counted in this process: what the log had when it was last counted in the database, and the calls admitted to it since.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

COUNTED_ANEW_SECONDS: Final = 10.0
"""How soon a process learns of what other processes added, and of deletions that it did not make itself."""
KEYS_MAX: Final = 100_000

Key: TypeAlias = tuple[str, str]
"""Account and gateway."""


@dataclass(slots=True)
class _Counted:
    calls: int
    due: float
    """When it is to be recounted, on the monotonic clock."""


class LogRoom:
    """How many calls the logs of such gateways have."""

    def __init__(self) -> None:
        self._counted: dict[Key, _Counted] = {}

    def due(self, key: Key, now: float) -> bool:
        """Whether the calls of this log are to be counted first."""
        counted = self._counted.get(key)
        return counted is None or counted.due <= now

    def learn(self, key: Key, calls: int, now: float) -> None:
        """How many calls the log has."""
        if len(self._counted) >= KEYS_MAX:
            self._counted.clear()
        self._counted[key] = _Counted(calls, now + COUNTED_ANEW_SECONDS)

    def admit(self, key: Key, most: int) -> bool:
        """Whether the log takes another call; it is then counted."""
        counted = self._counted.get(key)
        if counted is None:
            return True
        if counted.calls >= most:
            return False
        counted.calls += 1
        return True

    def forget(self, account_id: str, gateway_id: str) -> None:
        """Calls were deleted from the log."""
        self._counted.pop((account_id, gateway_id), None)
