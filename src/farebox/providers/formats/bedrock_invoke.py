"""Amazon Bedrock's InvokeModel: each model maker's own form of request and response, as one document or as events in
Amazon's framing.

The usage is in the model's own response, or else in the headers and the last event, which Amazon adds for all models.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.aws import model_of
from farebox.providers.formats import bodies
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader, WireFormat
from farebox.providers.formats.bedrock_converse import MODEL_PATH, BedrockConverse, collect_output, parsed_converse
from farebox.providers.formats.event_frames import Frame
from farebox.providers.formats.frame_reader import FrameReader
from farebox.providers.formats.lenient import parsed as parsed_json
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.named_by_path import with_model
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.readers import BodyReader, Seen

_CACHED: Final = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITTEN: Final = ("cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount")
READING: Final = Reading(
    (
        "input_tokens",
        *("input_tokens", "inputTokens", "prompt_tokens", "prompt_token_count", "inputTextTokenCount"),
        "inputTokenCount",
    ),
    ("input_tokens", *_CACHED),
    ("input_tokens", *_WRITTEN),
    ("cache_read_tokens", *_CACHED, "prompt_tokens_details.cached_tokens"),
    ("cache_write_tokens", *_WRITTEN),
    ("cache_write_5m_tokens", "cache_creation.ephemeral_5m_input_tokens", "written.5m"),
    ("cache_write_1h_tokens", "cache_creation.ephemeral_1h_input_tokens", "written.1h"),
    (
        "output_tokens",
        *("output_tokens", "outputTokens", "completion_tokens", "generation_token_count", "outputTextTokenCount"),
        "outputTokenCount",
    ),
    ("output_reasoning_tokens", "completion_tokens_details.reasoning_tokens"),
    required=("input_tokens", "output_tokens"),
)
"""The first place that has a figure is used: the maker's own before Amazon's."""
EMBEDDING: Final = Reading(("input_tokens", "inputTextTokenCount", "inputTokenCount"), required=("input_tokens",))
_METRICS: Final = "amazon-bedrock-invocationMetrics"
_HEADERS: Final = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
_DIGITS: Final = 19
_FIGURES: Final = ("inputTextTokenCount", "prompt_token_count", "generation_token_count")
"""Figures at the top level of a response."""

_VENDORS: Final = tuple(
    (re.compile(rf"(?:[a-z-]{{2,8}}\.)?(?:{pattern})"), form)
    for pattern, form in (
        (r"anthropic\.", "anthropic"),
        (r"amazon\.nova-(?!canvas|reel|sonic|2-sonic|.*embed)", "nova"),
        (r"amazon\.titan-text-", "titan"),
        (r"amazon\.titan-embed-text-|cohere\.embed-", "embedding"),
        (r"meta\.", "llama"),
        (r"cohere\.command", "cohere"),
        (r"mistral\.(?:mistral-7b|mixtral|mistral-(?:large|small)-2402)|deepseek\.r1", "completion"),
        (r"(?:mistral|deepseek|openai|qwen|moonshotai?|zai|nvidia|google|minimax|writer)\.|ai21\.jamba", "chat"),
    )
)
"""The form of a model's requests, by the beginning of its name."""
_REPORTED: Final = frozenset(
    {
        *("text", "generation", "outputText", "content", "reasoning", "reasoning_content", "arguments", "name"),
        *("message", "delta", "choices", "outputs", "results", "tool_calls", "function", "generations"),
    }
)
"""Fields of responses that contain generated text, or objects with such fields."""
_CHAT: Final = OpenAIChat(name="bedrock_invoke", opt_in=False)
_COMPLETION: Final = OpenAIChat(name="bedrock_invoke", opt_in=False, legacy=True)
_INNER: Final[dict[str, WireFormat]] = {"anthropic": AnthropicMessages(), "chat": _CHAT, "completion": _COMPLETION}
"""Forms that other providers use too."""


class _Titan(msgspec.Struct):
    maxTokenCount: bodies.Tokens | None = None


class _Plain(msgspec.Struct):
    """A request in a form without parts."""

    textGenerationConfig: _Titan | None = None
    max_gen_len: bodies.Tokens | None = None
    max_tokens: bodies.Tokens | None = None
    chat_history: list[msgspec.Raw] | None = None


_PLAIN: Final = msgspec.json.Decoder(_Plain)
_LIMITS: Final = {
    "titan": "textGenerationConfig.maxTokenCount",
    "llama": "max_gen_len",
    "cohere": "max_tokens",
}


@dataclass(frozen=True, slots=True)
class BedrockInvoke(bodies.JsonBody):
    """`model/{id}/invoke`, and `invoke-with-response-stream`."""

    name: str = "bedrock_invoke"
    usage_headers: tuple[str, ...] = tuple(_HEADERS)

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the path names the model. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `model/<model>/invoke`.")
        model, stream = model_of(place["model"]), place["operation"] != "invoke"
        form = _form(model, body)
        if form == "nova":
            parsed = parsed_converse(model, stream, body, exact)
        elif form in ("anthropic", "chat", "completion"):
            parsed = _INNER[form].parse(path, content_type, with_model(body, model), exact=exact)
        else:
            parsed = _plain(model, form, body, exact)
        clampable = parsed.demand.clampable and form == _form_by_body(body)
        demand = replace(parsed.demand, model=model, clampable=clampable)
        return replace(parsed, model=model, stream=stream, usage_requested=True, demand=demand, response_form=form)

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set the output limit in the field that the form has for it."""
        form = _form_by_body(body)
        if form == "nova":
            return BedrockConverse().limit_output(body, tokens)
        if form == "titan":
            given = bodies.fields(body).get("textGenerationConfig")
            config: dict[str, object] = dict(bodies.fields(given)) if given is not None and bodies.given(given) else {}
            return bodies.changed(body, textGenerationConfig={**config, "maxTokenCount": tokens})
        return bodies.changed(body, **{"max_gen_len" if form == "llama" else "max_tokens": tokens})

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for a response in one piece."""
        found = parsed.stated.items()
        stated = {_HEADERS[name]: int(text) for name, text in found if text.isdecimal() and len(text) < _DIGITS}

        def parse_body(seen: Seen, body: bytes) -> None:
            _collect(seen, parsed_json(body))
            seen.update(_with_amazons(seen.usage, stated))
            seen.complete = True

        return BodyReader(parse_body, EMBEDDING if parsed.response_form == "embedding" else READING)

    def framed(self, parsed: ParsedRequest) -> ResponseReader:
        """A reader for a stream."""
        return FrameReader(_parse_frame, READING)


def _form(model: str, body: bytes) -> str:
    """The form of the model's requests; if the name does not show it, such as one chosen by its owner, it is determined
    from the request."""
    found = next((form for pattern, form in _VENDORS if pattern.match(model)), "")
    return found or (_form_by_body(body) if model.startswith("arn:") else "")


def _form_by_body(body: bytes) -> str:
    top = bodies.fields(body)
    if "anthropic_version" in top:
        return "anthropic"
    if "inputText" in top:
        return "titan"
    if "messages" in top:
        return "nova" if "inferenceConfig" in top or "schemaVersion" in top else "chat"
    if "prompt" in top:
        return "llama" if "max_gen_len" in top else "completion"
    return "cohere" if "message" in top else ""


def _plain(model: str, form: str, body: bytes, exact: bool) -> ParsedRequest:
    """A request without parts. Raises InvalidRequest."""
    if not form:
        unmetered = "what this model costs is not in its response"
        return ParsedRequest(model, False, Demand(model, len(body)), unmetered=unmetered)
    head = bodies.decode(_PLAIN, body)
    limits = {
        "titan": None if head.textGenerationConfig is None else head.textGenerationConfig.maxTokenCount,
        "llama": head.max_gen_len,
        "cohere": head.max_tokens,
    }
    demand = Demand(
        model,
        len(body),
        text=bodies.texts([], bodies.fields(body)) if exact else "",
        messages=1 + len(head.chat_history or ()),
        output_max=limits.get(form),
        clampable=form != "embedding",
        limited_by=_LIMITS.get(form, ""),
        no_output=form == "embedding",
    )
    return ParsedRequest(model, False, demand)


def _parse_frame(seen: Seen, frame: Frame) -> None:
    """A chunk, which contains one of the maker's events in base64. Raises ValueError."""
    outer = parsed_json(frame.payload)
    held = outer.get("bytes") if isinstance(outer, dict) else None
    if not isinstance(held, str):
        raise ValueError("a chunk without bytes")  # noqa: TRY004 - all response readers raise ValueError
    event = parsed_json(base64.b64decode(held))
    _collect(seen, event)
    metrics = event.get(_METRICS) if isinstance(event, dict) else None
    if isinstance(metrics, dict):
        seen.update(_with_amazons(seen.usage, metrics))
        seen.end()


def _with_amazons(own: dict[str, Any] | None, amazons: dict[str, Any]) -> dict[str, Any]:
    """The maker's own figures, completed by Amazon's. Amazon counts cached tokens beside the input, but `prompt_tokens`
    include them."""
    if own is None or "prompt_tokens" not in own:
        return {**amazons, **(own or {})}
    cached = next((amazons[name] for name in _CACHED if name in amazons), 0)
    rest = {name: count for name, count in amazons.items() if name not in (*_CACHED, *_WRITTEN)}
    return {**rest, "prompt_tokens_details": {"cached_tokens": cached}, **own}


def _collect(seen: Seen, event: object) -> None:
    """Collect what a response or an event reports, and its text."""
    if not isinstance(event, dict):
        return
    message = event.get("message")
    if isinstance(message, dict):  # Anthropic's first event
        seen.update(message.get("usage"), message.get("model"))
    reported = {name: event[name] for name in _FIGURES if isinstance(event.get(name), int)}
    results = event.get("results")
    if isinstance(results, list):
        counts = [item.get("tokenCount") for item in results if isinstance(item, dict)]
        reported["outputTextTokenCount"] = sum(count for count in counts if isinstance(count, int))
    elif isinstance(event.get("totalOutputTextTokenCount"), int):
        reported["outputTextTokenCount"] = event["totalOutputTextTokenCount"]
    seen.update(reported or None, event.get("model"))
    usage = event.get("usage") or _within(event, "metadata", "usage")
    collect_output(seen, usage, _within(event, "output", "message", "content"), event.get("contentBlockDelta"))
    _add_reported(seen, {key: value for key, value in event.items() if key in _REPORTED or key == "content_block"})
    _add_delta(seen, event)


def _within(value: object, *steps: str) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _add_delta(seen: Seen, event: dict[str, Any]) -> None:
    """Add text from those fields of Anthropic's blocks and deltas that have other names."""
    for block in (event.get("delta"), event.get("content_block"), *_list(event.get("content"))):
        if isinstance(block, dict):
            for name in ("thinking", "partial_json", "input"):
                seen.add_text(block.get(name) or None)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _add_reported(seen: Seen, value: object) -> None:
    stack: list[object] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            seen.add_text(item)
        elif isinstance(item, list):
            stack.extend(reversed([inner for inner in item if isinstance(inner, dict)]))
        elif isinstance(item, dict):
            stack.extend(inner for key, inner in reversed(item.items()) if key in _REPORTED or key == "content_block")
