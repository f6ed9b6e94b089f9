"""Ogg: Opus, Vorbis, FLAC."""

from typing import Final

from farebox.providers.audio.frames import flac_frames
from farebox.providers.audio.measure import SLOWEST, STEPS_MAX, Measure, believed, within

OPUS_LONGEST: Final = 0.12
"""Most seconds that one Opus packet can hold."""


def _opus_frames() -> tuple[int, ...]:
    """Length of one Opus frame in units of 2.5 ms, indexed by the first byte of its packet divided by eight."""
    silk, hybrid, celt = (4, 8, 16, 24), (4, 8), (1, 2, 4, 8)
    return silk * 3 + hybrid * 2 + celt * 4


_OPUS_FRAMES: Final = _opus_frames()


def opus_seconds(first: int, second: int) -> float:
    """The duration of an Opus packet that begins with these two bytes."""
    count = (1, 2, 2, second & 63)[first & 3]
    return _OPUS_FRAMES[first >> 3] * min(count, 48) / 400


class _Stream:
    """What has been read from the pages so far."""

    __slots__ = ("first", "granule", "opus", "packets", "skipped")

    def __init__(self) -> None:
        self.first = b""
        """The packet that describes the stream."""
        self.granule = 0
        self.packets = 0
        self.opus = 0.0
        """Seconds of Opus packets."""
        self.skipped = 0


def length(data: bytes, start: int) -> Measure | None:
    """The duration; None if the stream is not audio that can be counted."""
    stream = _Stream()
    at, continued = start, False
    while 0 <= at <= len(data) - 27 and stream.packets < STEPS_MAX:
        if data[at : at + 4] != b"OggS":
            found = data.find(b"OggS", at)
            stream.skipped += (found if found >= 0 else len(data)) - at
            at = found
            continue
        granule = int.from_bytes(data[at + 6 : at + 14], "little")
        if granule < 1 << 63:
            stream.granule = max(stream.granule, granule)
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        place = at + 27 + len(lacing)
        continued = _page(data, place, lacing, continued, stream)
        at = place + sum(lacing)
    rest = len(data) - at if 0 <= at < len(data) else 0
    return _length(data, stream, stream.skipped + rest)


def _page(data: bytes, at: int, lacing: bytes, continued: bool, stream: _Stream) -> bool:
    """Take the packets of one page; returns whether its last one continues in the next."""
    fresh = not continued
    for size in lacing:
        if fresh:
            if not stream.first:
                stream.first = data[at : at + 64]
            elif at + 1 < len(data) and data[at : at + 4] != b"Opus" and data[at + 1 : at + 7] != b"vorbis":
                stream.packets += 1
                stream.opus += opus_seconds(data[at], data[at + 1])
        fresh = size < 255
        at += size
    return bool(lacing) and not fresh


def _length(data: bytes, stream: _Stream, uncounted: int) -> Measure | None:
    first = stream.first
    if first.startswith(b"OpusHead"):
        declared = (stream.granule - int.from_bytes(first[10:12], "little")) / 48_000
        seconds = believed(declared, stream.opus)
        # uncounted bytes, as if they were packets of one or two bytes
        return Measure(seconds + uncounted / SLOWEST, stream.opus + uncounted * OPUS_LONGEST)
    if first.startswith(b"\x01vorbis") and len(first) >= 29:
        rate = int.from_bytes(first[12:16], "little")
        short, long = 1 << (first[28] & 15), 1 << (first[28] >> 4)
        if not rate or uncounted > len(data) // 2:
            return None
        packets = max(0, stream.packets - 1)  # the first one only begins the next
        return Measure(
            max(stream.granule / rate, packets * short / 2 / rate - 1), (packets + uncounted) * long / 2 / rate
        )
    if first.startswith(b"\x7fFLAC"):
        return flac_frames(data, 0, first[17:51])
    return within(None, len(data))
