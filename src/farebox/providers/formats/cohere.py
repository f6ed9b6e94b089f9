"""Cohere's own API, version 2: chat, embed, rerank."""

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, tools
from farebox.providers.formats.base import ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments, with_text
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.tools import DeclaredTool

CHAT: Final = Reading(
    # The billed figures exclude the template's own tokens; `tokens` is everything the model read, and is the fallback.
    ("input_tokens", "billed_units.input_tokens", "tokens.input_tokens"),
    ("output_tokens", "billed_units.output_tokens", "tokens.output_tokens"),
    required=("input_tokens", "output_tokens"),
)
EMBED: Final = Reading(
    ("input_tokens", "billed_units.input_tokens"),
    ("input_image_tokens", "billed_units.image_tokens"),
    required=("input_tokens",),
)
RERANK: Final = Reading(("rerank_searches", "billed_units.search_units"), required=("rerank_searches",))

_RERANK_DOCUMENTS: Final = 100
_RERANK_CHUNK_BYTES: Final = 500  # a document is billed again for every 500 tokens; a token is at least one byte


class _RequestMessage(msgspec.Struct):
    """A message of the request."""

    content: Any = None


class _ChatHead(msgspec.Struct):
    model: bodies.Name
    messages: list[_RequestMessage]
    stream: bool | None = None
    max_tokens: bodies.Tokens | None = None
    tools: list[DeclaredTool] | None = None


class _Content(msgspec.Struct):
    text: Any = None
    thinking: Any = None


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    """In a stream, content and tool calls come one at a time; in a body, as lists."""

    content: list[_Content] | _Content | None = None
    tool_calls: list[_ToolCall] | _ToolCall | None = None
    tool_plan: Any = None


class _Delta(msgspec.Struct):
    message: _Message | None = None
    usage: Any = None
    finish_reason: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: _Delta | None = None
    message: Any = None


class _Response(msgspec.Struct):
    message: _Message | str | None = None
    usage: Any = None
    meta: Any = None
    finish_reason: Any = None


class _EmbedHead(msgspec.Struct):
    model: bodies.Name
    texts: list[str] | None = None
    images: list[str] | None = None
    inputs: list[Any] | None = None


class _RerankHead(msgspec.Struct):
    model: bodies.Name
    documents: list[Any]
    query: str


_CHAT_HEAD: Final = msgspec.json.Decoder(_ChatHead)
_EMBED_HEAD: Final = msgspec.json.Decoder(_EmbedHead)
_RERANK_HEAD: Final = msgspec.json.Decoder(_RerankHead)
_EVENT: Final = ResponseDecoder[_Event](_Event)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class CohereChat(bodies.JsonBody):
    """`v2/chat`."""

    name: str = "cohere_chat"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_CHAT_HEAD, body)
        demand = Demand(
            model=head.model,
            text_bytes=len(body),
            messages=len(head.messages),
            tools=len(head.tools or ()),
            output_max=head.max_tokens,
            clampable=True,
            limited_by="max_tokens",
        )
        demand = with_attachments(demand, [message.content for message in head.messages])
        if exact:
            demand = with_text(demand, body, "messages", "content")
        declared = tools.of_chat(head.tools)
        return ParsedRequest(
            head.model,
            head.stream is True,
            demand,
            unmetered=tools.unmetered(declared),
            tools=tools.names(declared),
        )

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `max_tokens`."""
        return bodies.changed(body, max_tokens=tokens)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return EventReader(_parse_event, CHAT) if streaming else BodyReader(_parse_chat, CHAT)


@dataclass(frozen=True, slots=True)
class CohereEmbed(bodies.JsonBody):
    """`v2/embed`. Text is counted in tokens; images are not in the price list and count as inputs of unknown size."""

    name: str = "cohere_embed"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_EMBED_HEAD, body)
        contents = [item.get("content") for item in head.inputs or () if isinstance(item, dict)]
        inputs = len(head.texts or ()) + len(head.inputs or ())
        demand = Demand(model=head.model, text_bytes=len(body), messages=inputs, no_output=True)
        demand = with_attachments(demand, [*contents, [{"image_url": image} for image in head.images or ()]])
        if exact:
            demand = replace(demand, text="\n".join(bodies.strings([head.texts, head.inputs])))
        return ParsedRequest(head.model, stream=False, demand=demand)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_embed, EMBED)


@dataclass(frozen=True, slots=True)
class CohereRerank(bodies.JsonBody):
    """`v2/rerank`, billed by the search: a query with up to 100 documents, long ones counting several times."""

    name: str = "cohere_rerank"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_RERANK_HEAD, body)
        documents = len(head.documents) + len(body) // _RERANK_CHUNK_BYTES
        searches = max(math.ceil(documents / _RERANK_DOCUMENTS), 1)
        demand = Demand(model=head.model, no_output=True, fixed={"rerank_searches": searches})
        return ParsedRequest(head.model, stream=False, demand=demand)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_meta, RERANK)


def _parse_event(seen: Seen, data: bytes) -> bool:
    event = _EVENT.decode(data)
    if event.delta is not None:
        if event.delta.message is not None:
            _add_text(seen, event.delta.message)
        if event.type == "message-end":
            seen.update(event.delta.usage)
            seen.end(failed=event.delta.finish_reason == "ERROR")
    elif event.message and not event.type:
        seen.failed = True
    return True


def _parse_chat(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.update(response.usage)
    if isinstance(response.message, _Message):
        _add_text(seen, response.message)
    seen.complete = True
    seen.failed = bool(response.message and isinstance(response.message, str)) or response.finish_reason == "ERROR"


def _parse_meta(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.update(response.meta)
    seen.complete = True
    seen.failed = bool(response.message)


def _parse_embed(seen: Seen, body: bytes) -> None:
    """Image tokens are either separate from text tokens or included in them; the sum of the parts is the minimum of
    the whole.
    """
    _parse_meta(seen, body)
    billed = (seen.usage or {}).get("billed_units")
    if isinstance(billed, dict):
        images, text, total = (_count(billed.get(f"{key}_tokens")) for key in ("image", "text", "input"))
        if images + text > total:
            billed["input_tokens"] = images + text


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**12 else 0


def _add_text(seen: Seen, message: _Message) -> None:
    contents = message.content if isinstance(message.content, list) else [message.content]
    calls = message.tool_calls if isinstance(message.tool_calls, list) else [message.tool_calls]
    seen.add_text(message.tool_plan)
    for content in contents:
        if content is not None:
            seen.add_text(content.text)
            seen.add_text(content.thinking)
    for call in calls:
        if call is not None and call.function is not None:
            seen.add_text(call.function.name)
            seen.add_text(call.function.arguments)
