"""Reranking that is billed by tokens: those of the query, once per document, and of the documents (Voyage, Jina)."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import ParsedRequest, ResponseReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen

READING: Final = Reading(("input_tokens", "total_tokens", "prompt_tokens"), required=("input_tokens",))


class _Head(msgspec.Struct):
    model: bodies.Name
    query: Any
    documents: list[Any]


class _ResponseUsage(msgspec.Struct):
    usage: Any = None
    detail: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_ResponseUsage](_ResponseUsage)


@dataclass(frozen=True, slots=True)
class Rerank(bodies.JsonBody):
    """`rerank`, whose response states the tokens."""

    name: str = "rerank"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        query = sum(len(text.encode()) for text in bodies.strings(head.query))
        demand = Demand(
            head.model,
            text_bytes=len(body) + query * len(head.documents),
            text="\n".join(bodies.strings([head.query, head.documents])) if exact else "",
            messages=len(head.documents),
            no_output=True,
        )
        return ParsedRequest(head.model, False, demand)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, READING)


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.complete = True
    seen.failed = response.usage is None and response.detail is not None
    seen.update(response.usage)
