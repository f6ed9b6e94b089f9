"""Generated streams of each format, compared with the small reference reader in this module.

The reference reader takes the whole stream as text and is independent of Farebox: Farebox must find the same. Whatever
the order of events, and however the bytes are split, nothing may be lost or counted twice.

`FAREBOX_TEST_STREAMS=2000` reads this many streams of each format instead of 60; `FAREBOX_TEST_SEED=7` generates
others.
"""

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from farebox.providers.catalogue import upstream_path
from farebox.providers.formats.base import Observed
from tests.providers.samples import BY_SLUG, body, wire_format

EXAMPLES = int(os.environ.get("FAREBOX_TEST_STREAMS", "60"))
SEED = int(os.environ.get("FAREBOX_TEST_SEED", "9"))
Event = dict[str, Any]

GARBAGE = ('{"cut', '{"choices":[{"delta":{"content":NaN}}]}', "12", "null", "[]", "plain words", '{"error":null}')
"""Garbage data: a reader loses this event and no other."""
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
"""Characters that JSON can carry: quotes, line ends, other scripts, control characters."""
COUNTS = st.integers(1, 90_000)


@dataclass(frozen=True)
class Found:
    """The content of a stream."""

    usage: dict[str, int] | None
    text_bytes: int
    junk_bytes: int
    """Text in data that is not an event of the format; a count of the delivered text may include it."""
    passed: bytes
    """What a client that did not request usage gets."""


# The reference reader.


def read_whole(stream: bytes, take: Callable[[Event], tuple[Event | None, str, bool]]) -> Found:
    """`take` returns an event's usage object, its generated text, and whether it is nothing but usage."""
    usage: Event = {}
    said = garbage = passed = ""
    text = stream.decode()
    for block, data in _events(text):
        hidden = False
        try:
            reported, words, hidden = take(json.loads(data, parse_constant=_refuse))
        except (ValueError, AttributeError):
            garbage += data
        else:
            usage = _newer(usage, reported) if reported else usage
            said += words
        passed += "" if hidden else block
    return Found(usage or None, len(said.encode()), len(garbage.encode()), passed.encode())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Each event unchanged, with its data. Without empty lines between them, each line is an event."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+$", text)
    ends = any(not line.strip("\r\n") for line in lines)
    block, datas = "", []
    for line in lines:
        block += line
        bare = line.removeprefix("\ufeff").rstrip("\r\n")
        if bare.startswith("data:"):
            datas.append(bare[5:].removeprefix(" "))
        if not bare or not ends:
            yield block, "\n".join(datas)
            block, datas = "", []
    if block:
        yield block, "\n".join(datas)


def _newer(old: Event, new: Event) -> Event:
    """Usage is cumulative: the newest figure counts, and a missing, null or zero one takes nothing back."""
    merged = dict(old)
    for key, value in new.items():
        if isinstance(value, dict):
            merged[key] = _newer(merged.get(key) or {}, value)
        elif value or key not in merged:
            merged[key] = value
    return merged


# The formats.


@dataclass(frozen=True)
class Format:
    """The structure of a provider's streams."""

    slug: str
    path: str
    request: bytes
    says: Callable[[str], Event]
    """An event that carries generated text."""
    tells: Callable[[int, int], list[Event]]
    """Events that carry the usage: input and output."""
    quiet: tuple[Event, ...]
    """Events that carry neither, and may appear anywhere."""
    ends: Callable[[int, int], tuple[list[Any], list[Any]]]
    """The end of the stream: with usage, and without."""
    take: Callable[[Event], tuple[Event | None, str, bool]]
    meters: Callable[[Event], dict[str, int]]
    opens: tuple[Event, ...] = ()
    names: bool = False
    hides: bool = False


def _chat_chunk(delta: Event | None, finish: str | None = None, **more: Any) -> Event:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}


def _chat_usage(prompt: int, completion: int) -> Event:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // 3},
    }


def _parse_chat(event: Event) -> tuple[Event | None, str, bool]:
    usage = event.get("usage")
    words = ""
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        words += (delta.get("content") or "") + (delta.get("reasoning_content") or "")
        words += "".join(call["function"].get("arguments") or "" for call in delta.get("tool_calls") or [])
    reported = usage if isinstance(usage, dict) else None
    return reported, words, reported is not None and not event.get("choices")


def _chat_meters(usage: Event) -> dict[str, int]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cache_read_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }


CHAT_QUIET = (
    _chat_chunk({}),
    _chat_chunk(None),
    _chat_chunk({"role": "assistant", "content": ""}),
    _chat_chunk({}, "stop"),
    _chat_chunk({}, ""),
    _chat_chunk({"content": None}),
    _chat_chunk(None, usage=None),
    _chat_chunk({}, error=None),
    {"object": "acme.unknown", "payload": {"usage": 3}},
)
CHAT = Format(
    "openai",
    "chat/completions",
    body(model="m", messages=[], stream=True),
    lambda words: _chat_chunk({"content": words}, acme={"x": [1, None]}),
    lambda prompt, completion: [_chat_chunk(None, usage=_chat_usage(prompt, completion))],
    CHAT_QUIET,
    lambda prompt, completion: (
        [_chat_chunk({}, "stop"), _chat_chunk(None, usage=_chat_usage(prompt, completion)), "[DONE]"],
        [_chat_chunk({}, "stop"), "[DONE]"],
    ),
    _parse_chat,
    _chat_meters,
    hides=True,
)
PERPLEXITY = Format(
    "perplexity-ai",
    "chat/completions",
    body(model="sonar", messages=[], stream=True),
    lambda words: _chat_chunk({"content": words}),
    lambda prompt, completion: [
        _chat_chunk({"content": ""}, usage={"prompt_tokens": prompt, "completion_tokens": completion})
    ],
    (_chat_chunk({"content": ""}, "stop"), {"object": "chat.completion.done", "choices": []}),
    lambda prompt, completion: (
        [_chat_chunk({"content": ""}, "stop", usage={"prompt_tokens": prompt, "completion_tokens": completion})],
        [_chat_chunk({"content": ""}, "stop")],
    ),
    lambda event: (*_parse_chat(event)[:2], False),
    lambda usage: {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
)


def _response(event: str, usage: Event | None) -> Event:
    return {"type": event, "response": {"id": "r", "object": "response", "model": "m", "output": [], "usage": usage}}


def _take_response(event: Event) -> tuple[Event | None, str, bool]:
    usage = (event.get("response") or {}).get("usage")
    words = event.get("delta") if str(event.get("type", "")).endswith(".delta") else ""
    return usage, words or "", False


RESPONSES = Format(
    "openai",
    "responses",
    body(model="m", input="x", stream=True),
    lambda words: {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "delta": words},
    lambda _p, _c: [],
    (
        _response("response.in_progress", None),
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "i"}},
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "id": "i"}},
        {"type": "response.content_part.done", "part": {"type": "output_text", "text": "said before"}},
        {"type": "response.acme.unknown", "payload": {}},
    ),
    lambda prompt, completion: (
        [_response("response.completed", {"input_tokens": prompt, "output_tokens": completion})],
        [_response("response.completed", None)],
    ),
    _take_response,
    lambda usage: dict(usage),
    opens=(_response("response.created", None),),
    names=True,
)


def _take_anthropic(event: Event) -> tuple[Event | None, str, bool]:
    usage = event.get("usage") or (event.get("message") or {}).get("usage")
    delta = event.get("delta") or {}
    return usage, delta.get("text") or delta.get("partial_json") or delta.get("thinking") or "", False


ANTHROPIC = Format(
    "anthropic",
    "v1/messages",
    body(model="m", messages=[], max_tokens=9, stream=True),
    lambda words: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}},
    lambda prompt, completion: [
        {"type": "message_delta", "delta": {}, "usage": {"input_tokens": prompt, "output_tokens": completion}}
    ],
    (
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "pause_turn"}},
        {"type": "acme_unknown", "payload": [1]},
    ),
    lambda prompt, completion: (
        [
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"input_tokens": prompt, "output_tokens": completion},
            },
            {"type": "message_stop"},
        ],
        [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}],
    ),
    _take_anthropic,
    lambda usage: {"input_tokens": usage["input_tokens"], "output_tokens": usage["output_tokens"]},
    opens=({"type": "message_start", "message": {"id": "x", "model": "m", "content": []}},),
    names=True,
)


def _google(words: str | None, finish: str | None = None, usage: Event | None = None) -> Event:
    event: Event = {"candidates": [{"content": {"role": "model", "parts": [{"text": words}] if words else []}}]}
    if finish:
        event["candidates"][0]["finishReason"] = finish
    return event | ({"usageMetadata": usage} if usage else {})


def _google_usage(prompt: int, completion: int) -> Event:
    return {"promptTokenCount": prompt, "candidatesTokenCount": completion, "thoughtsTokenCount": completion // 2}


def _take_google(event: Event) -> tuple[Event | None, str, bool]:
    parts = [part for one in event.get("candidates") or [] for part in (one.get("content") or {}).get("parts") or []]
    return event.get("usageMetadata"), "".join(part.get("text") or "" for part in parts), False


GOOGLE = Format(
    "google-ai-studio",
    "v1beta/models/m:streamGenerateContent",
    body(contents=[]),
    lambda words: _google(words, "STOP"),
    lambda prompt, completion: [_google(None, None, _google_usage(prompt, completion))],
    (
        _google(None),
        _google(None, "STOP"),
        {"candidates": []},
        {"candidates": [{"content": {}, "safetyRatings": []}]},
        {"acme": True},
    ),
    lambda prompt, completion: (
        [_google(None, "STOP", _google_usage(prompt, completion))],
        [_google(None, "STOP")],
    ),
    _take_google,
    lambda usage: {
        "input_tokens": usage["promptTokenCount"],
        "output_tokens": usage["candidatesTokenCount"] + usage["thoughtsTokenCount"],
        "output_reasoning_tokens": usage["thoughtsTokenCount"],
    },
)


def _cohere_end(usage: Event | None) -> Event:
    return {"type": "message-end", "delta": {"finish_reason": "COMPLETE", **({"usage": usage} if usage else {})}}


def _take_cohere(event: Event) -> tuple[Event | None, str, bool]:
    delta = event.get("delta") or {}
    words = ((delta.get("message") or {}).get("content") or {}).get("text") if event.get("type") else ""
    return delta.get("usage"), words or "", False


COHERE = Format(
    "cohere",
    "v2/chat",
    body(model="m", messages=[], stream=True),
    lambda words: {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": words}}}},
    lambda _p, _c: [],
    (
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        {"type": "content-end", "index": 0},
        {"type": "acme-unknown", "delta": {}},
    ),
    lambda prompt, completion: (
        [
            _cohere_end(
                {
                    "billed_units": {"input_tokens": prompt, "output_tokens": completion},
                    "tokens": {"input_tokens": prompt + 66, "output_tokens": completion + 2},
                }
            )
        ],
        [_cohere_end(None)],
    ),
    _take_cohere,
    lambda usage: dict(usage["billed_units"]),
    opens=({"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}},),
    names=True,
)
WORKERS_AI = Format(
    "workers-ai",
    "run/@cf/acme/m",
    body(messages=[], stream=True),
    lambda words: {"response": words, "p": "abc"},
    lambda prompt, completion: [
        {"response": "", "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 1}}
    ],
    ({"response": ""}, {"response": None}, {"acme": 1}),
    lambda prompt, completion: (
        [{"response": "", "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}, "[DONE]"],
        ["[DONE]"],
    ),
    lambda event: (event.get("usage"), event.get("response") or "", False),
    lambda usage: {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
)
FORMATS = [CHAT, PERPLEXITY, RESPONSES, ANTHROPIC, GOOGLE, COHERE, WORKERS_AI]


# The streams.


@st.composite
def streams(draw: st.DrawFn, form: Format) -> bytes:
    """A stream of the format."""
    prompt, completion = draw(COUNTS), draw(COUNTS)
    said = [form.says(words) for words in draw(st.lists(WORDS, min_size=1, max_size=5))]
    early = [event for share in draw(st.lists(st.integers(1, 9), max_size=2)) for event in _early(form, prompt, share)]
    quiet = draw(st.lists(st.sampled_from(form.quiet), max_size=5))
    inner = draw(st.permutations([*said, *early, *quiet]))
    with_usage, without = form.ends(prompt, completion)
    end = draw(st.sampled_from([with_usage, with_usage, without]))
    eol = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    layout = draw(st.sampled_from(["events", "events", "events", "lines"]))
    # Where lines are events, junk cannot be distinguished from the first line of a longer document.
    garbage = draw(st.lists(st.sampled_from(GARBAGE), max_size=0 if layout == "lines" else 2))
    parts = [draw(_written(event, form, eol, layout)) for event in (*form.opens, *inner, *end)]
    others = [*draw(st.lists(st.just(": keep-alive"), max_size=2)), *[f"data: {text}" for text in garbage]]
    for other in others:
        parts.insert(draw(st.integers(0, len(parts) - 1)), other + eol * (1 if layout == "lines" else 2))
    mark = draw(st.sampled_from(["", "", "", "\ufeff"]))
    return (mark + "".join(parts)).encode()


def _early(form: Format, prompt: int, share: int) -> list[Event]:
    """Intermediate usage: never more than the final one."""
    return form.tells(prompt, share)


@st.composite
def _written(draw: st.DrawFn, event: Any, form: Format, eol: str, layout: str) -> str:
    if isinstance(event, str):
        return f"data: {event}{eol}" + ("" if layout == "lines" else eol)
    event = {**event, **draw(st.sampled_from([{}, {"acme_extra": {"deep": [True, "x"]}}]))}
    indent = draw(st.sampled_from([None, None, None, 0])) if layout == "events" else None
    separators = draw(st.sampled_from([None, (",", ":")]))
    text = json.dumps(event, ensure_ascii=draw(st.booleans()), separators=separators, indent=indent)
    space = draw(st.sampled_from([" ", " ", ""]))
    data = "".join([f"data:{space}{line}{eol}" for line in text.split("\n")])
    if layout == "lines":
        return data
    head = f"event: {event['type']}{eol}" if form.names and "type" in event else ""
    return head + draw(st.sampled_from(["", "", f"id: 7{eol}", f"retry: 10{eol}"])) + data + eol


def _read(form: Format, pieces: list[bytes], *, hide_usage: bool) -> tuple[bytes, Observed]:
    format_ = wire_format(form.slug, form.path)
    parsed = format_.parse(upstream_path(BY_SLUG[form.slug], form.path), "application/json", form.request)
    reader = format_.reader(parsed, streaming=True, hide_usage=hide_usage)
    passed = b"".join([reader.feed(piece) for piece in pieces])
    rest, observed = reader.close()
    return passed + rest, observed


def _cuts(stream: bytes) -> Iterator[list[bytes]]:
    """The stream as a whole, byte by byte, and split at random, including within characters and line ends."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    cuts = random.Random(len(stream))
    for _ in range(2):
        places = sorted(cuts.sample(range(len(stream)), min(len(stream), cuts.randint(1, 12))))
        yield [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.slug}-{form.path.split('/')[-1]}")
def test_generated_streams(form: Format) -> None:
    print(f"FAREBOX_TEST_SEED={SEED}")

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(streams(form))
    def check(stream: bytes) -> None:
        right = read_whole(stream, form.take)
        usage = None if right.usage is None else {m: n for m, n in form.meters(right.usage).items() if n}
        for pieces in _cuts(stream):
            passed, observed = _read(form, pieces, hide_usage=False)
            assert passed == stream
            assert observed.usage == usage
            assert right.text_bytes <= observed.delivered_bytes <= right.text_bytes + right.junk_bytes
            assert not observed.failed
            if form.hides:
                passed, hidden = _read(form, pieces, hide_usage=True)
                assert passed == right.passed
                assert hidden.usage == usage

    check()
