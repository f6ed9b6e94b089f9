"""A stream whose hold is raised as it passes, and that ends when the balance is used up."""

from collections.abc import Iterable

from farebox.calls.slices import Slices
from farebox.calls.stages import Held, Responded
from farebox.providers.formats.base import Observed, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.length_end import LengthEnd, length_end_of
from farebox.usage import Usage


def sliced_stream(stage: Responded) -> "SlicedStream | None":
    """The sliced stream of a call whose output is held in parts; None for other calls."""
    held, metered = stage.held, stage.metered
    if held is None or held.part is None or metered is None or stage.response.status >= 300:
        return None
    end = length_end_of(metered.wire.name, usage_requested=metered.parsed.usage_requested)
    return None if end is None else SlicedStream(Slices(stage, held, held.part), end)


class SlicedStream:
    """The interface of a sliced stream that the relay uses."""

    def __init__(self, slices: Slices, end: LengthEnd) -> None:
        self._slices, self._end = slices, end

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """The chunk, split into its events if the hold may not cover all of it."""
        return self._slices.pieces(chunk)

    async def cover(self, reader: ResponseReader | None) -> Held:
        """The hold, raised to cover what the reader has read. Raises BalanceEnded."""
        if isinstance(reader, EventReader):
            await self._slices.cover(reader)
        return self._slices.held

    def follow(self, passed: bytes) -> None:
        """Note that these bytes go to the client next."""
        self._end.follow(passed)

    def delivered(self, observed: Observed) -> Observed:
        """What was observed, without what was not passed on."""
        return self._slices.delivered(observed)

    def end(self, usage: Usage) -> bytes | None:
        """The events that end the stream; None if it cannot be ended by events."""
        return self._end.end(usage)
