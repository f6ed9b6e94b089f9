"""Limits on the number of parts of a JSON body, independent of its size: a body beyond them costs time and memory, and
no model accepts it. They are checked by byte searches at memory speed, before anything is decoded.

A body is parsed on the event loop only if that is certain to be quick (`is_light`).
"""

import re
from typing import Final

from farebox.providers.formats.base import TooComplex

DEPTH_MAX: Final = 128
"""Nesting levels of objects and arrays, as in Rust's serde_json; Google's parser stops at 100."""
CONTAINERS_MAX: Final = 250_000
"""Objects and arrays in total: messages, their parts, tools and everything in their schemas."""
STRINGS_MAX: Final = 1_000_000
"""Strings in total, including field names."""
TOOLS_MAX: Final = 10_000
IMAGES_MAX: Final = 4_096
"""Images; providers accept at most 3,600."""
UNSEEN_MAX: Final = 256
FURTHER_MAX: Final = 64
FIELDS_MAX: Final = 1_000
"""Fields of the outermost object, or of a form."""

IMMEDIATE_BYTES: Final = 64 * 1024
IMMEDIATE_CONTAINERS: Final = 256
IMMEDIATE_VALUES: Final = 8_192
"""The limits of a body that is read on the event loop: half a millisecond's work, as measured."""
_COUNTED_BYTES: Final = 2 * 1024
"""Bytes that are counted as quickly as they are searched."""
_OTHER_IMMEDIATE_BYTES: Final = 16 * 1024
"""The largest body that is not JSON to be read on the event loop."""

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_not_blank: Final = re.compile(rb"[^ \t\r\n]").search


def is_light(body: bytes) -> bool:
    """Whether the body may be read on the event loop."""
    size = len(body)
    if size <= IMMEDIATE_CONTAINERS:
        return True
    if size > IMMEDIATE_BYTES:
        return False
    if size > _OTHER_IMMEDIATE_BYTES and opening(body) not in (b"{", b"["):
        return False
    if _more(body, b"{[", IMMEDIATE_CONTAINERS):
        return False
    return size <= 2 * IMMEDIATE_VALUES or not _more(body, b",", IMMEDIATE_VALUES)


def check(body: bytes) -> None:
    """Raises TooComplex if the body is JSON beyond the bounds; whether it is valid JSON is not checked."""
    if len(body) <= _COUNTED_BYTES and body.count(b"{") + body.count(b"[") <= DEPTH_MAX:
        return
    if len(body) <= IMMEDIATE_BYTES and not _more(body, b"{[", DEPTH_MAX):
        return
    if opening(body) not in (b"{", b"["):
        return
    structure = _structure(body)
    if structure.count(b"{") + structure.count(b"[") > CONTAINERS_MAX:
        raise TooComplex(f"The body has more than {CONTAINERS_MAX:,} objects and arrays.")
    brackets = structure.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    if b"[]" in brackets:
        raise TooComplex(f"The body is nested too deeply: objects and arrays may be {DEPTH_MAX} inside each other.")


def opening(body: bytes) -> bytes:
    """The first byte that is not JSON white space; empty if there is none."""
    found = _not_blank(body)
    return b"" if found is None else found[0]


def _more(body: bytes, characters: bytes, most: int) -> bool:
    """Whether there are more of these characters than the limit. `replace` uses memchr, and stops at the limit;
    `count` examines every byte.
    """
    size, found = len(body), 0
    for at in range(len(characters)):
        found += size - len(body.replace(characters[at : at + 1], b"", most + 1))
    return found > most


def _structure(body: bytes) -> bytes:
    """The body without its strings. Raises TooComplex if there are too many."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 2 * STRINGS_MAX:
        raise TooComplex(f"The body has more than {STRINGS_MAX:,} strings.")
    return b"".join(body.split(b'"')[::2])
