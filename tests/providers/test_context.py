"""The context that selects a model's price: requested options, and what the response reports."""

import json
from typing import Any

import pytest

from farebox.providers.formats.base import ParsedRequest
from tests.providers.samples import body, chunk, read, stream, wire_format

ASKED = [
    ("openai", "chat/completions", {"messages": []}, {"service_tier": "priority"}, {"service_tier": "priority"}),
    ("openai", "chat/completions", {"messages": []}, {"service_tier": "auto"}, {"service_tier": "auto"}),
    ("openai", "chat/completions", {"messages": []}, {"service_tier": None}, {}),
    ("openai", "responses", {"input": "x"}, {"service_tier": "flex"}, {"service_tier": "flex"}),
    ("anthropic", "v1/messages", {"messages": [], "max_tokens": 9}, {"speed": "fast"}, {"speed": "fast"}),
    ("anthropic", "v1/messages", {"messages": [], "max_tokens": 9}, {"speed": "standard"}, {"speed": "standard"}),
    ("anthropic", "v1/messages", {"messages": [], "max_tokens": 9}, {"inference_geo": "us"}, {"inference_geo": "us"}),
    (
        "google-ai-studio",
        "v1beta/models/gemini-3.5-flash:generateContent",
        {"contents": []},
        {"serviceTier": "SERVICE_TIER_PRIORITY"},
        {"service_tier": "priority"},
    ),
    (
        "google-ai-studio",
        "v1beta/models/gemini-3.5-flash:generateContent",
        {"contents": []},
        {"service_tier": "flex"},
        {"service_tier": "flex"},
    ),
]


def parse(slug: str, path: str, **fields: Any) -> ParsedRequest:
    return wire_format(slug, path).parse(path, "application/json", body(model="m", **fields))


@pytest.mark.parametrize(("slug", "path", "needed", "fields", "context"), ASKED)
def test_requested_options_are_in_the_context(
    slug: str, path: str, needed: dict[str, Any], fields: dict[str, Any], context: dict[str, str]
) -> None:
    assert parse(slug, path, **needed, **fields).context == context


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_context_reported_by_a_chat_stream() -> None:
    format_ = wire_format("openai", "chat/completions")
    parsed = parse("openai", "chat/completions", messages=[], stream=True)
    response = stream(
        chunk({"content": "hi"}, service_tier="default"),
        {"choices": [], "usage": USAGE, "model": "m", "service_tier": "default"},
        "[DONE]",
    )
    _, seen = read(format_.reader(parsed, streaming=True, hide_usage=False), [response])
    assert seen.context == {"service_tier": "default"}


@pytest.mark.parametrize(
    ("slug", "path", "response", "context"),
    [
        (
            "openai",
            "chat/completions",
            {"choices": [], "usage": USAGE, "service_tier": "flex"},
            {"service_tier": "flex"},
        ),
        (
            "openai",
            "responses",
            {"usage": {"input_tokens": 1, "output_tokens": 1}, "service_tier": "priority"},
            {"service_tier": "priority"},
        ),
        (
            "anthropic",
            "v1/messages",
            {"usage": {"input_tokens": 1, "output_tokens": 1, "speed": "fast"}},
            {"speed": "fast"},
        ),
        (
            "anthropic",
            "v1/messages",
            {"usage": {"input_tokens": 1, "output_tokens": 1, "inference_geo": "us", "service_tier": "standard"}},
            {"inference_geo": "us"},
        ),
        (
            "anthropic",
            "v1/messages",
            {"usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": "priority"}},
            {"service_tier": "priority"},
        ),
        (
            "google-ai-studio",
            "v1beta/models/gemini-3.5-flash:generateContent",
            {"usageMetadata": {"promptTokenCount": 1, "serviceTier": "PRIORITY"}},
            {"service_tier": "priority"},
        ),
        (
            "google-ai-studio",
            "v1beta/models/gemini-3.5-flash:generateContent",
            {"usageMetadata": {"promptTokenCount": 1}, "service_tier": "flex"},
            {"service_tier": "flex"},
        ),
        ("openai", "chat/completions", {"choices": [], "usage": USAGE, "service_tier": 7}, {}),
    ],
)
def test_context_reported_by_a_body(slug: str, path: str, response: dict[str, Any], context: dict[str, str]) -> None:
    parsed = parse(slug, path, messages=[], contents=[], max_tokens=9)
    reader = wire_format(slug, path).reader(parsed, streaming=False, hide_usage=False)
    _, seen = read(reader, [json.dumps(response).encode()])
    assert seen.context == context


def test_responses_that_cannot_be_metered() -> None:
    assert parse("groq", "openai/v1/responses", input="x", background=True).unmetered
    assert parse("openai", "responses", input="x", background=True).unmetered is None
    assert parse("openai", "responses", input="x", background="true").unmetered
    assert parse("openai", "responses", input="x", tools=[{"type": "image_generation"}]).unmetered
    assert parse("openai", "responses", input="x", tools=[{"type": "web_search"}]).unmetered is None
