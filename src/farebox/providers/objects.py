"""Stored provider objects, whose IDs providers hand out: the paths about them, and how requests refer to them.

An object created with the operator's key belongs to the account for which it was created (calls.ownership). A route
says what a path does; a path that is not among a provider's routes is not called with the operator's key.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from farebox.providers.batch_forms import batch_request
from farebox.providers.descriptions import GOOGLE, output_of_google
from farebox.providers.formats import bodies, bounds, duplicate_fields, multipart
from farebox.providers.formats.base import InvalidRequest, Reference
from farebox.providers.formats.references import of_body
from farebox.providers.predictions import files_of
from farebox.quoting import quoted

Kind: TypeAlias = Literal["response", "conversation", "file", "batch", "prediction", "video", "cached_content"]
"""Kinds of objects that have their own paths."""
Does: TypeAlias = Literal["count", "create", "upload", "list", "read", "content", "change", "cancel", "delete"]
"""`create` only begins a Google file; `upload` sends its content."""

ObjectForm: TypeAlias = Literal["openai", "anthropic", "mistral", "google-ai-studio", "google-vertex-ai"]
"""The provider whose descriptions and lists are used."""
PURPOSES: Final[Mapping[str, frozenset[str]]] = {
    "openai": frozenset({"batch", "user_data", "vision", "assistants"}),
    "mistral": frozenset({"batch"}),
}
"""Allowed purposes of files, by form: others are for work whose cost is unknown here."""


class ObjectRoute(NamedTuple):
    """A path about stored provider objects."""

    method: str
    pattern: re.Pattern[str]
    kind: Kind
    does: Does
    form: ObjectForm = "openai"


class ObjectCall(msgspec.Struct, frozen=True):
    """A call of such a path."""

    kind: Kind
    does: Does
    object_id: str = ""
    """Empty if the path names none."""
    sub: bool = False
    """Whether it is about parts of the object: its items."""
    references: tuple[Reference, ...] = ()
    """What the body refers to."""
    size: int = 0
    """Bytes of the uploaded file."""
    form: ObjectForm = "openai"
    model: str = ""
    """The model that the path names."""
    key_id: str = ""
    """For an upload: ID of the operator's key that it was begun with."""


def object_call(routes: Iterable[ObjectRoute], method: str, path: str) -> ObjectCall | None:
    """What a request to this canonical path does; None if no route is about it."""
    method = "GET" if method == "HEAD" else method
    for route in routes:
        found = route.pattern.fullmatch(path) if route.method == method else None
        if found is not None:
            named = found.groupdict()
            sub = bool(named.get("sub"))
            model = named.get("model") or ""
            return ObjectCall(route.kind, route.does, named.get("id") or "", sub, form=route.form, model=model)
    return None


COUNT: Final = ObjectCall("response", "count")
"""A path that costs nothing and counts or checks the content of the body and what it refers to."""


def read_object(body: bytes, call: ObjectCall, content_type: str) -> ObjectCall:
    """The same call with what its body says. Raises InvalidRequest."""
    if call.kind == "file" and call.does == "create":
        return _begun(body, call) if call.form == GOOGLE else _file(body, call, content_type)
    if call.kind == "video" and call.form == "google-vertex-ai":
        return _operation(body, call)
    if not body:
        return call
    if call.kind == "batch" and call.does == "create":
        duplicate_fields.check(body, refers=True)
        return _with(
            call, references=tuple(Reference("file", name) for name in batch_request(call.form, body, call.model).files)
        )
    bounds.check(body)
    duplicate_fields.check(body)
    return _with(call, references=of_body(body))


class _GoogleFile(msgspec.Struct):
    name: str | None = None
    sizeBytes: str | int | None = None
    size_bytes: str | int | None = None


class _Begun(msgspec.Struct):
    file: _GoogleFile | None = None


_BEGUN: Final = msgspec.json.Decoder(_Begun)


def _begun(body: bytes, call: ObjectCall) -> ObjectCall:
    """Read the beginning of an upload to Google. Raises InvalidRequest."""
    duplicate_fields.check(body, refers=True)
    file = (bodies.decode(_BEGUN, body).file if body else None) or _GoogleFile()
    if file.name:  # must not reveal whether another account has taken it
        raise InvalidRequest("On the operator's key, Google chooses the names of files: leave out `name`.")
    size = str(file.sizeBytes or file.size_bytes or 0)
    return _with(call, size=int(size) if size.isascii() and size.isdigit() and len(size) < 19 else 0)


class _Operation(msgspec.Struct):
    operationName: str


_OPERATION: Final = msgspec.json.Decoder(_Operation)
_OPERATION_NAME: Final = re.compile(
    r"projects/[\w.:-]+/locations/[\w-]+/publishers/google/models/(?P<model>[\w.@-]+)/operations/(?P<id>[\w-]{1,128})",
    re.ASCII,
)


def _operation(body: bytes, call: ObjectCall) -> ObjectCall:
    """Read the name of the operation that is requested. Raises InvalidRequest."""
    duplicate_fields.check(body, refers=True)
    found = _OPERATION_NAME.fullmatch(bodies.decode(_OPERATION, body).operationName)
    if found is None or found["model"] != call.model:
        raise InvalidRequest("Expected the name of an operation of the path's model - at `$.operationName`.")
    return _with(call, object_id=found["id"])


def _file(body: bytes, call: ObjectCall, content_type: str) -> ObjectCall:
    """Raises InvalidRequest."""
    parts = multipart.parts(content_type, body)
    if call.form == "anthropic":
        return _with(call, size=sum(part.end - part.start for part in parts if part.is_file))
    purpose = multipart.value(parts, body, "purpose")
    allowed = PURPOSES[call.form]
    if purpose not in allowed:
        raise InvalidRequest(
            f"On the operator's key, no files are kept for the purpose {quoted(str(purpose))}: use "
            f"{', '.join(sorted(allowed))}."
        )
    return _with(call, size=sum(part.end - part.start for part in parts if part.is_file))


def _with(call: ObjectCall, **changes: Any) -> ObjectCall:
    return msgspec.structs.replace(call, **changes)


def handed_out(kind: str, description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and ID of further objects that an object's description hands out."""
    if kind == "video":
        for file in files_of(description):
            yield "file", file
    if kind == "batch":
        for field in ("output_file_id", "error_file_id", "output_file", "error_file"):
            if isinstance(file_id := description.get(field), str) and file_id:
                yield "file", file_id
        if isinstance(name := output_of_google(description).get("responsesFile"), str) and name.startswith("files/"):
            yield "file", name.removeprefix("files/")
