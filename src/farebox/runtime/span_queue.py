"""Spans that wait to be sent, by destination. Calls add their spans without waiting; spans that do not fit are
dropped."""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from farebox.export_formats.spans import Span

ACCOUNT_SPANS_MAX: Final = 4096
"""Maximum number of waiting spans of one account, over all of its destinations."""
ACCOUNT_BYTES_MAX: Final = 8 * 2**20
BYTES_MAX: Final = 64 * 2**20
"""Maximum bytes for all accounts."""
BATCH_SPANS: Final = 128
BATCH_BYTES: Final = 2**20

Key: TypeAlias = tuple[str, str, str]
"""Account, gateway, URL."""


class Destination(msgspec.Struct):
    """The spans waiting for one URL of one gateway."""

    key: Key
    spans: deque[Span]
    failures: int = 0
    """Requests that failed in a row; the pause before the next one grows with it."""
    attempts: int = 0
    """Requests that failed for the spans at the head of the queue."""
    not_before: float = 0.0
    """Time of the next request, on the monotonic clock."""

    def batch(self) -> list[Span]:
        """The next batch; its spans stay here until they are removed."""
        found: list[Span] = []
        size = 0
        for span in self.spans:
            size += span.size
            if found and (len(found) == BATCH_SPANS or size > BATCH_BYTES):
                break
            found.append(span)
        return found


class SpanQueue:
    """All waiting spans of this process."""

    def __init__(self) -> None:
        self.destinations: dict[Key, Destination] = {}
        """Destinations with waiting spans, or with recent failures."""
        self._spans: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self.waiting = 0
        """Number of waiting spans, each counted once per destination."""
        self._all_bytes = 0

    def add(self, account_id: str, gateway_id: str, urls: Iterable[str], span: Span) -> int:
        """Queue the span for each of the URLs. Returns for how many of them there was no room."""
        dropped, size = 0, span.size
        for url in urls:
            full = self._spans[account_id] >= ACCOUNT_SPANS_MAX or self._bytes[account_id] + size > ACCOUNT_BYTES_MAX
            if full or self._all_bytes + size > BYTES_MAX:
                dropped += 1
                continue
            key = (account_id, gateway_id, url)
            destination = self.destinations.get(key)
            if destination is None:
                destination = self.destinations[key] = Destination(key, deque())
            destination.spans.append(span)
            self._count(account_id, 1, size)
        return dropped

    def remove(self, destination: Destination, spans: Iterable[Span]) -> None:
        """Remove these spans, the oldest of the destination, which have been sent or given up."""
        for span in spans:
            taken = destination.spans.popleft()
            assert taken is span, "only one task takes from a destination"
            self._count(destination.key[0], -1, -span.size)
        if not destination.spans and not destination.failures:
            self.destinations.pop(destination.key, None)

    def forget(self, destination: Destination) -> None:
        """Remove a destination that has nothing left to send and no recent failures."""
        if not destination.spans:
            self.destinations.pop(destination.key, None)

    def _count(self, account_id: str, spans: int, size: int) -> None:
        self.waiting += spans
        self._all_bytes += size
        self._spans[account_id] += spans
        self._bytes[account_id] += size
        if not self._spans[account_id]:
            del self._spans[account_id], self._bytes[account_id]
