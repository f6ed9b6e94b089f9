"""Compares our reading of usage with the extractors of genai-prices, whose prices we use."""

import json
from itertools import pairwise
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import Provider, Usage, UsageExtractor
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.providers.catalogue import upstream_path
from tests.providers.samples import BY_SLUG, CHAT, SAMPLES, WHOLE, Sample, body, read, stream, wire_format

GENAI: dict[str, Provider] = {provider.id: provider for provider in providers}
NAMES = {
    "google-ai-studio": "google",
    "grok": "x-ai",
    "perplexity-ai": "perplexity",
    "workers-ai": "cloudflare",
}
_RESPONSES = body(model="m", input="hi")
_MESSAGES = body(model="m", messages=[])
_EMBEDDINGS = body(model="m", input="hi")
_GEMINI = "v1beta/models/gemini-3-pro:"
PAIRS = [
    ("openai", "chat/completions", "chat", CHAT),
    ("openai", "responses", "responses", _RESPONSES),
    ("openai", "images/generations", "images", body(model="m", prompt="x")),
    ("openai", "embeddings", "embeddings", _EMBEDDINGS),
    ("anthropic", "v1/messages", "default", _MESSAGES),
    ("anthropic", "v1/chat/completions", "chat", CHAT),
    ("google-ai-studio", _GEMINI + "generateContent", "default", body(contents=[])),
    ("google-ai-studio", "v1beta/openai/chat/completions", "chat", CHAT),
    ("groq", "chat/completions", "default", CHAT),
    ("mistral", "chat/completions", "default", CHAT),
    ("deepseek", "chat/completions", "chat", CHAT),
    ("grok", "chat/completions", "chat", CHAT),
    ("grok", "responses", "responses", _RESPONSES),
    ("cerebras", "chat/completions", "chat", CHAT),
    ("perplexity-ai", "chat/completions", "default", CHAT),
    ("openrouter", "chat/completions", "chat", CHAT),
    ("openrouter", "responses", "default", _RESPONSES),
    ("cohere", "v2/chat", "default", _MESSAGES),
    ("cohere", "v2/embed", "embeddings", body(model="m", texts=["x"])),
    ("workers-ai", "run/@cf/meta/llama", "default", body(prompt="x")),
    ("workers-ai", "v1/chat/completions", "chat", CHAT),
    ("workers-ai", "v1/responses", "responses", _RESPONSES),
    ("workers-ai", "v1/embeddings", "embeddings", _EMBEDDINGS),
]
# Wholes are large and parts small, so that every generated object is possible.
_LEAST = {"input_tokens": 5000, "output_tokens": 5000, "cache_read_tokens": 500, "cache_write_tokens": 500}


def extractor(slug: str, flavor: str) -> UsageExtractor:
    found = [e for e in GENAI[NAMES.get(slug, slug)].extractors or () if e.api_flavor == flavor]
    assert len(found) == 1
    return found[0]


def put(holder: Any, path: Any, value: int) -> None:
    """Set the value at an extractor's path, creating objects and lists on the way."""
    steps = [path] if isinstance(path, str) else list(path)
    for step, following in pairwise(steps):
        if isinstance(step, str):
            holder = holder.setdefault(step, {} if isinstance(following, str) else [])
        else:
            entry = {step.field: step.match.equals}
            matching = [e for e in holder if e.items() >= entry.items()]
            if not matching:
                holder.append(entry)
            holder = matching[0] if matching else entry
    holder[steps[-1]] = value


def meters(usage: Usage) -> dict[str, Any]:
    return {key: value for key, value in usage._reported_values().items() if value}


@pytest.mark.parametrize(("slug", "path", "flavor", "request_body"), PAIRS, ids=[f"{p[0]}-{p[2]}" for p in PAIRS])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_figure_of_an_extractor_is_read_the_same_way(
    slug: str, path: str, flavor: str, request_body: bytes, data: st.DataObject
) -> None:
    rules = extractor(slug, flavor)
    response: dict[str, Any] = {"model": "m"}
    root = [rules.root] if isinstance(rules.root, str) else list(rules.root)
    usage: dict[str, Any] = response
    for step in root:
        assert isinstance(step, str)
        usage = usage.setdefault(step, {})
    for mapping in rules.mappings:
        if mapping.required or mapping.dest in _LEAST or data.draw(st.booleans()):
            put(usage, mapping.path, _LEAST.get(mapping.dest, 0) + data.draw(st.integers(0, 100)))
    wire = wire_format(slug, path)
    parsed = wire.parse(path, "application/json", request_body)
    seen = read(wire.reader(parsed, streaming=False, hide_usage=False), [body(**response)])[1]
    wanted = meters(rules.extract(response)[1])
    assert (seen.usage, seen.problem) == (wanted, None)


OURS = {"web_searches", "storage_searches", "rerank_searches", "input_characters"}
"""Meters that we read and for which genai-prices has no rule."""


FLAVORS = {pair[:2]: pair[2] for pair in PAIRS}


def flavor_of(sample: Sample) -> str | None:
    """The extractor for a sample; None if genai-prices has none, or has one that omits thinking."""
    path = upstream_path(BY_SLUG[sample.slug], sample.path).replace("gemini-2.5-flash", "gemini-3-pro")
    return None if sample.id == "google compatible" else FLAVORS.get((sample.slug, path))


KNOWN = [(sample, flavor) for sample in WHOLE if (flavor := flavor_of(sample))]


@pytest.mark.parametrize(("sample", "flavor"), KNOWN, ids=[sample.id for sample, _ in KNOWN])
def test_the_samples_are_read_the_same_way(sample: Sample, flavor: str) -> None:
    usage = meters(extractor(sample.slug, flavor).extract(json.loads(sample.response))[1])
    assert {k: v for k, v in sample.usage.items() if k not in OURS - usage.keys()} == usage


def test_streams_and_whole_bodies_agree() -> None:
    by_id = {(s.slug, s.id): s for s in SAMPLES}
    both = [s for s in WHOLE if (s.slug, s.id) in by_id]
    assert len(both) >= 6
    assert len(KNOWN) >= 8
    for sample in both:
        assert by_id[sample.slug, sample.id].usage == sample.usage


def test_deepseeks_older_spelling_of_cached_tokens_counts_once() -> None:
    wire = wire_format("deepseek", "chat/completions")
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    response = stream({"choices": [], "usage": usage}, "[DONE]")
    seen = read(wire.reader(wire.parse("", "", CHAT), streaming=True, hide_usage=False), [response])[1]
    assert seen.usage == {"input_tokens": 100, "output_tokens": 5, "cache_read_tokens": 64}
