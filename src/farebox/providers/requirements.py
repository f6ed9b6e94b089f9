"""What a request needs from the model that answers it, read from a body of any of the common forms."""

import hashlib
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies, bounds
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.base import InvalidRequest, WireFormat
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.openai_responses import OpenAIResponses

_FORMS: Final[dict[str, WireFormat]] = {
    "chat/completions": OpenAIChat(),
    "responses": OpenAIResponses(),
    "v1/messages": AnthropicMessages(),
}
_IDLE: Final = ("none", "minimal", None)


class Requirements(msgspec.Struct, frozen=True):
    """What a request needs."""

    demand: Demand
    kinds: frozenset[str]
    """Members of providers.capabilities.KINDS."""
    turn: str
    """A name for the turn of the conversation: the same until its user speaks again."""


class _Message(msgspec.Struct):
    role: Any = None
    content: Any = None


class _Format(msgspec.Struct):
    type: Any = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Effort(msgspec.Struct):
    effort: Any = None
    type: Any = None


class _Body(msgspec.Struct):
    messages: list[_Message] | None = None
    input: Any = None
    response_format: _Format | None = None
    text: _Text | None = None
    reasoning_effort: Any = None
    reasoning: _Effort | None = None
    thinking: _Effort | None = None


_BODY: Final = msgspec.json.Decoder(_Body)


def read_requirements(body: bytes, path: str, content_type: str) -> Requirements:
    """What a body in this common form needs. Raises InvalidRequest."""
    bounds.check(body)
    form = _FORMS.get(path)
    if form is None:
        raise InvalidRequest("The auto router takes chat completions, Responses and Messages.")
    demand = form.parse(path, content_type, body).demand
    parsed = bodies.decode(_BODY, body)
    kinds = set[str]()
    if demand.tools:
        kinds.add("tools")
    if demand.images:
        kinds.add("images")
    formats = (parsed.response_format, parsed.text.format if parsed.text else None)
    if any(wanted is not None and wanted.type == "json_schema" for wanted in formats):
        kinds.add("json")
    if _reasons(parsed):
        kinds.add("reasoning")
    return Requirements(demand, frozenset(kinds), _turn(parsed))


def _reasons(parsed: _Body) -> bool:
    efforts = [parsed.reasoning_effort, parsed.reasoning.effort if parsed.reasoning else None]
    thinking = parsed.thinking is not None and parsed.thinking.type != "disabled"
    return thinking or any(effort not in _IDLE for effort in efforts)


def _turn(parsed: _Body) -> str:
    """A name derived from what the user has said so far; tool results are part of a turn."""
    messages = parsed.messages
    if messages is None and isinstance(parsed.input, list):
        messages = [msgspec.convert(item, _Message) for item in parsed.input if isinstance(item, dict)]
    by_user = [message.content for message in messages or () if message.role == "user"]
    prompts = [content for content in by_user if not _is_result(content)]
    return hashlib.blake2b(msgspec.json.encode(prompts), digest_size=12).hexdigest()


def _is_result(content: Any) -> bool:
    parts = content if isinstance(content, list) else ()
    return bool(parts) and all(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)
