"""What the demo provider reads from a request, whatever its wire format.

The rule of input tokens: every string below the messages, the system text and the tools counts its
whitespace-separated words; the values of `role` and `type` do not count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from farebox.http.exchange import RequestHeaders

Json: TypeAlias = dict[str, Any]

DEFAULT_MODEL = "demo-1"

_UNCOUNTED = frozenset(("role", "type"))
_SAMPLES: Json = {"string": "demo", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class BadRequest(ValueError):
    """The request cannot be read; answered with 400 in the provider's own shape."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One HTTP request as received."""

    method: str
    path: str
    query: str
    headers: RequestHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call to one of the request's tools, as the response."""

    name: str
    arguments: Json

    @property
    def text(self) -> str:
        """The arguments as the JSON text that is delivered."""
        return encode(self.arguments).decode()

    @property
    def tokens(self) -> int:
        """Words of the name and of the arguments' JSON text."""
        return words_in(self.name) + words_in(self.text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks for."""

    model: str = DEFAULT_MODEL
    text: str = ""
    """The last user message."""
    input_tokens: int = 0
    stream: bool = False
    max_tokens: int | None = None
    choices: int = 1
    tool: ToolCall | None = None
    body: Json = field(default_factory=dict)
    """The whole request, for fields that only one endpoint reads."""


def words_in(value: object) -> int:
    """Tokens of a text, or of all texts inside a JSON value, by the rule above."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, dict):
        return sum(words_in(v) for k, v in value.items() if not (k in _UNCOUNTED and isinstance(v, str)))
    if isinstance(value, list):
        return sum(map(words_in, value))
    return 0


def json_object(body: bytes) -> Json:
    """The request body. Raises BadRequest if it is not a JSON object."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    return value


def objects(body: Json, key: str) -> list[Json]:
    """The list of objects under a key; empty if it is absent. Raises BadRequest if it is something else."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{key} is not a list of objects")
    return value


def object_in(body: Json, key: str) -> Json:
    """The object under a key; empty if there is none."""
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def count(body: Json, *keys: str) -> int | None:
    """The value of the first of these fields that is present, which must be a whole number above zero."""
    for key in keys:
        value = body.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadRequest(f"{key} is not a whole number above zero")
        return value
    return None


def model_in(body: Json) -> str:
    """The requested model: any name is accepted."""
    return str(body.get("model") or DEFAULT_MODEL)


def last_user_text(messages: Iterable[Json], content: str = "content") -> str:
    """Text of the last message whose role is user (Google lets the role be absent)."""
    found: object = None
    for message in messages:
        if message.get("role", "user") == "user":
            found = message.get(content)
    if isinstance(found, list):
        parts = (part.get("text") for part in found if isinstance(part, dict))
        return " ".join(text for text in parts if isinstance(text, str))
    return found if isinstance(found, str) else ""


def tool_call(tools: Iterable[object], name: object, *schemas: str) -> ToolCall | None:
    """A call to the tool with this name, or to the first one; each required argument gets a sample of its type.
    `schemas` are the keys under which a tool may describe its arguments."""
    for tool in tools:
        if isinstance(tool, dict) and "name" in tool and name in (None, tool["name"]):
            schema = next((tool[key] for key in schemas if key in tool), None)
            return ToolCall(str(tool["name"]), _sample(schema))
    return None


def read_models(call: DemoRequest) -> Prompt:
    """A request for the list of models, or for the one that the path names."""
    name = call.path.rpartition("models")[2].strip("/")
    return Prompt(model=name or DEFAULT_MODEL, body={"one": bool(name)})


def _sample(schema: object) -> Json:
    if not isinstance(schema, dict):
        return {}
    properties = object_in(schema, "properties")
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: _sample_value(properties.get(name)) for name in names}


def _sample_value(schema: object) -> object:
    if not isinstance(schema, dict):
        return "demo"
    values = schema.get("enum")
    if isinstance(values, list) and values:
        return values[0]
    kind = str(schema.get("type", "string")).lower()  # Google writes types in capitals
    return _sample(schema) if kind == "object" else _SAMPLES.get(kind, "demo")
