"""JSON without its bulk: the part that billing reads of a document that is too large to be kept.

Images, audio, vectors and token probabilities make a response large; usage, model and text never do. So the contents of
long strings that are encoded data, the numbers of long arrays, and alternative tokens (`top_logprobs`) are dropped
while the bytes pass; the rest is still valid JSON. Bytes are searched, never inspected one by one, so the cost is about
that of copying them.
"""

import re
from typing import Final

STRING_BYTES_MAX: Final = 64 * 1024
"""A longer string is kept only if it is not encoded data."""
SKELETON_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest skeleton of a document. A document that leaves more is not read."""

_ENCODED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
"""The characters of base64 in both alphabets and of hexadecimal digits, and how JSON may escape them."""
_LONG_NUMBERS: Final = re.compile(rb"\[[-+.0-9eE,\s]{512,}")
_NUMBERS: Final = re.compile(rb"[-+.0-9eE,\s]*")
_LOGPROBS_BYTES: Final = 1024 * 1024
"""Bytes that are kept before alternative tokens are searched for."""
_LOGPROBS: Final = re.compile(
    rb'"top_logprobs"\s*+:\s*+\[(?:[^\[\]"]++|"(?:[^"\\]++|\\.)*+"|\[[^\[\]"]*+\])*+\]', re.DOTALL
)


class Skimmer:
    """Reads one JSON document in pieces that may be cut anywhere."""

    __slots__ = (
        *("_dropping", "_escaped", "_in_string", "_is_text", "_limit", "_next", "_numbers", "_out", "_over", "_start"),
        *("dropped", "size"),
    )

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or SKELETON_BYTES_MAX
        self._out = bytearray()
        self._in_string = self._is_text = self._dropping = self._escaped = self._numbers = self._over = False
        self._next = _LOGPROBS_BYTES
        self._start = 0
        """Where in `_out` the current string begins."""
        self.size = 0
        self.dropped = 0
        """Bytes of encoded data and numbers that were dropped."""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self.size += len(piece)
        for at in range(0, len(piece), STRING_BYTES_MAX):  # so that no long string is complete within one slice
            if not self._over:
                self._take(piece[at : at + STRING_BYTES_MAX])
                if len(self._out) > self._next and not self._in_string:
                    self._drop_logprobs()
                if len(self._out) > self._limit:
                    self.stop_collecting()

    @property
    def over(self) -> bool:
        """Whether the skeleton became too large, so that there is none."""
        return self._over

    @property
    def kept_bytes(self) -> int:
        """The size of the skeleton so far."""
        return len(self._out)

    def stop_collecting(self) -> None:
        """Discard everything and keep nothing from now on: there is no memory for it."""
        self._over = True
        self._out.clear()

    def skeleton(self) -> bytes | None:
        """The document without its bulk; None if that is still too large."""
        return None if self._over else bytes(self._out)

    def _drop_logprobs(self) -> None:
        size = len(self._out)
        self._out = bytearray(_LOGPROBS.sub(b'"top_logprobs":[]', self._out))
        self.dropped += size - len(self._out)
        self._next = len(self._out) + _LOGPROBS_BYTES

    def _take(self, piece: bytes) -> None:
        if self._in_string:
            end = self._closing(piece)
            if end < 0:
                self._inside(piece)
                return
            self._inside(piece[:end])
            self._in_string = self._dropping = False
            self._out += b'"'
            piece = piece[end + 1 :]
        if self._numbers:
            end = _NUMBERS.match(piece).end()  # type: ignore[union-attr]  # matches the empty string too
            self.dropped += end
            piece = piece[end:]
            if not piece:
                return
            self._numbers = False
        self._outside(piece)

    def _inside(self, content: bytes) -> None:
        """Take more of a string."""
        self._escaped = _escaped(content, len(content), self._escaped)
        if self._dropping:
            self.dropped += len(content)
            return
        self._out += content
        size = len(self._out) - self._start
        if size <= STRING_BYTES_MAX or self._is_text:
            return
        if _is_encoded(self._out[self._start :]):
            self._dropping = True
            self.dropped += size
            del self._out[self._start :]
        else:
            self._is_text = True

    def _closing(self, piece: bytes) -> int:
        """Where the current string ends, or -1."""
        at = piece.find(b'"')
        while at >= 0 and _escaped(piece, at, self._escaped):
            at = piece.find(b'"', at + 1)
        return at

    def _outside(self, piece: bytes) -> None:
        """Take bytes that begin outside a string."""
        quotes = piece if b"\\" not in piece else piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        if quotes.count(b'"') % 2:
            opening = piece.rfind(b'"')
            while _escaped(piece, opening, False):
                opening = piece.rfind(b'"', 0, opening)
            self._structure(piece[: opening + 1])
            self._in_string, self._is_text, self._escaped, self._start = True, False, False, len(self._out)
            self._inside(piece[opening + 1 :])
            return
        array = piece.rfind(b"[")
        if array >= 0 and _NUMBERS.fullmatch(piece, array + 1):
            self._numbers = True
            self.dropped += len(piece) - array - 1
            piece = piece[: array + 1]
        self._structure(piece)

    def _structure(self, piece: bytes) -> None:
        short = _LONG_NUMBERS.sub(b"[", piece)
        self.dropped += len(piece) - len(short)
        self._out += short


def _escaped(piece: bytes, at: int, before: bool) -> bool:
    """Whether an odd number of backslashes precedes `at`; `before` is the same for the start of the piece."""
    start = at
    while start and piece[start - 1] == 0x5C:
        start -= 1
    return ((at - start) % 2 == 1) != (before and start == 0)


def _is_encoded(content: bytearray) -> bool:
    if content.startswith(b"data:"):
        del content[: content.find(b",", 0, 256) + 1]
    return not content.translate(None, _ENCODED)
