"""Request bodies: decode the few fields billing reads, change single fields and no other byte, collect text."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from farebox.providers.formats.base import InvalidRequest

Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Choices: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=128)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

_Head = TypeVar("_Head")
_Converted = TypeVar("_Converted")
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_AS_JSON: Final = frozenset({"input", "args", "response"})
_ANY: Final = msgspec.json.Decoder()


class JsonBody:
    """The request adjustments that most formats share: the body names the model, and usage need not be requested."""

    __slots__ = ()

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Formats whose output cannot be limited leave the body unchanged."""
        return body

    def request_usage(self, body: bytes) -> bytes:
        """Nothing to change: the response always reports its usage, or never does."""
        return body

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model`."""
        return changed(body, model=model)


def decode(decoder: "msgspec.json.Decoder[_Head]", body: bytes) -> _Head:
    """Decode the fields of a body that the decoder's type has. Raises InvalidRequest, with a message for the caller."""
    if not body:
        raise InvalidRequest("The body is empty: send a JSON object.")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as wrong:
        raise InvalidRequest(f"{wrong}.") from wrong
    except RecursionError as deep:
        raise InvalidRequest("The body is nested too deeply.") from deep
    except ValueError as broken:
        raise InvalidRequest(f"The body is not valid JSON: {broken}.") from broken


def convert(value: object, to: type[_Converted]) -> _Converted:
    """A decoded value converted to a narrower type. Raises InvalidRequest, with a message for the caller."""
    try:
        return msgspec.convert(value, to)
    except msgspec.ValidationError as wrong:
        raise InvalidRequest(f"{wrong}.") from wrong


def fields(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """A JSON object's fields, undecoded and in their order. Raises InvalidRequest."""
    return decode(_FIELDS, bytes(body))


def tree(raws: Iterable[msgspec.Raw]) -> list[object]:
    """Undecoded values as plain objects. Raises InvalidRequest."""
    return [decode(_ANY, bytes(raw)) for raw in raws]


def changed(body: bytes, **values: object) -> bytes:
    """The body with these top-level fields set; every other value keeps its bytes. Raises InvalidRequest."""
    top: dict[str, object] = {**fields(body), **values}
    return msgspec.json.encode(top)


def selectors(**fields: object) -> dict[str, str]:
    """The ParsedRequest.context of the fields that select another price, in the spelling of prices:
    `SERVICE_TIER_FLEX` is `flex`. `auto` leaves the choice to the provider, whose response names it.
    """
    return {key: plain(value) for key, value in fields.items() if isinstance(value, str) and value}


def plain(value: str) -> str:
    """The normalized value of such a field."""
    return value.lower().removeprefix("service_tier_")


def given(raw: msgspec.Raw | None) -> bool:
    """Whether a field is present and not null."""
    return raw is not None and bytes(raw) != b"null"


def texts(content: object, others: Mapping[str, msgspec.Raw]) -> str:
    """All text of a request for exact counting: the strings of `content`, and `others` as JSON.

    Numbers and booleans among `others` are not read by the model and are left out.
    """
    parts = list(strings(content))
    for raw in others.values():
        value = bytes(raw)
        if value[:1] in (b"{", b"[", b'"'):
            parts.append(value.decode("utf-8", "replace"))
    return "\n".join(parts)


def strings(value: object) -> Iterator[str]:
    """Every string and number inside a decoded value, in order. Keys of objects are left out, but arguments and results
    of tools, which the model reads with their keys, are included as JSON.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if item:
                yield item
        elif isinstance(item, dict):
            stack.extend(
                msgspec.json.encode(inner).decode() if key in _AS_JSON and isinstance(inner, dict) else inner
                for key, inner in reversed(item.items())
            )
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif item is not None and not isinstance(item, bool):
            yield str(item)
