"""Google's generateContent and streamGenerateContent."""

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand, UnseenInput
from farebox.pricing.unseen import TOOL_USES
from farebox.providers.formats import bodies, tools
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder, whole
from farebox.providers.formats.media import with_attachments, with_text
from farebox.providers.formats.meters import Reading, Row
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.references import cache_in, of_request

MODEL_PATH: Final = re.compile(r"(?:^|/)(?:models|tunedModels)/(?P<model>[A-Za-z0-9._-]+):(?P<method>[A-Za-z]+)$")
_PER_PROMPT: Final = re.compile(r"gemini-[12]\.")


def modalities(places: tuple[str, ...], meter: str) -> tuple[Row, ...]:
    """One row for each modality in a list of details, found in the first of these places. Documents count as images."""
    kinds = (("TEXT", "text"), ("AUDIO", "audio"), ("IMAGE", "image"), ("DOCUMENT", "image"), ("VIDEO", "video"))
    return tuple((meter.format(kind), *(f"{place}.[{word}].tokenCount" for place in places)) for word, kind in kinds)


READING: Final = Reading(
    ("input_tokens", "promptTokenCount"),
    ("input_tokens", "toolUsePromptTokenCount"),
    ("input_tool_tokens", "toolUsePromptTokenCount"),
    ("cache_read_tokens", "cachedContentTokenCount"),
    ("output_tokens", "candidatesTokenCount"),
    ("output_tokens", "thoughtsTokenCount"),
    ("output_reasoning_tokens", "thoughtsTokenCount"),
    *modalities(("cacheTokensDetails",), "cache_{}_read_tokens"),
    # Embeddings use the second name.
    *modalities(("promptTokensDetails", "promptTokenDetails"), "input_{}_tokens"),
    *modalities(("candidatesTokensDetails",), "output_{}_tokens"),
    *modalities(("toolUsePromptTokensDetails",), "input_{}_tokens"),
    *modalities(("toolUsePromptTokensDetails",), "input_{}_tool_tokens"),
    required=("input_tokens", "output_tokens"),
)


class _Config(msgspec.Struct):
    """Field names in both spellings, since Google accepts both."""

    maxOutputTokens: bodies.Tokens | None = None
    max_output_tokens: bodies.Tokens | None = None
    candidateCount: bodies.Choices | None = None
    candidate_count: bodies.Choices | None = None


class _RequestContent(msgspec.Struct):
    """A content of the request."""

    parts: Any = None


class _Head(msgspec.Struct):
    contents: list[_RequestContent]
    generationConfig: _Config | None = None
    generation_config: _Config | None = None
    tools: list[dict[str, msgspec.Raw]] | dict[str, msgspec.Raw] | None = None
    """A list, or a single tool."""
    cachedContent: Any = None
    cached_content: Any = None
    serviceTier: Any = None
    service_tier: Any = None
    systemInstruction: _RequestContent | None = None
    system_instruction: _RequestContent | None = None


class _Part(msgspec.Struct):
    text: Any = None
    functionCall: Any = None
    executableCode: Any = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Grounding(msgspec.Struct):
    webSearchQueries: list[Any] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finishReason: Any = None
    index: Any = None
    groundingMetadata: _Grounding | None = None


class _Feedback(msgspec.Struct):
    blockReason: Any = None


class _Response(msgspec.Struct):
    """A complete response, or one event of a stream."""

    candidates: list[_Candidate] | None = None
    usageMetadata: Any = None
    modelVersion: Any = None
    serviceTier: Any = None
    service_tier: Any = None
    promptFeedback: _Feedback | None = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)
_RESPONSES: Final = ResponseDecoder[list[_Response] | _Response](list[_Response] | _Response)
_BETWEEN: Final = re.compile(r"[\s,]*")
_CUT_JSON: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class GoogleGenerate(bodies.JsonBody):
    """`models/M:generateContent` and `:streamGenerateContent`, with `alt=sse` or as one growing JSON array."""

    name: str = "google_generate"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request; the model is named by the path. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `models/<model>:generateContent`.")
        model, stream = place["model"], place["method"] == "streamGenerateContent"
        head = bodies.decode(_HEAD, body)
        listed = [head.tools] if isinstance(head.tools, dict) else head.tools or []
        declared = tools.of_generate(listed)
        configs = [config for config in (head.generationConfig, head.generation_config) if config is not None]
        limits = [limit for c in configs for limit in (c.maxOutputTokens, c.max_output_tokens) if limit is not None]
        cached = tuple(
            UnseenInput("cache", object_id) for _, object_id in cache_in(head.cachedContent, head.cached_content)
        )
        demand = Demand(
            model=model,
            text_bytes=len(body),
            messages=len(head.contents),
            tools=len(listed),
            # The prompt and all incoming results share one context window.
            unseen=(*cached, *tools.unseen(declared, uses=1)),
            choices=max((count or 1 for c in configs for count in (c.candidateCount, c.candidate_count)), default=1),
            output_max=max(limits, default=None),
            clampable=True,
            limited_by="generationConfig.maxOutputTokens",
            allowed=tools.counted(declared, TOOL_USES, shared=True),
        )
        system = [content for content in (head.systemInstruction, head.system_instruction) if content is not None]
        demand = with_attachments(demand, [content.parts for content in (*head.contents, *system)])
        if exact:
            demand = with_text(demand, body, "contents", "parts")
        context = bodies.selectors(service_tier=head.serviceTier or head.service_tier)
        return ParsedRequest(
            model,
            stream,
            demand,
            context=context,
            unmetered=tools.unmetered(declared),
            tools=tools.names(declared),
            references=(
                *cache_in(head.cachedContent, head.cached_content),
                *of_request(body, [*(content.parts for content in (*head.contents, *system)), *map(_decoded, listed)]),
            ),
        )

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `generationConfig.maxOutputTokens`, in whichever spelling the request uses, or in both."""
        top = bodies.fields(body)
        keys = [key for key in ("generationConfig", "generation_config") if bodies.given(top.get(key))]
        limited = {}
        for key in keys or ["generationConfig"]:
            config: dict[str, object] = dict(bodies.fields(top[key])) if keys else {}
            config.pop("max_output_tokens", None)
            limited[key] = {**config, "maxOutputTokens": tokens}
        return bodies.changed(body, **limited)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        # Grounding is charged per prompt up to Gemini 2, and per search from Gemini 3 on.
        per_prompt = bool(_PER_PROMPT.match(parsed.model))

        def parse_event(seen: Seen, data: bytes) -> bool:
            _collect_usage(seen, _RESPONSE.decode(data), per_prompt)
            return True

        def parse_body(seen: Seen, body: bytes) -> None:
            _parse_body(seen, body, per_prompt)

        seen = Seen(choices=parsed.demand.choices, shows_end=True)
        return EventReader(parse_event, READING, seen) if streaming else BodyReader(parse_body, READING, seen)


def _decoded(tool: dict[str, msgspec.Raw]) -> dict[str, object]:
    return dict(zip(tool, bodies.tree(tool.values()), strict=True))


def _collect_usage(seen: Seen, response: _Response, per_prompt: bool) -> None:
    seen.update(response.usageMetadata, response.modelVersion)
    usage = response.usageMetadata if isinstance(response.usageMetadata, dict) else {}
    for tier in (response.serviceTier, response.service_tier, usage.get("serviceTier"), usage.get("service_tier")):
        seen.applied("service_tier", tier)
    for candidate in response.candidates or ():
        for part in (candidate.content and candidate.content.parts) or ():
            for text in (part.text, part.functionCall, part.executableCode):
                if text is not None:
                    seen.add_text(text)
        queries = len((candidate.groundingMetadata and candidate.groundingMetadata.webSearchQueries) or ())
        if queries:
            seen.counted["web_searches"] = 1 if per_prompt else max(seen.counted.get("web_searches", 0), queries)
        if candidate.finishReason:
            seen.choice_ended(candidate.index)
    if response.promptFeedback and response.promptFeedback.blockReason:
        seen.ended.update(range(seen.choices))  # there will be no candidates
    seen.failed = seen.failed or bool(response.error)


def _parse_body(seen: Seen, body: bytes, per_prompt: bool) -> None:
    """A complete response, or the array form of a stream; of an array cut short, the events that are complete."""
    try:
        responses = _RESPONSES.decode(body)
    except ValueError:
        if not body.lstrip().startswith(b"["):
            raise
        _parse_partial_array(seen, body.decode("utf-8", "replace"), per_prompt)
        return
    for response in responses if isinstance(responses, list) else [responses]:
        _collect_usage(seen, response, per_prompt)
    seen.complete = True


def _parse_partial_array(seen: Seen, text: str, per_prompt: bool) -> None:
    at = text.index("[") + 1
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches the empty string too
        try:
            entry, at = _CUT_JSON.raw_decode(text, at)
        except ValueError:
            break
        with contextlib.suppress(ValueError):
            _collect_usage(seen, _RESPONSE.convert(whole(entry)), per_prompt)
    seen.unreadable += 1
    seen.complete = False
    seen.add_text(text[at:])
