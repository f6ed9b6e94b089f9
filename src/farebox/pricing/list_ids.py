"""The providers' IDs in the price list."""

from collections.abc import Mapping
from types import MappingProxyType

_ROUTED = (
    "cerebras",
    "fireworks-ai",
    "groq",
    "hyperbolic",
    "nebius",
    "novita",
    "nscale",
    "ovhcloud",
    "sambanova",
    "together",
)
"""The providers to which Hugging Face's router passes a model whose name ends in `:…`; without that suffix, the router
chooses, at any price."""

LIST_IDS: Mapping[str, str] = MappingProxyType(
    {
        "openai": "openai",
        "anthropic": "anthropic",
        "google-ai-studio": "google",
        "groq": "groq",
        "mistral": "mistral",
        "deepseek": "deepseek",
        "grok": "x-ai",
        "cerebras": "cerebras",
        "perplexity-ai": "perplexity",
        "openrouter": "openrouter",
        "cohere": "cohere",
        "workers-ai": "cloudflare",
        "azure-openai": "azure",
        "aws-bedrock": "aws",
        "google-vertex-ai": "google",
        "baseten": "baseten",
        "together": "together",
        "fireworks": "fireworks",
        "zai": "zai",
        "moonshot": "moonshotai",
        "minimax": "minimax",
        "databricks": "databricks",
        "voyage": "voyageai",
        "elevenlabs": "elevenlabs",
        **{f"huggingface:{name}": f"huggingface_{name}" for name in _ROUTED},
    }
)
"""Farebox's provider slug → the provider's id in the price list."""
