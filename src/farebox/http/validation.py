"""Bodies and query parameters into typed structs, with Cloudflare's (zod's) wording for errors.

msgspec decides what is valid. This module runs it field by field, so that all errors are reported at once, in the
wording that Cloudflare's clients know.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from farebox.errors import MALFORMED_JSON, VALIDATION_FAILED, Problem

T = TypeVar("T", bound=msgspec.Struct)
Path: TypeAlias = tuple[str | int, ...]

INTEGER_MAX = 2**53 - 1
"""The largest integer that every JSON client can represent exactly."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a request, and its place."""

    path: Path
    message: str
    words: str = ""
    """The same for people on a page, if the message does not suit them; `pages.fault_texts` knows those of schemas."""


class InvalidInput(Problem):
    """The request does not have the form that the route requires; `faults` has at least one item."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(VALIDATION_FAILED, faults[0].message, path=faults[0].path)
        self.faults = tuple(faults)


def invalid(message: str, *path: str | int, words: str = "") -> InvalidInput:
    """A single fault, to be raised."""
    return InvalidInput([Fault(path, message, words)])


def parse_json(body: bytes) -> Any:
    """The JSON value. Raises Problem (MALFORMED_JSON)."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(MALFORMED_JSON, "Malformed JSON in request body") from error


def read_body(body: bytes, kind: type[T]) -> T:
    """The request body as `kind`. Raises Problem (MALFORMED_JSON) or InvalidInput."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise invalid(f"Expected object, received {_kind_of(value)}", "body")
    return read(value, kind, "body", strict=True)


def read(values: Mapping[str, Any], kind: type[T], where: str, *, strict: bool) -> T:
    """`values` as `kind`; `strict` if they have JSON types rather than all being text. Raises InvalidInput."""
    faults: list[Fault] = []
    taken: dict[str, Any] = {}
    for field in _fields(kind):
        if field.encode_name not in values:
            if field.required:
                faults.append(Fault((where, field.encode_name), "Required"))
            continue
        try:
            value = taken[field.name] = msgspec.convert(values[field.encode_name], field.type, strict=strict)
            if strict and isinstance(value, int) and abs(value) > INTEGER_MAX:
                message = f"Number must be less than or equal to {INTEGER_MAX}"
                faults.append(Fault((where, field.encode_name), message))
        except msgspec.ValidationError as error:
            faults += _faults((where, field.encode_name), field.type, values[field.encode_name], str(error), strict)
    faults += _unknown((where,), kind, values)
    if faults:
        raise InvalidInput(faults)
    return kind(**taken)


def _unknown(path: Path, kind: type[msgspec.Struct], values: Mapping[str, Any]) -> list[Fault]:
    """The fault for names that the struct does not have, if it rejects such names."""
    known = {field.encode_name for field in _fields(kind)} | {kind.__struct_config__.tag_field}
    unknown = ", ".join(f"'{name[:64]}'" for name in values if name not in known)
    if not unknown or not kind.__struct_config__.forbid_unknown_fields:
        return []
    return [Fault(path, f"Unrecognized key(s) in object: {unknown}")]


def _faults(path: Path, kind: Any, value: Any, text: str, strict: bool) -> list[Fault]:
    """The faults in a value that msgspec rejects with this text, each with its place."""
    inner: list[Fault] = []
    for part in _parts(kind):
        if isinstance(value, dict) and isinstance(part, type) and issubclass(part, msgspec.Struct):
            config = part.__struct_config__
            if config.tag_field is not None and value.get(config.tag_field) != config.tag:
                continue  # the value belongs to another member of the union, or to none
            for field in _fields(part):
                if field.encode_name in value:
                    inner += _checked((*path, field.encode_name), field.type, value[field.encode_name], strict)
                elif field.required:
                    inner.append(Fault((*path, field.encode_name), "Required"))
            inner += _unknown(path, part, value)
            break
        if isinstance(value, list) and get_origin(part) in (tuple, list):
            for place, item in enumerate(value):
                inner += _checked((*path, place), get_args(part)[0], item, strict)
            break
        if isinstance(value, dict) and get_origin(part) is dict:
            for name, item in value.items():
                inner += _checked((*path, name), get_args(part)[1], item, strict)
            break
    return inner or _unknown_tag(path, kind, value) or [_fault(path, text, kind, value)]


def _unknown_tag(path: Path, kind: Any, value: Any) -> list[Fault]:
    """The fault for an object whose tag belongs to no member of the union."""
    structs = [part for part in _parts(kind) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    configs = [part.__struct_config__ for part in structs if part.__struct_config__.tag_field is not None]
    if not configs or not isinstance(value, dict):
        return []
    name, tags = str(configs[0].tag_field), [config.tag for config in configs]
    if not isinstance(value.get(name), str) or value[name] in tags:
        return []
    expected = " | ".join(f"'{tag}'" for tag in tags)
    return [Fault((*path, name), f"Invalid discriminator value. Expected {expected}, received '{value[name][:64]}'")]


def _checked(path: Path, kind: Any, value: Any, strict: bool) -> list[Fault]:
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        return _faults(path, kind, value, str(error), strict)
    return []


def _parts(kind: Any) -> tuple[Any, ...]:
    """The members of a union; otherwise the type itself."""
    if get_origin(kind) is Annotated:
        return _parts(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(part for each in get_args(kind) for part in _parts(each))
    return (kind,)


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


_AT = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_TYPES = {"int": "number", "float": "number", "str": "string", "bool": "boolean"}
_BOUNDS = (
    (re.compile(r"^Expected `(?:int|float)` >= (\S+)$"), "Number must be greater than or equal to {}"),
    (re.compile(r"^Expected `(?:int|float)` <= (\S+)$"), "Number must be less than or equal to {}"),
    (re.compile(r"^Expected `(?:int|float)` > (\S+)$"), "Number must be greater than {}"),
    (re.compile(r"^Expected `str` of length >= (\d+)$"), "String must contain at least {} character(s)"),
    (re.compile(r"^Expected `str` of length <= (\d+)$"), "String must contain at most {} character(s)"),
    (re.compile(r"^Expected `str` matching regex '(.*)'$"), "Invalid: must match {}"),
    (re.compile(r"^Expected `array` of length >= (\d+)$"), "Array must contain at least {} element(s)"),
    (re.compile(r"^Expected `array` of length <= (\d+)$"), "Array must contain at most {} element(s)"),
    (re.compile(r"^Object missing required field `(\w+)`$"), "Required: {}"),
)
_WRONG_TYPE = re.compile(r"^Expected `([^`]+)`, got `([^`]+)`$")


def _fault(path: Path, text: str, kind: Any, value: Any) -> Fault:
    """msgspec's message as a fault in zod's wording."""
    at = _AT.search(text)
    if at:
        text = text[: at.start()]
        path += tuple(name or int(index) for name, index in _STEP.findall(at.group(1)))
    literals = [f"'{choice}'" for choice in _choices(kind)]
    choices = " | ".join([*literals, "object"] if literals and _takes_object(kind) else literals)
    if text.startswith("Invalid enum value"):
        return Fault(path, f"Invalid enum value. Expected {choices}, received '{str(value)[:64]}'")
    wrong = _WRONG_TYPE.match(text)
    if wrong and wrong.group(2) == "float" and "float" not in wrong.group(1):
        return Fault(path, "Expected integer, received float")
    if wrong:
        wanted = choices or " | ".join(_TYPES.get(name, name) for name in wrong.group(1).split(" | ") if name != "null")
        return Fault(path, f"Expected {wanted}, received {_TYPES.get(wrong.group(2), wrong.group(2))}")
    for pattern, message in _BOUNDS:
        found = pattern.match(text)
        if found:
            allowed = next((meta.description for meta in _patterns(kind) if repr(meta.pattern) in text), None)
            words = f"Use {allowed}" if allowed else ""
            return Fault(path, message.format(found.group(1).removesuffix(".0")), words)
    return Fault(path, text)


def _patterns(kind: Any) -> Iterator[msgspec.Meta]:
    """The patterns in a field's type; their descriptions say in words what is allowed."""
    for part in get_args(kind):
        if isinstance(part, msgspec.Meta) and part.pattern is not None:
            yield part
        yield from _patterns(part)


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of the Literal in a field's type, if there is one."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _takes_object(kind: Any) -> bool:
    return any(isinstance(part, type) and issubclass(part, msgspec.Struct) for part in _parts(kind))


def _kind_of(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
