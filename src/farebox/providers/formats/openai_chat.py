"""OpenAI's chat completions and legacy completions, and the dialects of all providers with compatible APIs.

Dialects are data: where the usage object has its figures, whether a stream's usage must be requested, and which names
of the output limit the provider knows.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from farebox.pricing.ceilings import family_name, ignores_limit
from farebox.pricing.model import Demand, UnseenInput
from farebox.providers.formats import bodies, stated, tools
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import with_attachments, with_text
from farebox.providers.formats.meters import Reading, Row
from farebox.providers.formats.readers import SAMPLES_BYTES_PER_SECOND, BodyReader, Seen
from farebox.providers.formats.references import audio_in, compatible_cache_in, hand_out, may_refer, of_request
from farebox.providers.formats.tools import DeclaredTool
from farebox.providers.formats.uncounted import UncountedFields, unmetered

_NEW_LIMIT_MODELS: Final = re.compile(r"(?:openai/)?(?:o\d|gpt-(?:[5-9]|\d\d))")

_SEARCHING: Final = re.compile(r"gpt-[5-9].*-search")
"""Models that search without a tool, and bill the results as input."""
_RESEARCH_SEARCHES: Final = 50
"""Searches held for a Perplexity research request; its examples make about 20."""

_REQUIRED: Final = ("input_tokens", "output_tokens")
_CACHED: Final = (
    *("prompt_tokens_details.cached_tokens", "prompt_token_details.cached_tokens", "prompt_cache_hit_tokens"),
    *("num_cached_tokens", "cached_tokens", "cached_prompt_text_tokens"),
)
"""One figure in the spellings of OpenAI (and most), Mistral's newer and DeepSeek's older responses, Mistral's older
ones, Anthropic's compatible form (and Together, Moonshot), and xAI's older ones. The first one present is used."""
_ROWS: Final[tuple[Row, ...]] = (
    ("input_tokens", "prompt_tokens"),
    ("cache_read_tokens", *_CACHED),
    ("cache_write_tokens", "prompt_tokens_details.cache_write_tokens"),
    ("cache_write_12h_tokens", "prompt_tokens_details.cache_write_tokens_details.ttl_12h_tokens"),
    ("input_audio_tokens", "prompt_tokens_details.audio_tokens", "prompt_token_details.audio_tokens"),
    ("input_image_tokens", "prompt_tokens_details.image_tokens"),
    ("output_tokens", "completion_tokens"),
    ("output_audio_tokens", "completion_tokens_details.audio_tokens"),
    ("output_image_tokens", "completion_tokens_details.image_tokens"),
    ("output_reasoning_tokens", "completion_tokens_details.reasoning_tokens"),
)
OPENAI: Final = Reading(*_ROWS, required=_REQUIRED)
"""OpenAI itself and providers that count as it does."""
OPENROUTER: Final = Reading(*_ROWS, required=_REQUIRED, stated=stated.openrouter)
MISTRAL: Final = Reading(
    *_ROWS,
    ("audio_seconds", "prompt_audio_seconds"),
    ("input_audio_seconds", "prompt_audio_seconds"),
    required=_REQUIRED,
    extra=(("input_tokens", "prompt_tokens_details.audio_tokens", "prompt_token_details.audio_tokens"),),
)
"""Mistral leaves the tokens of audio out of `prompt_tokens`."""
XAI: Final = Reading(
    *_ROWS,
    required=_REQUIRED,
    extra=(("output_tokens", "completion_tokens_details.reasoning_tokens"),),
    stated=stated.xai,
)
"""xAI leaves reasoning out of `completion_tokens`."""
PERPLEXITY: Final = Reading(
    ("input_tokens", "prompt_tokens"),
    ("output_tokens", "completion_tokens"),
    ("output_tokens", "reasoning_tokens"),
    ("output_tokens", "citation_tokens"),
    ("output_reasoning_tokens", "reasoning_tokens"),
    ("output_citation_tokens", "citation_tokens"),
    ("web_searches", "num_search_queries"),
    required=_REQUIRED,
    stated=stated.perplexity,
)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _RequestMessage(msgspec.Struct):
    content: Any = None
    audio: Any = None


class _Head(UncountedFields):
    model: bodies.Name
    messages: list[_RequestMessage] | None = None
    prompt: Any = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: bodies.Tokens | None = None
    max_completion_tokens: bodies.Tokens | None = None
    n: bodies.Choices | None = None
    best_of: bodies.Choices | None = None
    tools: list[DeclaredTool] | None = None
    functions: list[msgspec.Raw] | None = None
    service_tier: Any = None
    deferred: Any = None
    extra_body: Any = None
    google: Any = None


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    audio: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None
    finish_reason: Any = None
    index: Any = None


class _Response(msgspec.Struct):
    """A complete response, or one chunk of a stream."""

    choices: list[_Choice] | None = None
    usage: Any = None
    x_groq: Any = None
    model: Any = None
    error: Any = None
    object: Any = None
    service_tier: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response, float_hook=stated.exact_number)


@dataclass(frozen=True, slots=True)
class OpenAIChat(bodies.JsonBody):
    """`chat/completions`, or with `legacy` `completions`."""

    name: str = "openai_chat"
    reading: Reading = OPENAI
    opt_in: bool = True
    """Whether a stream reports its usage only if `stream_options` asks for it; some that report it anyway reject the
    field."""
    new_limit: bool = True
    """Whether the provider knows `max_completion_tokens`."""
    newer_limit: bool = False
    """Whether `max_completion_tokens` is the limit for every model, whatever the model's name."""
    total_counts: bool = False
    """Whether only `total_tokens` includes reasoning (Google's compatible endpoint)."""
    legacy: bool = False
    prefix: str = ""
    """A prefix of model names that the provider accepts and its price list lacks (Google's `models/`)."""
    searches: bool = False
    """Whether the usage reports searches, so that they may be requested."""

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_HEAD, body)
        model = head.model.removeprefix(self.prefix) if self.prefix else head.model
        old_field = self.new_limit and head.max_tokens is not None and head.max_completion_tokens is None
        unlimited, researches = ignores_limit(head.model, old_field=old_field), self._researches(head.model)
        messages = head.messages or ()
        sounds = [message.audio for message in messages if message.audio is not None]
        demand = Demand(
            model,
            len(body),
            messages=self._messages(head),
            tools=len(head.tools or ()) + len(head.functions or ()),
            choices=max(head.n or 1, head.best_of or 1) * (_prompts(head.prompt) if self.legacy else 1),
            output_max=None if unlimited else _larger(head.max_tokens, head.max_completion_tokens),
            clampable=not unlimited,
            limited_by="" if unlimited else self._limited_by(head),
            allowed={"web_searches": _RESEARCH_SEARCHES} if researches else {},
            unseen=_unseen(head, sounds, searches=researches or _searches(head.model)),
        )
        contents = [message.content for message in messages]
        if parts := [content for content in contents if not isinstance(content, str)]:
            demand = with_attachments(demand, parts)
        refers = may_refer(body)
        references = of_request(body, contents) if refers else ()
        if sounds:
            references = (*audio_in(sounds), *references)
        if head.extra_body is not None or head.google is not None:
            references = (*references, *compatible_cache_in(head.extra_body, head.google))
        if exact:
            demand = with_text(demand, body, "prompt" if self.legacy else "messages", "content")
        stream = head.stream is True
        requested = head.stream_options is not None and head.stream_options.include_usage is True
        usage_requested = requested or not stream or not self.opt_in
        context = {} if head.service_tier is None else bodies.selectors(service_tier=head.service_tier)
        why = self._unmetered(head)
        names: tuple[str, ...] = ()
        if head.tools:
            declared = tools.of_chat(head.tools)
            why, names = why or tools.unmetered(declared), tools.names(declared)
        return ParsedRequest(
            model, stream, demand, usage_requested, context, why, "", names, {}, references, may_refer=refers
        )

    def _limited_by(self, head: _Head) -> str:
        old, new = head.max_tokens is not None, head.max_completion_tokens is not None
        if old and new:
            return ""  # lowering one of them may not be enough
        return "max_tokens" if old else "max_completion_tokens" if new else self._limit_of(head.model)

    def _limit_of(self, model: str) -> str:
        """The limit that the model supports."""
        newer = self.new_limit and not self.legacy and (self.newer_limit or _NEW_LIMIT_MODELS.match(model))
        return "max_completion_tokens" if newer else "max_tokens"

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set every limit that the request has, or the one that its model supports."""
        top = bodies.fields(body)
        names = [name for name in ("max_completion_tokens", "max_tokens") if bodies.given(top.get(name))]
        if not names:
            names = [self._limit_of(str(msgspec.json.decode(top.get("model", b'""'))))]
        return bodies.changed(body, **dict.fromkeys(names, tokens))

    def request_usage(self, body: bytes) -> bytes:
        """Set `stream_options.include_usage`, keeping the stream's other options."""
        if not self.opt_in:
            return body
        options = bodies.fields(body).get("stream_options")
        stream_options: dict[str, object] = dict(bodies.fields(options)) if options and bodies.given(options) else {}
        return bodies.changed(body, stream_options={**stream_options, "include_usage": True})

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        parse_body = _parse_google_body if self.total_counts else _parse_body
        parse_event = _parse_google_event if self.total_counts else parse_chunk
        if streaming:
            return EventReader(parse_event, self.reading, Seen(hide_usage, parsed.demand.choices))
        return BodyReader(parse_body, self.reading)

    def _researches(self, model: str) -> bool:
        return self.searches and family_name(model).startswith("sonar-deep-research")

    def _unmetered(self, head: _Head) -> str | None:
        if head.deferred not in (None, False):
            return "a deferred completion is acknowledged before its usage is known"
        return unmetered(head, searches=self.searches)

    def _messages(self, head: _Head) -> int:
        if self.legacy:
            if head.prompt is None:
                raise InvalidRequest("Object missing required field `prompt`.")
            return 1
        if head.messages is None:
            raise InvalidRequest("Object missing required field `messages`.")
        return len(head.messages)


def _unseen(head: _Head, sounds: list[Any], *, searches: bool) -> tuple[UnseenInput, ...]:
    """Unseen input: audio of earlier responses referred to by ID, caches, and what searching models add."""
    if not (sounds or searches or head.extra_body is not None or head.google is not None):
        return ()  # as in most
    found = [UnseenInput("audio")] if any(isinstance(sound, dict) and sound.get("id") for sound in sounds) else []
    found += [UnseenInput("web_search", uses=None)] if searches else []
    if head.extra_body is not None or head.google is not None:
        google = msgspec.json.encode([head.extra_body, head.google])
        if b"cachedcontent" in google.lower().replace(b"_", b""):  # in either of Google's spellings
            found.append(UnseenInput("cache"))
    return tuple(found)


@lru_cache(4096)  # these models search repeatedly
def _searches(model: str) -> bool:
    return _SEARCHING.match(family_name(model)) is not None


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _prompts(prompt: object) -> int:
    """How many prompts a legacy request has: a list of strings, or of lists of tokens, counts as several."""
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return len(prompt) if several and isinstance(prompt, list) else 1


def parse_chunk(seen: Seen, data: bytes) -> bool:
    """Read a chunk; returns whether it passes on. No chunk ends the stream: usage and finish reasons come first, in the
    middle or in every chunk, depending on the provider. Only `[DONE]` or the end of the body does. Raises
    ValueError."""
    chunk = _RESPONSE.decode(data)
    _collect_usage(seen, chunk)
    if not chunk.usage or chunk.choices or not isinstance(chunk.usage, dict) or _failed(chunk):
        return True
    return not seen.hide_usage


def _parse_body(seen: Seen, body: bytes) -> None:
    _collect_usage(seen, _RESPONSE.decode(body))
    seen.complete = True


def _failed(response: _Response) -> bool:
    """Some providers send an empty error with every successful response; others an error that is not nested."""
    return (
        bool(response.error)
        or response.object == "error"
        or (isinstance(response.x_groq, dict) and bool(response.x_groq.get("error")))
    )


def _collect_usage(seen: Seen, response: _Response) -> None:
    usage = response.usage
    if response.x_groq is not None or response.error is not None or response.object == "error":
        seen.failed = seen.failed or _failed(response)
        if usage is None and isinstance(response.x_groq, dict):
            usage = response.x_groq.get("usage")
    if usage is not None or seen.model is None:
        seen.update(usage, response.model)
        seen.applied("service_tier", response.service_tier)
        if isinstance(usage, dict) and "service_tier" in usage:  # Mistral's place for it
            seen.applied("service_tier", usage["service_tier"])
    for choice in response.choices or ():
        message = choice.delta or choice.message
        if message is not None:
            _add_text(seen, message)
        if choice.text is not None:
            seen.add_text(choice.text)
        if choice.finish_reason:
            seen.choice_ended(choice.index)


def _add_text(seen: Seen, message: _Message) -> None:
    """Count the text of a message or delta: content, reasoning, refusal, and arguments of tools."""
    if message.content:
        seen.add_text(message.content)
    if (
        message.tool_calls
        is message.refusal
        is message.reasoning
        is message.reasoning_content
        is message.audio
        is message.function_call
        is None
    ):
        return  # as in most
    for other in (message.reasoning_content, message.reasoning, message.refusal):
        if other is not None:
            seen.add_text(other)
    if isinstance(message.audio, dict):
        _add_audio(seen, message.audio)
    for call in message.tool_calls or ():
        if call.function is not None:
            seen.add_text(call.function.name)
            seen.add_text(call.function.arguments)
    if message.function_call is not None:
        seen.add_text(message.function_call.name)
        seen.add_text(message.function_call.arguments)


def _add_audio(seen: Seen, audio: dict[str, Any]) -> None:
    """Audio in a response: its transcript is text; samples, as in streams, are counted by duration."""
    seen.add_text(audio.get("transcript"))
    hand_out(seen.handed_out, "audio", audio.get("id"))
    seen.add_audio(audio.get("data"), SAMPLES_BYTES_PER_SECOND)


def _parse_google_event(seen: Seen, data: bytes) -> bool:
    keep = parse_chunk(seen, data)
    _count_total(seen)
    return keep


def _parse_google_body(seen: Seen, body: bytes) -> None:
    _parse_body(seen, body)
    _count_total(seen)


def _count_total(seen: Seen) -> None:
    """Google's compatible endpoint leaves thinking out of `completion_tokens`, but charges and totals it."""
    usage = seen.usage or {}
    prompt, completion, total = (usage.get(key) for key in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if isinstance(prompt, int) and isinstance(completion, int) and isinstance(total, int):
        usage["completion_tokens"] = max(completion, total - prompt)
