"""How much of a response is kept in memory: for its reader, for a client that gets it whole, and for the log."""

from typing import Final

from farebox.calls.stages import Responded
from farebox.providers.formats.base import ResponseReader

FREE: Final = 64 * 2**10
"""Bytes that are kept of a response without counting them."""
STEP: Final = 256 * 2**10
"""By which the rest is counted."""


class BufferedResponse:
    """Counts it, on the account of the call."""

    __slots__ = ("_counted", "_reader", "_stage")

    def __init__(self, stage: Responded, reader: ResponseReader | None) -> None:
        self._stage = stage
        self._reader = reader
        self._counted = 0

    def fits(self, collected: int) -> bool:
        """Whether there is room for what is kept by now; `collected` bytes of it for the client. Where there is not,
        the log does without first of all."""
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
