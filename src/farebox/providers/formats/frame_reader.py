"""The reader of Amazon's event streams: messages pass unchanged, once they are complete and their checksums are
verified."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from farebox.providers.formats.base import Observed
from farebox.providers.formats.event_frames import Frame, FrameCutter
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import Seen, observed
from farebox.providers.upstream import UpstreamFailed

MEDIA_TYPE: Final = "application/vnd.amazon.eventstream"


class FrameReader:
    """Reads one stream. `parse` reads an event. The message that ends the stream is held back until the charge is
    durable.

    `feed` raises UpstreamFailed if the framing is broken; nothing passes from there on.
    """

    __slots__ = ("_cutter", "_empty", "_failure", "_kept", "_reading", "_seen", "parse")

    events = True
    holding = False

    def __init__(self, parse: Callable[[Seen, Frame], None], reading: Reading, seen: Seen | None = None) -> None:
        self.parse = parse
        self._reading = reading
        self._seen = seen or Seen(has_terminal=True, shows_end=True)
        self._cutter = FrameCutter()
        self._kept: list[bytes] = []
        self._empty = True
        self._failure: UpstreamFailed | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return those to relay. Raises UpstreamFailed."""
        if self._failure is not None:
            raise self._failure
        passed: list[bytes] = []
        try:
            for one in self._cutter.push(chunk):
                self._empty = False
                self._read(one)
                (self._kept if self._seen.finished else passed).append(one.raw)
        except UpstreamFailed as failure:
            if not passed:
                raise
            self._failure = failure  # messages before it pass first
        return b"".join(passed)

    def _read(self, one: Frame) -> None:
        seen = self._seen
        if one.headers.get(":message-type", "event") != "event":  # an exception of the service's, or an error
            seen.end(failed=True)
            return
        try:
            self.parse(seen, one)
        except (ValueError, RecursionError):
            seen.unreadable += 1
            seen.delivered += len(one.payload)  # it may have been text

    @property
    def finished(self) -> bool:
        return self._seen.finished

    @property
    def all_ended(self) -> bool:
        return self._seen.all_ended

    @property
    def input_reported(self) -> bool:
        return self._reading.reports_input(self._seen.usage)

    @property
    def kept_bytes(self) -> int:
        return self._cutter.begun

    def stop_collecting(self) -> None:
        """Does nothing: an incomplete message must be kept, and its size is bounded."""

    def release(self) -> bytes:
        return b""

    def close(self) -> tuple[bytes, Observed]:
        """The stream has ended. An incomplete message does not pass."""
        seen, kept = self._seen, b"".join(self._kept)
        self._kept.clear()
        if seen.failed or self._empty:
            seen.complete = True
        found = observed(seen, self._reading, whole=seen.finished, empty=self._empty and not self._cutter.begun)
        return kept, found if seen.complete else replace(found, broken_off=True)
