"""Reading what providers answer: strictly and quickly; what that refuses, as far as it can be understood.

An answer is not ours to validate. A list that is null, an object that is a list, `NaN`, half a surrogate pair or bytes
that are no UTF-8 cost the field they stand in, not the usage beside it.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

_MISFIT: Final = object()
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]").search
"""An escape that may be half a pair."""


class Answers(Generic[T]):
    """Decodes JSON into `kind`, a Struct all of whose fields have defaults (or a union of such and lists of them)."""

    __slots__ = ("_float", "_kind", "_strict")

    def __init__(self, kind: Any, float_hook: Callable[[str], Any] | None = None) -> None:
        """`float_hook` makes the numbers that are no integers."""
        self._strict = msgspec.json.Decoder(kind, float_hook=float_hook).decode
        self._kind = inspect.type_info(kind)
        self._float = float_hook

    def decode(self, data: bytes) -> T:
        """Raises ValueError where this is no JSON, or nothing like `kind`; RecursionError where it is too deep."""
        try:
            strict: T = self._strict(data)
            return strict
        except ValueError:  # msgspec's errors are ValueErrors
            return self.convert(parsed(data, self._float))

    def convert(self, value: object) -> T:
        """The same from plain objects. Raises ValueError."""
        fitted: Any = _fitted(value, self._kind)
        if fitted is _MISFIT:
            raise ValueError("nothing that this format answers")
        found: T = fitted
        return found


def parsed(data: bytes, float_hook: Callable[[str], Any] | None = None) -> object:
    """Plain objects, of JSON in the widest sense. Raises ValueError, RecursionError."""
    found = json.loads(data.decode("utf-8-sig", "replace"), strict=False, parse_float=float_hook)
    return whole(found) if _HALF(data) else found


def whole(value: object) -> object:
    """The same without halves of surrogate pairs, which no database, log or answer of ours takes."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(name): whole(item) for name, item in value.items()}
    return value


def _fitted(value: object, kind: inspect.Type) -> object:
    """The value as far as it fits; _MISFIT where it does not."""
    if isinstance(kind, inspect.AnyType):
        return value
    if isinstance(kind, inspect.UnionType):
        candidates = (_fitted(value, one) for one in kind.types)
        return next((fitted for fitted in candidates if fitted is not _MISFIT), _MISFIT)
    if isinstance(kind, inspect.StructType):
        return _struct(value, kind) if isinstance(value, dict) else _MISFIT
    if isinstance(kind, inspect.ListType):
        if not isinstance(value, list):
            return _MISFIT
        fitted = [_fitted(item, kind.item_type) for item in value]
        return [item for item in fitted if item is not _MISFIT]
    if isinstance(kind, inspect.StrType):
        return value if isinstance(value, str) else _MISFIT
    return value if value is None and isinstance(kind, inspect.NoneType) else _MISFIT


def _struct(value: dict[str, object], kind: inspect.StructType) -> object:
    fields = {}
    for field in kind.fields:
        if field.encode_name in value:
            fitted = _fitted(value[field.encode_name], field.type)
            if fitted is not _MISFIT:
                fields[field.name] = fitted
    return kind.cls(**fields)
