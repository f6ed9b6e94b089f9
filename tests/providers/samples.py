"""Responses in the formats of the public APIs, written by hand, one set for each wire format and variant."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from farebox.providers.catalogue import PROVIDERS, format_of, upstream_path
from farebox.providers.formats.base import Observed, ParsedRequest, ResponseReader, WireFormat
from farebox.providers.provider import Metering

BY_SLUG = {provider.slug: provider for provider in PROVIDERS}


def metering(slug: str, method: str, path: str) -> Metering:
    """How a call to this path is metered, in any spelling."""
    provider = BY_SLUG[slug]
    return format_of(provider, method, upstream_path(provider, path))


def wire_format(slug: str, path: str) -> WireFormat:
    """The wire format of a POST to this path; fails if it has none."""
    found = metering(slug, "POST", path)
    assert hasattr(found, "parse"), f"{slug} {path} is {found}"
    return found  # type: ignore[return-value]


def body(**fields: Any) -> bytes:
    """A JSON body with minimal escaping, as SDKs send it."""
    return json.dumps(fields, ensure_ascii=False).encode()


def stream(*events: Any, names: bool = False, end: str = "\n\n") -> bytes:
    """A stream of these events: objects as JSON, strings as they are."""
    line = end[: len(end) // 2]
    out = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        name = f"event: {event['type']}{line}" if names and isinstance(event, dict) else ""
        out.append(f"{name}data: {data}{end}")
    return "".join(out).encode()


def read(reader: ResponseReader, chunks: Iterable[bytes]) -> tuple[bytes, Observed]:
    """Feed all chunks and close."""
    passed = b"".join([reader.feed(chunk) for chunk in chunks])
    rest, observed = reader.close()
    return passed + rest, observed


@dataclass(frozen=True)
class Sample:
    """A streamed or whole response, its expected reading, and what may not reach a client that did not request
    usage."""

    id: str
    slug: str
    path: str
    request: bytes
    response: bytes
    usage: dict[str, Any]
    model: str | None
    delivered: int
    streaming: bool = True
    hidden: bytes = b""
    parsed: ParsedRequest = field(init=False)
    format: WireFormat = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", wire_format(self.slug, self.path))
        path = upstream_path(BY_SLUG[self.slug], self.path)
        object.__setattr__(self, "parsed", self.format.parse(path, "application/json", self.request))

    def reader(self, *, hide_usage: bool = False) -> ResponseReader:
        return self.format.reader(self.parsed, streaming=self.streaming, hide_usage=hide_usage)


CHAT = body(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a chat stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-2024", "choices": choices, **more}


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3},
}
METERS = {
    "input_tokens": 100,
    "cache_read_tokens": 40,
    "input_audio_tokens": 5,
    "output_tokens": 50,
    "output_reasoning_tokens": 20,
    "output_audio_tokens": 3,
}
TOOL = {
    "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}]
}
MORE_TOOL = {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}
USAGE_CHUNK = stream(chunk(None, usage=USAGE))

_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-5",
    "status": "completed",
    "error": None,
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed", "action": {"type": "open_page", "url": "u"}},
        {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Grüße", "annotations": []}],
        },
    ],
    "usage": {
        "input_tokens": 300,
        "input_tokens_details": {"cached_tokens": 128},
        "output_tokens": 80,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 380,
    },
}
_RESPONSE_METERS = {
    "input_tokens": 300,
    "cache_read_tokens": 128,
    "output_tokens": 80,
    "output_reasoning_tokens": 64,
    "web_searches": 1,
    "storage_searches": 1,
}

_CLAUDE_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 2000,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 1500, "ephemeral_1h_input_tokens": 500},
    "output_tokens": 120,
    "server_tool_use": {"web_search_requests": 2},
    "service_tier": "standard",
}
_CLAUDE_METERS = {
    "input_tokens": 7010,
    "cache_write_tokens": 2000,
    "cache_write_5m_tokens": 1500,
    "cache_write_1h_tokens": 500,
    "cache_read_tokens": 5000,
    "output_tokens": 120,
    "web_searches": 2,
}
_CLAUDE_EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "model": "claude-haiku-4-5-20251001",
            "content": [],
            "usage": {**_CLAUDE_USAGE, "output_tokens": 1, "server_tool_use": {"web_search_requests": 0}},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm…"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc="}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "get", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"x":1}'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "Hello"}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 120, "server_tool_use": {"web_search_requests": 2}},
    },
    {"type": "message_stop"},
]

GEMINI_USAGE: dict[str, Any] = {
    "promptTokenCount": 1000,
    "candidatesTokenCount": 60,
    "thoughtsTokenCount": 200,
    "toolUsePromptTokenCount": 30,
    "cachedContentTokenCount": 400,
    "totalTokenCount": 1290,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 700}, {"modality": "AUDIO", "tokenCount": 300}],
    "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 350}, {"modality": "AUDIO", "tokenCount": 50}],
    "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 60}],
    "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
}
GEMINI_METERS = {
    "input_tokens": 1030,
    "input_text_tokens": 730,
    "input_audio_tokens": 300,
    "input_tool_tokens": 30,
    "input_text_tool_tokens": 30,
    "cache_read_tokens": 400,
    "cache_text_read_tokens": 350,
    "cache_audio_read_tokens": 50,
    "output_tokens": 260,
    "output_text_tokens": 60,
    "output_reasoning_tokens": 200,
}


def gemini(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """An event of a Gemini stream."""
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {
        "candidates": [candidate | ({"finishReason": finish} if finish else {})],
        "usageMetadata": {"promptTokenCount": 1000, "totalTokenCount": 1000},
        "modelVersion": "gemini-2.5-flash",
        **more,
    }


_GEMINI_EVENTS = [gemini("Hel"), gemini("lo", "STOP", usageMetadata=GEMINI_USAGE)]
_GEMINI_REQUEST = body(contents=[{"parts": [{"text": "hi"}]}])
_GEMINI_PATH = "v1beta/models/gemini-2.5-flash:"

_COHERE_USAGE = {
    "billed_units": {"input_tokens": 5.0, "output_tokens": 418},
    "tokens": {"input_tokens": 71, "output_tokens": 420},
}

SAMPLES = [
    Sample(
        "chat",
        "openai",
        "chat/completions",
        CHAT,
        stream(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Grüße"}),
            chunk(TOOL),
            chunk(MORE_TOOL),
            chunk({}, "tool_calls"),
            chunk(None, usage=USAGE),
            "[DONE]",
        ),
        METERS,
        "m-2024",
        7 + 5 + 3,
        hidden=USAGE_CHUNK,
    ),
    Sample(
        "chat with usage beside content",
        "mistral",
        "v1/chat/completions",
        CHAT,
        stream(chunk({"content": "a"}), chunk({"content": "b"}, "stop", usage=USAGE), "[DONE]"),
        METERS,
        "m-2024",
        2,
    ),
    Sample(
        "groq",
        "groq",
        "openai/v1/chat/completions",
        CHAT,
        stream(
            chunk({"content": "a"}, x_groq={"id": "req_1"}),
            chunk({}, "stop", x_groq={"id": "req_1", "usage": USAGE}),
            "[DONE]",
        ),
        METERS,
        "m-2024",
        1,
    ),
    Sample(
        "deepseek",
        "deepseek",
        "chat/completions",
        CHAT,
        stream(
            chunk({"content": None, "reasoning_content": "hm"}),
            chunk({"content": "x"}, "stop"),
            chunk(None, usage={"prompt_tokens": 90, "completion_tokens": 7, "prompt_cache_hit_tokens": 64}),
            "[DONE]",
        ),
        {"input_tokens": 90, "output_tokens": 7, "cache_read_tokens": 64},
        "m-2024",
        3,
    ),
    Sample(
        "grok",
        "grok",
        "v1/chat/completions",
        CHAT,
        stream(chunk({"content": "x"}, "stop"), chunk(None, usage={**USAGE, "total_tokens": 170}), "[DONE]"),
        {**METERS, "output_tokens": 70},
        "m-2024",
        1,
    ),
    Sample(
        "perplexity",
        "perplexity-ai",
        "chat/completions",
        CHAT,
        stream(
            chunk({"content": "x"}, usage={"prompt_tokens": 8, "completion_tokens": 1}),
            chunk(
                {"content": "y"},
                "stop",
                usage={
                    "prompt_tokens": 8,
                    "completion_tokens": 2,
                    "reasoning_tokens": 30,
                    "citation_tokens": 11,
                    "num_search_queries": 4,
                    "search_context_size": "low",
                },
            ),
        ),
        {
            "input_tokens": 8,
            "output_tokens": 43,
            "output_reasoning_tokens": 30,
            "output_citation_tokens": 11,
            "web_searches": 4,
        },
        "m-2024",
        2,
    ),
    Sample(
        "google compatible",
        "google-ai-studio",
        "v1beta/openai/chat/completions",
        CHAT,
        stream(
            chunk({"content": "x"}, "stop"),
            chunk(None, usage={"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 62}),
            "[DONE]",
        ),
        {"input_tokens": 10, "output_tokens": 52},
        "m-2024",
        1,
    ),
    Sample(
        "completions",
        "openai",
        "v1/completions",
        body(model="m", prompt="Say", stream=True),
        stream(
            {"model": "m-2024", "choices": [{"text": "Hello", "index": 0, "finish_reason": None}]},
            {"model": "m-2024", "choices": [{"text": "", "index": 0, "finish_reason": "stop"}]},
            {"model": "m-2024", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
            "[DONE]",
        ),
        {"input_tokens": 1, "output_tokens": 2},
        "m-2024",
        5,
    ),
    Sample(
        "responses",
        "openai",
        "responses",
        body(model="gpt-5", input="hi", stream=True),
        stream(
            {
                "type": "response.created",
                "response": {**_RESPONSE, "usage": None, "status": "in_progress", "output": []},
            },
            {"type": "response.output_item.done", "output_index": 0, "item": _RESPONSE["output"][0]},  # type: ignore[index]
            {"type": "response.reasoning_summary_text.delta", "delta": "hm"},
            {"type": "response.output_text.delta", "item_id": "msg", "delta": "Grüße"},
            {"type": "response.output_text.done", "text": "Grüße"},
            {"type": "response.completed", "response": _RESPONSE},
            names=True,
        ),
        _RESPONSE_METERS,
        "gpt-5",
        9,
    ),
    Sample(
        "messages",
        "anthropic",
        "v1/messages",
        body(model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "hi"}], stream=True),
        stream(*_CLAUDE_EVENTS, names=True),
        _CLAUDE_METERS,
        "claude-haiku-4-5-20251001",
        5 + 3 + 7 + 5,
    ),
    Sample(
        "gemini",
        "google-ai-studio",
        _GEMINI_PATH + "streamGenerateContent",
        _GEMINI_REQUEST,
        stream(*_GEMINI_EVENTS, end="\r\n\r\n"),
        GEMINI_METERS,
        "gemini-2.5-flash",
        5,
    ),
    Sample(
        "cohere",
        "cohere",
        "v2/chat",
        body(model="command-a", messages=[{"role": "user", "content": "hi"}], stream=True),
        stream(
            {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hello"}}}},
            {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I"}}},
            {"type": "tool-call-delta", "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}}},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _COHERE_USAGE}},
            names=True,
        ),
        {"input_tokens": 5, "output_tokens": 418},
        None,
        8,
    ),
    Sample(
        "workers ai",
        "workers-ai",
        "@cf/meta/llama-3.1-8b-instruct",
        body(prompt="hi", stream=True),
        stream(
            {"response": "Hel", "p": "abc"},
            {"response": "lo", "p": "ab"},
            {"response": "", "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}},
            "[DONE]",
        ),
        {"input_tokens": 12, "output_tokens": 3},
        None,
        5,
    ),
    Sample(
        "images",
        "openai",
        "images/generations",
        body(model="gpt-image-1", prompt="a cat", stream=True),
        stream(
            {"type": "image_generation.partial_image", "b64_json": "aGk=", "partial_image_index": 0},
            {
                "type": "image_generation.completed",
                "b64_json": "aGk=",
                "usage": {
                    "input_tokens": 50,
                    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                    "output_tokens": 4160,
                    "total_tokens": 4210,
                },
            },
            names=True,
        ),
        {"input_tokens": 50, "input_text_tokens": 10, "input_image_tokens": 40, "output_tokens": 4160},
        None,
        0,
    ),
    Sample(
        "speech events",
        "openai",
        "audio/speech",
        body(model="gpt-4o-mini-tts", input="hello", voice="alloy", stream_format="sse"),
        stream(
            {"type": "speech.audio.delta", "audio": "aGk="},
            {"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}},
        ),
        {"input_tokens": 14, "output_tokens": 101},
        None,
        0,
    ),
]


def chat_body(usage: Any, **more: Any) -> bytes:
    """A whole chat response."""
    message = {"role": "assistant", "content": "Grüße", "tool_calls": None}
    return body(
        id="c1",
        model="m-2024",
        choices=[{"index": 0, "message": message, "finish_reason": "stop"}],
        usage=usage,
        **more,
    )


WHOLE = [
    Sample("chat", "openai", "chat/completions", CHAT, chat_body(USAGE), METERS, "m-2024", 7, False),
    Sample(
        "google compatible",
        "google-ai-studio",
        "chat/completions",
        CHAT,
        chat_body({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 62}),
        {"input_tokens": 10, "output_tokens": 52},
        "m-2024",
        7,
        False,
    ),
    Sample(
        "responses",
        "openai",
        "v1/responses",
        body(model="gpt-5", input="hi"),
        json.dumps(_RESPONSE).encode(),
        _RESPONSE_METERS,
        "gpt-5",
        7,
        False,
    ),
    Sample(
        "messages",
        "anthropic",
        "messages",
        body(model="c", max_tokens=9, messages=[]),
        body(
            type="message",
            model="claude-haiku-4-5-20251001",
            content=[{"type": "text", "text": "Hi"}, {"type": "tool_use", "name": "get", "input": {"x": "yz"}}],
            usage=_CLAUDE_USAGE,
        ),
        _CLAUDE_METERS,
        "claude-haiku-4-5-20251001",
        2 + 3 + 2,
        False,
    ),
    Sample(
        "gemini",
        "google-ai-studio",
        _GEMINI_PATH + "generateContent",
        _GEMINI_REQUEST,
        json.dumps(gemini("Hello", "STOP", usageMetadata=GEMINI_USAGE)).encode(),
        GEMINI_METERS,
        "gemini-2.5-flash",
        5,
        False,
    ),
    Sample(
        "gemini array stream",
        "google-ai-studio",
        _GEMINI_PATH + "streamGenerateContent",
        _GEMINI_REQUEST,
        json.dumps(_GEMINI_EVENTS, indent=1).encode(),
        GEMINI_METERS,
        "gemini-2.5-flash",
        5,
        False,
    ),
    Sample(
        "gemini embedding",
        "google-ai-studio",
        "v1/models/gemini-embedding-2:embedContent",
        body(content={"parts": [{"text": "hi"}]}),
        body(embedding={"values": [0.1]}, usageMetadata={"promptTokenCount": 4}),
        {"input_tokens": 4},
        None,
        0,
        False,
    ),
    Sample(
        "embeddings",
        "openai",
        "embeddings",
        body(model="text-embedding-3-small", input=["hi", "you"]),
        body(object="list", data=[{"embedding": [0.1]}], model="e", usage={"prompt_tokens": 9, "total_tokens": 9}),
        {"input_tokens": 9},
        "e",
        0,
        False,
    ),
    Sample(
        "cohere",
        "cohere",
        "v2/chat",
        body(model="command-a", messages=[]),
        body(message={"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}, usage=_COHERE_USAGE),
        {"input_tokens": 5, "output_tokens": 418},
        None,
        5,
        False,
    ),
    Sample(
        "cohere embed",
        "cohere",
        "v2/embed",
        body(model="embed-v4", texts=["a", "b"]),
        body(embeddings={"float": [[0.1]]}, meta={"billed_units": {"input_tokens": 3}}),
        {"input_tokens": 3},
        None,
        0,
        False,
    ),
    Sample(
        "cohere rerank",
        "cohere",
        "v2/rerank",
        body(model="rerank-v3.5", query="q", documents=["a", "b"]),
        body(results=[], meta={"billed_units": {"search_units": 1}}),
        {"rerank_searches": 1},
        None,
        0,
        False,
    ),
    Sample(
        "workers ai",
        "workers-ai",
        "run/@cf/meta/llama-3.1-8b-instruct",
        body(messages=[{"role": "user", "content": "hi"}]),
        body(
            result={"response": "Hello", "usage": {"prompt_tokens": 12, "completion_tokens": 3}},
            success=True,
            errors=[],
            messages=[],
        ),
        {"input_tokens": 12, "output_tokens": 3},
        None,
        5,
        False,
    ),
    Sample(
        "images",
        "openai",
        "images/generations",
        body(model="gpt-image-1", prompt="a cat"),
        body(
            data=[{"b64_json": "aGk="}],
            usage={
                "input_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens": 4160,
            },
        ),
        {"input_tokens": 50, "input_text_tokens": 10, "input_image_tokens": 40, "output_tokens": 4160},
        None,
        0,
        False,
    ),
    Sample(
        "speech",
        "openai",
        "audio/speech",
        body(model="tts-1", input="Grüße", voice="alloy"),
        b"\xff\xfb\x90d" * 9,
        {"input_characters": 5},
        None,
        0,
        False,
    ),
]
