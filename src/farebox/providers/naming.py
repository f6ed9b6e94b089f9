"""How providers and models are named in URLs, model names and steps: those of the catalog, and custom ones.

All custom providers are metered alike, by the end of the path: a helper process that reads a body knows only the slug.
"""

import re
from typing import Final

from farebox.custom_provider import CUSTOM
from farebox.providers.catalogue import key_header, provider_of
from farebox.providers.credential import Credential
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.base import InvalidRequest, UnknownProvider
from farebox.providers.formats.cohere import CohereChat, CohereEmbed, CohereRerank
from farebox.providers.formats.google_embed import GoogleEmbed
from farebox.providers.formats.google_generate import GoogleGenerate
from farebox.providers.formats.openai_audio import OpenAISpeech, OpenAITranscript
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.openai_embeddings import OpenAIEmbeddings
from farebox.providers.formats.openai_images import OpenAIImages
from farebox.providers.formats.openai_responses import OpenAIResponses
from farebox.providers.provider import FREE, Metering, Provider, Route
from farebox.quoting import quoted

_DOTTED: Final = re.compile(r"(?<=\d)\.(?=\d)")
LOOP_NAME: Final = "farebox"
PASSES_MAX: Final = 3
"""A custom provider may be another Farebox, which may again have one. A call that has passed more often than this is in
a loop."""
_VERSION: Final = re.compile(r"/v\d+\w*/*$")


def _ends(path: str, metering: Metering) -> Route:
    return "POST", re.compile(rf"(?:.+/)?(?:{path})", re.ASCII), metering


_ROUTES: Final[tuple[Route, ...]] = (
    _ends(r"chat/completions", OpenAIChat()),
    _ends(r"responses", OpenAIResponses()),
    _ends(r"responses/compact", OpenAIResponses(name="openai_responses_compact", compacts=True)),
    _ends(r"messages", AnthropicMessages()),
    _ends(r"messages/count_tokens|responses/input_tokens|moderations", FREE),
    _ends(r"models/[\w.-]+:(?:generateContent|streamGenerateContent)", GoogleGenerate()),
    _ends(r"models/[\w.-]+:(?:embedContent|batchEmbedContents)", GoogleEmbed()),
    _ends(r"v2/chat", CohereChat()),
    _ends(r"v[12]/embed", CohereEmbed()),
    _ends(r"v[12]/rerank", CohereRerank()),
    _ends(r"embeddings", OpenAIEmbeddings()),
    _ends(r"completions", OpenAIChat(name="openai_completions", legacy=True)),
    _ends(r"images/(?:generations|edits)", OpenAIImages()),
    _ends(r"audio/speech", OpenAISpeech()),
    _ends(r"audio/(?:transcriptions|translations)", OpenAITranscript()),
)


def custom_provider(slug: str, name: str, base_url: str) -> Provider:
    """A custom provider. `slug` begins with `custom-`."""
    return Provider(slug, name, base_url, _ROUTES, embeddings_path="embeddings")


_ANY_CUSTOM: Final = custom_provider(CUSTOM, "a custom provider", "")


def is_custom(slug: str) -> bool:
    """Whether it is the name of a custom provider, which may or may not exist."""
    return slug.startswith(CUSTOM)


def metered_as(slug: str) -> Provider | None:
    """The provider whose rules apply to paths and bodies of this slug; None if there is none."""
    return _ANY_CUSTOM if is_custom(slug) else provider_of(slug)


def is_versioned(base_url: str) -> bool:
    """Whether a base URL ends in a version of the API, such as `/v1`: paths of the common forms then have none."""
    return _VERSION.search(base_url) is not None


def custom_path(path: str, *, versioned: bool) -> str:
    """The path of one of the common forms below the base URL of a custom provider."""
    path = path.removeprefix("v1/")
    return path if versioned else f"v1/{path}"


def passed_before(header: str | None) -> int:
    """How often a call has already passed through Farebox on its way to a custom provider, by its `CDN-Loop`
    (RFC 8586)."""
    parts = (header or "").split(",")
    return sum(part.partition(";")[0].strip().lower() == LOOP_NAME for part in parts)


def stored_key_header(provider: Provider, path: str, metering: Metering, credential: Credential) -> tuple[str, str]:
    """Name and value of the header that carries a stored key. A custom provider takes it in the header that the API of
    its path uses."""
    key = credential.word
    if credential.bearer:
        return "authorization", f"Bearer {key}"
    if is_custom(provider.slug) and isinstance(metering, AnthropicMessages):
        return "x-api-key", key
    if is_custom(provider.slug) and isinstance(metering, GoogleGenerate | GoogleEmbed):
        return "x-goog-api-key", key
    return key_header(provider, path, key)


def compat_model(model: str) -> tuple[str, str]:
    """Split the `provider/model` of compat and REST calls into the provider's slug and the provider's own name.

    `google/…` and `xai/…` mean the same as `google-ai-studio/…` and `grok/…`, and a bare `@cf/…` is Workers AI's. Names
    of Anthropic's models take the dotted versions of Cloudflare's REST API: a dot between two digits becomes a dash
    (`claude-haiku-4.5` → `claude-haiku-4-5`), because Anthropic's own names, by which they are priced and called, have
    no dots. Whether a custom provider of this name exists is not checked here. Raises InvalidRequest if the provider is
    missing, UnknownProvider if it is unknown.
    """
    if model.startswith("@"):
        return "workers-ai", model
    name, slash, rest = model.partition("/")
    if not slash or not rest:
        raise InvalidRequest(f"The model {quoted(model)} names no provider: write it as `provider/model`.")
    if is_custom(name):
        return name, rest
    provider = provider_of(name)
    if provider is None:
        raise UnknownProvider(f"The provider {quoted(name)} of the model is unknown.")
    if provider.slug == "anthropic":
        rest = _DOTTED.sub("-", rest)
    return provider.slug, rest
