"""Samples behind a header: WAV and AIFF."""

from collections.abc import Iterator

from farebox.providers.audio.measure import Measure, within

_PCM = frozenset({1, 2, 3, 6, 7, 0x11, 0xFFFE})
"""Formats of WAV whose samples all take the same bits: whole numbers, fractions, A-law, µ-law; nearly, ADPCM."""
_AIFF_PCM = frozenset({b"NONE", b"sowt", b"twos", b"raw ", b"fl32", b"fl64", b"FL32", b"FL64", b"in24", b"in32"})


def wav_length(data: bytes, start: int) -> Measure | None:
    """WAV; None where it is cut before its samples. At most, everything behind the header is samples."""
    layout = b""
    for name, at, size in _chunks(data, start, big=False):
        if name == b"fmt ":
            layout = data[at : at + 16]
        elif name == b"data" and len(layout) == 16:
            rest = len(data) - at
            if size > rest or not size:  # written while it was not known yet
                size = rest
            rate = int.from_bytes(layout[4:8], "little")
            each = int.from_bytes(layout[2:4], "little") * int.from_bytes(layout[14:16], "little") / 8
            if int.from_bytes(layout[:2], "little") in _PCM and rate and each:
                return Measure(size / (rate * each), rest / (rate * each))
            stated = int.from_bytes(layout[8:12], "little")
            return within(size / stated if stated else None, rest)
    return None


def aiff_length(data: bytes, start: int) -> Measure | None:
    """AIFF and AIFF-C; None where it is cut before its samples."""
    layout = b""
    for name, at, size in _chunks(data, start, big=True):
        if name == b"COMM":
            layout = data[at : at + min(size, 22)]
        elif name == b"SSND" and len(layout) >= 18:
            rest = max(0, len(data) - at - 8)
            size = min(size - 8, rest) if size > 8 else rest
            rate = _extended(layout[8:18])
            each = int.from_bytes(layout[:2], "big") * (-(-int.from_bytes(layout[6:8], "big") // 8))
            if rate and each and (len(layout) < 22 or layout[18:22] in _AIFF_PCM):
                return Measure(size / (rate * each), rest / (rate * each))
            return within(int.from_bytes(layout[2:6], "big") / rate if rate else None, rest)
    return None


def _chunks(data: bytes, start: int, *, big: bool) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of each chunk, as far as the file goes."""
    at = start + 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big" if big else "little")
        yield data[at : at + 4], at + 8, size
        at += 8 + size + (size & 1)


def _extended(number: bytes) -> float:
    """A sample rate as AIFF writes it, in 80 bits; 0 where it is none that a player takes."""
    exponent = (number[0] & 0x7F) << 8 | number[1]
    if not 16383 <= exponent <= 16383 + 20:
        return 0.0
    return int.from_bytes(number[2:10], "big") / 2.0 ** (63 - (exponent - 16383))
