"""Amazon Bedrock's Converse API, whole and streamed."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.aws import model_of
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.event_frames import Frame
from farebox.providers.formats.frame_reader import FrameReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen

MODEL_PATH: Final = re.compile(r"/model/(?P<model>.+)/(?P<operation>[a-z-]+)$")

READING: Final = Reading(
    # Cached tokens are not included in `inputTokens`.
    ("input_tokens", "inputTokens"),
    ("input_tokens", "cacheReadInputTokens"),
    ("input_tokens", "cacheWriteInputTokens"),
    ("cache_read_tokens", "cacheReadInputTokens"),
    ("cache_write_tokens", "cacheWriteInputTokens"),
    ("cache_write_5m_tokens", "written.5m"),
    ("cache_write_1h_tokens", "written.1h"),
    ("output_tokens", "outputTokens"),
    required=("input_tokens", "output_tokens"),
)
_LIMITS: Final = frozenset(
    {"max_tokens", "maxTokens", "max_gen_len", "maxTokenCount", "max_new_tokens", "max_completion_tokens"}
)
"""The models' own names for their output limit: a request that sets one of these besides the API's own might get that
limit."""
_THINKING: Final = frozenset({"thinking", "reasoning_config", "reasoningConfig"})
_MEDIA: Final = {"image": "image/", "document": "application/", "video": "video/", "audio": "audio/"}
_TEXTS: Final = frozenset({"txt", "csv", "html", "md"})


class _Inference(msgspec.Struct):
    maxTokens: bodies.Tokens | None = None
    max_new_tokens: bodies.Tokens | None = None


class _RequestMessage(msgspec.Struct):
    content: Any = None


class _ToolConfig(msgspec.Struct):
    tools: list[dict[str, Any]] | None = None


class _Typed(msgspec.Struct):
    type: Any = None
    latency: Any = None


class _Head(msgspec.Struct):
    messages: list[_RequestMessage] = []
    system: Any = None
    inferenceConfig: _Inference | None = None
    toolConfig: _ToolConfig | None = None
    guardrailConfig: Any = None
    additionalModelRequestFields: Any = None
    promptVariables: Any = None
    performanceConfig: _Typed | None = None
    serviceTier: _Typed | None = None


class _Message(msgspec.Struct):
    content: list[Any] | None = None


class _Output(msgspec.Struct):
    message: _Message | None = None


class _Event(msgspec.Struct):
    """A response, or one event of a stream."""

    output: _Output | None = None
    start: Any = None
    delta: Any = None
    usage: Any = None
    stopReason: Any = None
    serviceTier: _Typed | None = None
    message: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_EVENT: Final = ResponseDecoder[_Event](_Event)


@dataclass(frozen=True, slots=True)
class BedrockConverse(bodies.JsonBody):
    """`model/{id}/converse`, and `converse-stream`, whose events have binary framing."""

    name: str = "bedrock_converse"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the path names the model. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `model/<model>/converse`.")
        return parsed_converse(model_of(place["model"]), place["operation"] == "converse-stream", body, exact)

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `inferenceConfig.maxTokens`."""
        given = bodies.fields(body).get("inferenceConfig")
        config: dict[str, object] = dict(bodies.fields(given)) if given is not None and bodies.given(given) else {}
        name = "max_new_tokens" if "max_new_tokens" in config else "maxTokens"
        return bodies.changed(body, inferenceConfig={**config, name: tokens})

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for a response in one piece."""
        return BodyReader(_parse_body, READING)

    def framed(self, parsed: ParsedRequest) -> ResponseReader:
        """A reader for a stream."""
        return FrameReader(parse_frame, READING)


def parsed_converse(model: str, stream: bool, body: bytes, exact: bool) -> ParsedRequest:
    """A request in this form. Raises InvalidRequest."""
    head = bodies.decode(_HEAD, body)
    tools = (head.toolConfig and head.toolConfig.tools) or []
    more = head.additionalModelRequestFields if isinstance(head.additionalModelRequestFields, dict) else {}
    thinks = not _THINKING.isdisjoint(more)
    config = head.inferenceConfig or _Inference()
    limits = [limit for limit in (config.maxTokens, config.max_new_tokens) if limit is not None]
    inner = [value for key, value in _fields(more) if key in _LIMITS and isinstance(value, int)]
    demand = Demand(
        model=model,
        text_bytes=len(body),
        messages=len(head.messages),
        tools=len(tools),
        output_max=max([*limits, *inner]) if limits else None,
        clampable=not (thinks or inner),
        limited_by="" if thinks or inner else "inferenceConfig.maxTokens",
        hides_reasoning=thinks,
    )
    contents = [message.content for message in head.messages]
    demand = with_attachments(demand, [list(_attachments(content)) for content in contents])
    if exact:
        demand = replace(demand, text=bodies.texts([contents, head.system], {"tools": _raw(tools), "more": _raw(more)}))
    context = bodies.selectors(
        service_tier=head.serviceTier and head.serviceTier.type,
        latency=head.performanceConfig and head.performanceConfig.latency,
    )
    named = tuple(dict.fromkeys(name for tool in tools for name in tool))
    return ParsedRequest(model, stream, demand, context=context, unmetered=_unmetered(head, tools), tools=named)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _unmetered(head: _Head, tools: Iterable[dict[str, Any]]) -> str | None:
    if head.guardrailConfig is not None:
        return "what a guardrail costs is not in the response (`guardrailConfig`)"
    if head.promptVariables is not None or not head.messages:
        return "the messages are kept at Amazon, and so is what they cost"
    for tool in tools:
        if tool.get("systemTool") is not None:
            return "what a system tool costs is not in the response (`systemTool`)"
    return None


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """All field names of an object, and of objects inside it."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _attachments(content: object) -> Iterator[dict[str, Any]]:
    """The attachments in a message's content, as formats.media knows them. Their bytes are cut out of the content."""
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        result = block.get("toolResult")
        if isinstance(result, dict):
            yield from _attachments(result.get("content"))
        for key, kind in _MEDIA.items():
            held = block.get(key)
            source = held.get("source") if isinstance(held, dict) else None
            if not isinstance(held, dict) or not isinstance(source, dict):
                continue
            if "bytes" in source:
                yield {"inlineData": {"mimeType": _mime(kind, held.get("format")), "data": source.pop("bytes")}}
            elif "s3Location" in source:
                yield {"type": "input_image" if key == "image" else key, "file_id": "s3:"}


def _mime(kind: str, form: object) -> str:
    return "text/plain" if kind == "application/" and form in _TEXTS else f"{kind}{form}"


def parse_frame(seen: Seen, frame: Frame) -> None:
    """An event of `converse-stream`, whose kind is in its header. Raises ValueError."""
    event, kind = _EVENT.decode(frame.payload or b"{}"), frame.headers.get(":event-type")
    _collect(seen, event)
    if kind == "metadata":
        seen.end()


def _parse_body(seen: Seen, body: bytes) -> None:
    event = _EVENT.decode(body)
    _collect(seen, event)
    seen.complete = True
    seen.failed = event.output is None and event.usage is None and event.message is not None


def collect_output(seen: Seen, usage: object, *outputs: object) -> None:
    """Collect what a response in this form reports, and its text."""
    if isinstance(usage, dict) and usage:
        details = usage.get("cacheDetails")
        if isinstance(details, list):
            written: dict[str, int] = {}
            for item in details:
                if isinstance(item, dict) and isinstance(item.get("inputTokens"), int):
                    written[str(item.get("ttl"))] = written.get(str(item.get("ttl")), 0) + item["inputTokens"]
            usage = {**usage, "written": written}
        seen.update(usage)
    for value in outputs:
        _add_text(seen, value)


def _collect(seen: Seen, event: _Event) -> None:
    content = event.output.message.content if event.output and event.output.message else None
    collect_output(seen, event.usage, content, event.start, event.delta)
    if event.serviceTier is not None:
        seen.applied("service_tier", event.serviceTier.type)
    if event.stopReason:
        seen.choice_ended(0)


_SAID: Final = frozenset(
    {"text", "input", "name", "reasoningContent", "reasoningText", "toolUse", "citationsContent", "content"}
)


def _add_text(seen: Seen, value: object) -> None:
    """Add the text that the model generated in content blocks or a delta: text, reasoning, names and inputs of
    tools."""
    if isinstance(value, list):
        for item in value:
            _add_text(seen, item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "input":
                seen.add_text(inner)
            elif key in _SAID:
                _add_text(seen, inner)
    elif isinstance(value, str):
        seen.add_text(value)
