"""The rows of providers that serve models of many vendors in OpenAI's form, and of servers that the operator runs."""

from typing import Any, Final

from farebox.providers.formats.images_by_count import ImagesByCount
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.openai_embeddings import OpenAIEmbeddings
from farebox.providers.formats.rerank import Rerank
from farebox.providers.provider import Provider, Route, get, move, post

DATABRICKS: Final = Reading(
    ("input_tokens", "prompt_tokens"),
    ("cache_read_tokens", "cache_read_input_tokens", "prompt_tokens_details.cached_tokens"),
    ("output_tokens", "completion_tokens"),
    ("output_reasoning_tokens", "reasoning_tokens", "completion_tokens_details.reasoning_tokens"),
    required=("input_tokens", "output_tokens"),
)
_CHAT: Final = post(r"chat/completions", OpenAIChat())
_COMPLETIONS: Final = post(r"completions", OpenAIChat(name="openai_completions", legacy=True))
_RERANK: Final = post(r"rerank", Rerank())
_EMBEDDINGS: Final = post(r"embeddings", OpenAIEmbeddings())
_IMAGES: Final = post(r"images/generations", ImagesByCount())
_MODELS: Final = get(r"models(/[\w.:@-]+(/[\w.:-]+){0,3})?")


def _open(slug: str, name: str, base_url: str, *routes: Route, embeddings: bool = False, **more: Any) -> Provider:
    """A provider in OpenAI's form, with or without embeddings, and with these further paths."""
    path = "embeddings" if embeddings else None
    every = (_CHAT, *routes, *((_EMBEDDINGS,) if embeddings else ()), _MODELS)
    moves = (move(r"^(v1/)+(?=.)", ""),)
    return Provider(slug, name, base_url, every, moves, embeddings_path=path, **more)


def _local(slug: str, name: str, **more: Any) -> Provider:
    """The operator's own server."""
    return _open(slug, name, "", _COMPLETIONS, embeddings=True, local=True, stops_when_left=True, **more)


OPENAI_COMPATIBLE: Final = (
    _open("baseten", "Baseten", "https://inference.baseten.co/v1"),
    _open("huggingface", "Hugging Face", "https://router.huggingface.co/v1", aliases=("hf",)),
    _open("together", "Together AI", "https://api.together.xyz/v1", _COMPLETIONS, _IMAGES, embeddings=True),
    _open("fireworks", "Fireworks AI", "https://api.fireworks.ai/inference/v1", _COMPLETIONS, embeddings=True),
    _open("nebius", "Nebius", "https://api.tokenfactory.nebius.com/v1", embeddings=True),
    _open("deepinfra", "DeepInfra", "https://api.deepinfra.com/v1/openai", embeddings=True),
    _open("zai", "Z.ai", "https://api.z.ai/api/paas/v4", aliases=("z-ai", "z.ai")),
    _open("moonshot", "Moonshot AI", "https://api.moonshot.ai/v1", aliases=("moonshotai",)),
    _open(
        "alibaba",
        "Alibaba Cloud",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        embeddings=True,
        aliases=("dashscope",),
    ),
    _open("minimax", "MiniMax", "https://api.minimax.io/v1"),
    Provider(
        "databricks",
        "Databricks",
        "https://{account}/serving-endpoints",
        (
            post(r"chat/completions", OpenAIChat(reading=DATABRICKS)),
            _EMBEDDINGS,
        ),
        embeddings_path="embeddings",
    ),
    _open("snowflake", "Snowflake Cortex", "https://{account}.snowflakecomputing.com/api/v2/cortex/v1"),
    _open("nvidia", "NVIDIA", "https://integrate.api.nvidia.com/v1", embeddings=True),
    _open("github-models", "GitHub Models", "https://models.github.ai/inference", embeddings=True),
    _open("vercel-ai-gateway", "Vercel AI Gateway", "https://ai-gateway.vercel.sh/v1", embeddings=True),
    _open("parallel", "Parallel", "https://api.parallel.ai"),
    Provider(
        "voyage",
        "Voyage AI",
        "https://api.voyageai.com/v1",
        (_EMBEDDINGS, _RERANK),
        (move(r"^(v1/)+(?=.)", ""),),
        chat_path=None,
        embeddings_path="embeddings",
        aliases=("voyageai",),
    ),
    Provider(
        "jina",
        "Jina AI",
        "https://api.jina.ai/v1",
        (_EMBEDDINGS, _RERANK),
        (move(r"^(v1/)+(?=.)", ""),),
        chat_path=None,
        embeddings_path="embeddings",
    ),
    _local("ollama", "Ollama"),
    _local("vllm", "vLLM"),
    _local("llama-cpp", "llama.cpp"),
    _local("lm-studio", "LM Studio"),
)
