"""Anthropic's Messages API."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand, FurtherModel, UnseenInput
from farebox.pricing.unseen import TOOL_USES
from farebox.providers.formats import bodies, tools
from farebox.providers.formats.base import ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.iterations import ADVICE_MAX, compacts_context, further_models, unnamed_fallback
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments, with_text
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.references import container_in, hand_out, of_request
from farebox.providers.formats.tools import DeclaredTool

READING: Final = Reading(
    # Anthropic's `input_tokens` exclude cached tokens; a general meter contains its special ones.
    ("input_tokens", "input_tokens"),
    ("input_tokens", "cache_creation_input_tokens"),
    ("input_tokens", "cache_read_input_tokens"),
    ("cache_write_tokens", "cache_creation_input_tokens"),
    ("cache_write_5m_tokens", "cache_creation.ephemeral_5m_input_tokens"),
    ("cache_write_1h_tokens", "cache_creation.ephemeral_1h_input_tokens"),
    ("cache_read_tokens", "cache_read_input_tokens"),
    ("web_searches", "server_tool_use.web_search_requests"),
    ("output_reasoning_tokens", "output_tokens_details.thinking_tokens"),
    ("output_tokens", "output_tokens"),
    required=("input_tokens", "output_tokens"),
    passes=True,
)


class _Thinking(msgspec.Struct):
    type: Any = None
    budget_tokens: Any = None


class _RequestMessage(msgspec.Struct):
    """A message of the request."""

    content: Any = None


class _Head(msgspec.Struct):
    model: bodies.Name
    messages: list[_RequestMessage]
    max_tokens: bodies.Tokens | None = None
    stream: bool | None = None
    tools: list[DeclaredTool] | None = None
    thinking: _Thinking | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None
    speed: Any = None
    service_tier: Any = None
    inference_geo: Any = None
    fallbacks: Any = None
    context_management: Any = None
    compaction: Any = None
    thread: Any = None


class _Block(msgspec.Struct):
    """A content block, or a delta of one, or the delta of a message."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    name: Any = None
    input: Any = None
    stop_reason: Any = None
    container: Any = None


class _Message(msgspec.Struct):
    model: Any = None
    usage: Any = None
    content: list[_Block] = msgspec.field(default_factory=list)
    type: Any = None
    error: Any = None
    stop_reason: Any = None
    container: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    message: _Message | None = None
    delta: _Block | None = None
    content_block: _Block | None = None
    usage: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_EVENT: Final = ResponseDecoder[_Event](_Event)
_MESSAGE: Final = ResponseDecoder[_Message](_Message)


@dataclass(frozen=True, slots=True)
class AnthropicMessages(bodies.JsonBody):
    """`messages`. Its streams always report usage."""

    name: str = "anthropic_messages"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        contents = [message.content for message in head.messages]
        declared = tools.of_messages(head.tools, head.mcp_servers, contents)
        demand = Demand(
            model=head.model,
            text_bytes=len(body),
            messages=len(head.messages),
            tools=sum(tool.raw != "mcp_servers" for tool in declared),
            unseen=(*tools.unseen(declared), *((UnseenInput("container"),) if head.container is not None else ())),
            output_max=head.max_tokens,
            # A budget for thinking must stay below the limit: lowering the limit would break such a request.
            clampable=head.thinking is None or head.thinking.type != "enabled",
            limited_by="max_tokens",
            output_min=_least(head.thinking),
            allowed=tools.counted(declared, TOOL_USES),
            hides_reasoning=head.thinking is not None and head.thinking.type != "disabled",
            further_models=further_models(
                [
                    FurtherModel(tool.model, ADVICE_MAX if tool.uses is None else tool.uses)
                    for tool in declared
                    if tool.model
                ],
                head.fallbacks,
                head.max_tokens,
                compacted=head.compaction is not None or compacts_context(head.context_management),
            ),
        )
        demand = with_attachments(demand, contents)
        if exact:
            demand = with_text(demand, body, "messages", "content")
        return ParsedRequest(
            head.model,
            head.stream is True,
            demand,
            context=bodies.selectors(
                speed=head.speed, service_tier=head.service_tier, inference_geo=head.inference_geo
            ),
            unmetered=tools.unmetered(declared) or unnamed_fallback(head.fallbacks),
            tools=tools.names(declared),
            references=(*container_in(head.container), *of_request(body, contents)),
            in_thread=head.thread is not None,
        )

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `max_tokens`."""
        return bodies.changed(body, max_tokens=tokens)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return (
            EventReader(_parse_event, READING, Seen(has_terminal=True, shows_end=True))
            if streaming
            else BodyReader(_parse_body, READING)
        )


def _least(thinking: _Thinking | None) -> int:
    """The lowest limit with this thinking, whose budget must stay below it."""
    budget = 0 if thinking is None or thinking.type != "enabled" else thinking.budget_tokens
    return budget + 1 if isinstance(budget, int) else 1


def _parse_event(seen: Seen, data: bytes) -> bool:
    event = _EVENT.decode(data)
    kind = event.type
    if kind == "content_block_delta":
        if event.delta is not None:
            _add_text(seen, event.delta)
    elif kind == "message_start":
        if event.message is not None:
            _update(seen, event.message)
    elif kind == "message_delta":
        _applied(seen, event.usage)
        seen.refused = seen.refused or (event.delta is not None and event.delta.stop_reason == "refusal")
        if event.delta is not None:
            _keeps(seen, event.delta.container)
        if event.delta is not None and event.delta.stop_reason:
            seen.choice_ended(0)
    elif kind == "content_block_start":
        if event.content_block is not None:
            _add_text(seen, event.content_block)
    elif kind == "message_stop":
        seen.end()
    elif kind == "error":
        seen.end(failed=True)
    return True


def _parse_body(seen: Seen, body: bytes) -> None:
    message = _MESSAGE.decode(body)
    _update(seen, message)
    for block in message.content:
        _add_text(seen, block)
    seen.complete = True
    seen.refused = message.stop_reason == "refusal"
    seen.failed = message.type == "error" or bool(message.error)


def _update(seen: Seen, message: _Message) -> None:
    _applied(seen, message.usage, message.model)
    _keeps(seen, message.container)


def _keeps(seen: Seen, container: object) -> None:
    if isinstance(container, dict):
        hand_out(seen.handed_out, "container", container.get("id"))


def _applied(seen: Seen, usage: object, model: object = None) -> None:
    seen.update(usage, model)
    if isinstance(usage, dict):
        seen.applied("speed", usage.get("speed"))
        seen.applied("inference_geo", usage.get("inference_geo"))
        # It is "standard" in nearly all responses, and a request cannot select any other value.
        if usage.get("service_tier") != "standard":
            seen.applied("service_tier", usage.get("service_tier"))


def _add_text(seen: Seen, block: _Block) -> None:
    """What the model itself generated in a block: text, thinking, and the input of tools."""
    for text in (block.text, block.thinking, block.partial_json):
        if text is not None:
            seen.add_text(text)
    if block.type in ("tool_use", "server_tool_use", "mcp_tool_use"):
        seen.add_text(block.name)
        seen.add_text(block.input or None)
