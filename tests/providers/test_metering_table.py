"""The table of usage objects in `docs/metering.md`: one test per row, with the object as the provider sends it."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.providers.samples import CHAT, body, read, stream, wire_format

RESPONSES = body(model="m", input="hi")
MESSAGES = body(model="m", messages=[], max_tokens=9)
CONTENTS = body(contents=[])


@dataclass(frozen=True)
class Row:
    id: str
    slug: str
    path: str
    request: bytes
    usage: dict[str, Any]
    meters: dict[str, Any]
    holder: str = "usage"


def chat(id: str, slug: str, usage: dict[str, Any], meters: dict[str, Any], path: str = "chat/completions") -> Row:
    return Row(id, slug, path, CHAT, usage, meters)


ROWS = [
    chat(
        "cached tokens are inside the prompt's",
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 60},
        },
        {"input_tokens": 100, "cache_read_tokens": 60, "output_tokens": 10},
    ),
    chat(
        "reasoning is inside the completion's",
        "openai",
        {"prompt_tokens": 10, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 40}},
        {"input_tokens": 10, "output_tokens": 50, "output_reasoning_tokens": 40},
    ),
    chat(
        "cache writes by how long they are kept",
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "prompt_tokens_details": {
                "cache_write_tokens": 90,
                "cache_write_tokens_details": {"ttl_30m_tokens": 50, "ttl_12h_tokens": 40},
            },
        },
        {"input_tokens": 100, "cache_write_tokens": 90, "cache_write_12h_tokens": 40, "output_tokens": 10},
    ),
    Row(
        "cache writes by how long they are kept (Responses)",
        "openai",
        "responses",
        RESPONSES,
        {
            "input_tokens": 100,
            "output_tokens": 10,
            "input_tokens_details": {
                "cached_tokens": 5,
                "cache_write_tokens": 90,
                "cache_write_tokens_details": {"ttl_30m_tokens": 50, "ttl_12h_tokens": 40},
            },
        },
        {
            "input_tokens": 100,
            "cache_read_tokens": 5,
            "cache_write_tokens": 90,
            "cache_write_12h_tokens": 40,
            "output_tokens": 10,
        },
    ),
    chat(
        "cached tokens, older spelling",
        "mistral",
        {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, "num_cached_tokens": 64},
        {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 10},
    ),
    chat(
        "cached tokens, newer spelling",
        "mistral",
        {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 64}},
        {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 10},
    ),
    chat(
        "cached tokens in both spellings are the same ones",
        "mistral",
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "num_cached_tokens": 64,
            "prompt_token_details": {"cached_tokens": 64},
        },
        {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 10},
    ),
    chat(
        "audio is beside the prompt's tokens",
        "mistral",
        {
            "prompt_tokens": 9,
            "completion_tokens": 20,
            "total_tokens": 404,
            "prompt_tokens_details": {"audio_tokens": 375},
        },
        {"input_tokens": 384, "input_audio_tokens": 375, "output_tokens": 20},
    ),
    chat(
        "audio is inside the prompt's tokens where the total says so",
        "mistral",
        {
            "prompt_tokens": 384,
            "completion_tokens": 20,
            "total_tokens": 404,
            "prompt_tokens_details": {"audio_tokens": 375},
        },
        {"input_tokens": 384, "input_audio_tokens": 375, "output_tokens": 20},
    ),
    chat(
        "seconds of audio",
        "mistral",
        {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29, "prompt_audio_seconds": 30},
        {"input_tokens": 9, "output_tokens": 20, "audio_seconds": 30, "input_audio_seconds": 30},
    ),
    chat(
        "hits and misses make up the prompt",
        "deepseek",
        {
            "prompt_tokens": 100,
            "completion_tokens": 30,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 30, "output_reasoning_tokens": 20},
    ),
    chat(
        "cached tokens",
        "groq",
        {
            "queue_time": 0.1,
            "prompt_tokens": 100,
            "completion_tokens": 30,
            "total_tokens": 130,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
        {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 30},
    ),
    chat(
        "reasoning is beside the completion's",
        "grok",
        {
            "prompt_tokens": 165,
            "completion_tokens": 40,
            "total_tokens": 326,
            "completion_tokens_details": {"reasoning_tokens": 121},
        },
        {"input_tokens": 165, "output_tokens": 161, "output_reasoning_tokens": 121},
    ),
    chat(
        "reasoning is inside the completion's where the total says so",
        "grok",
        {
            "prompt_tokens": 165,
            "completion_tokens": 161,
            "total_tokens": 326,
            "completion_tokens_details": {"reasoning_tokens": 121},
        },
        {"input_tokens": 165, "output_tokens": 161, "output_reasoning_tokens": 121},
    ),
    Row(
        "reasoning is inside the output (Responses)",
        "grok",
        "responses",
        RESPONSES,
        {"input_tokens": 165, "output_tokens": 161, "output_tokens_details": {"reasoning_tokens": 121}},
        {"input_tokens": 165, "output_tokens": 161, "output_reasoning_tokens": 121},
    ),
    chat(
        "thinking is in the total only (compatible form)",
        "google-ai-studio",
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
        {"input_tokens": 35, "output_tokens": 74},
        path="v1beta/openai/chat/completions",
    ),
    Row(
        "thoughts and tool results are beside",
        "google-ai-studio",
        "v1beta/models/gemini-3-pro:generateContent",
        CONTENTS,
        {
            "promptTokenCount": 50,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "toolUsePromptTokenCount": 7,
            "totalTokenCount": 107,
        },
        {"input_tokens": 57, "input_tool_tokens": 7, "output_tokens": 50, "output_reasoning_tokens": 30},
        holder="usageMetadata",
    ),
    Row(
        "the cache's tokens are beside the input's",
        "anthropic",
        "v1/messages",
        MESSAGES,
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 60,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
            "output_tokens": 5,
        },
        {
            "input_tokens": 170,
            "cache_read_tokens": 100,
            "cache_write_tokens": 60,
            "cache_write_5m_tokens": 20,
            "cache_write_1h_tokens": 40,
            "output_tokens": 5,
        },
    ),
    Row(
        "billed units, not all the model read",
        "cohere",
        "v2/chat",
        MESSAGES,
        {"billed_units": {"input_tokens": 20, "output_tokens": 5}, "tokens": {"input_tokens": 91, "output_tokens": 5}},
        {"input_tokens": 20, "output_tokens": 5},
    ),
    chat(
        "reasoning and citations are beside, searches counted",
        "perplexity-ai",
        {
            "prompt_tokens": 8,
            "completion_tokens": 2,
            "reasoning_tokens": 30,
            "citation_tokens": 11,
            "num_search_queries": 4,
        },
        {
            "input_tokens": 8,
            "output_tokens": 43,
            "output_reasoning_tokens": 30,
            "output_citation_tokens": 11,
            "web_searches": 4,
        },
    ),
    chat(
        "pictures are inside prompt and completion",
        "openrouter",
        {
            "prompt_tokens": 300,
            "completion_tokens": 1300,
            "total_tokens": 1600,
            "prompt_tokens_details": {"image_tokens": 258},
            "completion_tokens_details": {"image_tokens": 1290},
        },
        {"input_tokens": 300, "input_image_tokens": 258, "output_tokens": 1300, "output_image_tokens": 1290},
    ),
    Row(
        "embeddings have a prompt only",
        "openai",
        "embeddings",
        body(model="m", input="hi"),
        {"prompt_tokens": 8, "total_tokens": 9},
        {"input_tokens": 8},
    ),
    Row(
        "embeddings may have a total only",
        "openai",
        "embeddings",
        body(model="m", input="hi"),
        {"total_tokens": 9},
        {"input_tokens": 9},
    ),
    Row(
        "the names of chat completions",
        "workers-ai",
        "run/@cf/acme/acme-1",
        CHAT,
        {"prompt_tokens": 50, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 20}},
        {"input_tokens": 50, "cache_read_tokens": 20, "output_tokens": 7},
    ),
    Row(
        "the names of responses",
        "workers-ai",
        "run/@cf/acme/acme-1",
        CHAT,
        {"input_tokens": 50, "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 5}},
        {"input_tokens": 50, "output_tokens": 7, "output_reasoning_tokens": 5},
    ),
    Row(
        "embeddings of pictures have another name for their details",
        "google-ai-studio",
        "v1beta/models/gemini-embedding-2:embedContent",
        body(content={"parts": [{"text": "hi"}]}),
        {
            "promptTokenCount": 260,
            "promptTokenDetails": [
                {"modality": "TEXT", "tokenCount": 2},
                {"modality": "IMAGE", "tokenCount": 258},
            ],
        },
        {"input_tokens": 260, "input_text_tokens": 2, "input_image_tokens": 258},
        holder="usageMetadata",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.slug}: {row.id}" for row in ROWS])
def test_the_usage_is_read_as_the_table_says(row: Row) -> None:
    wire = wire_format(row.slug, row.path)
    parsed = wire.parse(row.path, "application/json", row.request)
    response = body(model="m", **{row.holder: row.usage})
    seen = read(wire.reader(parsed, streaming=False, hide_usage=False), [response])[1]
    assert (seen.usage, seen.problem) == (row.meters, None)


def test_the_split_of_cache_writes_is_kept_from_the_first_event() -> None:
    """Anthropic's last event repeats the figures without the split by time."""
    wire = wire_format("anthropic", "v1/messages")
    start = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 60,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 60},
        "output_tokens": 1,
    }
    last = {"input_tokens": 10, "cache_creation_input_tokens": 60, "cache_read_input_tokens": 0, "output_tokens": 7}
    response = stream(
        {"type": "message_start", "message": {"model": "m", "usage": start}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last},
        {"type": "message_stop"},
    )
    parsed = wire.parse("v1/messages", "application/json", MESSAGES)
    seen = read(wire.reader(parsed, streaming=True, hide_usage=False), [response])[1]
    assert seen.usage == {
        "input_tokens": 70,
        "cache_write_tokens": 60,
        "cache_write_1h_tokens": 60,
        "output_tokens": 7,
    }
