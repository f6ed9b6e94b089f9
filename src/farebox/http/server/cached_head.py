"""Repeated heads: a client sends the same head with every request on a connection, except for the body's length."""

from typing import Final

from farebox.http.exchange import RequestHead

KEPT_BYTES_MAX: Final = 2 * 2**10
"""Longer heads are not cached."""
_LENGTH: Final = b"\r\ncontent-length:"
_DIGITS_MAX: Final = 9


class CachedHead:
    """A head that the parser has accepted: its bytes before and after the digits of the content-length."""

    __slots__ = ("_after", "_before", "_whole", "_whole_bytes", "head", "length", "size")

    def __init__(self, before: bytes, digits: bytes, after: bytes, head: RequestHead, size: int) -> None:
        """Without a content-length, `before` is the whole head."""
        self._before = before
        self._after = after
        self._whole = before + digits + after
        """The bytes of the latest head."""
        self._whole_bytes = len(self._whole)
        self.head = head
        """The head of the latest request."""
        self.length = int(digits or b"0")
        """Length of the latest request's body."""
        self.size = size
        """The head's size as it is counted (`Http1Exchange.head_bytes`)."""

    def after_head(self, data: bytes) -> bytes | None:
        """The bytes after the head if `data` begins with the same head, which `head` and `length` then describe;
        otherwise None."""
        if data.startswith(self._whole):
            return data[self._whole_bytes :]
        if not self._after or not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _DIGITS_MAX + 1)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        self._whole = data[: end + len(self._after)]
        self._whole_bytes = len(self._whole)
        self.length, self.head = int(digits), self.head.with_length(digits.decode())
        return data[self._whole_bytes :]


def cacheable_head(data: bytes, head: RequestHead, size: int, received: int) -> CachedHead | None:
    """The cached head for `data`, a request with `received` bytes of its body; None if `data` contains more than one
    request, or the head is too long."""
    end = data.find(b"\r\n\r\n", 0, KEPT_BYTES_MAX) + 4
    if end < 4 or end + received != len(data):
        return None
    text = data[:end]
    at = text.lower().find(_LENGTH)
    if at < 0:
        return CachedHead(text, b"", b"", head, size) if head.headers.get("content-length") is None else None
    at += len(_LENGTH)
    while text[at : at + 1] == b" ":
        at += 1
    after = text.find(b"\r", at)
    digits = text[at:after]
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return None
    return CachedHead(text[:at], digits, text[after:], head, size)
