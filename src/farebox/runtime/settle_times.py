"""How long it took to settle the latest calls of this process. This is known only after their rows are written, so it
is not in them."""

from typing import Final

KEPT: Final = 1_000
"""Minimum number of calls that are remembered; the maximum is twice that."""


class SettleTimes:
    """Seconds by log ID, in two generations: the older one is forgotten when the newer one is full."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def note(self, log_id: str, seconds: float) -> None:
        self._latest[log_id] = seconds
        if len(self._latest) >= KEPT:
            self._before, self._latest = self._latest, {}

    def of(self, log_id: str) -> float | None:
        """The seconds for this call; None if unknown, or no longer known."""
        found = self._latest.get(log_id)
        return self._before.get(log_id) if found is None else found
