"""Counting the memory that a response takes: what is kept for its reader, for a client that gets it in one piece, and
for the log."""

from typing import Final

from farebox.calls.stages import Responded
from farebox.providers.formats.base import ResponseReader

FREE: Final = 64 * 2**10
"""Bytes of a response that may be kept without being counted."""
STEP: Final = 256 * 2**10
"""Unit in which the rest is counted."""


class BufferedResponse:
    """Counts the memory of one response on the account of its call."""

    __slots__ = ("_counted", "_reader", "_stage")

    def __init__(self, stage: Responded, reader: ResponseReader | None) -> None:
        self._stage = stage
        self._reader = reader
        self._counted = 0

    def fits(self, collected: int) -> bool:
        """Whether there is room for everything kept so far, of which `collected` bytes are for the client. If there is
        not, what is kept for the log is given up first."""
        logged = self._stage.logged
        if logged.size <= FREE:
            return True
        kept = collected + (0 if self._reader is None else self._reader.kept_bytes)
        more = kept + logged.kept_bytes - self._counted
        if more <= 0:
            if more < -2 * STEP:
                self._stage.context.sink.release(-more)
                self._counted += more
            return True
        if self._take(max(more, STEP)):
            return True
        logged.withhold()
        return kept <= self._counted or self._take(kept - self._counted)

    def _take(self, more: int) -> bool:
        if not self._stage.context.sink.keep(more):
            return False
        self._counted += more
        return True
