"""Responses over a WebSocket: `response.create` with the body of a request; each event of the stream is one message."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.errors import Problem
from farebox.providers.formats import bodies
from farebox.providers.formats.base import Observed, ParsedRequest, ResponseReader, WireFormat
from farebox.providers.reading import Place, Refusals, read_as, read_named
from farebox.providers.websockets.reader import FIRST, ByTurns, FromClient, FromProvider, Lane, TurnRequest
from farebox.quoting import quoted

BODY_MAX: Final = 4 * 2**20
"""Largest message that is read here, on the event loop between other work."""
_MADE_MAX: Final = 1_000
"""Most response IDs that are remembered as created in the session."""
_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})


class _Event(msgspec.Struct):
    type: str = ""
    response: Any = None
    stream_id: Any = None


_EVENT: Final = msgspec.json.Decoder(_Event)


class ResponsesReader(ByTurns):
    """Reads one session, which has one response in progress at a time."""

    def __init__(
        self,
        wire: WireFormat,
        place: Place,
        refused: Refusals | None,
        error: Callable[[Problem], bytes],
        *,
        own: bool,
    ) -> None:
        self._wire = wire
        self._place = place
        self._refused = refused
        self._error = error
        self._own = own
        self._parsed: ParsedRequest | None = None
        """The latest response that was requested."""
        self._asked = False
        """Whether a requested response has not ended: with two of them, an error could belong to either."""
        self._under_way = ""
        self._response: ResponseReader | None = None
        self._made: dict[str, None] = {}

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client. Raises InvalidRequest."""
        event = bodies.decode(_EVENT, data)
        if event.type != "response.create":
            return FromClient(
                data, refused=f"the event {quoted(event.type)}, whose cost cannot be determined in advance"
            )
        if len(data) > BODY_MAX:
            return FromClient(data, refused=f"a message of more than {BODY_MAX} bytes")
        if event.stream_id is not None:
            return FromClient(data, refused="several responses at once in one session (`stream_id`)")
        if self._asked and not self._own:
            return FromClient(data, refused="a response before the end of the one before in the same session")
        read = read_as(self._wire, data, self._place, self._refused, self._own)
        parsed = read.parsed
        if parsed is None:
            return FromClient(data, refused="a message that cannot be read")
        refused = read.refused or parsed.unmetered or ("a response in the background" if parsed.background else "")
        if not refused and _names_models(data):
            refused = "a message that names its model twice, or in another case"
        self._asked = not refused
        own = tuple(one for one in parsed.references if one.kind != "response" or one.object_id not in self._made)
        self._parsed = replace(parsed, stream=False, references=own)
        return FromClient(data, (TurnRequest("response", self._parsed),), refused)

    def provider(self, data: bytes) -> FromProvider:
        """Read a message from the provider. One that cannot be read is ignored."""
        try:
            event = _EVENT.decode(data)
        except (ValueError, RecursionError):
            return FromProvider()
        begun: tuple[tuple[Lane, str], ...] = ()
        if event.type == "response.created" and self._parsed is not None:
            self._under_way = _id_of(event.response)
            self._response = self._wire.reader(self._parsed, streaming=True, hide_usage=False)
            begun = (("response", self._under_way),)
        if self._response is None:
            self._asked = self._asked and event.type != "error"
            return FromProvider(rejected=FIRST if event.type == "error" else "")
        self._response.feed(b"data: " + data.replace(b"\n", b" ") + b"\n\n")
        if event.type not in _ENDS and event.type != "error":
            return FromProvider(begun=begun)
        ended = self._under_way
        observed = self._close()
        if len(self._made) < _MADE_MAX:
            self._made[ended] = None
        return FromProvider(begun=begun, ended=(("response", ended, observed),))

    def limited(self, data: bytes, tokens: int) -> bytes:
        """`response.create` with its output limited."""
        return self._wire.limit_output(data, tokens)

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """None: without a message there is no response."""
        return None

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What the response has delivered; no more of it is read."""
        if self._response is None or turn_id != self._under_way:
            return Observed(empty=True)
        return self._close()

    def cancel(self) -> bytes:
        """Nothing: a response stops when the connection is closed."""
        return b""

    def error(self, problem: Problem) -> bytes:
        """An `error` event with a status, like the provider's."""
        return self._error(problem)

    def _close(self) -> Observed:
        assert self._response is not None
        _, observed = self._response.close()
        self._response, self._under_way, self._asked = None, "", False
        return observed


def _names_models(data: bytes) -> bool:
    """Whether the provider may use another model name than the one that was read."""
    if data.lower().count(b'"model"') < 2 and b"\\u00" not in data:
        return False
    return read_named(data, "application/json").ambiguous


def _id_of(response: Any) -> str:
    return str(response.get("id")) if isinstance(response, dict) else ""
