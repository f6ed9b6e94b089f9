"""The capabilities of models that decide which of them may answer a request, and the candidates of the auto router.

They are listed by families of names. A model that neither this table nor the operator describes is a candidate for text
only. If the table is wrong, the provider refuses the request, and the next model is tried.
"""

import re
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from farebox.providers.catalogue import provider_of
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import compat_model, is_custom
from farebox.quoting import quoted

KINDS: Final = ("tools", "images", "json", "reasoning")
"""`json`: output by a JSON schema, in OpenAI's formats."""
ALL: Final = frozenset(KINDS)
_ROUTED: Final = {"google-ai-studio": "google", "grok": "xai", "perplexity-ai": "perplexity"}


def _can(pattern: str, kinds: str) -> tuple[re.Pattern[str], frozenset[str]]:
    return re.compile(pattern, re.IGNORECASE), frozenset(kinds.split())


_FAMILIES: Final = (
    _can(r"openai/.*-(search|audio|realtime|image|tts|transcribe|research|cyber|instruct)", ""),
    _can(r"openai/gpt-5\.\d-pro", "tools images reasoning"),
    _can(r"openai/(gpt-[5-9]|o3(?!-mini)|o4)", "tools images json reasoning"),
    _can(r"openai/o3-mini", "tools json reasoning"),
    _can(r"openai/gpt-4o-2024-05-13", "tools images"),
    _can(r"openai/gpt-4(o|\.1)", "tools images json"),
    _can(r"openai/gpt-(4-turbo|3\.5-turbo(?!-16k))", "tools"),
    _can(r"anthropic/claude-(3-7|[a-z]+-[4-9])", "tools images reasoning"),
    _can(r"anthropic/claude-3", "tools images"),
    _can(r"google-ai-studio/gemini-.*-(image|tts|live|audio|computer)", ""),
    _can(r"google-ai-studio/gemini-(2\.5|[3-9])", "tools images json reasoning"),
    _can(r"google-ai-studio/gemini-2\.0", "tools images json"),
    _can(r"grok/.*multi-agent", ""),
    _can(r"grok/grok-[4-9].*non-reasoning", "tools images json"),
    _can(r"grok/grok-[4-9]", "tools images json reasoning"),
    _can(r"grok/grok-3", "tools json"),
    _can(r"mistral/(mistral-(small|medium|large)|magistral|pixtral)", "tools images json"),
    _can(r"mistral/(ministral|codestral(?!-mamba)|open-mistral|devstral)", "tools json"),
    _can(r"deepseek/deepseek-(chat|v)", "tools"),
    _can(r"deepseek/deepseek-reasoner", "reasoning"),
    _can(r"(groq|cerebras)/(openai/)?gpt-oss", "tools json reasoning"),
    _can(r"groq/meta-llama/llama-4", "tools images json"),
    _can(r"(groq|cerebras)/(.*/)?(llama-[34]|qwen|kimi|zai-glm)", "tools"),
    _can(r"cohere/command-(a|r)", "tools json"),
    _can(r"workers-ai/@cf/openai/gpt-oss", "tools reasoning"),
    _can(
        r"workers-ai/@cf/(meta/llama-(3\.3|4)|mistralai|google/gemma-4|moonshotai|zai-org|qwen/qwen3|deepseek-ai/deepseek-v)",
        "tools",
    ),
    _can(r"demo/", " ".join(KINDS)),
)


class Candidate(msgspec.Struct, frozen=True):
    """A model, or a pattern of models, that the auto router may choose."""

    pattern: str
    """`provider/model`; `*` stands for a part of a name between slashes."""
    can: frozenset[str] | None = None
    """Its capabilities as stated by the operator; None: see `capabilities`."""

    @property
    def slug(self) -> str:
        return self.pattern.partition("/")[0]

    @property
    def model(self) -> str:
        return self.pattern.partition("/")[2]

    @property
    def is_pattern(self) -> bool:
        return "*" in self.pattern

    def matches(self, model: str) -> bool:
        """Whether the candidate stands for this model of the provider."""
        if not self.is_pattern:
            return model == self.model
        return model.count("/") == self.model.count("/") and fnmatchcase(model, self.model)


def capabilities(slug: str, model: str) -> frozenset[str]:
    """What the model can do besides text."""
    name = f"{slug}/{model}"
    return next((can for pattern, can in _FAMILIES if pattern.match(name)), frozenset())


def candidate_of(text: str) -> Candidate:
    """Parse a candidate: `provider/model`, `provider/part*` or a bare `@cf/…`, optionally followed by `=` and its
    capabilities joined by `+`. Raises ValueError saying what is wrong."""
    name, equals, listed = (part.strip() for part in text.partition("="))
    can = frozenset(word.strip() for word in listed.split("+") if word.strip()) if equals else None
    if can is not None and not can <= ALL:
        raise ValueError(f"{quoted(text)} names an unknown capability; the known ones are {', '.join(KINDS)}")
    try:
        slug, model = compat_model(name)
    except InvalidRequest as error:
        raise ValueError(str(error)) from error
    if any(character in model for character in "?["):
        raise ValueError(f"{quoted(name)} is not a model name: the only wildcard is `*`")
    return Candidate(f"{slug}/{model}", can)


def candidates_of(text: str) -> tuple[Candidate, ...]:
    """The candidates of a comma-separated list. Raises ValueError."""
    return tuple(candidate_of(part) for part in text.split(",") if part.strip())


def slug_of(name: str) -> str:
    """The slug of a provider by any of its names. Raises ValueError."""
    provider = provider_of(name)
    if provider is None and not is_custom(name):
        raise ValueError(f"There is no provider {quoted(name)}")
    return name if provider is None else provider.slug


def routed_name(slug: str, model: str) -> str:
    """The model's name in Cloudflare's router."""
    if model.startswith("@"):
        return model
    return f"{_ROUTED.get(slug, slug)}/{model}"
