"""watsonx.ai's chat: OpenAI's form, except for the name of the model field, and for streams, which have their own path
and always end with their usage."""

from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from farebox.providers.formats import bodies
from farebox.providers.formats.base import ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.named_by_path import with_model
from farebox.providers.formats.openai_chat import OpenAIChat, parse_chunk
from farebox.providers.formats.readers import Seen

_CHAT: Final = OpenAIChat(opt_in=False, new_limit=False)


class _Head(msgspec.Struct):
    model_id: bodies.Name


_HEAD: Final = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class WatsonxChat(bodies.JsonBody):
    """`ml/v1/text/chat` and `ml/v1/text/chat_stream`."""

    name: str = "watsonx_chat"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        model = bodies.decode(_HEAD, body).model_id
        parsed = _CHAT.parse(path, content_type, with_model(body, model), exact=exact)
        return replace(parsed, stream=path.endswith("chat_stream"), usage_requested=True)

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `max_tokens`, or `max_completion_tokens` if the request has it."""
        return _CHAT.limit_output(body, tokens)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model_id`."""
        return bodies.changed(body, model_id=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        if streaming:
            return EventReader(_parse_event, _CHAT.reading, Seen(choices=parsed.demand.choices))
        return _CHAT.reader(parsed, streaming=False, hide_usage=False)


def _parse_event(seen: Seen, data: bytes) -> bool:
    passes = parse_chunk(seen, data)
    if seen.all_ended and seen.usage:
        seen.end()
    return passes
