"""Everything that is read from a model call's body in one step: the provider and model in the common forms, the request
as billing needs it, what the operator refuses, and the body to forward.

All functions here are pure: small bodies are read on the event loop, others in a helper process
(farebox.helper_processes).
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.dynamic_routes.conditions import MISSING, value_at
from farebox.memory_files import whole
from farebox.providers.catalogue import PROVIDERS, format_of, provider_of, upstream_path
from farebox.providers.formats import bodies, bounds, duplicate_fields, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, TooComplex, WireFormat
from farebox.providers.naming import compat_model, is_custom, metered_as
from farebox.providers.outline import Outline, apply_edit, outline_of
from farebox.providers.provider import Plain, Provider
from farebox.quoting import quoted

RAISES: Final = (InvalidRequest,)


class Refusals(msgspec.Struct, frozen=True):
    """What the operator does not pay for at a provider: fields of requests, and tools by their kind or name."""

    fields: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()


class Place(msgspec.Struct, frozen=True):
    """Where a request goes: the provider's slug and path, and the method and content type of the call."""

    slug: str
    method: str
    path: str
    content_type: str
    query: str = ""

    def target(self, metering: WireFormat) -> str:
        """The path as this format reads it: with the query, in formats that read it."""
        return f"{self.path}?{self.query}" if self.query and getattr(metering, "reads_query", False) else self.path


class ParsedBody(msgspec.Struct, frozen=True):
    """A body that has been read."""

    parsed: ParsedRequest | None
    """None if it cannot be read and need not be."""
    body: bytes | None = None
    """The body to forward; None if it is the received one, or is to be reassembled from the outline."""
    outline: Outline | None = None
    """The outline of a large body; its large values remain in the received body."""
    changed: bool = False
    """Whether the forwarded body differs from the received one and is to be reassembled from the outline."""
    refused: str = ""
    """What the operator refuses about it, as a text for the caller; empty if nothing."""
    named: "NamedModel | None" = None
    """How it names its model, for an access token that is limited to certain models."""


class CommonBody(msgspec.Struct, frozen=True):
    """A body of one of the common forms, which names its provider."""

    slug: str
    path: str = ""
    """The provider's own path."""
    read: ParsedBody | InvalidRequest | None = None
    """None if the provider has no such form."""
    route: str = ""
    """The name of the dynamic route that is called instead of a model; then the other fields are empty."""
    alias: str = ""
    """The same for a model that names no provider: the account may have an alias of this name."""


class Step(msgspec.Struct, frozen=True):
    """One step of a universal request."""

    provider: str
    endpoint: str
    query: tuple[int, int] | None
    """Start and end of the provider's request body within the whole body. None: an empty object."""
    headers: Mapping[str, str]
    config: Mapping[str, Any]


class NamedModel(msgspec.Struct, frozen=True):
    """How a body names its model, at its top level."""

    model: str = ""
    """Empty: it names none, or cannot be read."""
    ambiguous: bool = False
    """Whether it names the model twice, or under a name in another case: servers differ in which of these they use."""


class RunBody(msgspec.Struct, frozen=True):
    """The body of `/ai/run`: a model, and the start and end of its input in the body."""

    model: str
    input: tuple[int, int]


class _Run(msgspec.Struct):
    """As it is written."""

    model: bodies.Name
    input: msgspec.Raw


class _Step(msgspec.Struct):
    """As it is written."""

    provider: str
    endpoint: str
    query: msgspec.Raw = msgspec.Raw()
    headers: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}


class _ModelField(msgspec.Struct):
    model: str


STEPS_MAX: Final = 10
_STEP_BYTES_MAX: Final = 64 * 1024
_STEP_HEADERS_MAX: Final = 200
_STEP_TARGET_MAX: Final = 16 * 1024
"""Bytes of a step's endpoint, as of the target of a request."""
_MODEL_FIELD: Final = msgspec.json.Decoder(_ModelField)
_RUN: Final = msgspec.json.Decoder(_Run)
_STEPS: Final = msgspec.json.Decoder(list[_Step])
_LISTED_MAX: Final = 1_000
AUTO_MODEL: Final = "cloudflare/auto"
"""The model name that makes the auto router choose a model."""
ROUTE_PREFIX: Final = "dynamic/"
"""The prefix of a model name that stands for a dynamic route."""


def read_call(
    body: bytes, place: Place, refused: Refusals | None, own_key: bool, model: str | None = None
) -> ParsedBody:
    """Read a call to a provider's own path; `model`, if given, replaces the body's. With the caller's own key, a body
    that cannot be read is left for the provider to judge. Raises InvalidRequest."""
    provider = metered_as(place.slug)
    metering = Plain.UNMETERED if provider is None else format_of(provider, place.method, place.path)
    return ParsedBody(None) if isinstance(metering, Plain) else read_as(metering, body, place, refused, own_key, model)


def read_as(
    metering: WireFormat, body: bytes, place: Place, refused: Refusals | None, own_key: bool, model: str | None = None
) -> ParsedBody:
    """The same, if the format of the path is known. Raises InvalidRequest."""
    came, outline = body, None
    spans: tuple[tuple[int, int], ...] = ()
    try:
        outline = _bounded(body)
        spans = outline.spans if outline else ()
        if model is not None:
            edited, outline = apply_edit(body, outline, partial(metering.replace_model, model=model))
            body = whole(edited)
        parsed = metering.parse(place.target(metering), place.content_type, body)
        if not own_key:
            duplicate_fields.check(came, may=parsed.may_refer if came is body else None)
        _check_numbers(parsed)
        refusal = "" if refused is None else _refused(body, outline, place, parsed, refused)
        if parsed.stream and not parsed.usage_requested:
            edited, outline = apply_edit(body, outline, metering.request_usage)
            body = whole(edited)
    except (InvalidRequest, RecursionError) as error:
        if own_key:
            return _read(None, came, body, outline, spans)
        if isinstance(error, RecursionError):
            raise TooComplex("The body is nested too deeply.") from error
        raise
    return _read(parsed, came, body, outline, spans, refusal)


def _read(
    parsed: ParsedRequest | None,
    came: bytes,
    body: bytes,
    outline: Outline | None,
    spans: tuple[tuple[int, int], ...],
    refusal: str = "",
) -> ParsedBody:
    """For a large body, nothing large is returned. `spans`: where its values are in the received body."""
    if outline is None:
        return ParsedBody(parsed, None if body is came else body, None, refused=refusal)
    return ParsedBody(parsed, None, replace(outline, spans=spans), body is not came, refusal)


def read_common(
    body: bytes,
    place: Place,
    refusals: Mapping[str, Refusals],
    own_key: bool,
    chosen: str = "",
    own: frozenset[str] = frozenset(),
) -> CommonBody:
    """Read a call in a common form; the path of `place` is that of the form. `chosen` is the `provider/model` to call
    instead of the body's; `own` are the providers that are called with the account's stored key. Raises InvalidRequest
    if the body does not name a provider."""
    bounds.check(body)
    named = chosen or bodies.decode(_MODEL_FIELD, body).model
    if not chosen and named.lower() == AUTO_MODEL:
        return CommonBody("", route=AUTO_MODEL)
    if not chosen and named.startswith(ROUTE_PREFIX):
        return CommonBody("", route=named.removeprefix(ROUTE_PREFIX))
    if named and not chosen and "/" not in named and not named.startswith("@"):
        return CommonBody("", alias=named)
    slug, model = compat_model(named)
    own_key = own_key or slug in own or is_custom(slug)
    provider = metered_as(slug)
    path = None if provider is None else common_path(provider, place.path)
    if provider is None or path is None or isinstance(format_of(provider, place.method, path), Plain):
        return CommonBody(slug)
    there = Place(slug, place.method, path, place.content_type)
    try:
        return CommonBody(slug, path, read_call(body, there, None if own_key else refusals.get(slug), own_key, model))
    except InvalidRequest as error:
        return CommonBody(slug, path, error)


def read_named(body: bytes, content_type: str) -> NamedModel:
    """How a body names its model. Raises InvalidRequest if a form cannot be read."""
    if content_type.lower().startswith("multipart/"):
        parts = [part for part in multipart.parts(content_type, body) if part.name.casefold() == "model"]
        found = [(part.name, body[part.start : part.end].decode("utf-8", "replace")) for part in parts]
    else:
        found = [(name, value) for name, value in _top_level(body) if name.casefold() == "model"]
    model = next((value for name, value in found if name == "model" and isinstance(value, str)), "")
    return NamedModel(model, len(found) > 1 or any(name != "model" for name, _ in found))


def _top_level(body: bytes) -> list[tuple[str, Any]]:
    """The fields of a JSON object, including those that occur twice; empty if it is not an object. Raises
    InvalidRequest."""
    bounds.check(body)
    last: list[tuple[str, Any]] = []

    def keep(fields: list[tuple[str, Any]]) -> None:
        nonlocal last
        last = fields  # the outermost object is completed last

    try:
        json.loads(body, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return []
    return last if bounds.opening(body) == b"{" else []


def read_run(body: bytes) -> RunBody:
    """The model and the input of a body of `/ai/run`. Raises InvalidRequest."""
    bounds.check(body)
    run = bodies.decode(_RUN, body)
    given = bytes(run.input)
    if given[:1] != b"{":
        raise InvalidRequest("Expected `object` - at `$.input`.")
    start = body.rindex(given)
    return RunBody(run.model, (start, start + len(given)))


def read_steps(body: bytes) -> list[Step]:
    """The steps of a universal request. Raises InvalidRequest."""
    bounds.check(body)
    try:
        steps = bodies.decode(_STEPS, body)
    except InvalidRequest as error:
        raise InvalidRequest(f"The body is not a list of steps: {error}") from error
    if not 1 <= len(steps) <= STEPS_MAX:
        raise InvalidRequest(f"Send 1 to {STEPS_MAX} steps.")
    at, found = 0, []
    for step in steps:
        _check_step(step)
        query, span = bytes(step.query), None
        if query:
            start = body.find(query, at)
            start = start if start >= 0 else body.index(query)  # of two fields of one name, the last counts
            span = (start, at := start + len(query))
        found.append(Step(step.provider, step.endpoint, span, step.headers, step.config))
    return found


def _check_step(step: _Step) -> None:
    """Raises InvalidRequest if a step's endpoint and headers are larger than a request's head may be."""
    if len(step.endpoint) > _STEP_TARGET_MAX:
        raise InvalidRequest(f"A step's endpoint is longer than {_STEP_TARGET_MAX:,} bytes.")
    size = len(step.provider) + len(step.endpoint)
    size += sum(len(name) + len(value) for name, value in step.headers.items()) + len(msgspec.json.encode(step.config))
    if size > _STEP_BYTES_MAX or len(step.headers) > _STEP_HEADERS_MAX:
        raise InvalidRequest(f"A step's headers are larger than {_STEP_BYTES_MAX:,} bytes, or too many.")


def read_fields(body: bytes, paths: frozenset[str]) -> dict[str, Any]:
    """The fields of a JSON object at these dotted paths, if they exist and are small values. Raises
    InvalidRequest."""
    bounds.check(body)
    raw = bodies.fields(body)
    wanted = {path.partition(".")[0] for path in paths} & raw.keys()
    value = dict(zip(wanted, bodies.tree(raw[name] for name in wanted), strict=True))
    found = {path: value_at(value, path) for path in paths}
    return {path: field for path, field in found.items() if field is not MISSING and _is_small(field)}


def _is_small(field: Any) -> bool:
    """Whether conditions can test it: a scalar, or a short list of them."""
    if isinstance(field, list):
        return len(field) <= _LISTED_MAX and not any(isinstance(item, list | dict) for item in field)
    return not isinstance(field, dict)


def read_text(body: bytes, place: Place) -> str:
    """The request's text, for counting. Raises InvalidRequest."""
    provider = metered_as(place.slug)
    metering = Plain.UNMETERED if provider is None else format_of(provider, place.method, place.path)
    assert not isinstance(metering, Plain)
    return metering.parse(place.target(metering), place.content_type, body, exact=True).demand.text


def parse_refusals(fields: str, tools: str) -> dict[str, Refusals]:
    """The operator's refusals by provider, from `PROVIDER:NAME,…`. Raises ValueError saying what is wrong."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for at, text in enumerate((fields, tools)):
        for part in filter(None, (part.strip() for part in text.split(","))):
            slug, colon, name = (word.strip() for word in part.partition(":"))
            provider = provider_of(slug)
            if not colon or not name or (slug != "*" and provider is None):
                raise ValueError(f"{quoted(part)} does not name a provider and what is refused: write PROVIDER:NAME")
            slugs = [one.slug for one in PROVIDERS] if provider is None else [provider.slug]
            for each in slugs:
                found.setdefault(each, (set(), set()))[at].add(name)
    return {slug: Refusals(frozenset(names), frozenset(kinds)) for slug, (names, kinds) in found.items()}


def common_path(provider: Provider, path: str) -> str | None:
    """The provider's own path for one of the common forms; None if it has none."""
    if path == "chat/completions":
        return provider.chat_path
    if path == "embeddings":
        return provider.embeddings_path
    return upstream_path(provider, path)


def _bounded(body: bytes) -> Outline | None:
    """The outline of a large body. Raises InvalidRequest, TooComplex."""
    bounds.check(body)
    if not (body.startswith(b"{") or bounds.opening(body) == b"{"):
        return None
    if not body.isascii():
        _check_text(body)
    return None if len(body) <= bounds.IMMEDIATE_BYTES else outline_of(body)


def _check_text(body: bytes) -> None:
    """Raises InvalidRequest if JSON contains bytes that are not UTF-8: decoders do not check what they skip."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: it is not UTF-8 at byte {error.start}.") from error


def _check_numbers(parsed: ParsedRequest) -> None:
    """Raises TooComplex if the request has more of something than can be priced quickly."""
    demand = parsed.demand
    if demand.tools <= bounds.TOOLS_MAX and not (demand.images or demand.unseen or demand.further_models):
        return  # nearly all of them
    for what, number, most in (
        ("tools", demand.tools, bounds.TOOLS_MAX),
        ("images", len(demand.images), bounds.IMAGES_MAX),
        ("kinds of hosted tools and references", len(demand.unseen), bounds.UNSEEN_MAX),
        ("further models", len(demand.further_models), bounds.FURTHER_MAX),
    ):
        if number > most:
            raise TooComplex(f"The request has more than {most:,} {what}.")


def _refused(body: bytes, outline: Outline | None, place: Place, parsed: ParsedRequest, refused: Refusals) -> str:
    """The first field or tool of the request that the operator does not pay for, as a text for the caller; otherwise
    empty."""
    for tool in parsed.tools:
        if tool in refused.tools:
            return f"the tool `{tool}`"
    if not refused.fields:
        return ""
    if place.content_type.lower().startswith("multipart/"):
        names = {part.name for part in multipart.parts(place.content_type, body)}
    elif bounds.opening(body) == b"{":
        names = {name for name, raw in bodies.fields(outline.small if outline else body).items() if bodies.given(raw)}
    else:
        return ""
    found = sorted(names & refused.fields)
    return f"the field `{found[0]}`" if found else ""
