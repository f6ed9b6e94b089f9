"""The most output tokens that a model can produce in one response, if the request sets no limit.

If a figure is too low, a call can cost more than its hold; if it is too high, more is held than needed for the duration
of the call. So the table errs on the high side, and covers whole families by the prefix of their names. Source: the
providers' model pages.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from farebox.pricing.model import ModelPrice

OUTPUT_UNKNOWN = 131_072
"""The ceiling assumed for an unknown model."""

OUTPUT_MAX: Mapping[str, int] = MappingProxyType(
    {
        # OpenAI
        "gpt-3.5": 4_096,
        "gpt-4": 8_192,
        "gpt-4-32k": 32_768,
        "gpt-4-turbo": 4_096,
        "gpt-4-vision": 4_096,
        "gpt-4.1": 32_768,
        "gpt-4.5": 16_384,
        "gpt-4o": 16_384,
        "gpt-4o:extended": 65_536,
        "gpt-4o-64k": 65_536,
        "chatgpt-4o": 16_384,
        "gpt-5": 128_000,
        "gpt-5-pro": 272_000,
        "gpt-6": 128_000,
        "gpt-audio": 16_384,
        "gpt-realtime": 4_096,
        "gpt-realtime-2": 32_000,
        "gpt-4o-realtime": 4_096,
        "gpt-4o-mini-realtime": 4_096,
        "gpt-oss": 131_072,
        "codex-mini": 100_000,
        "o1": 100_000,
        "o1-mini": 65_536,
        "o1-preview": 32_768,
        "o3": 100_000,
        "o4": 100_000,
        # Anthropic. Claude 3.7 reaches 128k with a beta header.
        "claude": 128_000,
        "claude-2": 4_096,
        "claude-v1": 4_096,
        "claude-v2": 4_096,
        "claude-instant": 4_096,
        "claude-3": 4_096,
        "claude-3-5": 8_192,
        "claude-3.5": 8_192,
        "claude-3-7": 128_000,
        "claude-3.7": 128_000,
        "claude-opus-4-0": 32_000,
        "claude-opus-4-1": 32_000,
        "claude-opus-4-2": 32_000,  # claude-opus-4-20250514
        "claude-opus-4-5": 64_000,
        "claude-sonnet-4-0": 64_000,
        "claude-sonnet-4-2": 64_000,  # claude-sonnet-4-20250514
        "claude-sonnet-4-5": 64_000,
        "claude-haiku-4-5": 64_000,
        # Google
        "gemini": 65_536,
        "gemini-1": 8_192,
        "gemini-2.0": 8_192,
        "gemini-2.0-flash-thinking": 65_536,
        "gemini-pro-1.5": 8_192,
        "gemini-flash-1.5": 8_192,
        # Others
        "command-r": 4_096,
        "deepseek-flash": 393_216,
        "deepseek-v4": 393_216,
    }
)

HIDDEN_REASONING: Mapping[str, bool] = MappingProxyType(
    {
        "o1": True,
        "o3": True,
        "o4": True,
        "codex-mini": True,
        "gpt-5": True,
        "gpt-5-chat": False,
        "gpt-6": True,
        "grok-4": True,
        "grok-4-fast-non-reasoning": False,
        "grok-4-1-fast-non-reasoning": False,
        "grok-code": True,
        "gemini-2.5": True,
        "gemini-2.5-flash-lite": False,
        "gemini-3": True,
        "gemini-4": True,
        "sonar-reasoning": True,
        "sonar-deep-research": True,
    }
)
"""Prefixes of models whose responses bill reasoning that is not in their text. Source: the providers' model pages."""

SHOWN_OUTPUT: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "openai": {
            "gpt-3.5": True,
            "gpt-4": True,
            "gpt-4o": True,
            "gpt-4o-audio": False,
            "gpt-4o-mini-audio": False,
            "gpt-4o-search": False,
            "gpt-4o-mini-search": False,
            "gpt-4o-realtime": False,
            "gpt-4o-mini-realtime": False,
        },
        "anthropic": {
            "claude-3": True,
            "claude-haiku-4-5": True,
            "claude-opus-4-0": True,
            "claude-opus-4-1": True,
            "claude-opus-4-2": True,
            "claude-opus-4-5": True,
            "claude-opus-4-6": True,
            "claude-sonnet-4-0": True,
            "claude-sonnet-4-2": True,
            "claude-sonnet-4-5": True,
            "claude-sonnet-4-6": True,
        },
        "google-ai-studio": {"gemini-1.5": True, "gemini-2.0-flash": True, "gemini-2.0-flash-preview-image": False},
        "mistral": {"mistral-": True, "ministral-": True, "pixtral-": True, "codestral-": True},
        "deepseek": {"deepseek-chat": True},
        "groq": {"llama-3": True, "llama3-": True},
        "cerebras": {"llama-3": True, "llama3": True},
        "demo": {"demo-": True},
    }
)
"""Provider → prefixes of models whose billed output is all in the text of their responses, unless the request asks for
more. Recorded responses confirm it (`python -m bench.holds --cases bounds`): apart from a few dozen tokens, no more are
billed than there are bytes of text. For models not listed, this is not known."""

UNLIMITED_REASONING: Mapping[str, str] = MappingProxyType(
    {
        "o1": "old",
        "o3": "old",
        "o4": "old",
        "grok-3-mini": "always",
        "grok-4": "always",
        "grok-4-fast-non-reasoning": "",
        "grok-4-1-fast-non-reasoning": "",
        "grok-code": "always",
        "sonar-reasoning": "always",
        "sonar-deep-research": "always",
    }
)
"""Models whose reasoning is not bounded by a request's output limit: `always`, or only if the limit has the `old` name.
OpenAI's API reference gives `max_completion_tokens` as the limit that includes reasoning; xAI and Perplexity limit the
visible answer only.
"""

_T = TypeVar("_T")


def output_ceiling(price: ModelPrice) -> int:
    """The most output tokens of one response: the price's own figure, otherwise the table's, otherwise the context
    window."""
    if price.output_max is not None:
        return price.output_max
    listed = _listed(price.model)
    if listed is not None:
        return listed
    return price.context_window or OUTPUT_UNKNOWN


def ceiling_known(price: ModelPrice) -> bool:
    """Whether the ceiling is known rather than assumed."""
    return price.output_max is not None or _listed(price.model) is not None


@lru_cache(4096)
def hides_reasoning(model: str) -> bool:
    """Whether the model reasons without showing it, or with a summary only."""
    return longest_prefix(HIDDEN_REASONING, family_name(model)) or False


@lru_cache(4096)
def shows_output(provider: str, model: str) -> bool:
    """Whether all output that the model bills is known to be in the text of its response."""
    return longest_prefix(SHOWN_OUTPUT.get(provider, {}), family_name(model)) or False


@lru_cache(4096)
def ignores_limit(model: str, *, old_field: bool) -> bool:
    """Whether the model's reasoning may exceed the request's output limit. `old_field`: the limit is only in
    `max_tokens`, which OpenAI's reasoning models do not apply to their reasoning."""
    return longest_prefix(UNLIMITED_REASONING, family_name(model)) in ({"always", "old"} if old_field else {"always"})


def family_name(model: str) -> str:
    """The model's name as its maker writes it, whichever provider serves it: `openai/gpt-4o` and `ft:gpt-4o:me` are
    `gpt-4o…`.
    """
    return model.lower().rpartition("/")[2].removeprefix("ft:")


def longest_prefix(table: Mapping[str, _T], name: str) -> _T | None:
    """The entry whose key is the longest that the name begins with."""
    best = max((prefix for prefix in table if name.startswith(prefix)), key=len, default=None)
    return None if best is None else table[best]


@lru_cache(4096)
def _listed(model: str) -> int | None:
    return longest_prefix(OUTPUT_MAX, family_name(model))
