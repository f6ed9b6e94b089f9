"""The content of the demo provider's responses in any wire format: the words, how they end, and the exact usage.

Output tokens: one for each word delivered, over all choices, plus the reported reasoning.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from typing import Any, Literal, NamedTuple, TypeAlias

from farebox.demo_provider.directives import Directives, in_text
from farebox.demo_provider.prompt import Json, Prompt, ToolCall, encode
from farebox.http.exchange import HeaderList

Finish: TypeAlias = Literal["stop", "length", "tool"]

JSON_HEADERS: HeaderList = [("content-type", "application/json")]
SSE_HEADERS: HeaderList = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]

FAILURE = "The demo provider was told to fail here."

_QUOTED_WORDS = 20
_QUOTED_LETTERS = 40
_GREETING = "Hello from the Farebox demo provider, where one word is one token."
_CLOSING = "This is the demo provider: one word is one token."
_MORE = "The sentence goes on, politely and without meaning, until it is as long as you asked."


class Mark(NamedTuple):
    """What makes one response differ from the next."""

    serial: int
    created: int
    """Seconds since the epoch."""


class DemoEvent(NamedTuple):
    """One event of a stream: its bytes, and the output tokens that they deliver."""

    frame: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response: a whole body, or the events of a stream."""

    status: int = 200
    headers: HeaderList = field(default_factory=lambda: JSON_HEADERS)
    body: bytes = b""
    events: Iterable[DemoEvent] | None = None
    failure: bytes = b""
    """A stream's error event."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Output tokens of the whole body; events of a stream have their own counts."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Exact usage of one call. `cached` and `cache_write` are parts of `input`, `reasoning` is a part of `output`."""

    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The content of one choice (all choices are the same)."""

    pieces: list[str]
    """The text, word by word, each with the preceding space."""
    tool: ToolCall | None
    finish: Finish
    counts: Counts

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Dialect(NamedTuple):
    """How one provider reports failures."""

    error: Callable[[int, str], Json]
    """The body of an error response."""


class DemoEndpoint(NamedTuple):
    """One path of a provider: how its requests are read and answered."""

    dialect: Dialect
    read: Callable[..., Prompt]
    """Called with the Call. Raises BadRequest."""
    reply: Callable[[Prompt, Directives, Mark], Reply]


def complete(prompt: Prompt, directives: Directives) -> Completion:
    """The response: deterministic, within `max_tokens`, its usage exact."""
    limit = prompt.max_tokens if prompt.max_tokens is not None else 1 << 62
    reasoning = min(directives.reasoning, limit)
    room = limit - reasoning
    if prompt.tool is not None and prompt.tool.tokens <= room:
        return Completion([], prompt.tool, "tool", _counts(prompt, directives, prompt.tool.tokens, reasoning))
    words = _sentence(prompt.text, directives.tokens)
    finish: Finish = "stop"
    if len(words) > room:
        words, finish = words[:room], "length"
    if directives.big:
        words = _stretched(len(words), directives.big)
    pieces = [word if not i else " " + word for i, word in enumerate(words)]
    return Completion(pieces, None, finish, _counts(prompt, directives, len(words), reasoning))


def reported(usage: Json, directives: Directives, *, stream: bool = False) -> Json | None:
    """The usage as it is reported to the caller: true unless a directive says otherwise; None if it is left out."""
    if directives.usage == "none" or (stream and directives.nousage_stream):
        return None
    return _falsified(usage, directives.usage) if directives.usage else usage


def with_usage(body: Json, key: str, usage: Json | None) -> Json:
    """The body with its usage, or without the key."""
    if usage is not None:
        body[key] = usage
    return body


def json_reply(prompt: Prompt, body: Json, output_tokens: int = 0) -> Reply:
    """A whole JSON body as the response."""
    return Reply(body=encode(body), input_tokens=prompt.input_tokens, output_tokens=output_tokens)


def sse(data: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + encode(data) + b"\n\n"


def named_sse(data: Json) -> bytes:
    """A server-sent event that is named after its `type`."""
    kind: str = data["type"]
    return b"event: " + kind.encode() + b"\ndata: " + encode(data) + b"\n\n"


def _sentence(prompt: str, tokens: int | None) -> list[str]:
    quoted = [word[:_QUOTED_LETTERS] for word in in_text(prompt)[1].split()[:_QUOTED_WORDS]]
    words = (f"You said: “{' '.join(quoted)}”. {_CLOSING}" if quoted else _GREETING).split()
    return words if tokens is None else list(islice(chain(words, cycle(_MORE.split())), tokens))


def _stretched(words: int, size: int) -> list[str]:
    """At most `words` words that, joined by spaces, give a text of exactly `size` bytes."""
    words = min(words, (size + 1) // 2)
    if not words:
        return []
    letters, longer = divmod(size - (words - 1), words)
    return ["x" * (letters + (i < longer)) for i in range(words)]


def _counts(prompt: Prompt, directives: Directives, delivered: int, reasoning: int) -> Counts:
    cached = min(directives.cached, prompt.input_tokens)
    written = min(directives.cache_write, prompt.input_tokens - cached)
    return Counts(prompt.input_tokens, cached, written, delivered * prompt.choices + reasoning, reasoning)


def _falsified(value: Any, falsification: str) -> Any:
    if isinstance(value, dict):
        return {key: _falsified(inner, falsification) for key, inner in value.items()}
    if not isinstance(value, int):
        return value
    if falsification == "negative":
        return -value - 1
    if falsification == "absurd":
        return value + 10**15
    return str(value) if falsification == "string" else value + 0.5
