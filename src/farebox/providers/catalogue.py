"""The providers: their URLs, how they expect their key, which of their paths can be metered, and how.

A new provider is a row here. Paths are compared in their canonical form, the one that follows the provider's base URL;
`moves` convert the other spellings that SDKs send. A path that no route matches exactly is UNMETERED, so a path that
Farebox does not understand can never be called with the operator's key.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from farebox.providers.formats import openai_chat, openai_embeddings, openai_responses
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.base import WireFormat
from farebox.providers.formats.cohere import CohereChat, CohereEmbed, CohereRerank
from farebox.providers.formats.google_embed import GoogleEmbed
from farebox.providers.formats.google_generate import GoogleGenerate
from farebox.providers.formats.openai_audio import OpenAISpeech, OpenAITranscript
from farebox.providers.formats.openai_chat import MISTRAL, PERPLEXITY, XAI, OpenAIChat
from farebox.providers.formats.openai_embeddings import OpenAIEmbeddings
from farebox.providers.formats.openai_images import OpenAIImages
from farebox.providers.formats.openai_responses import OpenAIResponses
from farebox.providers.formats.tools import RESEARCH
from farebox.providers.formats.workers_ai_run import WorkersAIRun

CALLER_KEY_HEADERS: Final = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
"""Request headers in which a caller can send its own provider key."""
CALLER_KEY_QUERY: Final = "key"
"""The query parameter in which Google also takes a key."""


class Plain(Enum):
    """Paths without a wire format."""

    FREE = "free"
    """Costs nothing: lists of models, counting of tokens, moderation."""
    UNMETERED = "unmetered"
    """The cost is unknown: only for callers with their own provider key."""


FREE: Final = Plain.FREE
UNMETERED: Final = Plain.UNMETERED

Metering: TypeAlias = WireFormat | Plain
"""How a path is metered: by a wire format, or a member of Plain."""

Move: TypeAlias = tuple[re.Pattern[str], str]
Route: TypeAlias = tuple[str, re.Pattern[str], Metering]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider."""

    slug: str
    name: str
    base_url: str
    """Without a trailing slash. `{account}` stands for the operator's account at the provider."""
    routes: tuple[Route, ...]
    """Method, canonical path, metering; the first that matches counts."""
    moves: tuple[Move, ...] = ()
    """Conversions from other spellings to the canonical path; the first that matches is applied, once."""
    key_header: str = "authorization"
    """The header for the key: as `Bearer` in `authorization`, without a prefix in any other header."""
    bearer_paths: re.Pattern[str] | None = None
    """Paths that require the key in `authorization` all the same: OpenAI-compatible ones."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that are added if the caller did not send them."""
    chat_path: str | None = "chat/completions"
    """Canonical path of the provider's OpenAI-compatible chat."""
    embeddings_path: str | None = None
    """Canonical path of the provider's OpenAI-compatible embeddings."""
    aliases: tuple[str, ...] = ()
    """Other names in `provider/model`."""
    stops_when_left: bool = False
    """Whether generation and billing stop when the client closes the stream. Other providers continue, or it is
    unknown (openrouter.ai/docs/api-reference/streaming, "Stream Cancellation").
    """


def _move(pattern: str, replacement: str) -> Move:
    return re.compile(pattern), replacement


def _post(path: str, metering: Metering) -> Route:
    return "POST", re.compile(path, re.ASCII), metering


def _get(path: str) -> Route:
    return "GET", re.compile(path, re.ASCII), FREE


_CHAT: Final = OpenAIChat()
_COMPLETIONS: Final = OpenAIChat(name="openai_completions", legacy=True)
_RESPONSES: Final = OpenAIResponses()
_EMBEDDINGS: Final = OpenAIEmbeddings()
_IMAGES: Final = OpenAIImages()
_MESSAGES: Final = AnthropicMessages()
_GENERATE: Final = GoogleGenerate()

_MODELS: Final = _get(r"models(/[\w.:@-]+(/[\w.:-]+){0,3})?")
_NO_V1: Final = (_move(r"^(v1/)+(?=.)", ""),)
"""A prefix may appear twice, if both the base URL and the SDK add it."""
_AUDIO: Final = (
    _post(r"audio/speech", OpenAISpeech()),
    _post(r"audio/(transcriptions|translations)", OpenAITranscript()),
)
_GOOGLE_VERSION: Final = r"v1(beta|alpha)?/"
_GOOGLE_ROUTES: Final = (
    _post(_GOOGLE_VERSION + r"(models|tunedModels)/[\w.-]+:(generateContent|streamGenerateContent)", _GENERATE),
    _post(_GOOGLE_VERSION + r"models/[\w.-]+:(embedContent|batchEmbedContents)", GoogleEmbed()),
    _post(_GOOGLE_VERSION + r"models/[\w.-]+:countTokens", FREE),
)
_ANTHROPIC_ROUTES: Final = (_post(r"v1/messages", _MESSAGES), _post(r"v1/messages/count_tokens", FREE))

PROVIDERS: Final[tuple[Provider, ...]] = (
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        (
            _post(r"chat/completions", _CHAT),
            _post(r"responses", _RESPONSES),
            _post(r"responses/compact", OpenAIResponses(name="openai_responses_compact", compacts=True)),
            _post(r"embeddings", _EMBEDDINGS),
            _post(r"completions", _COMPLETIONS),
            _post(r"images/(generations|edits)", _IMAGES),
            *_AUDIO,
            _post(r"moderations|responses/input_tokens", FREE),
            _MODELS,
        ),
        _NO_V1,
        embeddings_path="embeddings",
        stops_when_left=True,
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com",
        (
            *_ANTHROPIC_ROUTES,
            _post(r"v1/chat/completions", _CHAT),
            _get(r"v1/models(/[\w.-]+)?"),
        ),
        (_move(r"^(v1/)*(?=(messages|models|chat|complete|files)\b)", "v1/"),),
        key_header="x-api-key",
        bearer_paths=re.compile(r"v1/chat/completions"),
        headers=(("anthropic-version", "2023-06-01"),),
        chat_path="v1/chat/completions",
        stops_when_left=True,
    ),
    Provider(
        "google-ai-studio",
        "Google AI Studio",
        "https://generativelanguage.googleapis.com",
        (
            *_GOOGLE_ROUTES,
            _post(r"v1beta/openai/chat/completions", OpenAIChat(total_counts=True, prefix="models/")),
            _post(r"v1beta/openai/embeddings", OpenAIEmbeddings(prefix="models/")),
            _get(r"v1beta/openai/models"),
            _get(_GOOGLE_VERSION + r"(models|tunedModels)(/[\w.-]+)?"),
        ),
        (
            _move(r"^(v1(beta)?/)?(openai/)?(v1/)?(?=(chat/completions|embeddings)$)", "v1beta/openai/"),
            _move(r"^(?=(models|tunedModels)\b)", "v1beta/"),
        ),
        key_header="x-goog-api-key",
        bearer_paths=re.compile(r"v1beta/openai/.*"),
        chat_path="v1beta/openai/chat/completions",
        embeddings_path="v1beta/openai/embeddings",
        aliases=("google",),
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        (
            # Its streams always report usage, in `x_groq` of the last chunk.
            _post(r"chat/completions", OpenAIChat(opt_in=False)),
            _post(r"responses", _RESPONSES),
            _post(r"embeddings", _EMBEDDINGS),
            _AUDIO[0],
            # Its plain JSON contains only the text.
            _post(
                r"audio/(transcriptions|translations)",
                OpenAITranscript(reporting_formats=frozenset({"verbose_json", "srt", "vtt"})),
            ),
            _MODELS,
        ),
        (_move(r"^(openai/)?(v1/)+(?=.)", ""),),
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        (
            _post(r"chat/completions", OpenAIChat(reading=MISTRAL, opt_in=False, new_limit=False)),
            _post(
                r"fim/completions",
                OpenAIChat(name="openai_completions", reading=MISTRAL, opt_in=False, new_limit=False, legacy=True),
            ),
            _post(r"embeddings", _EMBEDDINGS),
            _post(r"audio/transcriptions", OpenAITranscript(remote_seconds=3 * 3600)),
            _MODELS,
        ),
        _NO_V1,
        embeddings_path="embeddings",
        aliases=("mistralai",),
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        (
            _post(r"(beta/)?chat/completions", OpenAIChat(new_limit=False)),
            _post(r"beta/completions", OpenAIChat(name="openai_completions", new_limit=False, legacy=True)),
            _MODELS,
        ),
        _NO_V1,
        aliases=("deepseek-ai",),
        stops_when_left=True,
    ),
    Provider(
        "grok",
        "xAI",
        "https://api.x.ai/v1",
        (
            _post(r"chat/completions", OpenAIChat(reading=XAI)),
            _post(r"responses", OpenAIResponses(reading=openai_responses.XAI)),
            _post(r"embeddings", _EMBEDDINGS),
            _MODELS,
        ),
        _NO_V1,
        aliases=("xai", "x-ai"),
        stops_when_left=True,
    ),
    Provider(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        (_post(r"chat/completions", _CHAT), _post(r"completions", _COMPLETIONS), _MODELS),
        _NO_V1,
    ),
    Provider(
        "perplexity-ai",
        "Perplexity",
        "https://api.perplexity.ai",
        # Its streams report cumulative usage in every chunk.
        (
            # Sonar, which Perplexity ended in September 2026 in favour of its Agent API.
            _post(r"chat/completions", OpenAIChat(reading=PERPLEXITY, opt_in=False, new_limit=False, searches=True)),
            _post(r"v1/(agent|responses)", OpenAIResponses(reading=openai_responses.PERPLEXITY, rules=RESEARCH)),
            _get(r"v1/models"),
            _MODELS,
        ),
        (
            _move(r"^(v1/)?(?=(agent|responses)(/|$))", "v1/"),
            _move(r"^v1/(?=chat/)", ""),
        ),
        aliases=("perplexity",),
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        (
            _post(r"chat/completions", OpenAIChat(reading=openai_chat.OPENROUTER)),
            _post(r"completions", OpenAIChat(name="openai_completions", reading=openai_chat.OPENROUTER, legacy=True)),
            _post(r"responses", OpenAIResponses(reading=openai_responses.OPENROUTER)),
            _post(r"embeddings", OpenAIEmbeddings(reading=openai_embeddings.OPENROUTER)),
            _MODELS,
        ),
        (_move(r"^(api/)?(v1/)+(?=.)", ""),),
        embeddings_path="embeddings",
    ),
    Provider(
        "cohere",
        "Cohere",
        "https://api.cohere.ai",
        (
            _post(r"v2/chat", CohereChat()),
            _post(r"v[12]/embed", CohereEmbed()),
            _post(r"v[12]/rerank", CohereRerank()),
            _post(r"compatibility/v1/chat/completions", _CHAT),
            _post(r"compatibility/v1/embeddings", _EMBEDDINGS),
            _get(r"v1/models(/[\w.-]+)?"),
        ),
        (
            _move(r"^(v1/)?(?=(chat/completions|embeddings)$)", "compatibility/v1/"),
            _move(r"^(?=(chat|embed|rerank)$)", "v2/"),
            _move(r"^(?=models\b)", "v1/"),
        ),
        chat_path="compatibility/v1/chat/completions",
        embeddings_path="compatibility/v1/embeddings",
        stops_when_left=True,
    ),
    Provider(
        "workers-ai",
        "Workers AI",
        "https://api.cloudflare.com/client/v4/accounts/{account}/ai",
        (
            _post(r"v1/chat/completions", _CHAT),
            _post(r"v1/responses", _RESPONSES),
            _post(r"v1/embeddings", _EMBEDDINGS),
            _post(r"run/@[a-z]+/[\w.-]+/[\w.-]+", WorkersAIRun()),
            _get(r"models/search"),
        ),
        (
            # LiteLLM appends the OpenAI path to `run/`.
            _move(r"^(run/)?(v1/)?(?=(chat/completions|responses|embeddings)$)", "v1/"),
            _move(r"^(?=@[a-z]+/)", "run/"),
        ),
        chat_path="v1/chat/completions",
        embeddings_path="v1/embeddings",
        stops_when_left=True,
    ),
    Provider(
        "demo",
        "Demo",
        "http://127.0.0.1:8081",
        (
            _post(r"v1/chat/completions", _CHAT),
            _post(r"v1/responses", _RESPONSES),
            _post(r"v1/embeddings", _EMBEDDINGS),
            *_ANTHROPIC_ROUTES,
            *_GOOGLE_ROUTES,
            _get(r"v1(beta)?/models(/[\w.-]+)?"),
        ),
        (_move(r"^(?=(chat/completions|responses|embeddings|messages|models)\b)", "v1/"),),
        chat_path="v1/chat/completions",
        embeddings_path="v1/embeddings",
        stops_when_left=True,
    ),
)

_BY_SLUG: Final = {provider.slug: provider for provider in PROVIDERS}
_BY_NAME: Final = _BY_SLUG | {alias: provider for provider in PROVIDERS for alias in provider.aliases}

SLUG_OF_ALIAS: Final = {alias: provider.slug for provider in PROVIDERS for alias in provider.aliases}


def provider_of(slug: str) -> Provider | None:
    """The provider of a URL's slug, or of an alias such as `xai`; None if there is none."""
    return _BY_NAME.get(slug)


def upstream_path(provider: Provider, path: str) -> str:
    """The canonical path, to be put behind the base URL and a slash, of whichever spelling a client sends.

    A path that no move knows stays as it is. Query strings are not part of it.
    """
    path = path.lstrip("/")
    for pattern, replacement in provider.moves:
        if pattern.search(path):
            return pattern.sub(replacement, path, count=1)
    return path


def format_of(provider: Provider, method: str, path: str) -> Metering:
    """How a call is metered. `path` is the canonical one, as it is sent: see `upstream_path`."""
    if ".." in path:  # an HTTP client would resolve it to a path that no route has checked
        return UNMETERED
    if method == "HEAD":  # like GET without the body: if GET is free, HEAD is too
        method = "GET"
    for verb, pattern, metering in provider.routes:
        if verb == method and pattern.fullmatch(path):
            return metering
    return UNMETERED


def key_header(provider: Provider, path: str, key: str) -> tuple[str, str]:
    """Name and value of the header that carries a provider key; `path` is the canonical one."""
    compatible = provider.bearer_paths is not None and provider.bearer_paths.fullmatch(path) is not None
    if provider.key_header == "authorization" or compatible:
        return "authorization", f"Bearer {key}"
    return provider.key_header, key
