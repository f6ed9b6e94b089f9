"""What providers keep, and hand out IDs of: the paths about it, and where requests refer to it.

An ID under the operator's key is the account's that it was made for (calls.ownership). A route says what a path does;
whatever is not among a provider's routes is not called on the operator's key.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from farebox.providers.formats import bodies, bounds, multipart
from farebox.providers.formats.base import InvalidRequest, Reference
from farebox.providers.formats.references import of_body

Kind: TypeAlias = Literal["response", "conversation", "file", "batch"]
"""What has paths of its own."""
Does: TypeAlias = Literal["count", "create", "list", "read", "content", "change", "cancel", "delete"]

ObjectForm: TypeAlias = Literal["openai", "anthropic"]
"""Whose descriptions and lists they are."""
PURPOSES: Final = frozenset({"batch", "user_data", "vision", "assistants"})
"""What files may be for: others are for work whose cost is not known here."""
_ID: Final = r"(?P<id>[A-Za-z0-9_-]{1,128})"
_RESPONSE: Final = rf"(?!(?:compact|input_tokens)$){_ID}"


class ObjectRoute(NamedTuple):
    """A path about something that is kept."""

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
    """Empty where the path names none."""
    sub: bool = False
    """Whether it is about a part of the object: its items."""
    references: tuple[Reference, ...] = ()
    """What its body refers to."""
    size: int = 0
    """Bytes of the file that it brings."""
    form: ObjectForm = "openai"


class _Batch(msgspec.Struct):
    input_file_id: str | None = None
    """Of OpenAI's; Anthropic's have the requests in the body."""


_BATCH: Final = msgspec.json.Decoder(_Batch)


_ANTHROPIC: Final[tuple[tuple[Kind, str, str, Does], ...]] = (
    ("file", "POST", r"files", "create"),
    ("file", "GET", r"files", "list"),
    ("file", "GET", rf"files/{_ID}", "read"),
    ("file", "DELETE", rf"files/{_ID}", "delete"),
    ("file", "GET", rf"files/{_ID}/content", "content"),
    ("batch", "POST", r"messages/batches", "create"),
    ("batch", "GET", r"messages/batches", "list"),
    ("batch", "GET", rf"messages/batches/{_ID}", "read"),
    ("batch", "POST", rf"messages/batches/{_ID}/cancel", "cancel"),
    ("batch", "DELETE", rf"messages/batches/{_ID}", "delete"),
    ("batch", "GET", rf"messages/batches/{_ID}/results", "content"),
)


def object_routes(prefix: str, *kinds: Kind) -> tuple[ObjectRoute, ...]:
    """OpenAI's paths of these kinds, below a prefix."""
    return tuple(
        ObjectRoute(method, re.compile(prefix + path, re.ASCII), kind, does)
        for kind, method, path, does in _OPENAI
        if kind in kinds
    )


_OPENAI: Final[tuple[tuple[Kind, str, str, Does], ...]] = (
    ("response", "GET", rf"responses/{_RESPONSE}", "read"),
    ("response", "DELETE", rf"responses/{_RESPONSE}", "delete"),
    ("response", "POST", rf"responses/{_RESPONSE}/cancel", "cancel"),
    ("response", "GET", rf"responses/{_RESPONSE}(?P<sub>/input_items)", "read"),
    ("conversation", "POST", r"conversations", "create"),
    ("conversation", "GET", rf"conversations/{_ID}", "read"),
    ("conversation", "POST", rf"conversations/{_ID}", "change"),
    ("conversation", "DELETE", rf"conversations/{_ID}", "delete"),
    ("conversation", "GET", rf"conversations/{_ID}(?P<sub>/items(/[A-Za-z0-9_-]{{1,128}})?)", "read"),
    ("conversation", "POST", rf"conversations/{_ID}(?P<sub>/items)", "change"),
    ("conversation", "DELETE", rf"conversations/{_ID}(?P<sub>/items/[A-Za-z0-9_-]{{1,128}})", "change"),
    ("file", "POST", r"files", "create"),
    ("file", "GET", r"files", "list"),
    ("file", "GET", rf"files/{_ID}", "read"),
    ("file", "DELETE", rf"files/{_ID}", "delete"),
    ("file", "GET", rf"files/{_ID}/content", "content"),
    ("batch", "POST", r"batches", "create"),
    ("batch", "GET", r"batches", "list"),
    ("batch", "GET", rf"batches/{_ID}", "read"),
    ("batch", "POST", rf"batches/{_ID}/cancel", "cancel"),
)


ANTHROPIC: Final[tuple[ObjectRoute, ...]] = tuple(
    ObjectRoute(method, re.compile(rf"v1/{path}", re.ASCII), kind, does, "anthropic")
    for kind, method, path, does in _ANTHROPIC
)


def object_call(routes: Iterable[ObjectRoute], method: str, path: str) -> ObjectCall | None:
    """What a request to this canonical path does; None if no route is about it."""
    method = "GET" if method == "HEAD" else method
    for route in routes:
        found = route.pattern.fullmatch(path) if route.method == method else None
        if found is not None:
            named = found.groupdict()
            sub = bool(named.get("sub"))
            return ObjectCall(route.kind, route.does, named.get("id") or "", sub, form=route.form)
    return None


COUNT: Final = ObjectCall("response", "count")
"""A path that costs nothing, and counts or judges what the body has and refers to."""


def read_object(body: bytes, call: ObjectCall, content_type: str) -> ObjectCall:
    """The same call with what its body says. Raises InvalidRequest."""
    if call.kind == "file" and call.does == "create":
        return _file(body, call, content_type)
    if not body:
        return call
    if call.kind == "batch" and call.does == "create":
        file_id = bodies.decode(_BATCH, body).input_file_id
        return _with(call, references=() if file_id is None else (Reference("file", file_id),))
    bounds.check(body)
    return _with(call, references=of_body(body))


def _file(body: bytes, call: ObjectCall, content_type: str) -> ObjectCall:
    """Raises InvalidRequest."""
    parts = multipart.parts(content_type, body)
    if call.form == "anthropic":
        return _with(call, size=sum(part.end - part.start for part in parts if part.is_file))
    purpose = multipart.value(parts, body, "purpose")
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"On the operator's key, no files are kept for the purpose {str(purpose)[:40]!r}: use "
            f"{', '.join(sorted(PURPOSES))}."
        )
    return _with(call, size=sum(part.end - part.start for part in parts if part.is_file))


def _with(call: ObjectCall, **changes: Any) -> ObjectCall:
    return msgspec.structs.replace(call, **changes)


def handed_out(kind: str, description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and ID of what an object's description hands out besides itself."""
    if kind == "batch":
        for field in ("output_file_id", "error_file_id"):
            if isinstance(file_id := description.get(field), str) and file_id:
                yield "file", file_id
