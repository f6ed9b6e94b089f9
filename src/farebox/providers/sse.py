"""Server-sent events as bytes: cuts a passing stream into whole events, without changing a byte of it.

Only lines that end in LF or CRLF are known; every provider sends one of the two. A stream of lone CR lines would be
kept back until its end.
"""

import re
from typing import Final

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""An event above this size is passed on piece by piece and not read, so that memory stays bounded."""

_EVENT_END: Final = re.compile(rb"\n\r?\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventSplitter:
    """Cuts chunks, whose boundaries mean nothing, into events. One per stream."""

    __slots__ = ("_limit", "_pending", "_skipping", "_tail", "oversize")

    def __init__(self, limit: int = EVENT_BYTES_MAX) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._skipping = False
        self._tail = b""
        self.oversize = 0
        """How many events were too large to be read."""

    def push(self, chunk: bytes) -> tuple[bytes, list[bytes]]:
        """Take the next bytes. Returns bytes that belong to an oversize event and come first, and then the events that
        are now whole, each with the empty line that ends it. What is unfinished stays back until the next call."""
        unread = b""
        if self._skipping:
            unread, chunk = self._skip(chunk)
        pending = self._pending
        if pending:
            searched = max(len(pending) - 2, 0)  # the end mark may have begun in the bytes searched before
            pending += chunk
            if not _EVENT_END.search(pending, searched):
                return (unread + self._give_up() if len(pending) > self._limit else unread), []
            chunk = bytes(pending)
            pending.clear()
        events = []
        start = 0
        for end in _EVENT_END.finditer(chunk):
            events.append(chunk[start : end.end()])
            start = end.end()
        if start < len(chunk):
            pending += chunk[start:]
        return unread, events

    def rest(self) -> bytes:
        """The unfinished event at the end of the stream."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest

    def _give_up(self) -> bytes:
        piece = bytes(self._pending)
        self._pending.clear()
        self._tail = piece[-2:]
        self._skipping = True
        self.oversize += 1
        return piece

    def _skip(self, chunk: bytes) -> tuple[bytes, bytes]:
        window = self._tail + chunk
        end = _EVENT_END.search(window)
        if end is None:
            self._tail = window[-2:]
            return chunk, b""
        self._skipping = False
        cut = end.end() - len(self._tail)
        return chunk[:cut], chunk[cut:]


def data_of(event: bytes) -> bytes:
    """The data of one event, its lines joined by LF; empty for a comment or an event without data."""
    if event.startswith(b"data:") and event.count(b"\n") <= 2:
        return event[5:].strip()
    lines = event.removeprefix(_BYTE_ORDER_MARK).splitlines()
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])
