"""Uncompressed samples with a header: WAV and AIFF."""

from collections.abc import Iterator

from farebox.providers.audio.frames import mpeg_length
from farebox.providers.audio.measure import Measure, within

_BITS = {2: 4, 6: 8, 7: 8, 0x11: 4}
"""Bits per sample by WAV format, whatever the header says: ADPCM (nearly), A-law, µ-law."""
_PCM = frozenset({1, 3})
"""Integers and floats, which have the number of bits in the header."""
_EXTENSIBLE = 0xFFFE
_MPEG = frozenset({0x50, 0x55})
_AIFF_PCM = frozenset({b"NONE", b"sowt", b"twos", b"raw ", b"fl32", b"fl64", b"FL32", b"FL64", b"in24", b"in32"})


def wav_length(data: bytes, start: int) -> Measure | None:
    """WAV; None if it is cut before its samples, or their format is unknown. Upper bound: everything after the header
    is samples. Of several descriptions, the one with the longest duration counts.
    """
    layouts: list[bytes] = []
    first = size = 0
    for name, at, length in _chunks(data, start, big=False):
        if name == b"fmt ":
            layouts.append(data[at : at + min(length, 40)])
        elif name == b"data":
            first = first or at
            rest = len(data) - at
            size += length if 0 < length <= rest else rest  # a streaming writer did not know the size
    found = [_samples(data, layout, first, size) for layout in layouts if len(layout) >= 16 and first]
    known = [measure for measure in found if measure is not None]
    return max(known, default=None) if len(known) == len(found) else None


def _samples(data: bytes, layout: bytes, at: int, size: int) -> Measure | None:
    """The duration of this many bytes of samples described this way; None if it is not known."""
    kind, channels = int.from_bytes(layout[:2], "little"), int.from_bytes(layout[2:4], "little")
    rate, bits = int.from_bytes(layout[4:8], "little"), int.from_bytes(layout[14:16], "little")
    if kind == _EXTENSIBLE and len(layout) >= 26:
        kind = int.from_bytes(layout[24:26], "little")
    if kind in _MPEG:
        return mpeg_length(data, at)
    if kind in _BITS:
        bits = _BITS[kind]
    elif kind not in _PCM or not 0 < bits <= 64:
        return None
    each = rate * channels * bits / 8
    return Measure(size / each, (len(data) - at) / each) if each else None


def aiff_length(data: bytes, start: int) -> Measure | None:
    """AIFF and AIFF-C; None if it is cut before its samples."""
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
    """Name, place and size of each chunk, up to the end of the file."""
    at = start + 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big" if big else "little")
        yield data[at : at + 4], at + 8, size
        at += 8 + size + (size & 1)


def _extended(number: bytes) -> float:
    """A sample rate in AIFF's 80-bit format; 0 if players do not accept it."""
    exponent = (number[0] & 0x7F) << 8 | number[1]
    if not 16383 <= exponent <= 16383 + 20:
        return 0.0
    return int.from_bytes(number[2:10], "big") / 2.0 ** (63 - (exponent - 16383))
