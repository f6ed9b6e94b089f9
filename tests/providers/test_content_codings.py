"""Decoding content codings, whole and in pieces, within a bound."""

import gzip
import os
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.decoding import BrokenCoding, Decoder, TooLarge, UnknownCoding, codings, decode
from tests.compression import raw_deflate, zstd

CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zstd": ("zstd", zstd),
    "zstd, two frames": ("zstd", lambda body: zstd(body[:5]) + zstd(body[5:])),
    "gzip": ("gzip", gzip.compress),
    "gzip, two members": ("gzip", lambda body: gzip.compress(body[:5]) + gzip.compress(body[5:])),
    "brotli": ("BR", brotli.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its frame": ("deflate", raw_deflate),
    "gzip in zstd": ("gzip, zstd", lambda body: zstd(gzip.compress(body))),
    "nothing": ("identity", bytes),
}


@pytest.mark.parametrize("name", CODERS)
@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.binary(max_size=400)), times=st.integers(1, 400), size=st.integers(1, 700))
def test_decoding_is_independent_of_chunk_boundaries(name: str, parts: list[bytes], times: int, size: int) -> None:
    coding, code = CODERS[name]
    body = b"".join(parts) * times
    coded = code(body)
    assert decode(coded, codings(coding), len(body)) == body
    decoder = Decoder(codings(coding))
    pieces = (piece for at in range(0, len(coded), size) for piece in decoder.feed(coded[at : at + size], len(body)))
    assert b"".join(pieces) == body
    decoder.close()


@pytest.mark.parametrize("name", [name for name in CODERS if name != "nothing"])
def test_a_truncated_body_is_broken(name: str) -> None:
    coding, code = CODERS[name]
    coded = code(b"Good morning, Acme. " * 50)
    for broken in (coded[:-1], coded[: len(coded) // 2], b"\xff" + coded):
        with pytest.raises(BrokenCoding):
            decode(broken, codings(coding), 10_000)
    if coding != "deflate":  # what follows is not examined
        with pytest.raises(BrokenCoding):
            decode(coded + b"x", codings(coding), 10_000)
    assert decode(b"", codings(coding), 0) == b""


@pytest.mark.parametrize("name", [name for name in CODERS if name != "nothing"])
def test_the_decoded_size_is_limited(name: str) -> None:
    coding, code = CODERS[name]
    coded = code(bytes(3_000_000))
    assert len(decode(coded, codings(coding), 3_000_000)) == 3_000_000
    with pytest.raises(TooLarge):
        decode(coded, codings(coding), 2_999_999)


@pytest.mark.parametrize("coding", ["gzip", "zstd", "gzip, gzip", "br, gzip", "gzip, gzip, gzip"])
def test_work_is_bounded_if_the_output_is_empty(coding: str) -> None:
    """Empty members and frames, and data between two codings."""
    empty = zstd(b"") if coding == "zstd" else gzip.compress(b"")
    coded = empty * 200_000
    if coding == "br, gzip":
        # A brotli stream with a metadata block of 16 MiB, which is complete and produces no output.
        coded = b"\xec\xff\xff\x7f" + bytes(2**24) + b"\x03"
    for _ in codings(coding)[1:]:
        coded = gzip.compress(coded, 1)
    with pytest.raises(TooLarge):
        decode(coded, codings(coding), 2**20)


@pytest.mark.parametrize(("coding", "code"), [("gzip", gzip.compress), ("zstd", zstd)])
def test_many_members_with_content_are_decoded(coding: str, code: Callable[[bytes], bytes]) -> None:
    part = os.urandom(2**12)
    assert decode(code(part) * 1000, [coding], 2**23) == part * 1000


def test_codings_that_are_not_known() -> None:
    for coding in ("compress", "aws-chunked", "gzip, nothing", "gzip, gzip, gzip, gzip"):
        with pytest.raises(UnknownCoding):
            decode(b"x", codings(coding), 10)
    assert codings(" GZip , identity,, br") == ["gzip", "br"]
