"""The text of a request in any format: all strings of its JSON, with escapes resolved.

It is extracted from the bytes, not from the decoded value: if two fields have the same name, a decoder drops one, which
may be the one that the provider reads.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from farebox.detection.body_text import (
    PLAIN,
    STRUCTURAL,
    BodyText,
    Unreadable,
    checked_text,
    escapes_resolved,
    is_encoded,
)

_ESCAPED_BACKSLASH, _ESCAPED_QUOTE = b"\xff", b"\xfe"
"""Bytes that temporarily stand for escapes; they do not occur in UTF-8."""
_long_number = re.compile(rb"(?<![\w.+-])\d{12,19}(?![\w.])").findall
"""A number that may be a card's, for example; digits of fractions are excluded."""
_boundary = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE).search
_STRINGS: Final = msgspec.json.Decoder(str)
_JSON: Final = msgspec.json.Decoder()


def request_text(body: bytes, content_type: str) -> BodyText:
    """The text of the body. Raises Unreadable if it is not text."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        return _form(body, content_type)
    text = checked_text(body)
    if kind == "application/x-www-form-urlencoded" and not _is_json(text):
        pairs = [unquote_plus(pair).encode() for pair in text.decode().split("&")]
        # A lenient decoder may read as JSON what a strict one rejects: both readings are checked.
        return _all_conversation([*pairs, _of_text(text).text] if _begins_json(text) else pairs)
    return _of_text(text)


def _is_json(body: bytes) -> bool:
    """Whether a body is JSON regardless of its content type: curl's `-d` declares a form, and the provider reads
    JSON."""
    try:
        return _begins_json(body) and _JSON.decode(body) is not None
    except (msgspec.DecodeError, RecursionError):
        return False


def _begins_json(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[", b'"')


def _of_text(body: bytes) -> BodyText:
    if not _begins_json(body):
        return _all_conversation([body])
    marked = body
    if b"\\" in body:
        marked = body.replace(b"\\\\", _ESCAPED_BACKSLASH).replace(b'\\"', _ESCAPED_QUOTE)
    pieces = marked.split(b'"')
    if len(pieces) % 2 == 0:  # an unterminated string: not JSON, and how the provider reads it is unknown
        return _all_conversation([body])
    strings, conversation = _strings(pieces)
    strings += [resolved for text in strings if (resolved := escapes_resolved(text))]
    strings += _long_number(b" ".join(pieces[::2]))
    return BodyText(b"\n".join(strings), b"\n".join(conversation))


def _strings(pieces: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """All strings except the format's own keywords; and those that are addressed to the model."""
    every: list[bytes] = []
    conversation: list[bytes] = []
    key = b""
    for at in range(1, len(pieces), 2):
        text, after = pieces[at], pieces[at + 1]
        if b"\\" in text or _ESCAPED_BACKSLASH in text or _ESCAPED_QUOTE in text:
            text = _resolved(text)
        if after[:1] == b":" or (after[:1].isspace() and after.lstrip()[:1] == b":"):
            key = text
            if not PLAIN(text):
                every.append(text)
        elif not text or (key in (b"role", b"type") and PLAIN(text)) or is_encoded(text):
            continue
        else:
            every.append(text)
            if key not in STRUCTURAL:
                conversation.append(text)
    return every, conversation


def _resolved(marked: bytes) -> bytes:
    text = marked.replace(_ESCAPED_QUOTE, b'\\"').replace(_ESCAPED_BACKSLASH, b"\\\\")
    try:
        return _STRINGS.decode(b'"' + text + b'"').encode("utf-8", "replace")
    except (msgspec.DecodeError, ValueError):
        return text


def _form(body: bytes, content_type: str) -> BodyText:
    """The fields of a form, and its files that are text. Raises Unreadable if the body is not a form."""
    found = _boundary(content_type)
    mark = b"--" + (found[1] or found[2]).encode() if found else b""
    if not mark or not body.startswith(mark):
        raise Unreadable("it does not begin with its content type's boundary")
    fields: list[BodyText] = []
    for part in body.split(b"\r\n" + mark)[:-1]:
        head, _, content = part.removeprefix(mark).partition(b"\r\n\r\n")
        fields.append(BodyText(head, b""))
        try:
            fields.append(_of_text(checked_text(content)))
        except Unreadable:  # an image or a recording
            continue
    return BodyText(
        b"\n".join(field.text for field in fields), b"\n".join(filter(None, (f.conversation for f in fields)))
    )


def _all_conversation(texts: list[bytes]) -> BodyText:
    text = b"\n".join(texts)
    return BodyText(text, text)


def _joined(fields: list[BodyText]) -> BodyText:
    conversation = filter(None, (field.conversation for field in fields))
    return BodyText(b"\n".join(field.text for field in fields), b"\n".join(conversation))
