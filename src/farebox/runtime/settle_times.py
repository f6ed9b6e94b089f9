"""How long the latest calls of this process took to be settled. It is known once their rows are written, and so is not
in them."""

from typing import Final

KEPT: Final = 1_000
"""Calls, at least; twice as many at most."""


class SettleTimes:
    """Seconds by log ID, in two generations: the older one is forgotten when the younger is full."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def note(self, log_id: str, seconds: float) -> None:
        self._latest[log_id] = seconds
        if len(self._latest) >= KEPT:
            self._before, self._latest = self._latest, {}

    def of(self, log_id: str) -> float | None:
        """None: it is not known (any more)."""
        found = self._latest.get(log_id)
        return self._before.get(log_id) if found is None else found
