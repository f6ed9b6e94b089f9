import re

import pytest

from farebox.providers.catalogue import PROVIDERS, key_header, provider_of, upstream_path
from farebox.providers.definitions.vendors import VENDORS
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import compat_model
from farebox.providers.provider import FREE, UNMETERED
from tests.providers.samples import BY_SLUG, metering, wire_format

CALLS = [
    # Paths recorded from SDKs, the canonical path, and the format.
    ("openai", "chat/completions", "chat/completions", "openai_chat"),
    ("openai", "/chat/completions", "chat/completions", "openai_chat"),
    ("openai", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("openai", "responses", "responses", "openai_responses"),
    ("openai", "v1/embeddings", "embeddings", "openai_embeddings"),
    ("openai", "completions", "completions", "openai_completions"),
    ("openai", "images/edits", "images/edits", "openai_images"),
    ("openai", "audio/speech", "audio/speech", "openai_speech"),
    ("openai", "audio/translations", "audio/translations", "openai_transcript"),
    ("anthropic", "v1/messages", "v1/messages", "anthropic_messages"),
    ("anthropic", "messages", "v1/messages", "anthropic_messages"),
    ("anthropic", "chat/completions", "v1/chat/completions", "openai_chat"),
    ("google-ai-studio", "v1/models/g-2.5:generateContent", "v1/models/g-2.5:generateContent", "google_generate"),
    (
        "google-ai-studio",
        "v1/models/g:streamGenerateContent",
        "v1/models/g:streamGenerateContent",
        "google_generate",
    ),
    ("google-ai-studio", "models/g:generateContent", "v1beta/models/g:generateContent", "google_generate"),
    ("google-ai-studio", "v1beta/models/e:embedContent", "v1beta/models/e:embedContent", "google_embed"),
    ("google-ai-studio", "chat/completions", "v1beta/openai/chat/completions", "openai_chat"),
    ("google-ai-studio", "v1beta/openai/chat/completions", "v1beta/openai/chat/completions", "openai_chat"),
    ("google-ai-studio", "openai/embeddings", "v1beta/openai/embeddings", "openai_embeddings"),
    ("groq", "openai/v1/chat/completions", "chat/completions", "openai_chat"),
    ("groq", "chat/completions", "chat/completions", "openai_chat"),
    ("groq", "v1/audio/transcriptions", "audio/transcriptions", "openai_transcript"),
    ("mistral", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("mistral", "v1/fim/completions", "fim/completions", "openai_completions"),
    ("deepseek", "chat/completions", "chat/completions", "openai_chat"),
    ("deepseek", "beta/completions", "beta/completions", "openai_completions"),
    ("grok", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("cerebras", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("openai", "v1/responses/compact", "responses/compact", "openai_responses_compact"),
    ("perplexity-ai", "chat/completions", "chat/completions", "openai_chat"),
    ("perplexity-ai", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("perplexity-ai", "v1/agent", "v1/agent", "openai_responses"),
    ("perplexity-ai", "agent", "v1/agent", "openai_responses"),
    ("perplexity-ai", "v1/responses", "v1/responses", "openai_responses"),
    ("perplexity-ai", "responses", "v1/responses", "openai_responses"),
    ("openrouter", "api/v1/chat/completions", "chat/completions", "openai_chat"),
    ("openrouter", "v1/chat/completions", "chat/completions", "openai_chat"),
    ("openrouter", "api/v1/v1/chat/completions", "chat/completions", "openai_chat"),
    ("mistral", "v1/v1/chat/completions", "chat/completions", "openai_chat"),
    ("groq", "openai/v1/v1/chat/completions", "chat/completions", "openai_chat"),
    ("anthropic", "v1/v1/messages", "v1/messages", "anthropic_messages"),
    ("cohere", "v2/chat", "v2/chat", "cohere_chat"),
    ("cohere", "v2/rerank", "v2/rerank", "cohere_rerank"),
    ("cohere", "v1/rerank", "v1/rerank", "cohere_rerank"),
    ("cohere", "v2/embed", "v2/embed", "cohere_embed"),
    ("cohere", "v1/embed", "v1/embed", "cohere_embed"),
    ("cohere", "compatibility/v1/chat/completions", "compatibility/v1/chat/completions", "openai_chat"),
    ("cohere", "chat/completions", "compatibility/v1/chat/completions", "openai_chat"),
    ("workers-ai", "@cf/meta/llama-3.1-8b-instruct", "run/@cf/meta/llama-3.1-8b-instruct", "workers_ai_run"),
    ("workers-ai", "run/@cf/meta/llama-3.1-8b-instruct", "run/@cf/meta/llama-3.1-8b-instruct", "workers_ai_run"),
    ("workers-ai", "v1/chat/completions", "v1/chat/completions", "openai_chat"),
    ("workers-ai", "run/chat/completions", "v1/chat/completions", "openai_chat"),
    ("demo", "chat/completions", "v1/chat/completions", "openai_chat"),
    ("demo", "v1/chat/completions", "v1/chat/completions", "openai_chat"),
    ("demo", "responses", "v1/responses", "openai_responses"),
    ("demo", "embeddings", "v1/embeddings", "openai_embeddings"),
    ("demo", "v1/messages", "v1/messages", "anthropic_messages"),
    ("demo", "v1/models/M:generateContent", "v1/models/M:generateContent", "google_generate"),
    ("demo", "v1beta/models/M:streamGenerateContent", "v1beta/models/M:streamGenerateContent", "google_generate"),
]


@pytest.mark.parametrize(("slug", "sent", "canonical", "name"), CALLS)
def test_calls_find_their_format(slug: str, sent: str, canonical: str, name: str) -> None:
    provider = BY_SLUG[slug]
    assert upstream_path(provider, sent) == canonical
    assert upstream_path(provider, canonical) == canonical
    assert wire_format(slug, sent).name == name
    assert metering(slug, "GET", sent) is UNMETERED


@pytest.mark.parametrize(
    ("slug", "method", "path"),
    [
        ("openai", "GET", "models"),
        ("openai", "GET", "v1/models/gpt-4o"),
        ("openai", "POST", "moderations"),
        ("anthropic", "POST", "v1/messages/count_tokens"),
        ("anthropic", "GET", "v1/models"),
        ("google-ai-studio", "POST", "v1beta/models/g:countTokens"),
        ("google-ai-studio", "GET", "v1beta/models"),
        ("google-ai-studio", "GET", "v1/models/gemini-2.5-pro"),
        ("groq", "GET", "openai/v1/models"),
        ("openrouter", "GET", "models/a/b/endpoints"),
        ("demo", "GET", "models"),
        ("demo", "GET", "v1/models"),
        ("demo", "POST", "v1/messages/count_tokens"),
        ("openai", "POST", "files"),
        ("openai", "GET", "v1/responses/resp_1"),
        ("demo", "POST", "v1beta/models/M:countTokens"),
    ],
)
def test_calls_that_cost_nothing(slug: str, method: str, path: str) -> None:
    assert metering(slug, method, path) is FREE


@pytest.mark.parametrize(
    ("slug", "method", "path"),
    [
        ("openai", "POST", "vector_stores"),
        ("openai", "POST", "responses/resp_1"),
        ("openai", "DELETE", "models/ft"),
        ("openai", "POST", "chat/completions/"),
        ("openai", "POST", "chat//completions"),
        ("openai", "POST", "chat/completions\n"),
        ("openai", "POST", "Chat/completions"),
        ("openai", "POST", "fine_tuning/jobs"),
        ("openai", "GET", "models/../files/file-1/content"),
        ("openai", "GET", "models/..%2ffiles"),
        ("openai", "POST", "x/../chat/completions"),
        ("openai", "POST", ""),
        ("openrouter", "POST", "api/v1/api/v1/chat/completions"),  # the path that is checked is the path that is sent
        ("openrouter", "GET", "api/v1/api/v1/models"),
        ("anthropic", "POST", "v1/skills"),
        ("google-ai-studio", "POST", "v1beta/models/imagen:predict"),
        ("google-ai-studio", "POST", "v1beta/models/a/b:generateContent"),
        ("google-ai-studio", "POST", "upload/v1beta/corpora"),
        ("workers-ai", "POST", "run/@cf/../x"),
        ("cohere", "POST", "v1/chat"),
    ],
)
def test_unknown_paths_are_not_metered(slug: str, method: str, path: str) -> None:
    assert metering(slug, method, path) is UNMETERED


def test_the_table_is_consistent() -> None:
    slugs = [provider.slug for provider in PROVIDERS]
    names = slugs + [alias for provider in PROVIDERS for alias in provider.aliases]
    assert len(set(names)) == len(names)
    for provider in PROVIDERS:
        assert provider.local or re.fullmatch(r"https?://[a-z0-9.:/{}-]+[^/]", provider.base_url)
        assert provider_of(provider.slug) is provider
        for alias in provider.aliases:
            assert provider_of(alias) is provider
        if provider.chat_path is None:
            continue
        assert wire_format(provider.slug, provider.chat_path).name == "openai_chat"
        assert upstream_path(provider, provider.chat_path) == provider.chat_path
        if provider.embeddings_path is not None:
            assert wire_format(provider.slug, provider.embeddings_path).name == "openai_embeddings"
    assert provider_of("nobody") is None


def test_compat_addresses_are_the_documented_ones() -> None:
    urls = {p.slug: f"{p.base_url}/{p.chat_path}" for p in VENDORS}
    assert urls == {
        "openai": "https://api.openai.com/v1/chat/completions",
        "anthropic": "https://api.anthropic.com/v1/chat/completions",
        "google-ai-studio": "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        "groq": "https://api.groq.com/openai/v1/chat/completions",
        "mistral": "https://api.mistral.ai/v1/chat/completions",
        "deepseek": "https://api.deepseek.com/chat/completions",
        "grok": "https://api.x.ai/v1/chat/completions",
        "cerebras": "https://api.cerebras.ai/v1/chat/completions",
        "perplexity-ai": "https://api.perplexity.ai/chat/completions",
        "openrouter": "https://openrouter.ai/api/v1/chat/completions",
        "cohere": "https://api.cohere.ai/compatibility/v1/chat/completions",
        "workers-ai": "https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1/chat/completions",
    }


def test_the_header_of_the_key() -> None:
    assert key_header(BY_SLUG["openai"], "chat/completions", "K") == ("authorization", "Bearer K")
    assert key_header(BY_SLUG["anthropic"], "v1/messages", "K") == ("x-api-key", "K")
    assert key_header(BY_SLUG["anthropic"], "v1/chat/completions", "K") == ("authorization", "Bearer K")
    assert key_header(BY_SLUG["google-ai-studio"], "v1/models/g:generateContent", "K") == ("x-goog-api-key", "K")
    assert key_header(BY_SLUG["google-ai-studio"], "v1beta/openai/chat/completions", "K") == (
        "authorization",
        "Bearer K",
    )


@pytest.mark.parametrize(
    ("model", "slug", "name"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openai/gpt-4.1", "openai", "gpt-4.1"),
        ("google-ai-studio/gemini-2.5-pro", "google-ai-studio", "gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "google-ai-studio", "gemini-2.5-pro"),
        ("xai/grok-4", "grok", "grok-4"),
        ("grok/grok-4", "grok", "grok-4"),
        ("anthropic/claude-haiku-4.5", "anthropic", "claude-haiku-4-5"),
        ("anthropic/claude-haiku-4-5-20251001", "anthropic", "claude-haiku-4-5-20251001"),
        ("workers-ai/@cf/meta/llama-3.1-8b-instruct", "workers-ai", "@cf/meta/llama-3.1-8b-instruct"),
        ("@cf/meta/llama-3.1-8b-instruct", "workers-ai", "@cf/meta/llama-3.1-8b-instruct"),
        ("openrouter/anthropic/claude-3.5-haiku", "openrouter", "anthropic/claude-3.5-haiku"),
        ("groq/openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
    ],
)
def test_compat_models(model: str, slug: str, name: str) -> None:
    assert compat_model(model) == (slug, name)


@pytest.mark.parametrize("model", ["gpt-4o", "", "openai/", "/gpt-4o", "nobody/gpt-4o"])
def test_compat_models_that_name_no_provider(model: str) -> None:
    with pytest.raises(InvalidRequest):
        compat_model(model)
