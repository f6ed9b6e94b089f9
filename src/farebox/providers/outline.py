"""A large body without its large values, so that single fields can be changed without processing all of it again.

The outline is the body's outermost object in which each large value is replaced by a placeholder string that nothing in
the body can contain, however it is escaped. Code that changes a small body (`bodies.changed`) can change an outline as
well; `reassemble` then puts the values back, byte for byte, or for a body in a file only lists where they are.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from farebox.memory_files import Body, LargeBody, Piece, whole
from farebox.providers.formats import bodies
from farebox.providers.formats.base import TooComplex
from farebox.providers.formats.bounds import FIELDS_MAX

INLINE_BYTES: Final = 1024
"""A value up to this size stays in the outline."""
_CHANGED: Final = frozenset({"model", "stream_options", "generationConfig", "generation_config", "provider"})
"""Fields whose values are inspected: see `WireFormat.limit_output`, `request_usage`, and `calls.unlisted`."""
_CHANGED_BYTES_MAX: Final = 256 * 1024
_NAMES_BYTES_MAX: Final = 64 * 1024
_DIGEST_BYTES: Final = 16
"""Bytes of the body's digest in its placeholders: a body may contain any text, also escaped, but not its own digest."""


class Outline(msgspec.Struct, frozen=True):
    """An object's fields, and the positions of the large ones in the body."""

    small: bytes
    mark: bytes
    """Prefix of the placeholder strings; their number follows."""
    spans: tuple[tuple[int, int], ...]
    long_cache: bool = False
    """Whether `12h` is anywhere in the body: see `calls.tiers`."""


def outline_of(body: bytes) -> Outline:
    """The outline of a body. Raises InvalidRequest if the body is not an object, and TooComplex if the outline would
    not be small."""
    top = bodies.fields(body)
    if len(top) > FIELDS_MAX:
        raise TooComplex(f"The body has more than {FIELDS_MAX:,} top-level fields.")
    if sum(map(len, top)) > _NAMES_BYTES_MAX:
        raise TooComplex(f"The body's field names exceed {_NAMES_BYTES_MAX:,} bytes together.")
    mark, at = f"~farebox:{hashlib.blake2b(body, digest_size=_DIGEST_BYTES).hexdigest()}:", 0
    spans: list[tuple[int, int]] = []
    small: dict[str, msgspec.Raw | str] = {}
    for name, raw in top.items():
        value: msgspec.Raw | str = raw
        size = len(bytes(raw))
        if size > INLINE_BYTES and name in _CHANGED:
            if size > _CHANGED_BYTES_MAX:
                raise TooComplex(f"`{name}` is larger than {_CHANGED_BYTES_MAX:,} bytes.")
        elif size > INLINE_BYTES:
            start = body.find(bytes(raw), at)
            start = start if start >= 0 else body.index(bytes(raw))  # of two fields with one name, the last is used
            value, at = f"{mark}{len(spans)}~", start + size
            spans.append((start, at))
        small[name] = value
    return Outline(msgspec.json.encode(small), mark.encode(), tuple(spans), b"12h" in body)


def apply_edit(body: Body, outline: Outline | None, change: Callable[[bytes], bytes]) -> tuple[Body, Outline | None]:
    """The body and its outline after a change; without an outline, the body itself is changed. Raises what `change`
    raises."""
    if outline is None:
        return change(whole(body)), None
    small = change(outline.small)
    if small == outline.small:
        return body, outline
    return reassemble(body, replace(outline, small=small))


def reassemble(body: Body, outline: Outline) -> tuple[Body, Outline]:
    """The body that a changed outline stands for, with the large values taken from `body`; and the new body's
    outline."""
    small, spans = outline.small, list(outline.spans)
    pieces: list[Piece] = []
    at = done = 0
    for place in re.finditer(b'"' + re.escape(outline.mark) + rb'(\d+)~"', small):
        number, between = int(place[1]), small[done : place.start()]
        start, end = outline.spans[number]
        pieces.append(between)
        pieces += (body[start:end],) if isinstance(body, bytes) else body.part(start, end)
        at += len(between)
        spans[number] = (at, at + end - start)
        at += end - start
        done = place.end()
    pieces.append(small[done:])
    new = replace(outline, spans=tuple(spans))
    if isinstance(body, LargeBody):
        return LargeBody(body.file, tuple(pieces)), new
    return b"".join(piece for piece in pieces if isinstance(piece, bytes)), new
