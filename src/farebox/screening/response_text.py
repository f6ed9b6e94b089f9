"""The text of a response, whatever its form. Streams deliver it in pieces: those that belong together are put together
again, by where they are in their events."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from farebox.screening.said import STRUCTURAL, Said, checked_text, escapes_resolved, is_encoded, whole_escapes

OVERLAP: Final = 256
"""Bytes of each text that are looked at again together with what follows: what matches in them is found however it is
cut into pieces."""
CHANNELS_MAX: Final = 256
"""Texts that are told apart; what further ones say is put together in one."""

_PLACES: Final = ("type", "index", "output_index", "content_index", "summary_index", "item_id")
"""Fields that say which text a piece of it belongs to."""
_STRUCTURAL: Final = frozenset(name.decode() for name in STRUCTURAL)
_INPUTS: Final = frozenset({"input", "args", "arguments", "parameters"})
"""Of tools: below them every field is the model's own word."""
_REPEATED: Final = frozenset({"logprobs", "logprobsResult"})
"""What is elsewhere too, token by token."""
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_BINARY: Final = ("audio/", "image/", "video/")
Channel = tuple[Any, ...]
"""Where a text is in the events of its stream."""
Leaf = tuple[Channel, bytes]
_RAW: Final[Channel] = ("",)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A text of a window: where it is in it, and how much of it has been looked at before."""

    channel: Channel
    start: int
    seen: int
    end: int
    grows: bool
    """Something has come of it."""


class Window(msgspec.Struct, frozen=True):
    """What has come of all texts since the last one, each with a little of what came before."""

    text: bytes
    pieces: tuple[Piece, ...]
    spoken: bytes
    """Each text once, as it is."""


class Channels:
    """The texts of one response."""

    def __init__(self) -> None:
        self._tails: dict[Channel, bytes] = {}
        self._new: dict[Channel, list[bytes]] = {}
        self.position = 0
        """Bytes of text that have come."""

    def add(self, leaves: Iterable[Leaf]) -> None:
        """An event has come."""
        for channel, text in leaves:
            if not text or is_encoded(text):
                continue
            known = channel in self._tails or channel in self._new
            if not known and len(self._tails) + len(self._new) >= CHANNELS_MAX:
                channel = _RAW
            self._new.setdefault(channel, []).append(text)
            self.position += len(text)

    def window(self, again: Iterable[Channel] = ()) -> Window:
        """What has come since the last window; and the last of these texts once more."""
        for channel in again:
            self._new.setdefault(channel, [])
        parts: list[bytes] = []
        spoken: list[bytes] = []
        pieces: list[Piece] = []
        at = 0
        for channel, new in self._new.items():
            tail = self._tails.get(channel, b"")
            text = tail + b"".join(new)
            for seen, part in _readings(tail, text):
                pieces.append(Piece(channel, at, seen, at + len(part), bool(new)))
                parts.append(part)
                at += len(part) + 1
            spoken.append(text)
            self._tails[channel] = _last(text)
        self._new = {}
        return Window(b"\n".join(parts), tuple(pieces), b"\n".join(spoken))


def _readings(tail: bytes, text: bytes) -> Iterator[tuple[int, bytes]]:
    """A text as it is, and as it reads if it is JSON; with how much of each is its beginning, the tail."""
    yield len(tail), text
    resolved = escapes_resolved(text)
    if resolved:
        known = whole_escapes(tail)
        yield len(escapes_resolved(known) or known), resolved


def _last(text: bytes) -> bytes:
    """Its last characters."""
    at = max(0, len(text) - OVERLAP)
    while at < len(text) and text[at] & 0xC0 == 0x80:  # within a character
        at += 1
    return text[at:]


def leaves_of(data: bytes) -> list[Leaf]:
    """The strings of an event's data, with where each is; all of it where it is no JSON. Raises Unreadable if it is no
    text either."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return [(_RAW, checked_text(data) + b"\n")]
    return list(_leaves(value))


def _leaves(value: Any) -> Iterator[Leaf]:
    """All strings of a value, in order. Objects of a list are told apart by their index where they have one: a stream's
    event has but those that something has come of."""
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


def response_text(body: bytes, content_type: str) -> Said | None:
    """What a whole response says; None of media. Raises Unreadable if it is no text either."""
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
    return Said(window.text, window.spoken)


def _add_document(channels: Channels, body: bytes) -> None:
    """One object; or several, of which each is what an event would be."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        for line in body.splitlines():
            channels.add(leaves_of(line.strip().rstrip(b",")))
        return
    for event in value if isinstance(value, list) else [value]:
        channels.add(_leaves(event))
