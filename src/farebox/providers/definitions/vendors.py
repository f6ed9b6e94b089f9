"""The rows of providers that serve their own models, and of OpenRouter and Workers AI."""

import re
from typing import Final

from farebox.providers import object_routes as kept
from farebox.providers.formats import openai_chat, openai_embeddings, openai_responses
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.cohere import CohereChat, CohereEmbed, CohereRerank
from farebox.providers.formats.google_cache import GoogleCache, GoogleCacheExtension
from farebox.providers.formats.google_embed import GoogleEmbed
from farebox.providers.formats.google_generate import GoogleGenerate
from farebox.providers.formats.images_by_count import ImagenPredict, ImagesByCount
from farebox.providers.formats.openai_audio import OpenAISpeech, OpenAITranscript
from farebox.providers.formats.openai_chat import MISTRAL, PERPLEXITY, XAI, OpenAIChat
from farebox.providers.formats.openai_embeddings import OpenAIEmbeddings
from farebox.providers.formats.openai_images import OpenAIImages
from farebox.providers.formats.openai_responses import OpenAIResponses
from farebox.providers.formats.tools import RESEARCH
from farebox.providers.formats.videos import OpenAIRemix, OpenAIVideos, VeoVideos, XaiVideos
from farebox.providers.formats.workers_ai_run import WorkersAIRun
from farebox.providers.provider import FREE, Provider, get, move, patch, post

_CHAT: Final = OpenAIChat()
_COMPLETIONS: Final = OpenAIChat(name="openai_completions", legacy=True)
_RESPONSES: Final = OpenAIResponses()
_EMBEDDINGS: Final = OpenAIEmbeddings()
_IMAGES: Final = OpenAIImages()
_MESSAGES: Final = AnthropicMessages()
_GENERATE: Final = GoogleGenerate()

_MODELS: Final = get(r"models(/[\w.:@-]+(/[\w.:-]+){0,3})?")
_NO_V1: Final = (move(r"^(v1/)+(?=.)", ""),)
"""A prefix may appear twice, if both the base URL and the SDK add it."""
_AUDIO: Final = (
    post(r"audio/speech", OpenAISpeech()),
    post(r"audio/(transcriptions|translations)", OpenAITranscript()),
)
_GOOGLE_VERSION: Final = r"v1(beta|alpha)?/"
_GOOGLE_ROUTES: Final = (
    post(_GOOGLE_VERSION + r"(models|tunedModels)/[\w.-]+:(generateContent|streamGenerateContent)", _GENERATE),
    post(_GOOGLE_VERSION + r"models/[\w.-]+:(embedContent|batchEmbedContents)", GoogleEmbed()),
    post(_GOOGLE_VERSION + r"models/[\w.-]+:countTokens", FREE),
    post(_GOOGLE_VERSION + r"models/imagen-[\w.-]+:predict", ImagenPredict()),
)
_ANTHROPIC_ROUTES: Final = (post(r"v1/messages", _MESSAGES), post(r"v1/messages/count_tokens", FREE))

VENDORS: Final[tuple[Provider, ...]] = (
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        (
            post(r"chat/completions", _CHAT),
            post(r"responses", OpenAIResponses(background=True)),
            post(r"responses/compact", OpenAIResponses(name="openai_responses_compact", compacts=True)),
            post(r"embeddings", _EMBEDDINGS),
            post(r"completions", _COMPLETIONS),
            post(r"images/(generations|edits)", _IMAGES),
            post(r"videos", OpenAIVideos()),
            post(r"videos/[\w-]{1,128}/remix", OpenAIRemix()),
            *_AUDIO,
            post(r"moderations|responses/input_tokens", FREE),
            _MODELS,
        ),
        _NO_V1,
        embeddings_path="embeddings",
        stops_when_left=True,
        objects=kept.object_routes("", "response", "conversation", "file", "batch", "video"),
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com",
        (
            *_ANTHROPIC_ROUTES,
            post(r"v1/chat/completions", _CHAT),
            get(r"v1/models(/[\w.-]+)?"),
        ),
        (move(r"^(v1/)*(?=(messages|models|chat|complete|files)\b)", "v1/"),),
        key_header="x-api-key",
        bearer_paths=re.compile(r"v1/chat/completions"),
        headers=(("anthropic-version", "2023-06-01"),),
        chat_path="v1/chat/completions",
        stops_when_left=True,
        objects=kept.ANTHROPIC,
    ),
    Provider(
        "google-ai-studio",
        "Google AI Studio",
        "https://generativelanguage.googleapis.com",
        (
            *_GOOGLE_ROUTES,
            post(_GOOGLE_VERSION + r"models/veo-[\w.-]+:predictLongRunning", VeoVideos()),
            post(_GOOGLE_VERSION + r"cachedContents", GoogleCache()),
            patch(_GOOGLE_VERSION + r"cachedContents/[\w-]{1,128}", GoogleCacheExtension()),
            post(r"v1beta/openai/chat/completions", OpenAIChat(total_counts=True, prefix="models/")),
            post(r"v1beta/openai/embeddings", OpenAIEmbeddings(prefix="models/")),
            get(r"v1beta/openai/models"),
            get(_GOOGLE_VERSION + r"(models|tunedModels)(/[\w.-]+)?"),
        ),
        (
            move(r"^(v1(beta)?/)?(openai/)?(v1/)?(?=(chat/completions|embeddings)$)", "v1beta/openai/"),
            move(r"^(?=(models|tunedModels)\b)", "v1beta/"),
        ),
        key_header="x-goog-api-key",
        bearer_paths=re.compile(r"v1beta/openai/.*"),
        chat_path="v1beta/openai/chat/completions",
        embeddings_path="v1beta/openai/embeddings",
        aliases=("google",),
        objects=kept.GOOGLE,
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        (
            # Its streams always report usage, in `x_groq` of the last chunk.
            post(r"chat/completions", OpenAIChat(opt_in=False)),
            post(r"responses", _RESPONSES),
            post(r"embeddings", _EMBEDDINGS),
            _AUDIO[0],
            # Its plain JSON contains only the text.
            post(
                r"audio/(transcriptions|translations)",
                OpenAITranscript(reporting_formats=frozenset({"verbose_json", "srt", "vtt"})),
            ),
            _MODELS,
        ),
        (move(r"^(openai/)?(v1/)+(?=.)", ""),),
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        (
            post(r"chat/completions", OpenAIChat(reading=MISTRAL, opt_in=False, new_limit=False)),
            post(
                r"fim/completions",
                OpenAIChat(name="openai_completions", reading=MISTRAL, opt_in=False, new_limit=False, legacy=True),
            ),
            post(r"embeddings", _EMBEDDINGS),
            post(r"audio/transcriptions", OpenAITranscript(remote_seconds=3 * 3600)),
            _MODELS,
        ),
        _NO_V1,
        embeddings_path="embeddings",
        aliases=("mistralai",),
        objects=kept.MISTRAL,
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        (
            post(r"(beta/)?chat/completions", OpenAIChat(new_limit=False)),
            post(r"beta/completions", OpenAIChat(name="openai_completions", new_limit=False, legacy=True)),
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
            post(r"chat/completions", OpenAIChat(reading=XAI)),
            post(r"responses", OpenAIResponses(reading=openai_responses.XAI)),
            post(r"embeddings", _EMBEDDINGS),
            post(r"images/generations", ImagesByCount()),
            post(r"videos/generations", XaiVideos()),
            _MODELS,
        ),
        _NO_V1,
        aliases=("xai", "x-ai"),
        stops_when_left=True,
        objects=(*kept.object_routes("", "response"), *kept.XAI_VIDEOS),
    ),
    Provider(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        (
            post(r"chat/completions", _CHAT),
            post(r"completions", _COMPLETIONS),
            _MODELS,
            get(r"tcp_warming"),  # what its SDK asks for when a client is made (cerebras-cloud-sdk 1.91.0)
        ),
        _NO_V1,
    ),
    Provider(
        "perplexity-ai",
        "Perplexity",
        "https://api.perplexity.ai",
        # Its streams report cumulative usage in every chunk.
        (
            # Sonar, which Perplexity ended in September 2026 in favor of its Agent API.
            post(r"chat/completions", OpenAIChat(reading=PERPLEXITY, opt_in=False, new_limit=False, searches=True)),
            post(r"v1/(agent|responses)", OpenAIResponses(reading=openai_responses.PERPLEXITY, rules=RESEARCH)),
            get(r"v1/models"),
            _MODELS,
        ),
        (
            move(r"^(v1/)?(?=(agent|responses)(/|$))", "v1/"),
            move(r"^v1/(?=chat/)", ""),
        ),
        aliases=("perplexity",),
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        (
            post(r"chat/completions", OpenAIChat(reading=openai_chat.OPENROUTER)),
            post(r"completions", OpenAIChat(name="openai_completions", reading=openai_chat.OPENROUTER, legacy=True)),
            post(r"responses", OpenAIResponses(reading=openai_responses.OPENROUTER)),
            post(r"embeddings", OpenAIEmbeddings(reading=openai_embeddings.OPENROUTER)),
            _MODELS,
        ),
        (move(r"^(api/)?(v1/)+(?=.)", ""),),
        embeddings_path="embeddings",
    ),
    Provider(
        "cohere",
        "Cohere",
        "https://api.cohere.ai",
        (
            post(r"v2/chat", CohereChat()),
            post(r"v[12]/embed", CohereEmbed()),
            post(r"v[12]/rerank", CohereRerank()),
            post(r"compatibility/v1/chat/completions", _CHAT),
            post(r"compatibility/v1/embeddings", _EMBEDDINGS),
            get(r"v1/models(/[\w.-]+)?"),
        ),
        (
            move(r"^(v1/)?(?=(chat/completions|embeddings)$)", "compatibility/v1/"),
            move(r"^(?=(chat|embed|rerank)$)", "v2/"),
            move(r"^(?=models\b)", "v1/"),
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
            post(r"v1/chat/completions", _CHAT),
            post(r"v1/responses", _RESPONSES),
            post(r"v1/embeddings", _EMBEDDINGS),
            post(r"run/@[a-z]+/[\w.-]+/[\w.-]+", WorkersAIRun()),
            get(r"models/search"),
        ),
        (
            # LiteLLM appends the OpenAI path to `run/`.
            move(r"^(run/)?(v1/)?(?=(chat/completions|responses|embeddings)$)", "v1/"),
            move(r"^(?=@[a-z]+/)", "run/"),
        ),
        chat_path="v1/chat/completions",
        embeddings_path="v1/embeddings",
        stops_when_left=True,
    ),
)

DEMO: Final = Provider(
    "demo",
    "Demo",
    "http://127.0.0.1:8081",
    (
        post(r"v1/chat/completions", _CHAT),
        post(r"v1/responses", _RESPONSES),
        post(r"v1/embeddings", _EMBEDDINGS),
        *_ANTHROPIC_ROUTES,
        *_GOOGLE_ROUTES,
        get(r"v1(beta)?/models(/[\w.-]+)?"),
    ),
    (move(r"^(?=(chat/completions|responses|embeddings|messages|models)\b)", "v1/"),),
    chat_path="v1/chat/completions",
    embeddings_path="v1/embeddings",
    stops_when_left=True,
)
