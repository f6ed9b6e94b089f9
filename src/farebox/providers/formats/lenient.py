"""Reads what providers return: strictly and fast; if that fails, as far as it can be understood.

A response is not ours to validate. A list that is null, an object that is a list, `NaN`, half a surrogate pair or bytes
that are not UTF-8 cost only the field they are in, not the usage next to it.

A large response is not decoded into objects as a whole: a few megabytes of JSON may be a million objects, which would
block the event loop. Only the small fields of such a response are read, the usage among them, and nothing of its text.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

STRICT_BYTES_MAX: Final = 2 * 2**20
"""A well-formed document up to this size is decoded whole; a larger one only if it has few parts."""
PARTS_MAX: Final = 20_000
LENIENT_BYTES_MAX: Final = 256 * 2**10
"""A malformed document up to this size is decoded whole, which takes ten times as long."""
SPARSE_BYTES_MAX: Final = 256 * 2**10
"""Bytes that are read of a larger document."""
_ITEMS_MAX: Final = 200_000
"""Most commas in a large list: each may separate two items."""

_MISFIT: Final = object()
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]").search
"""An escape that may be half a surrogate pair."""


class ResponseDecoder(Generic[T]):
    """Decodes JSON into `kind`, a Struct all of whose fields have defaults (or a union of such and lists of them)."""

    __slots__ = ("_float", "_kind", "_list", "_raw", "_strict")

    def __init__(self, kind: Any, float_hook: Callable[[str], Any] | None = None) -> None:
        """`float_hook` creates the numbers that are not integers."""
        self._strict = msgspec.json.Decoder(kind, float_hook=float_hook).decode
        self._kind = inspect.type_info(kind)
        self._float = float_hook
        self._list, self._raw = _raw_decoders(self._kind)

    def decode(self, data: bytes) -> T:
        """Decode a document. Raises ValueError if it is not JSON, or does not resemble `kind`; RecursionError if it is
        nested too deeply."""
        if len(data) > STRICT_BYTES_MAX and not _of_few_parts(data):
            data = self._sparse(data)
        try:
            strict: T = self._strict(data)
            return strict
        except ValueError:  # msgspec's errors are ValueErrors
            if len(data) > LENIENT_BYTES_MAX:
                data = self._sparse(data)
            return self.convert(parsed(data, self._float))

    def _sparse(self, data: bytes) -> bytes:
        """The small fields of a document, smallest first; of a list, the last items. Raises ValueError if it is not
        JSON."""
        if self._list is not None and data.lstrip()[:1] == b"[":
            if data.count(b",") > _ITEMS_MAX:
                raise ValueError("a list of too many items")
            items: list[bytes] = []
            left = SPARSE_BYTES_MAX
            for item in reversed(self._list.decode(data)):
                left -= len(bytes(item))
                if left < 0:
                    break
                items.insert(0, bytes(item))
            return b"[%b]" % b",".join(items)
        fields = []
        for name, raw in msgspec.structs.asdict(self._raw.decode(data)).items():
            if raw is not msgspec.UNSET:
                fields.append((len(bytes(raw)), name, bytes(raw)))
        left = SPARSE_BYTES_MAX
        kept = {}
        for size, name, raw in sorted(fields):
            left -= size
            if left >= 0:
                kept[name] = msgspec.Raw(raw)
        return msgspec.json.encode(kept)

    def convert(self, value: object) -> T:
        """The same from plain objects. Raises ValueError."""
        fitted: Any = _fitted(value, self._kind)
        if fitted is _MISFIT:
            raise ValueError("nothing that this format answers")
        found: T = fitted
        return found


def _of_few_parts(data: bytes) -> bool:
    """Whether decoding would create few objects, as for an image. Characters inside strings count too."""
    return data.count(b"{") + data.count(b"[") <= PARTS_MAX and data.count(b",") <= _ITEMS_MAX


def _raw_decoders(kind: inspect.Type) -> "tuple[msgspec.json.Decoder[Any] | None, msgspec.json.Decoder[Any]]":
    """Decoders that leave values undecoded: one for lists, if `kind` may be a list, and one for the fields of its
    struct."""
    if isinstance(kind, inspect.UnionType):
        struct = next(one for one in kind.types if isinstance(one, inspect.StructType))
        return msgspec.json.Decoder(list[msgspec.Raw]), _raw_decoders(struct)[1]
    assert isinstance(kind, inspect.StructType)
    fields: list[Any] = [(field.encode_name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for field in kind.fields]
    return None, msgspec.json.Decoder(msgspec.defstruct("Raws", fields))


def parsed(data: bytes, float_hook: Callable[[str], Any] | None = None) -> object:
    """Plain objects, from JSON in the widest sense. Raises ValueError, RecursionError."""
    found = json.loads(data.decode("utf-8-sig", "replace"), strict=False, parse_float=float_hook)
    return whole(found) if _HALF(data) else found


def whole(value: object) -> object:
    """The same without halves of surrogate pairs, which none of our databases, logs or responses can contain."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(name): whole(item) for name, item in value.items()}
    return value


def _fitted(value: object, kind: inspect.Type) -> object:
    """The parts of the value that fit `kind`; _MISFIT if none does."""
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
