"""Checking that request lines have single spaces: the parser accepts any number of them, while other software counts
the parts."""

from typing import Final

_LINE_FEED: Final = 10


class RequestLines:
    """Finds the request lines in the data of one connection."""

    __slots__ = ("_begins_at", "_bodies", "_checked", "_line", "_line_open", "_received")

    def __init__(self) -> None:
        self._received = b""
        """The data that the parser is processing."""
        self._line = bytearray()
        """The earlier data of an incomplete head, up to the end of its request line."""
        self._line_open = False
        """Whether that end has not arrived yet."""
        self._begins_at = 0
        """Position in these two at which the next request line may begin."""
        self._bodies: list[bytes] = []
        """Parts of bodies in the current data, since the last request line."""
        self._checked = False
        """Whether a head has been completed by the current data."""

    def feed(self, data: bytes) -> None:
        """The parser is about to process this data."""
        self._received, self._checked, self._begins_at = data, False, 0

    def skip(self, part: bytes) -> None:
        """The parser has found this part of a body."""
        self._bodies.append(part)

    def check(self, line: bytes) -> bool:
        """Whether a line of exactly these bytes begins the head that the parser has just completed. It must be at the
        start, after a line end or after a body: neither a header nor a body can have such a line in place of the
        request line."""
        text = self._after_bodies()
        at = text.find(line, self._begins_at)
        while at > self._begins_at and text[at - 1] != _LINE_FEED:
            at = text.find(line, at + 1)
        self._begins_at = at + len(line)
        self._checked = True
        return at >= 0

    def keep(self, before: str, *, in_head: bool) -> None:
        """The parser has processed its data. Keep what has arrived of the request line of an incomplete head, if there
        is one (`in_head`). `before`: the earlier request state: the head begins with this data ("idle"), continues in
        it ("head"), or began in it after another request."""
        if not in_head:
            self._line.clear()
        elif self._checked or before not in ("idle", "head"):
            text = self._after_bodies()
            self._line, self._line_open = bytearray(text[self._begins_at :]), True
        else:
            if before == "idle":
                self._line.clear()
                self._line_open = True
            if self._line_open:
                data = self._received if self._line else self._received.lstrip(b"\r\n")
                end = data.find(b"\n") + 1
                self._line += data[: end or len(data)]
                self._line_open = not end
        self._received = b""
        self._bodies.clear()

    def _after_bodies(self) -> bytes | bytearray:
        """The received part of the current head, and anything before it; `_begins_at` is past the bodies."""
        text = self._line + self._received if self._line else self._received
        for part in self._bodies:
            self._begins_at = max(self._begins_at, text.find(part, self._begins_at) + len(part))
        self._bodies.clear()
        return text
