"""The ID of a response, and why its generations ended, in the provider's words, as recorded in spans.

There is one decoder for all formats, separate from their readers, so that calls without a span do no extra decoding.
"""

import base64
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from farebox.providers.formats.base import ParsedRequest, ResponseReader, WireFormat
from farebox.providers.formats.event_frames import Frame
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.frame_reader import FrameReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen

ID_MAX: Final = 512
"""Characters; a longer ID is left out, as a part of it identifies nothing."""
REASON_MAX: Final = 64
"""Characters; a longer reason is cut."""
REASONS_MAX: Final = 128
"""As many choices as OpenAI's `n` allows."""
_GENERATING: Final = frozenset(
    {
        *("openai_chat", "openai_completions", "openai_responses", "openai_responses_compact", "watsonx_chat"),
        *("anthropic_messages", "google_generate", "cohere_chat", "bedrock_converse", "bedrock_invoke"),
        "workers_ai_run",
    }
)
"""The formats of models that generate text; OpenTelemetry's two attributes do not apply to other responses."""
_ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})


class _Incomplete(msgspec.Struct):
    reason: Any = None


class _Choice(msgspec.Struct):
    """One generation, or the whole response if it has only one."""

    index: Any = None
    finish_reason: Any = None
    """OpenAI and compatible ones, Cohere."""
    finishReason: Any = None
    """Google."""
    stop_reason: Any = None
    """Anthropic, and Llama and Mistral at Amazon."""
    stopReason: Any = None
    """Amazon's Converse and Nova."""
    completionReason: Any = None
    """Amazon's Titan."""

    @property
    def reason(self) -> object:
        return self.finish_reason or self.finishReason or self.stop_reason or self.stopReason or self.completionReason


class _Response(_Choice):
    id: Any = None
    responseId: Any = None
    """Google."""
    object: Any = None
    status: Any = None
    """OpenAI's Responses."""
    incomplete_details: _Incomplete | str | None = None
    choices: list[_Choice] | str | None = None
    candidates: list[_Choice] | str | None = None
    outputs: list[_Choice] | str | None = None
    results: list[_Choice] | str | None = None
    generations: list[_Choice] | str | None = None


class _Event(_Response):
    """An event of a stream, or a whole response."""

    response: _Response | str | None = None
    """OpenAI's Responses; Workers AI has text there."""
    message: _Response | str | None = None
    """Anthropic's first event; Cohere has the message there."""
    result: _Response | str | None = None
    """Workers AI."""
    delta: _Choice | str | None = None
    """Anthropic and Cohere: the last event with content; OpenAI's Responses have text there."""
    messageStop: _Choice | str | None = None
    """Amazon's Nova."""
    bytes: Any = None
    """Amazon's invoke: an event in base64."""


_EVENTS: Final = ResponseDecoder[list[_Event] | _Event](list[_Event] | _Event)


class Finish(msgspec.Struct):
    """What has been seen of one response."""

    response_id: str = ""
    """Empty: the response states none."""
    by_index: dict[int, str] = {}

    @property
    def reasons(self) -> tuple[str, ...]:
        """The stated reasons why its generations ended, in order."""
        return tuple(reason for _, reason in sorted(self.by_index.items()))

    def see(self, data: bytes) -> None:
        """Read an event, a response, or a list of either. Raises nothing: what cannot be read is ignored."""
        try:
            found = _EVENTS.decode(data)
            for event in found if isinstance(found, list) else (found,):
                if isinstance(event.bytes, str):
                    self.see(base64.b64decode(event.bytes))
                else:
                    self._add(event)
        except (ValueError, RecursionError):
            return

    def _add(self, event: _Event) -> None:
        for response in (event.response, event.message, event.result, event):
            if isinstance(response, _Response):
                self._add_response(response)
        for last in (event.delta, event.messageStop):
            if isinstance(last, _Choice):
                self._add_reason(0, last.reason)

    def _add_response(self, response: _Response) -> None:
        for name in (response.id, response.responseId):
            if not self.response_id and isinstance(name, str) and len(name) <= ID_MAX:
                self.response_id = name
        self._add_reason(0, response.reason)
        status, details = response.status, response.incomplete_details
        if response.object == "response" and isinstance(status, str) and status in _ENDED:
            self._add_reason(0, (isinstance(details, _Incomplete) and details.reason) or status)
        lists = (response.choices, response.candidates, response.outputs, response.results, response.generations)
        for choices in lists:
            for position, choice in enumerate(choices if isinstance(choices, list) else ()):
                self._add_reason(choice.index if isinstance(choice.index, int) else position, choice.reason)

    def _add_reason(self, index: int, reason: object) -> None:
        """Store the reason; the latest one replaces earlier ones, because some providers repeat it."""
        if isinstance(reason, str) and reason and (index in self.by_index or len(self.by_index) < REASONS_MAX):
            self.by_index[index] = reason[:REASON_MAX]


def noting(wire: WireFormat, finish: Finish) -> WireFormat:
    """The format, with readers that also pass everything they read to `finish`."""
    return cast(WireFormat, _Noting(wire, finish)) if wire.name in _GENERATING else wire


class _Noting:
    def __init__(self, wire: WireFormat, finish: Finish) -> None:
        self._wire = wire
        self._finish = finish

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return self._noted(self._wire.reader(parsed, streaming=streaming, hide_usage=hide_usage))

    def framed(self, parsed: ParsedRequest) -> ResponseReader | None:
        """A reader for a stream in binary framing; None if the format has none."""
        make: Any = getattr(self._wire, "framed", None)
        return None if make is None else self._noted(make(parsed))

    def _noted(self, reader: ResponseReader) -> ResponseReader:
        """The reader, changed so that each event, or the document, is passed to `finish` before its own format reads
        it."""
        if isinstance(reader, EventReader | BodyReader | FrameReader):
            reader.parse = _both(self._finish, reader.parse)
        return reader


def _both(finish: Finish, parse: Callable[[Seen, Any], Any]) -> Any:
    def parse_both(seen: Seen, data: bytes | Frame) -> Any:
        finish.see(data.payload if isinstance(data, Frame) else data)
        return parse(seen, data)

    return parse_both
