"""The headers that are sent to a custom provider: a string that contains a JSON object, or lines as in HTTP. Values may
be credentials."""

import re
from collections.abc import Mapping

import msgspec

from farebox.http.validation import invalid
from farebox.vault import masked

TEXT_MAX = 8192
HEADERS_MAX = 32
AS_LINES = "Enter one header per line, as Name: value"
_is_name = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,128}").fullmatch
_is_value = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?").fullmatch
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to the connection, or determine how the body is read."""
_OUR_PREFIXES = ("cf-", "farebox-", "proxy-")


def read_headers(text: str | None, stored: Mapping[str, str]) -> dict[str, str]:
    """The headers, names in lower case. A value that is sent back as it was shown stays what it is in `stored`. Raises
    InvalidInput."""
    if not text:
        return {}
    if len(text) > TEXT_MAX:
        raise invalid(f"String must contain at most {TEXT_MAX} character(s)", "body", "headers")
    return checked_headers(_json(text) if text.lstrip().startswith("{") else _lines(text), stored, "body", "headers")


def checked_headers(found: Mapping[str, str], stored: Mapping[str, str], *path: str | int) -> dict[str, str]:
    """The headers, names in lower case. A value that is sent back as it was shown stays what it is in `stored`. Raises
    InvalidInput, with this path."""
    if len(found) > HEADERS_MAX:
        raise invalid(f"At most {HEADERS_MAX} headers can be set", *path)
    headers: dict[str, str] = {}
    for given, value in found.items():
        name = given.lower()
        if not _is_name(given) or name in _OURS or name.startswith(_OUR_PREFIXES):
            raise invalid(f"The header '{given[:64]}' cannot be set", *path)
        if name in stored and value == masked(stored[name]):
            value = stored[name]
        if not _is_value(value):
            raise invalid(f"The value of the header '{given[:64]}' cannot be sent over HTTP", *path)
        headers[name] = value
    return headers


def _json(text: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        message = "Expected a JSON object of header names and values, as a string"
        raise invalid(message, "body", "headers", words=AS_LINES) from error


def _lines(text: str) -> dict[str, str]:
    """Lines of `Name: value`; a name alone has an empty value."""
    pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
    return {name.strip(): value.strip() for name, _, value in pairs}


def shown_headers(headers: Mapping[str, str]) -> str:
    """The headers as they may be shown: long values are reduced to their ends."""
    return msgspec.json.encode({name: masked(value) for name, value in headers.items()}).decode()
