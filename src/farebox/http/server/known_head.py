"""Heads that repeat: a client sends the same head with every request on a connection, except for the body's length."""

from typing import Final

from farebox.http.exchange import RequestHead

KEPT_BYTES_MAX: Final = 2 * 2**10
"""Longer heads are not remembered."""
_LENGTH: Final = b"\r\ncontent-length:"
_DIGITS_MAX: Final = 9


class KnownHead:
    """A head that the parser has accepted: its bytes before and after the digits of the body's length."""

    __slots__ = ("_after", "_before", "_digits", "head", "length", "size")

    def __init__(self, before: bytes, digits: bytes, after: bytes, head: RequestHead, size: int) -> None:
        self._before = before
        self._digits = digits
        self._after = after
        self.head = head
        """Of the latest request."""
        self.length = int(digits)
        """Of its body."""
        self.size = size
        """The head's size as it is counted (`Http1Exchange.head_bytes`)."""

    def after_head(self, data: bytes) -> bytes | None:
        """What follows the head, if `data` begins with the same one, which `head` and `length` then describe; otherwise
        None."""
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _DIGITS_MAX + 1)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        if digits != self._digits:
            self._digits, self.length, self.head = digits, int(digits), self.head.with_length(digits.decode())
        return data[end + len(self._after) :]


def known_head(data: bytes, head: RequestHead, size: int, received: int) -> KnownHead | None:
    """What to remember of `data`, a request of whose body so much is in it; None if there is more in it than one
    request, or the head is too long."""
    end = data.find(b"\r\n\r\n", 0, KEPT_BYTES_MAX) + 4
    if end < 4 or end + received != len(data):
        return None
    text = data[:end]
    at = text.lower().find(_LENGTH)
    if at < 0:
        return None
    at += len(_LENGTH)
    while text[at : at + 1] == b" ":
        at += 1
    after = text.find(b"\r", at)
    digits = text[at:after]
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return None
    return KnownHead(text[:at], digits, text[after:], head, size)
