"""The wire format of turns: a session's reader reports everything about them, so this gives only their name in the
log."""

from dataclasses import dataclass

from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.bodies import JsonBody


@dataclass(frozen=True, slots=True)
class TurnFormat(JsonBody):
    """A format that reads nothing."""

    name: str

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Raises InvalidRequest: a message is no request."""
        raise InvalidRequest("A session's message is not a request.")

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """There is no response of its own. Raises InvalidRequest."""
        raise InvalidRequest("A session's turn has no response of its own.")
