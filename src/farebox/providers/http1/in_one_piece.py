"""Reads a response that has arrived in one piece, head and body, as most small ones do: the parser would call back for
each of its headers.

Only the plainest form is read here. Anything else is left to the parser, which also decides whether it is HTTP at all.
"""

import re
from typing import Final, NamedTuple

HEADERS_MAX: Final = 256
_HEAD_MAX: Final = 16 * 2**10
_NAME: Final = r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"
_TEXT: Final = r"[\t -~\x80-\xff]*"
_head_of: Final = re.compile(
    rf"HTTP/1\.1 ([2-5][0-9][0-9])(?: {_TEXT})?\r\n((?:{_NAME}:{_TEXT}(?<![ \t])\r\n)+)"
).fullmatch
_headers_of: Final = re.compile(r"([^:]+):[ \t]*([^\r]*)\r\n").findall
_BODILESS: Final = ("204", "304")
_OF_THE_CONNECTION: Final = frozenset({"transfer-encoding", "connection", "upgrade", "trailer", "te"})
_KEPT: Final = ("connection", "keep-alive")
_NAMES_MAX, _NAME_MAX = 1024, 64
_plain: Final = set[str]()
"""Names of headers seen that say nothing about the body's end or the connection."""


class WholeResponse(NamedTuple):
    """A response after which its connection can be used again."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    hint: str
    """The header Keep-Alive; empty if there is none."""


def read_whole(data: bytes) -> WholeResponse | None:
    """The response that these bytes are, no more and no less; None if they are not, or not in the plainest form."""
    end = data.find(b"\r\n\r\n", 0, _HEAD_MAX)
    head = _head_of(data[: end + 2].decode("latin-1")) if end > 0 else None
    if head is None or head[1] in _BODILESS:
        return None
    headers: list[tuple[str, str]] = _headers_of(head[2])
    length = hint = ""
    for name, value in headers:
        if name in _plain:
            continue
        kind = name.lower()
        if kind == "content-length" and not length:
            length = value
        elif kind == "keep-alive":
            hint = value
        elif kind == "content-length" or (kind in _OF_THE_CONNECTION and (kind, value.lower()) != _KEPT):
            return None
        elif kind != "connection" and len(name) <= _NAME_MAX and len(_plain) < _NAMES_MAX:
            _plain.add(name)
    body = data[end + 4 :]
    if length != str(len(body)) or len(headers) > HEADERS_MAX:
        return None
    return WholeResponse(int(head[1]), headers, body, hint)
