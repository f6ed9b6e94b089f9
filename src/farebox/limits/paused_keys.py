"""Keys that a provider has refused or rate limited, and until when other keys are used instead.

Known only to this process: each process finds out for itself.
"""

from typing import Final

from farebox.limits.fair_memory import FairMemory

BYTES_MAX: Final = 8 * 2**20
ACCOUNT_BYTES_MAX: Final = 2**19
"""About a thousand keys and models, at half a kilobyte each."""


class PausedKeys:
    """When keys may be used again, in Unix milliseconds, by their owner: an account, or the operator
    (storage.buckets)."""

    def __init__(self) -> None:
        self._until = self._none()

    def pause(self, owner: str, key_id: str, model: str, until: int) -> None:
        """Do not use the key until this time: for this model or, if the model is empty, for any model."""
        self._until.put(owner, (key_id, model), until, len(key_id) + len(model))

    def forget_all(self) -> None:
        """Make all keys usable again."""
        self._until = self._none()

    def until(self, owner: str, key_id: str, model: str) -> int:
        """When the key may be used again for the model; a time in the past means now."""
        everywhere, here = ((key_id, ""), (key_id, model))
        return max(self._until.get(owner, everywhere) or 0, self._until.get(owner, here) or 0)

    def of(self, owner: str) -> dict[tuple[str, str], int]:
        """Until when each of the owner's keys is paused, by key and model; those in the past are over."""
        return self._until.of(owner)

    @staticmethod
    def _none() -> FairMemory[tuple[str, str], int]:
        return FairMemory(BYTES_MAX, ACCOUNT_BYTES_MAX)
