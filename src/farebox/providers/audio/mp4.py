"""MP4 and its relatives (M4A, MOV), whole or fragmented."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from farebox.providers.audio.measure import Measure, plausible_length, within
from farebox.providers.audio.ogg import OPUS_LONGEST

_HOLDERS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_AAC: Final = frozenset({1, 2, 3, 4, 5, 17, 29})
"""Object types whose packets have 1,024 samples at most, at the rate that follows."""
_ALAC_MOST: Final = 65_536
_BOXES_MAX: Final = 20_000
_RATES: Final = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


@dataclass(slots=True)
class _Track:
    number: int = 0
    sound: bool = False
    duration: int = 0
    """In the movie's own time scale, without the parts that an edit list cuts off."""
    packets: int = 0
    per_packet: list[float | None] = field(default_factory=list)
    """By description of the codec, of which any packet may use any: upper bound in seconds; None if the codec does not
    determine it."""


def length(data: bytes, start: int) -> Measure | None:
    """The duration of the longest audio track; None if there is none."""
    tracks: list[_Track] = []
    scale, current = 0, _Track()
    for name, at, end in _boxes(data, start):
        if name == b"mvhd":
            scale = _number(data, at + (20 if data[at : at + 1] == b"\x01" else 12))
        elif name == b"trak":
            current = _Track()
            tracks.append(current)
        elif name == b"tfhd":
            number = _number(data, at + 4)
            current = next((track for track in tracks if track.number == number), _Track())
        elif name == b"trun":
            current.packets += _number(data, at + 4)
        else:
            _describe(data, name, at, end, current)
    sounds = [track for track in tracks if track.sound]
    if not sounds:
        return None
    return max((_length(track, scale, len(data) - start) for track in sounds), key=lambda measure: measure.most)


def _length(track: _Track, scale: int, size: int) -> Measure:
    declared = track.duration / scale if scale else None
    known = [seconds for seconds in track.per_packet if seconds is not None]
    if not known or len(known) < len(track.per_packet):
        return within(declared, size)
    counted = min(track.packets, size) * max(known)
    return Measure(plausible_length(declared, counted), counted)


def _describe(data: bytes, name: bytes, at: int, end: int, track: _Track) -> None:
    if name == b"tkhd":
        long = data[at : at + 1] == b"\x01"
        track.number = _number(data, at + (20 if long else 12))
        track.duration = int.from_bytes(data[at + (28 if long else 20) : at + (36 if long else 24)], "big")
    elif name == b"hdlr":
        track.sound = track.sound or data[at + 8 : at + 12] == b"soun"
    elif name in (b"stsz", b"stz2"):
        track.packets += _number(data, at + 8)
    elif name == b"stsd":
        track.per_packet += _per_packets(data[at + 8 : min(end, at + 4096)])
        if end > at + 4096:  # what is not read may describe longer packets
            track.per_packet.append(None)


def _per_packets(entries: bytes) -> Iterator[float | None]:
    """The duration of a packet by each description of a codec."""
    while len(entries) >= 8:
        size = max(8, _number(entries, 0))
        yield _per_packet(entries[:size])
        entries = entries[size:]


def _per_packet(entry: bytes) -> float | None:
    """The duration of a packet, by the description of its codec."""
    if entry[4:8] == b"Opus":
        return OPUS_LONGEST
    if entry[4:8] == b"alac":
        at = entry.find(b"alac", 12)
        most, rate = (_number(entry, at + 8), _number(entry, at + 28)) if at >= 0 else (0, 0)
        return most / rate if 0 < most <= _ALAC_MOST and rate else None
    at = entry.find(b"esds")
    if entry[4:8] != b"mp4a" or entry.count(b"esds") != 1:
        return None
    at += 8
    for tag, skip in ((3, 3), (4, 13), (5, 0)):  # the stream, its decoder, the decoder's configuration
        if entry[at : at + 1] != bytes([tag]):
            return None
        at += 1
        while at < len(entry) and entry[at] & 0x80:
            at += 1
        at += 1 + skip
        if tag == 4 and entry[at - 13 : at - 12] not in (b"\x40", b"\x66", b"\x67", b"\x68"):
            return None  # not AAC
    known = int.from_bytes(entry[at : at + 5], "big")
    if known >> 35 & 31 not in _AAC:
        return None
    index = known >> 31 & 15
    rate = known >> 7 & 0xFFFFFF if index == 15 else _RATES[index] if index < len(_RATES) else 0
    return 1024 / rate if rate else None


def _boxes(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box's content, parents before children."""
    at = start
    for _ in range(_BOXES_MAX):
        if at + 8 > len(data):
            return
        size, name, head = _number(data, at), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = min(at + size, len(data)) if size >= head else len(data)
        yield name, at + head, end
        at = at + head if name in _HOLDERS else end


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
