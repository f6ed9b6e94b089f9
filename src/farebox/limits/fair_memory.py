"""A cache of accounts' values in memory, bounded per account and in total.

When it is full, the oldest entry is dropped: of the same account if that has reached its own limit, otherwise of each
account in turn, so that no account can push out the entries of the others.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES: Final = 512
"""Bytes counted for each entry in addition to its size."""


class _Share(Generic[K, V]):
    """An account's entries, the oldest first, with their sizes."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: dict[K, tuple[V, int]] = {}
        self.bytes = 0


class FairMemory(Generic[K, V]):
    """Entries by account and key."""

    def __init__(self, bytes_max: int, account_max: int) -> None:
        self._shares: dict[str, _Share[K, V]] = {}
        self._bytes_max = bytes_max
        self._account_max = account_max
        self.bytes = 0

    def get(self, account_id: str, key: K) -> V | None:
        share = self._shares.get(account_id)
        found = None if share is None else share.entries.get(key)
        return None if found is None else found[0]

    def of(self, account_id: str) -> dict[K, V]:
        """All values of the account."""
        share = self._shares.get(account_id)
        return {} if share is None else {key: value for key, (value, _) in share.entries.items()}

    def put(self, account_id: str, key: K, value: V, size: int) -> None:
        """Keep the value, replacing any under the same key. It is not kept if it is larger than an account's limit."""
        self.drop(account_id, key)
        size += ENTRY_BYTES
        if size > self._account_max:
            return
        share = self._shares.get(account_id)
        if share is None:
            share = self._shares[account_id] = _Share()
        while share.bytes + size > self._account_max:
            self._drop_oldest(share)
        share.entries[key] = value, size
        share.bytes += size
        self.bytes += size
        while self.bytes > self._bytes_max:
            turn, theirs = next(iter(self._shares.items()))
            del self._shares[turn]
            self._drop_oldest(theirs)
            if theirs.entries:
                self._shares[turn] = theirs  # moved to the end: its next turn comes after all others

    def drop(self, account_id: str, key: K) -> None:
        share = self._shares.get(account_id)
        dropped = None if share is None else share.entries.pop(key, None)
        if share is not None and dropped is not None:
            share.bytes -= dropped[1]
            self.bytes -= dropped[1]
            if not share.entries:
                del self._shares[account_id]

    def _drop_oldest(self, share: _Share[K, V]) -> None:
        _, size = share.entries.pop(next(iter(share.entries)))
        share.bytes -= size
        self.bytes -= size
