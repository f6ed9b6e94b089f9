"""Keys that a provider has refused or rate limited: until when others are used in their place.

Known to this process alone: each finds out for itself.
"""

from typing import Final

from farebox.limits.fair_memory import FairMemory

BYTES_MAX: Final = 8 * 2**20
ACCOUNT_BYTES_MAX: Final = 2**19
"""Half a kilobyte a key and model: a thousand of them."""


class Resting:
    """Times in milliseconds since the epoch. Keys by their owner: an account, or the operator (storage.buckets)."""

    def __init__(self) -> None:
        self._until = self._none()

    def rest(self, owner: str, key_id: str, model: str, until: int) -> None:
        """The key is not to be used until then: for this model or, if that is empty, for any."""
        self._until.put(owner, (key_id, model), until, len(key_id) + len(model))

    def forget_all(self) -> None:
        """None rests any more."""
        self._until = self._none()

    def until(self, owner: str, key_id: str, model: str) -> int:
        """When it may be used again for the model; what is past: now."""
        everywhere, here = ((key_id, ""), (key_id, model))
        return max(self._until.get(owner, everywhere) or 0, self._until.get(owner, here) or 0)

    @staticmethod
    def _none() -> FairMemory[tuple[str, str], int]:
        return FairMemory(BYTES_MAX, ACCOUNT_BYTES_MAX)
