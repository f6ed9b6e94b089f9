"""OpenAI's embeddings API, which many providers have."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, stated
from farebox.providers.formats.base import ParsedRequest, ResponseReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.uncounted import UncountedFields, unmetered

_ROW: Final = ("input_tokens", "prompt_tokens", "total_tokens")
READING: Final = Reading(_ROW, required=("input_tokens",))
OPENROUTER: Final = Reading(_ROW, required=("input_tokens",), stated=stated.openrouter)


class _Head(UncountedFields):
    model: bodies.Name
    input: list[msgspec.Raw] | str


class _Response(msgspec.Struct):
    usage: Any = None
    model: Any = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response, float_hook=stated.exact_number)


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddings(bodies.JsonBody):
    """`embeddings`. Input given as tokens takes at least two bytes of the body per token."""

    name: str = "openai_embeddings"
    reading: Reading = READING
    prefix: str = ""
    """As in OpenAIChat."""

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        model = head.model.removeprefix(self.prefix)
        inputs = bodies.tree(head.input) if exact and isinstance(head.input, list) else head.input
        demand = Demand(
            model=model,
            text_bytes=len(body),
            text="\n".join(bodies.strings(inputs)) if exact else "",
            messages=len(head.input) if isinstance(head.input, list) else 1,
            no_output=True,
        )
        return ParsedRequest(model, stream=False, demand=demand, unmetered=unmetered(head))

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_body, self.reading)


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.update(response.usage, response.model)
    seen.complete = True
    seen.failed = bool(response.error)
