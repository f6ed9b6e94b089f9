"""Answers that come compressed although they were asked for as they are: decoded as they come, and no bombs."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import brotli
import zstandard

from farebox.providers.upstream import UpstreamAnswer, UpstreamFailed

STEP_BYTES_MAX: Final = 2**20
"""Bytes that are decoded at a time."""
RATIO_MAX: Final = 200
"""How many times larger an answer may become; text that machines write seldom shrinks to less than a twentieth."""
FREE_BYTES: Final = 16 * 2**20
"""An answer that is decoded to no more than this may have any ratio."""
ENCODINGS_MAX: Final = 3
"""Encodings that may be stacked."""
_ZSTD_WINDOW: Final = 8 * 2**20  # what RFC 9659 lets a content coding ask for
_ZSTD_SLICE: Final = 512  # each block, of four bytes at least, is decoded to 128 KiB at most


class Unknown(ValueError):
    """An encoding that nobody here can undo."""


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decoded pieces of a bounded size. Raises the library's own error."""
        ...

    @property
    def ended(self) -> bool:
        """Whether what came is whole, or nothing came."""
        ...


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
        while data:
            yield self._inner.decompress(data, STEP_BYTES_MAX)
            data = self._inner.unconsumed_tail
            if self._inner.eof:
                data = self._inner.unused_data
                if not self._gzip or not data.strip(b"\0"):
                    return
                self._inner = zlib.decompressobj(31)

    @property
    def ended(self) -> bool:
        return not self._head and (self._inner is None or self._inner.eof)


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.process(data, output_buffer_limit=STEP_BYTES_MAX)
        while not self._inner.can_accept_more_data():
            yield self._inner.process(b"", output_buffer_limit=STEP_BYTES_MAX)

    @property
    def ended(self) -> bool:
        return bool(self._inner.is_finished())


class _Zstd:
    """One frame or several."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._inner = self._context.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inner.eof:
                self._inner = self._context.decompressobj()
            yield self._inner.decompress(data[:_ZSTD_SLICE])
            data = self._inner.unused_data + data[_ZSTD_SLICE:]

    @property
    def ended(self) -> bool:
        return self._inner.eof


_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstd,
}


def encodings_of(headers: list[tuple[str, str]]) -> list[str]:
    """The encodings of an answer, in the order in which they were applied."""
    values = [value for name, value in headers if name.lower() == "content-encoding"]
    names = [name.strip().lower() for value in values for name in value.split(",")]
    return [name for name in names if name not in ("", "identity")]


def decoded(answer: UpstreamAnswer) -> UpstreamAnswer:
    """The answer as it was before it was encoded, without the headers that no longer hold. Raises Unknown."""
    encodings = encodings_of(answer.headers)
    if not encodings:
        return answer
    if len(encodings) > ENCODINGS_MAX or not all(name in _DECODERS for name in encodings):
        raise Unknown(", ".join(encodings)[:60])
    return _Decoded(answer, [_DECODERS[name]() for name in reversed(encodings)])


class _Decoded:
    """See providers.upstream.UpstreamAnswer."""

    def __init__(self, answer: UpstreamAnswer, decoders: list[_Decoder]) -> None:
        dropped = ("content-encoding", "content-length")
        self.status = answer.status
        self.headers = [(name, value) for name, value in answer.headers if name.lower() not in dropped]
        self._answer = answer
        self._decoders = decoders
        self._pieces: Iterator[bytes] = iter(())
        self._taken = self._given = 0

    async def chunk(self) -> bytes | None:
        """The next bytes. Raises UpstreamFailed, also where they are not what they are said to be, or a bomb."""
        while True:
            try:
                piece = next(self._pieces, None)
            except (zlib.error, brotli.error, zstandard.ZstdError) as error:
                raise UpstreamFailed("the answer could not be decoded", sent=True) from error
            if piece:
                self._given += len(piece)
                if self._given > max(FREE_BYTES, RATIO_MAX * self._taken):
                    raise UpstreamFailed(f"the answer grows to more than {RATIO_MAX} times its size", sent=True)
                return piece
            if piece is None and not await self._more():
                return None

    async def close(self) -> None:
        await self._answer.close()

    async def _more(self) -> bool:
        data = await self._answer.chunk()
        if data is not None:
            self._taken += len(data)
            self._pieces = _through(self._decoders, data)
            return True
        if self._taken and not all(decoder.ended for decoder in self._decoders):
            raise UpstreamFailed("the answer broke off in the middle of its encoding", sent=True)
        return False


def _through(decoders: list[_Decoder], data: bytes) -> Iterator[bytes]:
    if not decoders:
        yield data
        return
    for piece in decoders[0].feed(data):
        yield from _through(decoders[1:], piece)
