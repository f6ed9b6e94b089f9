"""Compressed responses."""

import gzip
import os
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from farebox.decoding import PIECE_BYTES_MAX, UnknownCoding
from farebox.providers import decoding
from farebox.providers.upstream import UpstreamFailed
from tests.compression import raw_deflate

PLAIN = b"data: " + b"So it is. " * 500 + b"\n\ndata: [DONE]\n\n"


class Source:
    """A response in these chunks."""

    status = 200

    def __init__(self, encoding: str, chunks: list[bytes]) -> None:
        self.headers = [("Content-Encoding", encoding), ("Content-Length", "9"), ("content-type", "text/plain")]
        self._chunks = chunks

    def whole(self) -> bytes | None:
        return None

    async def chunk(self) -> bytes | None:
        return self._chunks.pop(0) if self._chunks else None

    async def close(self) -> None: ...


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": lambda data: brotli.compress(data, quality=5),
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "zstd, identity": lambda data: (
        zstandard.ZstdCompressor().compress(data[:100]) + zstandard.ZstdCompressor().compress(data[100:])
    ),
}


async def decode(encoding: str, chunks: list[bytes]) -> bytes:
    response = decoding.decoded(Source(encoding, chunks))
    assert [name for name, _ in response.headers] == ["content-type"]
    out = []
    while (chunk := await response.chunk()) is not None:
        assert 0 < len(chunk) <= 64 * PIECE_BYTES_MAX
        out.append(chunk)
    return b"".join(out)


@pytest.mark.parametrize("encoding", ENCODERS)
async def test_every_encoding_in_one_piece_and_byte_by_byte(encoding: str) -> None:
    encoded = ENCODERS[encoding](PLAIN)
    assert await decode(encoding, [encoded]) == PLAIN
    assert await decode(encoding, [bytes([byte]) for byte in encoded]) == PLAIN


@pytest.mark.parametrize("encoding", ENCODERS)
async def test_a_truncated_or_mislabeled_body_fails(encoding: str) -> None:
    encoded = ENCODERS[encoding](os.urandom(1000))
    with pytest.raises(UpstreamFailed):
        await decode(encoding, [encoded[:-5]])
    with pytest.raises(UpstreamFailed):
        await decode(encoding, [b"data: hello, this is what it is\n\n" * 10])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_decompression_bomb_is_stopped(encoding: str) -> None:
    zeros = bytes(48 * 2**20)
    encoded = ENCODERS[encoding](zeros) if encoding in ENCODERS else gzip.compress(gzip.compress(zeros))
    with pytest.raises(UpstreamFailed, match="grows to more than"):
        await decode(encoding, [encoded])


async def test_a_response_without_a_body_is_invalid() -> None:
    assert await decode("gzip", []) == b""


async def test_events_are_decoded_as_they_arrive() -> None:
    encoder = zlib.compressobj(wbits=31)
    first = encoder.compress(b"data: 1\n\n") + encoder.flush(zlib.Z_SYNC_FLUSH)
    response = decoding.decoded(Source("gzip", [first, encoder.compress(b"data: 2\n\n") + encoder.flush()]))
    assert await response.chunk() == b"data: 1\n\n"
    assert await response.chunk() == b"data: 2\n\n"
    assert await response.chunk() is None


@pytest.mark.parametrize("encoding", ["snappy", "gzip, aws-chunked", "gzip, gzip, gzip, gzip"])
def test_an_unknown_encoding(encoding: str) -> None:
    with pytest.raises(UnknownCoding):
        decoding.decoded(Source(encoding, []))
