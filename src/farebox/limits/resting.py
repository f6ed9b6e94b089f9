"""Keys that a provider has refused or rate limited: until when others are used in their place.

Known to this process alone: each finds out for itself.
"""

from typing import Final

KEYS_MAX: Final = 10_000


class Resting:
    """Times in milliseconds since the epoch."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], int] = {}

    def rest(self, key_id: str, model: str, until: int, now: int) -> None:
        """The key is not to be used until then: for this model or, if that is empty, for any."""
        if len(self._until) >= KEYS_MAX:
            self._until = {place: end for place, end in self._until.items() if end > now}
        if len(self._until) < KEYS_MAX:
            self._until[key_id, model] = until

    def forget_all(self) -> None:
        """None rests any more."""
        self._until.clear()

    def until(self, key_id: str, model: str) -> int:
        """When it may be used again for the model; what is past: now."""
        return max(self._until.get((key_id, ""), 0), self._until.get((key_id, model), 0))
