"""The duration of an audio file.

The header of a file is written by the caller, and the charge depends on the duration. So frames are counted: a header
is trusted if it states slightly less than the frames (encoders' padding, which decoders cut off), never if it states
much less. The libraries that read durations (tinytag, mutagen) trust the header; those that decode are far larger, and
a decoder in C would read untrusted bytes.
"""

from collections.abc import Callable, Mapping
from decimal import ROUND_UP, Decimal
from types import MappingProxyType
from typing import TypeVar

import msgspec

from farebox.providers.audio import matroska, mp4, ogg, pcm
from farebox.providers.audio.frames import adts_length, flac_length, mpeg_length
from farebox.providers.audio.measure import Measure, within

T = TypeVar("T")

IMMEDIATE_BYTES = 2 * 2**10
"""Bytes of audio that can be walked in about a millisecond, whatever they contain."""
_MILLISECOND = Decimal("0.001")
_ID3 = b"ID3"


class AudioLength(msgspec.Struct, frozen=True, gc=False):
    """The duration of some audio."""

    seconds: Decimal
    """The duration that a decoder will find, to the millisecond."""
    most: Decimal
    """Upper bound of the duration of a file with these bytes; equal to the duration if every frame was counted."""
    sure: bool = True
    """Whether it was counted, rather than taken from a header or guessed from the size."""


class TooLong(Exception):
    """There is more audio than may be walked here: see `at_once`."""


class _Bound:
    left: int | None = None
    """Bytes that may still be walked; None: unlimited."""


def at_once(function: Callable[..., T], *arguments: object) -> T:
    """Call `function(*arguments)`, walking at most IMMEDIATE_BYTES of audio. Raises TooLong, and whatever the function
    raises."""
    _Bound.left = IMMEDIATE_BYTES
    try:
        return function(*arguments)
    finally:
        _Bound.left = None


def audio_length(data: bytes) -> AudioLength:
    """The length of a file: MP3, AAC, FLAC, Ogg, MP4, WebM, WAV or AIFF. For other formats, bounds from usual bit
    rates. Raises TooLong within `at_once`."""
    if _Bound.left is not None:
        _Bound.left -= len(data)
        if _Bound.left < 0:
            raise TooLong
    return _rounded(_measure(data))


def unknown_length(size: int) -> AudioLength:
    """The duration of this many unreadable bytes: the usual one, and the longest possible."""
    return _rounded(within(None, size))


def bare_length(size: int, rate: int) -> AudioLength:
    """The duration of 16-bit samples without a header, at this rate."""
    return _rounded(Measure(size / 2 / rate, size / 2 / rate))


def _measure(data: bytes) -> Measure:
    start = _after_id3(data)
    if start >= len(data):
        return within(None, len(data))
    reader = _READERS.get(data[start : start + 4]) or (mp4.length if data[start + 4 : start + 8] == b"ftyp" else None)
    if reader is not None:
        found = reader(data, start)
    elif data[start] == 0xFF and data[start + 1 : start + 2] and data[start + 1] & 0xF6 == 0xF0:
        found = adts_length(data, start)
    else:
        found = mpeg_length(data, start)
    return found if found is not None and found.most else within(None, len(data) - start)


def _after_id3(data: bytes) -> int:
    """Where the tags at a file's beginning end: players skip them by their stated size."""
    at = 0
    while data[at : at + 3] == _ID3 and len(data) >= at + 10:
        sizes = data[at + 6 : at + 10]
        at += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]) + (10 if data[at + 5] & 0x10 else 0)
    return at


def _rounded(found: Measure) -> AudioLength:
    seconds = max(0.0, min(found.seconds, found.most))
    return AudioLength(_milliseconds(seconds), _milliseconds(max(0.0, found.most)), found.sure)


def _milliseconds(seconds: float) -> Decimal:
    return Decimal(round(seconds, 6)).quantize(_MILLISECOND, ROUND_UP)


_READERS: Mapping[bytes, Callable[[bytes, int], Measure | None]] = MappingProxyType(
    {
        b"fLaC": flac_length,
        b"OggS": ogg.length,
        b"RIFF": pcm.wav_length,
        b"RF64": pcm.wav_length,
        b"FORM": pcm.aiff_length,
        b"\x1a\x45\xdf\xa3": matroska.length,
    }
)
