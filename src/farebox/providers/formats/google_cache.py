"""Google's cached contents: input that the model reads once, and that Google keeps for an agreed time.

Google bills the tokens as input when a cache is made, and their storage by the hour for the whole agreed time, whether
or not the cache is deleted earlier. So both are charged when the cache is made, and an extension when it is agreed
upon.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, Reference, ResponseReader
from farebox.providers.formats.by_unit import decode_once
from farebox.providers.formats.google_generate import GoogleGenerate
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.references import references_in

STORED: Final = "stored_token_hours"
READING: Final = Reading(("input_tokens", "input_tokens"), (STORED, STORED))
HOURS_MAX: Final = 720
"""The longest time for which a cache may be kept with the operator's key."""
_TTL: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_USUAL: Final = "3600s"
_MODEL: Final = re.compile(r"(?:models/)?(?P<model>[\w.-]{1,128})")
_PATH: Final = re.compile(r"cachedContents/(?P<id>[\w-]{1,128})$")
_FUNCTIONS: Final = frozenset({"functionDeclarations", "function_declarations"})
SOUND: Final = (
    "the tokens of sound and video are priced differently from those of text, and a cache states only the total"
)
_READ: Final = ("text/", "image/", "application/pdf")
"""Types that may be attached: others may contain sound."""
_PART: Final = Decimal("0.000001")


class _Head(msgspec.Struct):
    model: str
    ttl: str = _USUAL
    expireTime: Any = None
    expire_time: Any = None
    contents: Any = None
    systemInstruction: Any = None
    system_instruction: Any = None
    tools: list[dict[str, msgspec.Raw]] = msgspec.field(default_factory=list)
    cachedContent: Any = None


class _Extension(msgspec.Struct):
    ttl: str | None = None
    expireTime: Any = None
    expire_time: Any = None


class _Metadata(msgspec.Struct):
    totalTokenCount: Any = None


class _Cache(msgspec.Struct):
    name: Any = None
    error: Any = None
    model: Any = None
    expireTime: Any = None
    usageMetadata: _Metadata | None = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_EXTENSION: Final = msgspec.json.Decoder(_Extension)
_CACHE: Final = ResponseDecoder[_Cache](_Cache)


@dataclass(frozen=True, slots=True)
class GoogleCache(bodies.JsonBody):
    """`cachedContents`: read like a request with the same contents."""

    name: str = "google_cache"
    long_kind: str = "cached_content"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = decode_once(_HEAD, body)
        named = _MODEL.fullmatch(head.model)
        if named is None:
            raise InvalidRequest("Expected the name of a model - at `$.model`.")
        whole = body if head.contents is not None else bodies.changed(body, contents=[])
        read = GoogleGenerate().parse(
            f"v1beta/models/{named['model']}:generateContent", content_type, whole, exact=exact
        )
        demand = replace(
            read.demand, no_output=True, clampable=False, output_max=None, choices=1, stored_hours=_hours(head.ttl)
        )
        why = _no_length(head.expireTime, head.expire_time) or _not_cached(head)
        return replace(read, demand=demand, background=True, unmetered=read.unmetered or why, stream=False)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the description of a cache that was made."""

        def parse_body(seen: Seen, body: bytes) -> None:
            cache = _CACHE.decode(body)
            tokens = _tokens(cache)
            seen.complete = True
            seen.reference = str(cache.name).removeprefix("cachedContents/")
            seen.failed = tokens is None and bool(cache.error)
            if tokens is not None:
                seen.update({"input_tokens": tokens, STORED: _stored(tokens, parsed.demand.stored_hours)})
            elif not seen.failed:  # the cache exists, but its stated size is implausible
                seen.update({"input_tokens": "not stated"})

        return BodyReader(parse_body, READING)


@dataclass(frozen=True, slots=True)
class GoogleCacheExtension(bodies.JsonBody):
    """`cachedContents/{id}`, which changes how long a cache is kept: the additional time is charged, by the stored
    description of the cache."""

    name: str = "google_cache_extension"
    long_kind: str = "cached_content"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request: its model is not known yet. Raises InvalidRequest."""
        place = _PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no cache: use `cachedContents/<id>`.")
        head = decode_once(_EXTENSION, body)
        demand = Demand("", no_output=True, stored_hours=_hours(head.ttl or "0s"))
        references = (Reference("cached_content", place["id"]),)
        why = _no_length(head.expireTime, head.expire_time)
        return ParsedRequest("", False, demand, background=True, references=references, unmetered=why)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The cache determines the model; the body stays unchanged."""
        return body

    def of_source(self, parsed: ParsedRequest, described: bytes) -> ParsedRequest:
        """The same request, completed by the description of the cache. Raises InvalidRequest."""
        cache = _CACHE.decode(described)
        tokens, named = _tokens(cache), _MODEL.fullmatch(str(cache.model))
        if tokens is None or named is None or _when(cache.expireTime) is None:
            raise InvalidRequest("The cache is not known.")
        hours = parsed.demand.stored_hours
        demand = replace(parsed.demand, model=named["model"], stored_hours=0, fixed={STORED: _stored(tokens, hours)})
        return replace(parsed, model=named["model"], demand=demand, source=str(cache.expireTime))

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the description after the change."""
        until = _when(parsed.source)

        def parse_body(seen: Seen, body: bytes) -> None:
            cache = _CACHE.decode(body)
            tokens, ends = _tokens(cache), _when(cache.expireTime)
            seen.complete = True
            if tokens is not None and ends is not None and until is not None:
                longer = max(Decimal(str((ends - until).total_seconds())), Decimal(0))
                seen.update({STORED: _stored(tokens, longer / 3600)})

        return BodyReader(parse_body, READING)


def _hours(ttl: str) -> Decimal:
    """Raises InvalidRequest."""
    found = _TTL.fullmatch(ttl)
    hours = Decimal(found[1]) / 3600 if found else Decimal(HOURS_MAX + 1)
    if hours > HOURS_MAX:
        raise InvalidRequest(f"Expected seconds such as `3600s`, {HOURS_MAX} hours at most - at `$.ttl`.")
    return hours


def _stored(tokens: int, hours: Decimal | int) -> Decimal:
    return (tokens * Decimal(hours)).quantize(_PART, ROUND_UP)


def _tokens(cache: _Cache) -> int | None:
    count = None if cache.usageMetadata is None else cache.usageMetadata.totalTokenCount
    return count if type(count) is int and count > 0 else None


def _when(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _no_length(*ends: object) -> str | None:
    """Why the cost of a request that gives a time of day cannot be held."""
    given = any(end is not None for end in ends)
    return "the lifetime of a cache is given as `ttl`, not as a time of day" if given else None


def _not_cached(head: _Head) -> str | None:
    """Why a cache with this content is not made with the operator's key; None if it is."""
    if any(not _FUNCTIONS.issuperset(tool) for tool in head.tools):
        return "hosted tools are charged by the use: declare them in the requests, and not in the cache"
    content = [head.contents, head.systemInstruction, head.system_instruction]
    if any(mime is None or not mime.startswith(_READ) for mime in _mimes(content)):
        return SOUND
    return None


def may_hold(described: Mapping[str, Any]) -> bool:
    """Whether a cache may contain the file with this description, whatever type the request gives it."""
    mime = described.get("mimeType")
    return not isinstance(mime, str) or mime.lower().startswith(_READ)


def _mimes(contents: object) -> Iterator[str | None]:
    """The types of all attachments; None if a file is named without its type."""
    stack = [contents]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key in ("fileData", "file_data", "inlineData", "inline_data") and isinstance(inner, dict):
                    given = [inner[name] for name in ("mimeType", "mime_type") if name in inner]
                    if "file" in key and not any(references_in({key: inner})):
                        given = []  # an address elsewhere may be that of a video, whatever type is given
                    for mime in given or [None]:
                        yield mime.lower() if isinstance(mime, str) else None
                else:
                    stack.append(inner)
