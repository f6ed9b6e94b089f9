"""Large bodies, kept outside the process's own memory and never copied whole by the event loop.

Incoming data is written to a file that exists in memory only. Helper processes receive its descriptor and read it
themselves; it is forwarded block by block. Changing single fields creates a new list of pieces.
"""

import errno
import os
import queue
import threading
from collections.abc import Iterator
from typing import Final, TypeAlias

LARGE_BYTES: Final = 256 * 2**10
"""A body up to this size is kept as bytes: copying it takes about 50 µs, writing a file about 10."""
BLOCK_BYTES: Final = 128 * 2**10
"""Bytes read or written at once."""

_MFD_NOEXEC_SEAL: Final = 8
"""Makes the file non-executable, which hardened systems require. Linux before 6.3 does not support the flag."""

Piece: TypeAlias = bytes | tuple[int, int]
"""Bytes, or their range in the file: start, end."""


class MemoryFile:
    """An unnamed file in memory; deleted with its last descriptor."""

    __slots__ = ("fd", "size")

    def __init__(self, data: bytes = b"") -> None:
        """Raises OSError."""
        _closer.start()
        self.fd = _create()
        self.size = 0
        if data:
            self.append(data)

    @classmethod
    def of(cls, fd: int) -> "MemoryFile":
        """The file with this descriptor, which it takes over; writing begins at the start of the file."""
        made = cls.__new__(cls)
        made.fd, made.size = fd, 0
        return made

    def __del__(self) -> None:
        fd = getattr(self, "fd", -1)
        if fd < 0:
            return
        if os.fstat(fd).st_size <= LARGE_BYTES:  # not `size`: a helper may have written to it
            os.close(fd)
        else:
            _closer.close(fd)

    def append(self, data: bytes | bytearray) -> None:
        """Raises OSError."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, self.size)
            self.size += count
            view = view[count:]


def _create() -> int:
    """The descriptor of a new memory file. Raises OSError."""
    try:
        return os.memfd_create("farebox-body", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("farebox-body", os.MFD_CLOEXEC)


class _Closer:
    """Closes large files on its own thread, as the operating system takes some milliseconds to reclaim their memory."""

    def __init__(self) -> None:
        self._fds: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="farebox-close", daemon=True)
            self._thread.start()

    def close(self, fd: int) -> None:
        """Close the file; may be called at any point, also by a finalizer."""
        if self._thread is None:
            os.close(fd)
        else:
            self._fds.put(fd)

    def _work(self) -> None:
        while True:
            os.close(self._fds.get())


_closer = _Closer()


class LargeBody:
    """A sequence of bytes whose large parts are in a memory file."""

    __slots__ = ("_size", "file", "pieces")

    def __init__(self, file: MemoryFile, pieces: tuple[Piece, ...]) -> None:
        self.file = file
        self.pieces = pieces
        self._size = sum(map(_length, pieces))

    def __len__(self) -> int:
        return self._size

    def blocks(self) -> Iterator[bytes]:
        """The content, block by block. Raises EOFError if the file is shorter than the pieces say."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            at, end = piece
            while at < end:
                block = _pread(self.file, at, min(end, at + BLOCK_BYTES))
                at += len(block)
                yield block

    def part(self, start: int, end: int) -> tuple[Piece, ...]:
        """The pieces between two offsets."""
        found: list[Piece] = []
        at = 0
        for piece in self.pieces:
            size = _length(piece)
            first, last = max(start - at, 0), min(end - at, size)
            if first < last:
                found.append(piece[first:last] if isinstance(piece, bytes) else (piece[0] + first, piece[0] + last))
            at += size
        return tuple(found)


Body: TypeAlias = bytes | LargeBody


def part_of(body: Body, start: int, end: int) -> Body:
    """A body that is a part of another one."""
    return body[start:end] if isinstance(body, bytes) else LargeBody(body.file, body.part(start, end))


def joined(file: MemoryFile, pieces: tuple[Piece, ...]) -> bytes:
    """The content of these pieces as bytes."""
    if len(pieces) == 1 and not isinstance(pieces[0], bytes):
        return _read(file, *pieces[0])
    return b"".join(piece if isinstance(piece, bytes) else _read(file, *piece) for piece in pieces)


def whole(body: Body) -> bytes:
    """The whole content as bytes: for small bodies, or where speed does not matter."""
    return body if isinstance(body, bytes) else joined(body.file, body.pieces)


def _read(file: MemoryFile, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        parts.append(_pread(file, start, end))
        start += len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _pread(file: MemoryFile, start: int, end: int) -> bytes:
    """A part of the range, at least one byte."""
    if not (part := os.pread(file.fd, end - start, start)):
        raise EOFError
    return part


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
