"""Matroska and WebM. Recordings made by browsers state no duration: blocks are counted, or their times read."""

import struct
from dataclasses import dataclass, field
from typing import Final

from farebox.providers.audio.measure import SLOWEST, STEPS_MAX, Measure, plausible_length, within
from farebox.providers.audio.ogg import OPUS_LONGEST, opus_seconds

_SEGMENT: Final = 0x18538067
_INFO: Final = 0x1549A966
_SCALE: Final = 0x2AD7B1
_DURATION: Final = 0x4489
_TRACKS: Final = 0x1654AE6B
_TRACK: Final = 0xAE
_NUMBER: Final = 0xD7
_KIND: Final = 0x83
_CODEC: Final = 0x86
_ENCODINGS: Final = 0x6D80
_CLUSTER: Final = 0x1F43B675
_TIME: Final = 0xE7
_GROUP: Final = 0xA0
_BLOCK: Final = 0xA1
_SIMPLE: Final = 0xA3
_HOLDERS: Final = frozenset({_SEGMENT, _INFO, _TRACKS, _TRACK, _CLUSTER, _GROUP})
_SOUND: Final = 2


@dataclass(slots=True)
class _Track:
    """One description of a track, whose elements may have any order."""

    number: int = 0
    sound: bool = False
    opus: bool = False
    other: bool = False
    """Whether it names another codec, or its blocks are compressed: packets cannot be read."""


@dataclass(slots=True)
class _File:
    """What has been read from the elements so far."""

    scale: int = 1_000_000
    duration: float = 0.0
    tracks: list[_Track] = field(default_factory=list)
    time: int = 0
    latest: dict[int, int] = field(default_factory=dict)
    """Time of the last block, by track."""
    opus: dict[int, float] = field(default_factory=dict)
    """Seconds of the blocks as Opus packets, by track."""


def length(data: bytes, start: int) -> Measure | None:
    """The duration of the audio; None if there is no audio track."""
    file = _File()
    at, steps = start, 0
    while at < len(data) and steps < STEPS_MAX:
        steps += 1
        name, at = _name(data, at)
        size, at = _size(data, at)
        if name == _TRACK:
            file.tracks.append(_Track())
        if name in _HOLDERS or size is None:
            continue
        _take(data, name, at, min(size, len(data) - at), file)
        at += size
    sounds = [track for track in file.tracks if track.sound]
    if not sounds:
        return None
    seconds = file.duration * file.scale / 1e9 or None
    rest = max(0, len(data) - at)
    if all(track.opus and not track.other for track in sounds):
        counted = max(file.opus.get(track.number, 0.0) for track in sounds)
        return Measure(plausible_length(seconds, counted) + rest / SLOWEST, counted + rest * OPUS_LONGEST)
    latest = max(file.latest.get(track.number, 0) for track in sounds)
    return within(seconds or latest * file.scale / 1e9, len(data) - start)


def _take(data: bytes, name: int, at: int, size: int, file: _File) -> None:
    if name in (_SIMPLE, _BLOCK):
        _block(data, at, file)
    elif name == _SCALE:
        file.scale = _whole(data, at, size) or 1_000_000
    elif name == _DURATION and size in (4, 8):
        (file.duration,) = struct.unpack_from(">f" if size == 4 else ">d", data, at)
    elif name == _TIME:
        file.time = _whole(data, at, size)
    elif file.tracks:
        _describe(data, name, at, size, file.tracks[-1])


def _describe(data: bytes, name: int, at: int, size: int, track: _Track) -> None:
    if name == _NUMBER:
        track.number = _whole(data, at, size)
    elif name == _KIND:
        track.sound = track.sound or _whole(data, at, size) == _SOUND
    elif name == _CODEC:
        opus = data[at : at + size].rstrip(b"\0") == b"A_OPUS"
        track.opus, track.other = track.opus or opus, track.other or not opus
    elif name == _ENCODINGS:
        track.other = True


def _block(data: bytes, at: int, file: _File) -> None:
    track, at = _size(data, at)
    if track is None or at + 5 > len(data):
        return
    time = file.time + int.from_bytes(data[at : at + 2], "big", signed=True)
    file.latest[track] = max(file.latest.get(track, 0), time)
    if data[at + 2] & 0x06:  # several packets in one block
        seconds = (data[at + 3] + 1) * OPUS_LONGEST
    else:
        seconds = opus_seconds(data[at + 3], data[at + 4])
    file.opus[track] = file.opus.get(track, 0.0) + seconds


def _name(data: bytes, at: int) -> tuple[int, int]:
    width = 9 - data[at].bit_length() if data[at] else 1
    return int.from_bytes(data[at : at + width], "big"), at + width


def _size(data: bytes, at: int) -> tuple[int | None, int]:
    """A number of variable width (None if it means "unknown"), and where it ends."""
    if at >= len(data) or not data[at]:
        return None, at + 1
    width = 9 - data[at].bit_length()
    most = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width], "big") & most
    return None if value == most else value, at + width


def _whole(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + min(size, 8)], "big")
