"""Google's embedContent and batchEmbedContents."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.google_generate import MODEL_PATH, READING
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments
from farebox.providers.formats.readers import BodyReader, Seen


class _Request(msgspec.Struct):
    content: Any = None


class _Head(msgspec.Struct):
    content: Any = None
    requests: list[_Request] | None = None


class _Response(msgspec.Struct):
    usageMetadata: Any = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class GoogleEmbed(bodies.JsonBody):
    """`models/M:embedContent` and `:batchEmbedContents`. Older models report no usage at all."""

    name: str = "google_embed"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the model is named by the path. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `models/<model>:embedContent`.")
        head = bodies.decode(_HEAD, body)
        contents = [request.content for request in head.requests or ()] or [head.content]
        if not all(isinstance(content, dict) for content in contents):
            raise InvalidRequest("Expected `object` - at `$.content`.")
        demand = Demand(model=place["model"], text_bytes=len(body), messages=len(contents), no_output=True)
        demand = with_attachments(demand, [content.get("parts") for content in contents])
        # Each content is read by itself, in a window of its own.
        demand = replace(demand, unseen=tuple(replace(one, uses=len(contents)) for one in demand.unseen))
        if exact:
            demand = replace(demand, text="\n".join(bodies.strings(contents)))
        return ParsedRequest(demand.model, stream=False, demand=demand)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.update(response.usageMetadata)
    seen.complete = True
    seen.failed = bool(response.error)
