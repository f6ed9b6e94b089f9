"""Reads a response that has arrived in one piece, head and body, as most small ones do: the parser would call back for
each of its headers.

Only the plainest form is read here. Anything else is left to the parser, which also decides whether it is HTTP at all.
"""

import re
from operator import itemgetter
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
_OF_THE_MESSAGE: Final = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "trailer", "te"})
_NAMES_MAX, _NAME_MAX = 1024, 64
_name_of: Final = itemgetter(0)
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
    names, values = list(map(_name_of, headers)), dict(headers)
    length, hint = None, ""
    for name in set(names) - _plain:
        kind, value = name.lower(), values[name]
        if kind == "keep-alive":
            hint = value
        elif kind not in _OF_THE_MESSAGE:
            if len(_plain) < _NAMES_MAX and len(name) <= _NAME_MAX:
                _plain.add(name)
        elif names.count(name) > 1:
            return None
        elif kind == "content-length" and length is None:
            length = value
        elif (kind, value.lower()) != ("connection", "keep-alive"):
            return None
    body = data[end + 4 :]
    if length != str(len(body)) or len(headers) > HEADERS_MAX:
        return None
    return WholeResponse(int(head[1]), headers, body, hint)
