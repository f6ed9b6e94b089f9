"""A stream whose hold is raised as it passes, and that ends where the balance does."""

from collections.abc import Iterable

from farebox.calls.slices import Slices
from farebox.calls.stages import Held, Responded
from farebox.providers.formats.base import Observed, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.length_end import LengthEnd, length_end_of
from farebox.usage import Usage


def sliced_stream(stage: Responded) -> "SlicedStream | None":
    """For a call of whose output a part is held; None for others."""
    held, metered = stage.held, stage.metered
    if held is None or held.part is None or metered is None or stage.response.status >= 300:
        return None
    end = length_end_of(metered.wire.name, usage_requested=metered.parsed.usage_requested)
    return None if end is None else SlicedStream(Slices(stage, held, held.part), end)


class SlicedStream:
    """What the relay needs of it."""

    def __init__(self, slices: Slices, end: LengthEnd) -> None:
        self._slices, self._end = slices, end

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """The chunk, in its events if it may not be covered as a whole."""
        return self._slices.pieces(chunk)

    async def cover(self, reader: ResponseReader | None) -> Held:
        """The hold, which covers what the reader has read. Raises BalanceEnded."""
        if isinstance(reader, EventReader):
            await self._slices.cover(reader)
        return self._slices.held

    def follow(self, passed: bytes) -> None:
        """These bytes go to the client next."""
        self._end.follow(passed)

    def delivered(self, observed: Observed) -> Observed:
        """What was observed, without what did not pass."""
        return self._slices.delivered(observed)

    def end(self, usage: Usage) -> bytes | None:
        """The events that end the stream; None if they cannot be."""
        return self._end.end(usage)
