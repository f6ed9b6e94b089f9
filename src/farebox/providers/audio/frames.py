"""Streams of frames, each of which states its length: MPEG audio, AAC in ADTS, FLAC."""

import re
from collections import Counter
from typing import Final

from farebox.providers.audio.measure import SLOWEST, STEPS_MAX, Measure, plausible_length

_MPEG_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Samples a second, by the version bits (3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5)."""
_KBITS: Final = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates, by whether it is MPEG 1 and by the layer bits (3: layer I, 1: layer III)."""
_ADTS_RATES: Final = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_FLAC_FRAME: Final = re.compile(rb"\xff[\xf8\xf9]", re.DOTALL)
_FLAC_RATES: Final = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_FLAC_SHORTEST: Final = 11
"""Bytes of the shortest frame: silence."""


def _mpeg_frames() -> dict[int, tuple[int, float]]:
    """Second and third byte of a frame's header → (size, seconds)."""
    frames = {}
    for version, rates in _MPEG_RATES.items():
        for layer in (1, 2, 3):
            samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
            slot = 4 if layer == 3 else 1
            for place, kbits in enumerate(_KBITS[version == 3, layer], 1):
                for index, rate in enumerate(rates):
                    for padding in (0, 1):
                        size = (samples // 8 * kbits * 1000 // slot // rate + padding) * slot
                        head = (0xE0 | version << 3 | layer << 1) << 8 | place << 4 | index << 2 | padding << 1
                        for free in (0, 1, 0x100, 0x101):  # the private bit, the protection bit
                            frames[head | free] = size, samples / rate
    return frames


_MPEG: Final = _mpeg_frames()


def mpeg_length(data: bytes, start: int) -> Measure | None:
    """MP3, and the older layers. None if less than half of the file is frames. Bytes between frames count only for the
    upper bound, at the lowest rate.
    """
    at = _mpeg_sync(data, start)
    if at < 0:
        return None
    end = len(data) - 4
    skipped = at - start
    counted: Counter[float] = Counter()
    head, trimmed = _mpeg_header(data, at)
    if head:
        at += head
    steps = 0
    while at <= end and steps < STEPS_MAX:
        frame = _MPEG.get(data[at + 1] << 8 | data[at + 2]) if data[at] == 0xFF else None
        if frame is None:
            found = _mpeg_sync(data, at + 1)
            skipped += (found if found >= 0 else len(data)) - at
            if found < 0:
                at = len(data)
                break
            at = found
            continue
        at += frame[0]
        counted[frame[1]] += 1
        steps += 1
    if skipped > len(data) // 2:
        return None
    seconds = max(0.0, sum(each * count for each, count in counted.items()) - trimmed)
    rest = max(0, len(data) - at)
    return Measure(seconds * (1 + rest / at), seconds + (skipped + rest) / SLOWEST)


def _mpeg_sync(data: bytes, at: int) -> int:
    """The position of the next frame that is followed by another one or by the end of the file; -1 if there is none."""
    for _ in range(STEPS_MAX):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return -1
        frame = _MPEG.get(data[at + 1] << 8 | data[at + 2])
        if frame is not None:
            then = at + frame[0]
            if then + 4 > len(data) or (data[then] == 0xFF and data[then + 1] << 8 | data[then + 2] in _MPEG):
                return at
        at += 1
    return -1


def _mpeg_header(data: bytes, at: int) -> tuple[int, float]:
    """Size of a first frame that contains a description instead of audio, and the seconds of padding that it states."""
    size, seconds = _MPEG[data[at + 1] << 8 | data[at + 2]]
    frame = data[at : at + size]
    place = max(frame.find(b"Xing", 4, 48), frame.find(b"Info", 4, 48))
    if place < 0:
        return (size, 0.0) if frame[36:40] == b"VBRI" else (0, 0.0)
    flags = frame[place + 7] if len(frame) > place + 7 else 0
    lame = place + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    padding = frame[lame + 21 : lame + 24]
    if len(padding) < 3 or not frame[lame : lame + 4].isalnum():
        return size, 0.0
    samples = (padding[0] << 4 | padding[1] >> 4) + ((padding[1] & 15) << 8 | padding[2])
    per_frame = 1152 if data[at + 1] & 0x18 == 0x18 else 576
    return size, samples * seconds / per_frame


def adts_length(data: bytes, start: int) -> Measure | None:
    """AAC as a raw stream. None if less than half of the file is frames."""
    at, end = start, len(data) - 7
    skipped, steps = 0, 0
    counted: Counter[int] = Counter()
    while at <= end and steps < STEPS_MAX:
        steps += 1
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        rate = data[at + 2] >> 2 & 15
        if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or size < 7 or rate > 11:
            found = data.find(b"\xff", at + 1)
            skipped += (found if found >= 0 else len(data)) - at
            at = found if found >= 0 else len(data)
            continue
        counted[rate] += (data[at + 6] & 3) + 1
        at += size
    if not counted or skipped > len(data) // 2:
        return None
    seconds = sum(1024 * count / _ADTS_RATES[rate] for rate, count in counted.items())
    rest = max(0, len(data) - at)
    return Measure(seconds * (1 + rest / at), seconds + (skipped + rest) / SLOWEST)


def flac_length(data: bytes, start: int) -> Measure | None:
    """FLAC. None if it does not begin with a FLAC header. Every frame is counted, whatever the total in the header
    says.
    """
    at, last = start + 4, False
    information = data[at + 4 : at + 38]
    while not last and len(data) >= at + 4:
        last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return flac_frames(data, at, information)


def flac_frames(data: bytes, start: int, information: bytes) -> Measure | None:
    """The frames from `start` on; `information` is the stream's description; returns None if it is invalid."""
    described = int.from_bytes(information[10:18], "big")
    rate, total = described >> 44, described & (1 << 36) - 1
    if len(information) < 18 or not rate:
        return None
    counted: Counter[int] = Counter()
    at = start
    for steps, found in enumerate(_FLAC_FRAME.finditer(data, start)):
        at = found.start()
        if steps == STEPS_MAX:
            break
        frame = _flac_frame(data[at : at + 16])
        if frame is not None:
            counted[frame[1] or rate] += frame[0]
    else:
        at = len(data)
    seconds = sum(samples / each for each, samples in counted.items())
    rest = (len(data) - at) / _FLAC_SHORTEST * 65_536 / min([rate, *counted])
    declared = total / rate if total else None
    if rest:
        return Measure(min(max(seconds, declared or 0.0), seconds + rest), seconds + rest)
    return Measure(plausible_length(declared, seconds), seconds)


def _flac_frame(head: bytes) -> tuple[int, int] | None:
    """Samples and rate (0: the stream's) of the frame with this header; None if its checksum is wrong."""
    if len(head) < 6:
        return None
    size, rate = head[2] >> 4, head[2] & 15
    if not size or rate == 15 or head[3] & 1:
        return None
    lead = head[4]
    at = 5 if lead < 0x80 else 4 + (8 - (lead ^ 0xFF).bit_length())
    samples = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8 if size > 7 else 0
    if size in (6, 7):
        samples = int.from_bytes(head[at : at + size - 5], "big") + 1
        at += size - 5
    hertz = _FLAC_RATES[rate] if rate < 12 else 0
    if rate >= 12:
        width = 1 if rate == 12 else 2
        hertz = int.from_bytes(head[at : at + width], "big") * (1000, 1, 10)[rate - 12]
        at += width
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return samples, hertz


def _crc8_table() -> bytes:
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 7) & 0xFF if value & 0x80 else value << 1
        table.append(value)
    return bytes(table)


_CRC8: Final = _crc8_table()


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc
