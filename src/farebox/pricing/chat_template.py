"""Exact counts of a whole chat including its template, for models whose template is known exactly.

OpenAI has published how its chat models count a plain-text request: for each message three tokens plus its role and
content, and if it has a name, one token plus the name; and three tokens for the beginning of the response. Recorded
requests to the models below report exactly that (`python -m bench.holds --cases bounds`); models that reason differ by
a token or more, as do requests with tools, images and response formats. For all of these, the allowances of `estimate`
apply.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from farebox.pricing.token_counts import count_tokens

_MODELS: Final = re.compile(r"gpt-4o(-mini)?(-20\d\d-\d\d-\d\d)?|gpt-4\.1(-mini|-nano)?(-20\d\d-\d\d-\d\d)?")
_ROLES: Final = frozenset({"system", "user", "assistant"})
_MESSAGE_TOKENS, _NAME_TOKENS, _ANSWER_TOKENS = 3, 1, 3


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str
    name: str | None = None


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a request that do not affect the template; with any other field, the count is not known."""

    model: str
    messages: list[_Message]
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    metadata: Any = None
    n: Any = None
    presence_penalty: Any = None
    safety_identifier: Any = None
    seed: Any = None
    service_tier: Any = None
    stop: Any = None
    store: Any = None
    stream: Any = None
    stream_options: Any = None
    temperature: Any = None
    top_logprobs: Any = None
    top_p: Any = None
    user: Any = None


_DECODER: Final = msgspec.json.Decoder(_Chat)


def has_template(provider: str, model: str) -> bool:
    """Whether the template of the model's chats is known."""
    return provider == "openai" and _MODELS.fullmatch(model) is not None


def count_chat(provider: str, model: str, body: bytes) -> int | None:
    """Input tokens that the provider will report for this chat; None if that is not known exactly."""
    if not has_template(provider, model):
        return None
    try:
        chat = _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not chat.messages or any(message.role not in _ROLES for message in chat.messages):
        return None
    return _sum(chat.messages, lambda text: count_tokens(provider, model, text))


def _sum(messages: list[_Message], count: Callable[[str], int | None]) -> int | None:
    total = _ANSWER_TOKENS
    for message in messages:
        texts = [message.role, message.content, *(() if message.name is None else (message.name,))]
        counts = [count(text) for text in texts if text]
        known = [number for number in counts if number is not None]
        if len(known) < len(counts):  # a lone surrogate
            return None
        total += _MESSAGE_TOKENS + sum(known) + (0 if message.name is None else _NAME_TOKENS)
    return total
