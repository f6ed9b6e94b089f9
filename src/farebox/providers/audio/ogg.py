"""Ogg: Opus, Vorbis, FLAC."""

from dataclasses import dataclass
from typing import Final

from farebox.providers.audio.frames import flac_frames
from farebox.providers.audio.measure import SLOWEST, STEPS_MAX, Measure, plausible_length, within

OPUS_LONGEST: Final = 0.12
"""Most seconds that one Opus packet can hold."""
_BEGINS: Final = 2
"""The bit of a page's type that says that it begins a logical stream."""
_FLAC: Final = b"\x7fFLAC"


def _opus_frames() -> tuple[int, ...]:
    """Length of one Opus frame in units of 2.5 ms, indexed by the first byte of its packet divided by eight."""
    silk, hybrid, celt = (4, 8, 16, 24), (4, 8), (1, 2, 4, 8)
    return silk * 3 + hybrid * 2 + celt * 4


_OPUS_FRAMES: Final = _opus_frames()


def opus_seconds(first: int, second: int) -> float:
    """The duration of an Opus packet that begins with these two bytes."""
    count = (1, 2, 2, second & 63)[first & 3]
    return _OPUS_FRAMES[first >> 3] * min(count, 48) / 400


@dataclass(slots=True)
class _Stream:
    """What has been read from the pages of a logical stream so far."""

    first: bytes = b""
    """The packet that describes the stream."""
    granule: int = 0
    size: int = 0
    packets: int = 0
    opus: float = 0.0
    """Seconds of Opus packets."""
    continued: bool = False
    """Whether the last page ended within a packet."""


def length(data: bytes, start: int) -> Measure | None:
    """The sum of the durations of all logical streams, which may follow one another; None if that cannot be counted."""
    streams: list[_Stream] = []
    current: dict[bytes, _Stream] = {}
    at, steps, skipped = start, 0, 0
    while 0 <= at <= len(data) - 27 and steps < STEPS_MAX:
        if data[at : at + 4] != b"OggS":
            found = data.find(b"OggS", at)
            skipped += (found if found >= 0 else len(data)) - at
            at = found
            continue
        serial = data[at + 14 : at + 18]
        if data[at + 5] & _BEGINS or serial not in current:
            current[serial] = _Stream()
            streams.append(current[serial])
        stream = current[serial]
        granule = int.from_bytes(data[at + 6 : at + 14], "little")
        if granule < 1 << 63:
            stream.granule = max(stream.granule, granule)
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        place = at + 27 + len(lacing)
        steps += 1 + len(lacing)
        _page(data, place, lacing, stream)
        at = place + sum(lacing)
    rest = len(data) - at if 0 <= at < len(data) else 0
    return _sum(data, streams, skipped + rest)


def _page(data: bytes, at: int, lacing: bytes, stream: _Stream) -> None:
    """Take the packets of one page."""
    fresh = not stream.continued
    for size in lacing:
        if fresh:
            if not stream.first:
                stream.first = data[at : at + 64]
            elif at + 1 < len(data) and data[at : at + 4] != b"Opus" and data[at + 1 : at + 7] != b"vorbis":
                stream.packets += 1
                stream.opus += opus_seconds(data[at], data[at + 1])
        fresh = size < 255
        at += size
    stream.size += sum(lacing)
    stream.continued = bool(lacing) and not fresh


def _sum(data: bytes, streams: list[_Stream], uncounted: int) -> Measure | None:
    flac = [stream.first[17:51] for stream in streams if stream.first.startswith(_FLAC)]
    measures = [_length(data, stream, uncounted) for stream in streams if not stream.first.startswith(_FLAC)]
    if flac:  # their frames are found wherever they are; the lowest rate makes them longest
        measures.append(flac_frames(data, 0, min(flac, key=lambda described: described[10:13])))
    known = [measure for measure in measures if measure is not None]
    if len(known) < len(measures):
        return None
    seconds, most = sum(each.seconds for each in known), sum(each.most for each in known)
    return Measure(seconds, most, all(each.sure for each in known))


def _length(data: bytes, stream: _Stream, uncounted: int) -> Measure | None:
    """The duration of one stream; None if it cannot be counted. `uncounted`: bytes that may belong to it."""
    first = stream.first
    if first.startswith(b"OpusHead"):
        declared = (stream.granule - int.from_bytes(first[10:12], "little")) / 48_000
        seconds = plausible_length(declared, stream.opus)
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
    return within(None, stream.size)
