"""The text of a body, and which of its strings are only keywords of the format."""

import re
from typing import Final

import msgspec

ENCODED_BYTES_MIN: Final = 4096
"""A string of at least this many bytes that may be base64 is treated as a file: its content is not scanned."""

STRUCTURAL: Final = frozenset(
    {
        b"role", b"type", b"model", b"id", b"object", b"status", b"tool_call_id", b"tool_use_id", b"call_id",
        b"item_id", b"response_id", b"responseId", b"previous_response_id", b"event", b"format", b"encoding_format",
        b"media_type", b"mime_type", b"mimeType", b"detail", b"effort", b"service_tier", b"serviceTier",
        b"tool_choice", b"voice", b"user", b"safety_identifier", b"prompt_cache_key", b"finish_reason",
        b"finishReason", b"stop_reason", b"system_fingerprint", b"modelVersion", b"signature", b"thoughtSignature",
        b"encrypted_content", b"obfuscation", b"provider",
    }
)  # fmt: skip
"""Fields whose values are neither shown to the model nor written by it."""
PLAIN: Final = re.compile(rb"[A-Za-z_$][A-Za-z_$.-]{0,63}").fullmatch
"""Matches a field name, a role or a type that is only a plain word."""
_escapes: Final = re.compile(rb"(?<!\\)(?:(?:\\+u[0-9A-Fa-f]{4})+|\\+[nrtbf])").subn
_cut_escape: Final = re.compile(rb"\\+(?:u[0-9A-Fa-f]{0,3})?\Z").search
_unit: Final = re.compile(rb"\\+u([0-9A-Fa-f]{4})").findall
_CONTROLS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
_encoded: Final = re.compile(rb"(?:data:[^,]{0,200};base64,)?[A-Za-z0-9+/]+={0,2}").fullmatch


class Unreadable(Exception):
    """A body is not text; the message says what it is."""


class BodyText(msgspec.Struct, frozen=True):
    """The text of a body, one string per line: all of its strings, and those that were written to or by the model."""

    text: bytes
    conversation: bytes


def is_encoded(text: bytes) -> bool:
    """Whether a string looks like a file in base64."""
    return len(text) >= ENCODED_BYTES_MIN and _encoded(text) is not None


def escapes_resolved(text: bytes) -> bytes:
    """A text that contains JSON, such as tool arguments and many tool results, with its escapes resolved, at any depth;
    empty if nothing in it is escaped. Unresolved, a number after a line break reads `n4111`, which does not begin at a
    word boundary."""
    if b"\\" not in text:
        return b""
    resolved, count = _escapes(_resolved, text)
    return resolved if count else b""


def whole_escapes(text: bytes) -> bytes:
    """The text without an incomplete escape at its end."""
    cut = _cut_escape(text)
    return text[: cut.start()] if cut else text


def _resolved(found: re.Match[bytes]) -> bytes:
    control = _CONTROLS.get(found[0][-1:]) if b"u" not in found[0] else None
    if control is not None:
        return control
    return bytes.fromhex(b"".join(_unit(found[0])).decode()).decode("utf-16-be", "replace").encode()


def checked_text(body: bytes) -> bytes:
    """The same bytes. Raises Unreadable if they are not text."""
    if b"\0" in body:
        raise Unreadable("it is binary")
    try:
        _ = body.isascii() or body.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 at byte {error.start}") from error
    return body
