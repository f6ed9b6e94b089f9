"""Decoding HTTP content codings (RFC 9110, 8.4.1) in pieces of bounded size: a few bytes may expand to gigabytes."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import brotli
import zstandard

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

KNOWN: Final = "zstd, br, gzip, deflate"
"""The codings that can be decoded, as an `Accept-Encoding` lists them."""
CODINGS_MAX: Final = 3
"""Maximum number of codings applied to one body."""
_HEADER_MAX: Final = 512
PIECE_BYTES_MAX: Final = 2**20
MEMBERS_FREE: Final = 100
MEMBER_BYTES: Final = 2**10
"""What each further gzip member or zstd frame counts as in addition to its content: even empty ones take work."""
_GZIP_SLICE: Final = 2**12  # the data after a member is copied at its end
_ZSTD_WINDOW: Final = 2**23  # the maximum that RFC 9659 allows a sender
_ZSTD_SLICE: Final = 512  # four bytes can encode a block of 128 KiB, which is output as a whole
_ZSTD_SMALL: Final = 2**16  # up to this size in smaller slices, which give less output at once
_ZSTD_SMALL_SLICE: Final = 64


class UnknownCoding(ValueError):
    """A coding that cannot be decoded, or too many of them."""


class BrokenCoding(ValueError):
    """The bytes are not valid in their coding, or end too early."""


class TooLarge(ValueError):
    """The decoded body would exceed the limit."""


class _Stage(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of bounded size. Raises the library's own error."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the bytes may end here."""
        ...

    @property
    def members(self) -> int:
        """The number of members or frames that have begun."""
        ...


class Decoder:
    """Decodes one body as it arrives. The intermediate data between two codings is bounded like the body itself, as
    much of it may decode to nothing.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: see `codings`. Raises UnknownCoding."""
        if len(names) > CODINGS_MAX or not all(name in _STAGES for name in names):
            raise UnknownCoding(", ".join(names)[:60])
        self._stages = [_STAGES[name]() for name in reversed(names)]
        self._given = [0] * len(names)
        """Bytes decoded by each stage."""

    def feed(self, data: bytes, limit: int) -> Iterator[bytes]:
        """Decode the next bytes lazily. `limit`: how many decoded bytes are allowed so far.

        Raises BrokenCoding, TooLarge.
        """
        try:
            yield from self._through(0, data, limit)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise BrokenCoding(str(error)) from error

    def _through(self, number: int, data: bytes, limit: int) -> Iterator[bytes]:
        if number == len(self._stages):
            yield data
            return
        stage = self._stages[number]
        # Data that is still encoded may be a little larger than what it decodes to.
        most = limit if number == len(self._stages) - 1 else 2 * limit + MEMBER_BYTES
        for piece in stage.feed(data):
            self._given[number] += len(piece)
            if self._given[number] + max(0, stage.members - MEMBERS_FREE) * MEMBER_BYTES > most:
                raise TooLarge(f"the body decodes to more than {limit} bytes")
            yield from self._through(number + 1, piece, limit)

    def close(self) -> None:
        """The body has ended. Raises BrokenCoding if it is incomplete."""
        if not all(stage.whole for stage in self._stages):
            raise BrokenCoding("the encoded data is truncated")


def codings(header: str | None) -> list[str]:
    """The codings in a `Content-Encoding`, in the order in which they were applied. A very long header contains no
    known coding.
    """
    if not header:
        return []
    if len(header) > _HEADER_MAX:
        return [header]
    names = [name.strip().lower() for name in header.split(",")]
    return [name for name in names if name not in ("", "identity")]


def decode(body: bytes, names: Sequence[str], limit: int) -> bytes:
    """Decode a whole body; an empty one is empty in any coding. Raises UnknownCoding, BrokenCoding, TooLarge."""
    decoder = Decoder(names)
    if not body:
        return body
    whole = b"".join(decoder.feed(body, limit))
    decoder.close()
    return whole


class _Zlib:
    """gzip, with one member or several, and deflate with or without the zlib header."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self.members = 1
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
        for start in range(0, len(data), _GZIP_SLICE):
            yield from self._slice(data[start : start + _GZIP_SLICE])

    def _slice(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        while data or piece:
            if data and self._inner.eof:
                if not self._gzip or not data.strip(b"\0"):
                    return
                self._inner = zlib.decompressobj(31)
                self.members += 1
            piece = self._inner.decompress(data, PIECE_BYTES_MAX)
            yield piece
            data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail

    @property
    def whole(self) -> bool:
        return self._inner is not None and bool(self._inner.eof)


class _Brotli:
    members = 1

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        # Until no output comes: it reports that it can take more data while it still buffers some.
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
        self.members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        size = _ZSTD_SLICE if len(data) > _ZSTD_SMALL else _ZSTD_SMALL_SLICE
        for start in range(0, len(data), size):
            coded = data[start : start + size]
            while coded:
                if self._inner.eof:
                    self._inner = self._context.decompressobj()
                    self.members += 1
                yield self._inner.decompress(coded)
                coded = self._inner.unused_data

    @property
    def whole(self) -> bool:
        return self._inner.eof


_STAGES: Final[dict[str, Callable[[], _Stage]]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstd,
}
