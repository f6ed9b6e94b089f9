"""Exact token counts, for models whose tokenizer is published: the second try if a balance is too small for the bound.

For every other model there is no exact count: a count by another model's tokenizer may be too low for a hold, so the
byte bound stays. Only if a provider does not report usage is such a count charged (`approximate_tokens`).
"""

import re
from typing import Protocol, cast

from farebox.pricing.ceilings import family_name

_ENCODINGS = tuple(
    (re.compile(pattern), encoding)
    for pattern, encoding in (
        # OpenAI's models for which OpenAI published the encoding.
        (r"(chat)?gpt-4o|gpt-4\.[15]|gpt-5(-|$)|o[134](-|$)", "o200k_base"),
        (r"gpt-4(-|$)|gpt-3\.5-turbo|text-embedding-(3|ada-002)", "cl100k_base"),
        # Open models, the same at every provider.
        (r"gpt-oss-", "o200k_harmony"),
        (r"(meta-)?llama-?3(\.[123])?-", "llama3"),
        (r"qwen-?(2\.5|3)-\d", "qwen3"),
    )
)


APPROXIMATE = "o200k_base"


class _Tokenizer(Protocol):
    def count(self, text: str) -> int: ...


def has_tokenizer(provider: str, model: str) -> bool:
    """Whether the model's own tokenizer is known."""
    return _encoding(provider, model) is not None


def count_tokens(provider: str, model: str, text: str) -> int | None:
    """Tokens of the text, special tokens in it counted as ordinary text; None if the tokenizer is not known.

    The first count of an encoding takes half a second to load it, later ones about 10 µs per KB. OpenAI's names count
    only at OpenAI and at OpenRouter, where no other model has these names.
    """
    encoding = _encoding(provider, model)
    if encoding is None:
        return None
    try:
        return _load(encoding).count(text)
    except TypeError:  # a lone surrogate, which cannot be sent as text
        return None


def approximate_tokens(provider: str, model: str, text: str) -> int:
    """Tokens of the text, for a charge if the provider reports none: by the model's own tokenizer, otherwise by
    o200k_base as an approximation.
    """
    known = count_tokens(provider, model, text)
    if known is not None:
        return known
    try:
        return _load(APPROXIMATE).count(text)
    except TypeError:  # a lone surrogate
        return _load(APPROXIMATE).count(text.encode("utf-8", "replace").decode())


def _encoding(provider: str, model: str) -> str | None:
    name = family_name(model)
    for pattern, encoding in _ENCODINGS:
        if pattern.match(name):
            owned = encoding in ("o200k_base", "cl100k_base")
            return encoding if not owned or provider in ("openai", "openrouter") else None
    return None


def _load(encoding: str) -> _Tokenizer:
    """Load an encoding. Imported here because the library is heavy and most servers never count."""
    import quicktok  # type: ignore[import-untyped]

    return cast(_Tokenizer, quicktok.get_encoding(encoding))
