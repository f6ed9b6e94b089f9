"""Entries that wait in memory to be written together, bounded in number and bytes."""

from typing import Any, Final

NUMBER_MAX: Final = 2_048
BYTES_MAX: Final = 8 * 2**20
BATCH_MAX: Final = 256
BATCH_BYTES: Final = 2 * 2**20
"""Bytes written in one transaction; the last entry may exceed them."""


class PendingWrites:
    """The waiting entries, oldest first."""

    def __init__(self) -> None:
        self._entries: list[tuple[Any, int]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def fits(self, size: int) -> bool:
        """Whether there is room for an entry of this size."""
        return len(self._entries) < NUMBER_MAX and self._bytes + size <= BYTES_MAX

    def add(self, entry: object, size: int) -> None:
        """Take an entry that `fits`."""
        self._entries.append((entry, size))
        self._bytes += size

    def take(self) -> list[Any]:
        """Remove and return the entries of the next transaction."""
        taken, size = 0, 0
        for _, each in self._entries[:BATCH_MAX]:
            taken, size = taken + 1, size + each
            if size >= BATCH_BYTES:
                break
        batch = [entry for entry, _ in self._entries[:taken]]
        del self._entries[:taken]
        self._bytes -= size
        return batch
