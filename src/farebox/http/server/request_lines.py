"""Whether request lines have single spaces: the parser takes any number of them, where others count the parts."""

from typing import Final

_LINE_FEED: Final = 10


class RequestLines:
    """Finds the request lines in what one connection sends."""

    __slots__ = ("_begins_at", "_bodies", "_checked", "_line", "_line_open", "_received")

    def __init__(self) -> None:
        self._received = b""
        """What the parser is being fed."""
        self._line = bytearray()
        """What came before it of a head that is in pieces, up to the end of its request line."""
        self._line_open = False
        """That end has not come yet."""
        self._begins_at = 0
        """Where in these two the next request line may begin."""
        self._bodies: list[bytes] = []
        """Parts of bodies in what is being fed, since the last request line."""
        self._checked = False
        """A head has become whole with what is being fed."""

    def feed(self, data: bytes) -> None:
        """The parser is about to read this."""
        self._received, self._checked, self._begins_at = data, False, 0

    def skip(self, part: bytes) -> None:
        """The parser has found this part of a body."""
        self._bodies.append(part)

    def check(self, line: bytes) -> bool:
        """Whether a line of exactly these bytes begins the head that the parser has just read. A line stands at the
        start, behind a line's end or behind a body: neither a header nor a body can have it in the request line's
        place."""
        text = self._after_bodies()
        at = text.find(line, self._begins_at)
        while at > self._begins_at and text[at - 1] != _LINE_FEED:
            at = text.find(line, at + 1)
        self._begins_at = at + len(line)
        self._checked = True
        return at >= 0

    def keep(self, before: str, *, in_head: bool) -> None:
        """The parser has read what it was fed. Keep what has come of the request line of a head that is not whole, if
        it is in one (`in_head`). `before`: the request state before: the head begins with what was fed ("idle"), goes
        on with it ("head"), or began in it, behind another request."""
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
        """What has come of the head under way, and whatever is before it; `_begins_at` is past the bodies."""
        text = self._line + self._received if self._line else self._received
        for part in self._bodies:
            self._begins_at = max(self._begins_at, text.find(part, self._begins_at) + len(part))
        self._bodies.clear()
        return text
