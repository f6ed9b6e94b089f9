"""Heads: parsing a request's target, and formatting the head of a response. Text only; nothing here uses a
connection."""

import contextlib
import json
import operator
import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from farebox.clock import Clock
from farebox.http.exchange import HeaderList

PATH_SAFE = "/:@!$&'()*+,;=-._~"
"""Characters allowed verbatim in a path; everything else is percent-encoded."""
_is_plain_path = re.compile(r"[A-Za-z0-9/:@!$&'()*+,;=\-._~]*").fullmatch
_origin_of = re.compile(r"https?://[^/?#@]+(?=[/?]|$)", re.IGNORECASE).match
is_host = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?").fullmatch
"""Matches a well-formed Host header (RFC 9110, 7.2)."""

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus if status.value >= 200
}
_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_NAMES_MAX = 1024

Kind = Literal["plain", "length", "date", "ours"]
_OURS = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"})
_name_of = operator.itemgetter(0)
_line_of = ": ".join
_plain: set[str] = set()
"""Names of response headers that are sent as they are, in each spelling seen."""
_dates: set[str] = set()
"""Those of `_plain` that are `Date`: most providers send it."""


def split_target(target: bytes, method: str) -> tuple[str, str]:
    """Path and query of a request's target. Raises ValueError if the target has a form that is not served.

    Characters of a path that need no percent-encoding are decoded, and the rest is encoded in one way, so that every
    spelling of a path is the same path from here on.
    """
    text = target.decode("ascii")  # the parser accepts only ASCII
    if text[:1] != "/":
        if text == "*" and method == "OPTIONS":
            return "*", ""
        origin = _origin_of(text)
        if origin is None:
            raise ValueError("the target is neither a path nor an http URL")
        text = text[origin.end() :]
    path, _, query = text.partition("?")
    if "#" in text:
        raise ValueError("the target has a fragment")
    if not _is_plain_path(path):
        path = quote(unquote_to_bytes(path), safe=PATH_SAFE)
    return path or "/", query


def named_host(target: bytes) -> str | None:
    """The host of a target that is a complete URL, which replaces the Host header (RFC 9112, 3.2.2). Raises ValueError
    if it is malformed."""
    origin = _origin_of(target.decode("ascii"))
    if origin is None:
        return None
    host = origin[0].partition("://")[2]
    if not is_host(host):
        raise ValueError("the target's host is invalid")
    return host


def add_header(headers: dict[str, str], name: str, value: str) -> None:
    """Add a received header; if it is repeated, the values are joined (RFC 9110, 5.3)."""
    earlier = headers.get(name)
    headers[name] = value if earlier is None else f"{earlier}{'; ' if name == 'cookie' else ', '}{value}"


class Dates:
    """The Date header's line, regenerated every second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._line = ""

    def line(self) -> str:
        second = self._clock.now_ms() // 1000
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n"
        return self._line


def header_lines(headers: HeaderList) -> tuple[str, int | None, bool]:
    """The lines of a response's headers without the content-length, which is returned separately, and whether there is
    a date.

    Raises ValueError if a header cannot be sent: a line break in a value would allow additional headers, or a second
    response, to be injected.
    """
    names, length = list(map(_name_of, headers)), None
    if _plain.issuperset(names):
        dated = not _dates.isdisjoint(names)
    else:
        headers, length, dated = _without_length(headers)
    text = "\r\n".join([*map(_line_of, headers), ""])
    count = len(headers)
    if text.count("\n") != count or text.count("\r") != count or "\0" in text:
        raise ValueError("a header's value has a line break")
    return text, length, dated


def _without_length(headers: HeaderList) -> tuple[HeaderList, int | None, bool]:
    """The headers without the content-length, that length, and whether there is a date. Raises ValueError."""
    kept: HeaderList = []
    length, dated = None, False
    for name, value in headers:
        kind = _kind(name)
        if kind == "ours":
            raise ValueError(f"the header {name} is the server's to send")
        if kind == "length":
            length = _length(value)
        else:
            dated = dated or kind == "date"
            kept.append((name, value))
    return kept, length, dated


def sendable(headers: HeaderList) -> HeaderList:
    """The headers that can be sent."""
    kept = []
    for header in headers:
        with contextlib.suppress(ValueError):
            header_lines([header])[0].encode("latin-1")
            kept.append(header)
    return kept


def status_line(status: int) -> str:
    """The status line. Raises ValueError if this is not the status of a final response."""
    line = _STATUS_LINES.get(status)
    if line is not None:
        return line
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is not a response status")
    return f"HTTP/1.1 {status} \r\n"


def refused(status: int, message: str, dates: Dates) -> bytes:
    """A response by the server itself, the last on a connection."""
    body = json.dumps({"error": {"message": message}}).encode()
    return (
        f"{status_line(status)}content-type: application/json\r\n{dates.line()}content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body


def _kind(name: str) -> Kind:
    if not _is_token(name):
        raise ValueError("a header's name cannot be sent")
    lower = name.lower()
    if lower == "content-length":
        return "length"
    if lower in _OURS:
        return "ours"
    if len(_plain) < _NAMES_MAX:
        if lower == "date":
            _dates.add(name)  # first: names in `_plain` are looked up here
        _plain.add(name)
    return "date" if lower == "date" else "plain"


def _length(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError("the content-length is not a number")
    return int(value)
