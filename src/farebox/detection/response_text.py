"""The text of a response in any format. A stream delivers it in pieces: pieces of the same text are joined, recognized
by their place in the events."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from farebox.detection.body_text import STRUCTURAL, BodyText, checked_text, escapes_resolved, is_encoded, whole_escapes

OVERLAP: Final = 256
"""Bytes of each text that are scanned again together with what follows, so that a match is found however the text is
cut into pieces."""
CHANNELS_MAX: Final = 256
"""Maximum number of texts that are kept apart; any further ones are joined into one."""

_PLACES: Final = ("type", "index", "output_index", "content_index", "summary_index", "item_id")
"""Fields that identify the text that a piece belongs to."""
_STRUCTURAL: Final = frozenset(name.decode() for name in STRUCTURAL)
_INPUTS: Final = frozenset({"input", "args", "arguments", "parameters"})
"""Tool arguments: every field below them was written by the model."""
_REPEATED: Final = frozenset({"logprobs", "logprobsResult"})
"""Repeats of the text, token by token."""
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_BINARY: Final = ("audio/", "image/", "video/")
Channel = tuple[Any, ...]
"""Place of a text within the events of its stream."""
Leaf = tuple[Channel, bytes]
_RAW: Final[Channel] = ("",)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A text within a window: its position, and how much of it has been scanned before."""

    channel: Channel
    start: int
    seen: int
    end: int
    grows: bool
    """It has new text in this window."""


class TextWindow(msgspec.Struct, frozen=True):
    """The new text of all channels since the last window, each preceded by the end of its earlier text."""

    text: bytes
    pieces: tuple[Piece, ...]
    conversation: bytes
    """Each text once, unchanged."""


class Channels:
    """The texts of one response."""

    def __init__(self) -> None:
        self._tails: dict[Channel, bytes] = {}
        self._new: dict[Channel, list[bytes]] = {}
        self.position = 0
        """Bytes of text received so far."""

    def add(self, leaves: Iterable[Leaf]) -> None:
        """Add the strings of one event."""
        for channel, text in leaves:
            if not text or is_encoded(text):
                continue
            known = channel in self._tails or channel in self._new
            if not known and len(self._tails) + len(self._new) >= CHANNELS_MAX:
                channel = _RAW
            self._new.setdefault(channel, []).append(text)
            self.position += len(text)

    def window(self, again: Iterable[Channel] = ()) -> TextWindow:
        """The text since the last window. For the channels in `again`, the end of their text is included even if there
        is nothing new."""
        for channel in again:
            self._new.setdefault(channel, [])
        parts: list[bytes] = []
        conversation: list[bytes] = []
        pieces: list[Piece] = []
        at = 0
        for channel, new in self._new.items():
            tail = self._tails.get(channel, b"")
            text = tail + b"".join(new)
            for seen, part in _readings(tail, text):
                pieces.append(Piece(channel, at, seen, at + len(part), bool(new)))
                parts.append(part)
                at += len(part) + 1
            conversation.append(text)
            self._tails[channel] = _last(text)
        self._new = {}
        return TextWindow(b"\n".join(parts), tuple(pieces), b"\n".join(conversation))


def _readings(tail: bytes, text: bytes) -> Iterator[tuple[int, bytes]]:
    """A text as it is and, if it contains JSON, with its escapes resolved; each with the length of the part that was in
    the last window."""
    yield len(tail), text
    resolved = escapes_resolved(text)
    if resolved:
        known = whole_escapes(tail)
        yield len(escapes_resolved(known) or known), resolved


def _last(text: bytes) -> bytes:
    """The last OVERLAP bytes of a text, beginning at a whole character."""
    at = max(0, len(text) - OVERLAP)
    while at < len(text) and text[at] & 0xC0 == 0x80:  # in the middle of a character
        at += 1
    return text[at:]


def leaves_of(data: bytes) -> list[Leaf]:
    """The strings of an event's data, each with its place; data that is not JSON is one string. Raises Unreadable if it
    is not text either."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return [(_RAW, checked_text(data) + b"\n")]
    return list(_leaves(value))


def _leaves(value: Any) -> Iterator[Leaf]:
    """All strings of a value, in order. Objects in a list are identified by their `index` if they have one, as a
    stream's event contains only those that changed."""
    stack: list[tuple[Channel, str, bool, Any]] = [((), "", False, value)]
    while stack:
        path, name, is_input, item = stack.pop()
        if isinstance(item, str):
            if is_input or name not in _STRUCTURAL:
                yield path, item.encode("utf-8", "replace")
        elif isinstance(item, dict):
            place = tuple(item[key] for key in _PLACES if isinstance(item.get(key), str | int))
            stack += reversed(
                [
                    ((*path, *place, key), key, is_input or key in _INPUTS, inner)
                    for key, inner in item.items()
                    if key not in _REPEATED
                ]
            )
        elif isinstance(item, list):
            stack += reversed(
                [
                    ((*path, -1 if isinstance(inner, dict) and "index" in inner else at), name, is_input, inner)
                    for at, inner in enumerate(item)
                    if not isinstance(inner, float)
                ]
            )
        elif isinstance(item, int) and not isinstance(item, bool) and 10**11 <= item < 10**19:
            yield path, str(item).encode()


def response_text(body: bytes, content_type: str) -> BodyText | None:
    """The text of a complete response; None if it is media. Raises Unreadable if it is neither."""
    begun = body.lstrip(_BLANK)[:1]
    if content_type.startswith(_BINARY) and begun not in (b"{", b"["):
        return None
    channels = Channels()
    if content_type == "text/event-stream":
        for line in body.splitlines():
            if line.startswith(b"data:"):
                channels.add(leaves_of(line[5:].strip()))
    elif begun in (b"{", b"["):
        _add_document(channels, body)
    else:
        channels.add([(_RAW, checked_text(body))])
    window = channels.window()
    return BodyText(window.text, window.conversation)


def _add_document(channels: Channels, body: bytes) -> None:
    """Add a body of one object, or of several, each of which is treated like an event."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        for line in body.splitlines():
            channels.add(leaves_of(line.strip().rstrip(b",")))
        return
    for event in value if isinstance(value, list) else [value]:
        channels.add(_leaves(event))
