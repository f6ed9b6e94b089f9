"""Choosing the reader of a response: its format, and whether it is events, a document or neither."""

from farebox.calls.stages import Responded
from farebox.providers.formats.base import ResponseReader, framed_reader, with_stated
from farebox.providers.formats.readers import UnreadReader
from farebox.providers.formats.sniffer import Sniffer

_NEVER_EVENTS = ("audio/", "image/", "video/", "text/plain", "application/octet-stream")
"""Content types whose first bytes are not inspected, unless the request asked for a stream."""


def reader_of(stage: Responded, unread: str, *, events: bool) -> ResponseReader | None:
    """The reader of the response; None if it is not read. `unread`: why it cannot be read, if so; `events`: it is
    declared as events."""
    if stage.metered is None or stage.response.status >= 400:
        return None
    wire, parsed = stage.metered.wire, stage.metered.parsed

    parsed = with_stated(parsed, wire, stage.response.headers)

    def make(events: bool) -> ResponseReader:
        return wire.reader(parsed, streaming=events, hide_usage=not parsed.usage_requested)

    framed = framed_reader(parsed, wire)
    if framed is not None:
        return Sniffer(make, declared=events, other=framed)
    if unread:  # some providers declare `utf-8` as an encoding
        return Sniffer(make, declared=events, other=UnreadReader(unread))
    if stage.logged.response_type.startswith(_NEVER_EVENTS) and not parsed.stream:
        return make(events)
    return Sniffer(make, declared=events)
