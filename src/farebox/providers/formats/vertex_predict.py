"""Vertex AI's `predict` of text embeddings: one instance for each text, and its tokens in the response."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.google_generate import MODEL_PATH
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen

READING: Final = Reading(("input_tokens", "tokens"), required=("input_tokens",))


class _Instance(msgspec.Struct):
    content: str


class _Head(msgspec.Struct):
    instances: list[_Instance]


class _Statistics(msgspec.Struct):
    token_count: Any = None


class _Embeddings(msgspec.Struct):
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Embeddings | None = None


class _Response(msgspec.Struct):
    predictions: list[_Prediction] | None = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class VertexPredict(bodies.JsonBody):
    """`models/M:predict` if each instance is a text. Other models have other instances, which are not read."""

    name: str = "vertex_predict"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the model is named by the path. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `models/<model>:predict`.")
        head = bodies.decode(_HEAD, body)
        demand = Demand(
            place["model"],
            len(body),
            text="\n".join(one.content for one in head.instances) if exact else "",
            messages=len(head.instances),
            no_output=True,
        )
        unmetered = None if "embedding" in place["model"] else "what this model costs is not in its response"
        return ParsedRequest(place["model"], False, demand, unmetered=unmetered)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    counts = [
        one.embeddings.statistics.token_count
        for one in response.predictions or ()
        if one.embeddings is not None and one.embeddings.statistics is not None
    ]
    if counts:
        seen.update({"tokens": sum(int(count) for count in counts if isinstance(count, int | float))})
    seen.complete = True
    seen.failed = bool(response.error)
