"""OpenAI's Responses API."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand, UnseenInput
from farebox.pricing.unseen import TOOL_USES
from farebox.providers.formats import bodies, stated, tools
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, Reference, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments, with_text
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import SAMPLES_BYTES_PER_SECOND, BodyReader, Seen
from farebox.providers.formats.references import hand_out, is_named_only, items_in, may_refer, references_in
from farebox.providers.formats.tools import DeclaredTool

_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})

_REFERENCE: Final = re.compile(r"[A-Za-z0-9_]{1,128}")

READING: Final = Reading(
    ("input_tokens", "input_tokens"),
    ("cache_read_tokens", "input_tokens_details.cached_tokens", "input_tokens_details.cache_read_input_tokens"),
    ("cache_write_tokens", "input_tokens_details.cache_write_tokens"),
    ("cache_write_12h_tokens", "input_tokens_details.cache_write_tokens_details.ttl_12h_tokens"),
    ("output_tokens", "output_tokens"),
    ("output_reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    ("web_searches", "tool_calls_details.search_web.invocation"),
    required=("input_tokens", "output_tokens"),
)
_PRESET: Final = (DeclaredTool(type="web_search"), DeclaredTool(type="fetch_url"))
"""What a Perplexity preset implies without it being in the request."""
OPENROUTER: Final = Reading(*READING.rows, required=("input_tokens", "output_tokens"), stated=stated.openrouter)
XAI: Final = Reading(*READING.rows, required=("input_tokens", "output_tokens"), stated=stated.xai)
PERPLEXITY: Final = Reading(*READING.rows, required=("input_tokens", "output_tokens"), stated=stated.perplexity)
"""The same figures, and the cost that the provider states."""


class _Prompt(msgspec.Struct):
    id: Any = None


class _Head(msgspec.Struct):
    model: bodies.Name | None = None
    input: list[Any] | str | None = None
    stream: bool | None = None
    max_output_tokens: bodies.Tokens | None = None
    max_tool_calls: bodies.Tokens | None = None
    tools: list[DeclaredTool] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: _Prompt | None = None
    preset: Any = None
    background: Any = None
    truncation: Any = None
    service_tier: Any = None
    models: Any = None
    plugins: Any = None


class _Item(msgspec.Struct):
    id: Any = None
    type: Any = None
    action: Any = None
    content: Any = None
    arguments: Any = None


class _Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None
    status: Any = None
    error: Any = None
    service_tier: Any = None
    tool_usage: Any = None
    store: Any = None
    output: list[_Item] = msgspec.field(default_factory=list)


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    item: _Item | None = None
    response: _Response | None = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_OUTPUT_MIN: Final = 16
"""OpenAI refuses a lower `max_output_tokens`."""
_EVENT: Final = ResponseDecoder[_Event](_Event, float_hook=stated.exact_number)
_RESPONSE: Final = ResponseDecoder[_Response](_Response, float_hook=stated.exact_number)


@dataclass(frozen=True, slots=True)
class OpenAIResponses(bodies.JsonBody):
    """`responses`. Its streams always report usage."""

    name: str = "openai_responses"
    reading: Reading = READING
    rules: Mapping[str, tools.ToolRule] = field(default_factory=lambda: tools.RESPONSES)
    compacts: bool = False
    """`responses/compact`: shortens a long input, and accepts no output limit."""
    background: bool = False
    """Whether a response may continue in the background, because there are paths for looking at it."""

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        model = _model(head)
        given = [*(head.tools or ()), *(_PRESET if head.preset is not None else ())]
        declared = tools.of_responses(given, head.input, head.max_tool_calls, self.rules)
        demand = Demand(
            model=model,
            text_bytes=len(body),
            messages=len(head.input) if isinstance(head.input, list) else 1,
            tools=len(declared),
            unseen=(*_unseen(head), *tools.unseen(declared)),
            output_max=head.max_output_tokens,
            clampable=not self.compacts,
            limited_by="" if self.compacts else "max_output_tokens",
            output_min=_OUTPUT_MIN,
            cuts_input=head.truncation not in (None, "disabled"),
            allowed=tools.counted(declared, TOOL_USES, shared=True),
        )
        demand = with_attachments(demand, [head.input])
        if exact:
            demand = with_text(demand, body, "input", "")
        return ParsedRequest(
            model,
            head.stream is True,
            demand,
            context=bodies.selectors(service_tier=head.service_tier),
            unmetered=_unmetered(head, self.background) or tools.unmetered(declared),
            tools=tools.names(declared),
            references=_references(head, body),
            background=head.background not in (None, False),
        )

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `max_output_tokens`."""
        return bodies.changed(body, max_output_tokens=tokens)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return EventReader(_parse_event, self.reading) if streaming else BodyReader(_parse_body, self.reading)


def _model(head: _Head) -> str:
    """The model, or the name under which the operator can set a price if something else chooses the model: `prompt:ID`
    for a prompt stored at OpenAI, `preset:NAME` for Perplexity's. Raises InvalidRequest.
    """
    if head.model is not None:
        return head.model
    stored = head.prompt.id if head.prompt is not None else None
    for kind, reference in (("prompt", stored), ("preset", head.preset)):
        if isinstance(reference, str) and _REFERENCE.fullmatch(reference):
            return f"{kind}:{reference}"
    raise InvalidRequest("Object missing required field `model`.")


def _unmetered(head: _Head, background: bool) -> str | None:
    if head.background not in ((None, False, True) if background else (None, False)):
        return "a background response is acknowledged before its usage is known"
    if head.models or head.plugins:
        return "what another of the `models`, or one of the `plugins`, costs is not in the response"
    return None


def _references(head: _Head, body: bytes) -> tuple[Reference, ...]:
    """What the request refers to at the provider."""
    found = list(items_in(head.input))
    if head.previous_response_id is not None:
        found.append(Reference("response", str(head.previous_response_id)))
    if head.conversation is not None:
        given = head.conversation
        found.append(Reference("conversation", str(given.get("id") if isinstance(given, dict) else given)))
    if may_refer(body):
        top = bodies.fields(body)
        others = bodies.tree(top[name] for name in ("tools", "prompt") if name in top)
        found += references_in([head.input, *others])
    return tuple(dict.fromkeys(found))


def _unseen(head: _Head) -> Iterator[UnseenInput]:
    """Input that is stored at the provider, so that its length is not in the request."""
    if head.previous_response_id is not None:
        yield UnseenInput("response", str(head.previous_response_id))
    if head.conversation is not None:
        yield UnseenInput("conversation")
    if head.prompt is not None:
        yield UnseenInput("prompt")
    if isinstance(head.input, list) and any(map(_is_reference, head.input)):
        yield UnseenInput("item")


def _is_reference(item: object) -> bool:
    """Whether an item is only the ID of one stored at the provider."""
    return isinstance(item, dict) and item.get("type") != "reasoning" and is_named_only(item)


def _parse_event(seen: Seen, data: bytes) -> bool:
    event = _EVENT.decode(data)
    if event.type.endswith("audio.delta"):
        seen.add_audio(event.delta, SAMPLES_BYTES_PER_SECOND)
    elif event.type.endswith(".delta"):
        seen.add_text(event.delta)
    elif event.type == "error":
        seen.end(failed=True)
    elif event.type == "response.output_item.done" and event.item is not None:
        _count(seen, [event.item])
        if seen.handed_out:  # its response is kept too
            hand_out(seen.handed_out, "item", event.item.id)
    elif event.response is not None:
        _update(seen, event.response)
        if event.type in _TERMINAL:
            if event.response.output:
                seen.counted.clear()  # counted again from the whole list
                _count(seen, event.response.output)
            _billable(seen, event.response.tool_usage)
            seen.end(failed=event.type == "response.failed")
    elif event.type in _TERMINAL:
        seen.end(failed=event.type == "response.failed")
    elif event.error and not event.type:
        seen.failed = True
    return True


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    _update(seen, response)
    _count(seen, response.output)
    _billable(seen, response.tool_usage)
    for item in response.output:
        seen.add_text(item.arguments)
        for part in item.content if isinstance(item.content, list) else ():
            if isinstance(part, dict):
                seen.add_text(part.get("text"))
    seen.complete = True
    seen.failed = bool(response.error)


def _update(seen: Seen, response: _Response) -> None:
    seen.update(response.usage, response.model)
    seen.applied("service_tier", response.service_tier)
    if isinstance(response.id, str):
        seen.reference = response.id
        if response.store is not False:
            hand_out(seen.handed_out, "response", response.id)
            for item in response.output:
                hand_out(seen.handed_out, "item", item.id)


def _billable(seen: Seen, tool_usage: object) -> None:
    """The billed searches, if the response reports them: not every listed search is billed."""
    searches = tool_usage.get("web_search") if isinstance(tool_usage, dict) else None
    number = searches.get("num_requests") if isinstance(searches, dict) else None
    if type(number) is int and number >= 0:
        seen.counted["web_searches"] = number


def _count(seen: Seen, items: list[_Item]) -> None:
    """Count the tool calls that are billed per call. Opening a page that a search found is free."""
    for item in items:
        action = item.action.get("type", "search") if isinstance(item.action, dict) else "search"
        if item.type == "web_search_call" and action == "search":
            seen.counted["web_searches"] = seen.counted.get("web_searches", 0) + 1
        elif item.type == "file_search_call":
            seen.counted["storage_searches"] = seen.counted.get("storage_searches", 0) + 1
