"""Known paths that the operator does not pay for: the error states the reason, and no other rule matches the path."""

import pytest

from farebox.providers.catalogue import format_of, provider_of
from farebox.providers.provider import UNMETERED
from farebox.providers.unpaid_paths import why_unpaid


@pytest.mark.parametrize(
    ("slug", "method", "path", "why"),
    [
        ("openai", "POST", "vector_stores", "gigabyte and day"),
        ("openai", "POST", "vector_stores/vs_1/search", "gigabyte and day"),
        ("openai", "POST", "containers", "20 minutes"),
        ("openai", "POST", "videos/edits", "use `videos` or `remix`"),
        ("grok", "POST", "videos/extensions", "use `videos/generations`"),
        ("openai", "POST", "threads/runs", "use `responses`"),
        ("openai", "POST", "fine_tuning/jobs", "job has finished"),
        ("anthropic", "POST", "v1/sessions", "use `v1/messages`"),
        ("google-vertex-ai", "POST", "v1/projects/acme/locations/us/cachedContents", "implicit caching"),
        ("google-ai-studio", "POST", "v1beta/models/other-1:predictLongRunning", "use your own key"),
        ("google-ai-studio", "POST", "v1/models/gemini-embedding-001:asyncBatchEmbedContent", "`batchEmbedContents`"),
        ("replicate", "GET", "predictions", "all accounts"),
        ("replicate", "POST", "trainings", "job has finished"),
        ("fal", "POST", "fal-ai/flux/dev/stream", "through the queue"),
        ("fal", "POST", "workflows/owner/mine", "several models"),
        ("fal", "POST", "proxy", "`requestMiddleware`"),
        ("stability", "POST", "v2beta/stable-image/upscale/creative", "fetched later"),
        ("mistral", "POST", "conversations", "use `chat/completions`"),
    ],
)
def test_the_reason_is_told(slug: str, method: str, path: str, why: str) -> None:
    provider = provider_of(slug)
    assert provider is not None
    assert format_of(provider, method, path) is UNMETERED
    assert why in why_unpaid(slug, path)
