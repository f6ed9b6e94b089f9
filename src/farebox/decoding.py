"""Undoing the content codings of HTTP (RFC 9110, 8.4.1) in pieces of bounded size: a few bytes may hold gigabytes."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import brotli
import zstandard

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

KNOWN: Final = "zstd, br, gzip, deflate"
"""The codings that can be undone, as an `Accept-Encoding` has them."""
CODINGS_MAX: Final = 3
"""Codings that may be stacked."""
PIECE_BYTES_MAX: Final = 2**20
_ZSTD_WINDOW: Final = 2**23  # the most that RFC 9659 lets a sender use
_ZSTD_SLICE: Final = 512  # a block of 128 KiB takes four bytes at least, and comes out as a whole


class UnknownCoding(ValueError):
    """A coding that cannot be undone, or too many of them."""


class BrokenCoding(ValueError):
    """The bytes are not what their coding says, or end too early."""


class TooLarge(ValueError):
    """More would come out than may."""


class _Stage(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out, in pieces of bounded size. Raises the library's own error."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the bytes may end here."""
        ...


class Decoder:
    """Undoes the codings of one body as it comes."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: see `codings`. Raises UnknownCoding."""
        if len(names) > CODINGS_MAX or not all(name in _STAGES for name in names):
            raise UnknownCoding(", ".join(names)[:60])
        self._stages = [_STAGES[name]() for name in reversed(names)]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes decode to, decoded as it is asked for. Raises BrokenCoding."""
        try:
            yield from _through(self._stages, data)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise BrokenCoding(str(error)) from error

    def close(self) -> None:
        """The body has ended. Raises BrokenCoding where it is not whole."""
        if not all(stage.whole for stage in self._stages):
            raise BrokenCoding("the coded bytes end too early")


def codings(header: str | None) -> list[str]:
    """What a `Content-Encoding` names, in the order in which it was applied."""
    names = [name.strip().lower() for name in (header or "").split(",")]
    return [name for name in names if name not in ("", "identity")]


def decode(body: bytes, names: Sequence[str], limit: int) -> bytes:
    """A whole body without its codings; an empty one is empty in any. Raises UnknownCoding, BrokenCoding, TooLarge."""
    decoder = Decoder(names)
    if not body:
        return body
    pieces, size = [], 0
    for piece in decoder.feed(body):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body decodes to more than {limit} bytes")
        pieces.append(piece)
    decoder.close()
    return b"".join(pieces)


class _Zlib:
    """gzip, in one member or several, and deflate with or without zlib's frame."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._head = b""
        self._inner: Any = zlib.decompressobj(31) if gzip else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            framed = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inner = zlib.decompressobj(15 if framed else -15)
        piece = b""
        while data or piece:
            if data and self._inner.eof:
                if not self._gzip or not data.strip(b"\0"):
                    return
                self._inner = zlib.decompressobj(31)
            piece = self._inner.decompress(data, PIECE_BYTES_MAX)
            yield piece
            data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail

    @property
    def whole(self) -> bool:
        return self._inner is not None and bool(self._inner.eof)


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        # Until nothing comes: it says that it can take more data while it still keeps some back.
        while piece := self._inner.process(data, output_buffer_limit=PIECE_BYTES_MAX):
            data = b""
            yield piece

    @property
    def whole(self) -> bool:
        return bool(self._inner.is_finished())


class _Zstd:
    """One frame or several."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._inner: ZstdDecompressionObj = self._context.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE):
            coded = data[start : start + _ZSTD_SLICE]
            while coded:
                if self._inner.eof:
                    self._inner = self._context.decompressobj()
                yield self._inner.decompress(coded)
                coded = self._inner.unused_data

    @property
    def whole(self) -> bool:
        return self._inner.eof


def _through(stages: Sequence[_Stage], data: bytes) -> Iterator[bytes]:
    if not stages:
        yield data
        return
    for piece in stages[0].feed(data):
        yield from _through(stages[1:], piece)


_STAGES: Final[dict[str, Callable[[], _Stage]]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstd,
}
