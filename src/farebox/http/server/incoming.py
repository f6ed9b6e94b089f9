"""The received part of a request's body: small ones as bytes, a large one in a memory file."""

from farebox.memory_files import BLOCK_BYTES, Body, LargeBody, MemoryFile

_PIECE_MIN = 2**10
"""Smaller pieces are joined: as separate objects, tiny pieces would take many times their size."""


class Incoming:
    """Collects the pieces of one body."""

    __slots__ = ("_file", "_joins", "_pieces")

    def __init__(self, *, joins: bool) -> None:
        """`joins`: join pieces of any size, as for a body without a content-length."""
        self._joins = joins
        self._pieces: list[bytes | bytearray] = []
        self._file: MemoryFile | None = None

    def to_file(self) -> None:
        """From now on, keep the body in a file; if none can be created, it stays in memory."""
        if self._file is None:
            try:
                self._file = MemoryFile()
            except OSError:
                return
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                self._file.append(piece)

    def add(self, data: bytes) -> None:
        """Add a piece. Raises OSError if the file cannot grow."""
        pieces, small = self._pieces, len(data) < _PIECE_MIN
        if self._file is not None and not small:
            self._flush(self._file)
            self._file.append(data)
        elif pieces and isinstance(pieces[-1], bytearray) and (self._joins or small):
            pieces[-1] += data
            if self._file is not None and len(pieces[-1]) >= BLOCK_BYTES:
                self._flush(self._file)
        elif self._joins or (small and (pieces or self._file is not None)):
            pieces.append(bytearray(data))
        else:
            pieces.append(data)

    def take(self) -> Body:
        """The received body. Raises OSError as `add` does."""
        file = self._file
        if file is not None:
            self._flush(file)
            self._file = None
            return LargeBody(file, ((0, file.size),))
        pieces, self._pieces = self._pieces, []
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def clear(self) -> None:
        """Discard everything."""
        self._pieces.clear()
        self._file = None

    def _flush(self, file: MemoryFile) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                file.append(piece)
