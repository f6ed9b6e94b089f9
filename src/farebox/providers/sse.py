"""Server-sent events as bytes: cuts a passing stream into lines, without changing a byte of it.

Lines end in LF, CRLF or a lone CR. Most streams end an event with an empty line; some providers and proxies leave it
out, so only the reader of the lines can tell where an event ends.
"""

from typing import Final

LINE_BYTES_MAX: Final = 64 * 1024
"""An unfinished line above this size is passed on piece by piece; see LineCutter.long."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class LineCutter:
    """Cuts chunks with arbitrary boundaries into lines, including their line breaks. One for each stream."""

    __slots__ = ("_cr", "_limit", "_partial", "long")

    def __init__(self, limit: int = LINE_BYTES_MAX) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._cr = False
        self.long = False
        """The current line is too long to be kept: its pieces are returned as they arrive, its end as a last one."""

    def push(self, chunk: bytes) -> tuple[bytes, list[bytes]]:
        """Take the next bytes. Returns the LF that belongs to a CR returned before, or nothing; then the complete
        lines. If `long` was true before the call, the first item belongs to the long line; if `long` is true after it,
        the last item is a piece of a long line."""
        late = b""
        if self._cr and chunk:
            self._cr = False
            if chunk.startswith(b"\n"):
                late, chunk = b"\n", chunk[1:]
        partial = self._partial
        if partial and not self.long:
            if b"\n" not in chunk and b"\r" not in chunk:
                partial += chunk
                return late, self._pieces()
            chunk = bytes(partial) + chunk
            partial.clear()
        lines = chunk.splitlines(keepends=True)
        if not lines:
            return late, lines
        last = lines[-1][-1]
        if self.long:
            self.long = len(lines) == 1 and last not in b"\r\n"
            if self.long:
                return late, lines
        if last == 13:
            self._cr = True
        elif last != 10:
            partial += lines.pop()
            if len(partial) > self._limit:
                lines += self._pieces()
        return late, lines

    def rest(self) -> bytes:
        """The unfinished line at the end of the stream."""
        rest = bytes(self._partial)
        self._partial.clear()
        return rest

    def _pieces(self) -> list[bytes]:
        if len(self._partial) <= self._limit:
            return []
        self.long = True
        return [self.rest()]


def is_blank(line: bytes) -> bool:
    """Whether this is the empty line that ends an event."""
    return line in (b"\n", b"\r\n", b"\r")
