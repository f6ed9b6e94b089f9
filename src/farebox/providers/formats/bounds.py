"""How large a JSON body may be in its parts, whatever its bytes: what is beyond costs time and memory, and no model
reads it. Looked at with searches that run at the speed of memory, before anything is decoded.

A body is taken apart on the event loop only where that is sure to be quick (`is_light`).
"""

import re
from typing import Final

from farebox.providers.formats.base import TooComplex

DEPTH_MAX: Final = 128
"""Levels of objects and arrays inside each other: as Rust's serde_json has it; Google's parser stops at 100."""
CONTAINERS_MAX: Final = 250_000
"""Objects and arrays together: messages, their parts, tools and all that is in their schemas."""
STRINGS_MAX: Final = 1_000_000
"""Strings together, names of fields among them."""
TOOLS_MAX: Final = 10_000
IMAGES_MAX: Final = 4_096
"""Images, of which providers take 3,600 at most."""
UNSEEN_MAX: Final = 256
FURTHER_MAX: Final = 64
FIELDS_MAX: Final = 1_000
"""Fields of the outermost object, or of a form."""

AT_ONCE_BYTES: Final = 64 * 1024
AT_ONCE_CONTAINERS: Final = 256
AT_ONCE_VALUES: Final = 8_192
"""What a body may have at most to be read on the event loop: half a millisecond's work, by measurement."""
_COUNTED_BYTES: Final = 2 * 1024
"""Bytes that are counted as quickly as they are searched."""
_OTHER_AT_ONCE_BYTES: Final = 16 * 1024
"""The same of a body that is not JSON."""

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_not_blank: Final = re.compile(rb"[^ \t\r\n]").search


def is_light(body: bytes) -> bool:
    """Whether the body may be read on the event loop."""
    size = len(body)
    if size <= AT_ONCE_CONTAINERS:
        return True
    if size > AT_ONCE_BYTES:
        return False
    if size > _OTHER_AT_ONCE_BYTES and opening(body) not in (b"{", b"["):
        return False
    if _more(body, b"{[", AT_ONCE_CONTAINERS):
        return False
    return size <= 2 * AT_ONCE_VALUES or not _more(body, b",", AT_ONCE_VALUES)


def check(body: bytes) -> None:
    """Raises TooComplex where the body is JSON beyond the bounds; whether it is JSON at all is not looked at."""
    if len(body) <= _COUNTED_BYTES and body.count(b"{") + body.count(b"[") <= DEPTH_MAX:
        return
    if len(body) <= AT_ONCE_BYTES and not _more(body, b"{[", DEPTH_MAX):
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
    """The first byte that is no white space, as JSON has it; empty where there is none."""
    found = _not_blank(body)
    return b"" if found is None else found[0]


def _more(body: bytes, characters: bytes, most: int) -> bool:
    """Whether there are more of these characters than that. `replace` finds them with memchr, and stops at the last
    that is wanted; `count` looks at every byte."""
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
