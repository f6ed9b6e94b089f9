"""Encoders for request and response bodies that the standard library lacks as one call."""

import zlib
from collections.abc import Callable

import zstandard

zstd: Callable[[bytes], bytes] = zstandard.ZstdCompressor().compress


def raw_deflate(body: bytes) -> bytes:
    """Deflate without zlib's frame, as some clients and servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()
