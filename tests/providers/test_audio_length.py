"""The length of audio: files of real encoders (`audio/`, 2.5 seconds each), false headers, and garbage."""

import struct
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.providers.audio.frames import _crc8
from farebox.providers.audio.length import audio_length, bare_length

FILES = Path(__file__).parent / "audio"
ENCODED = {
    # The duration that ffmpeg 5.1.9 decodes, and the tolerance above it
    "lame.mp3": ("2.5", "2.5"),
    "plain.mp3": ("2.593", "2.593"),
    "tone.aac": ("2.625", "2.625"),
    "tone.m4a": ("2.5", "2.625"),
    "fragments.m4a": ("2.625", "2.625"),
    "tone.opus": ("2.5", "2.521"),
    "tone.ogg": ("2.5", "2.529"),
    "recorded.webm": ("2.521", "2.521"),
    "vorbis.webm": ("2.529", "8.113"),
    "tone.flac": ("2.5", "2.5"),
    "tone.wav": ("2.5", "2.5"),
    "adpcm.wav": ("2.561", "2.561"),
    "silence.m4a": ("2.5", "2.561"),
}
"""Made with LAME 3.100, FLAC 1.4.2, opusenc 0.2, oggenc 1.4.2 and ffmpeg 5.1.9: a tone of 300 Hz. The last two
durations are ffmpeg's: browser recordings state none, and Vorbis in WebM is not counted by its packets. The silence is
ALAC."""


def content(name: str) -> bytes:
    return (FILES / name).read_bytes()


def seconds(data: bytes) -> float:
    return float(audio_length(data).seconds)


@pytest.mark.parametrize("name", ENCODED)
def test_files_of_common_encoders(name: str) -> None:
    length = audio_length(content(name))
    assert (length.seconds, length.most) == tuple(Decimal(text) for text in ENCODED[name])


def test_every_file_is_named() -> None:
    assert {path.name for path in FILES.iterdir()} == set(ENCODED)


def mp3_of_zeros(frames: int) -> bytes:
    """Frames of silence: 64 kbit/s, 24,000 samples a second, 24 ms each."""
    return (b"\xff\xf3\x84\xc4" + bytes(188)) * frames


def test_a_minute_of_mp3_is_a_minute() -> None:
    assert audio_length(mp3_of_zeros(2500)).seconds == 60
    tagged = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + bytes(1024) + mp3_of_zeros(2500) + b"TAG" + bytes(125)
    length = audio_length(tagged)
    assert (length.seconds, length.most) == (Decimal(60), Decimal("60.171")), "the tag at the end counts as lost frames"


def flac(frames: int, *, said: int, rate: int = 16_000, block: int = 4096) -> bytes:
    """Silence: all samples of each frame are 0. The header states `said` samples."""
    described = rate << 44 | 0 << 41 | 15 << 36 | said
    information = struct.pack(">HH", block, block) + bytes(6) + described.to_bytes(8, "big") + bytes(16)
    out = [b"fLaC\x80\0\0\x22" + information]
    for number in range(frames):
        head = (
            b"\xff\xf8"
            + bytes([12 << 4 | {8_000: 4, 16_000: 5}[rate], 8])
            + (bytes([number]) if number < 128 else chr(number).encode())
        )
        out.append(head + bytes([_crc8(head)]) + bytes(3 + 2))
    return b"".join(out)


def test_silence_of_100_kb_is_more_than_an_hour() -> None:
    silence = flac(9_000, said=9_000 * 4096)
    assert len(silence) < 120_000
    length = audio_length(silence)
    assert length.seconds == length.most == 2304
    assert audio_length(flac(9_000, said=1)).seconds == 2304, "the frames count, not the header"
    assert audio_length(flac(9_000, said=9_000 * 4096 - 100)).seconds == Decimal("2303.994"), "the last frame is padded"
    assert audio_length(flac(9_000, said=0)).seconds == 2304, "a stream whose length was unknown at its beginning"


def test_a_header_cannot_undercut_what_its_frames_play() -> None:
    opus = bytearray(content("tone.opus"))
    last = opus.rindex(b"OggS")
    opus[last + 6 : last + 14] = bytes(8)
    assert seconds(bytes(opus)) == pytest.approx(2.5, abs=0.1)
    m4a = content("tone.m4a")
    lying = m4a.replace(m4a[m4a.index(b"tkhd") + 24 : m4a.index(b"tkhd") + 28], bytes(3) + b"\x01")
    assert lying != m4a
    assert seconds(lying) == 2.625
    xing = bytearray(content("lame.mp3"))
    at = xing.index(b"Xing")
    xing[at + 8 : at + 12] = (1).to_bytes(4, "big")
    assert seconds(bytes(xing)) == 2.5
    wav = bytearray(content("tone.wav"))
    wav[28:32] = (2**31).to_bytes(4, "little")
    assert seconds(bytes(wav)) == 2.5, "the stated bytes per second"


def wav(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def described(kind: int, rate: int = 8_000, channels: int = 1, bits: int = 8, more: bytes = b"") -> tuple[bytes, bytes]:
    return b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate, 1, bits) + more


A_SECOND = (b"data", b"\xff" * 8_000)
U_LAW, EXTENDED = 7, 0xFFFE


@pytest.mark.parametrize(
    "chunks",
    [
        (described(U_LAW, bits=65_535), A_SECOND),
        (described(EXTENDED, bits=4096, more=struct.pack("<HHIH", 22, 8, 4, U_LAW) + bytes(14)), A_SECOND),
        (described(U_LAW), described(1, 192_000, 8, 32), A_SECOND),
        (described(1, 192_000, 8, 32), described(U_LAW), A_SECOND),
        (described(U_LAW), (b"data", b"\xff\xff"), A_SECOND),
        (described(0x55, bits=0), (b"data", mp3_of_zeros(42))),
    ],
    ids=["bits of a sample", "bits in an extended header", "first header", "second header", "two chunks", "MP3 inside"],
)
def test_the_duration_of_a_wav_follows_its_samples_not_its_header(chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    """ffmpeg 5.1.9 decodes a second of each except for the fourth, of which another decoder may use the second
    header."""
    assert seconds(wav(*chunks)) == pytest.approx(1, abs=0.01)


def test_alac_is_counted_whatever_its_header_says() -> None:
    silence = content("silence.m4a")
    lying = silence.replace(silence[silence.index(b"tkhd") + 24 : silence.index(b"tkhd") + 28], bytes(3) + b"\x01")
    assert lying != silence
    assert seconds(lying) == pytest.approx(2.5, abs=0.1)


def test_an_estimated_duration_is_marked_as_unsure() -> None:
    for name in ENCODED:
        assert audio_length(content(name)).sure == (name != "vorbis.webm")
    assert not audio_length(b"wvpk" + bytes(5_000)).sure
    assert not audio_length(b"OggS" + mp3_of_zeros(40)).sure
    aac = content("tone.m4a")
    at = aac.index(b"\x05\x80\x80\x80\x05\x14") + 5
    assert not audio_length(aac[:at] + b"\xfc" + aac[at + 1 :]).sure, "a codec that has more samples in a packet"


def test_the_elements_of_a_track_may_have_any_order() -> None:
    """In Matroska, the type and the codec may precede the track's number."""
    file = content("recorded.webm")
    at = file.index(b"\xae\x01\0\0")  # the only track; its size has eight bytes
    size = int.from_bytes(file[at + 2 : at + 9], "big")
    elements, rest = [], file[at + 9 : at + 9 + size]
    while rest:
        name = 1 if rest[0] >= 0x80 else 2 if rest[0] >= 0x40 else 3
        assert rest[name] >= 0x80, "the size has one byte"
        end = name + 1 + (rest[name] & 0x7F)
        elements.append(rest[:end])
        rest = rest[end:]
    assert elements[0][0] == 0xD7, "the number"
    reordered = file[: at + 9] + b"".join(reversed(elements)) + file[at + 9 + size :]
    assert audio_length(reordered) == audio_length(file)


def test_all_streams_of_an_ogg_file_count() -> None:
    """Two files, one after the other, are a file of two streams; each has its own codec and rate."""
    for first, second in (("tone.opus", "tone.ogg"), ("tone.ogg", "tone.opus"), ("tone.ogg", "tone.ogg")):
        assert seconds(content(first) + content(second)) == pytest.approx(5.0, abs=0.1)


def boxed(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + name + body


def test_all_codecs_of_an_mp4_track_count() -> None:
    """Each packet names the description that it is encoded by."""
    aac = content("tone.m4a")
    at = aac.index(b"stsd") - 4
    size = int.from_bytes(aac[at : at + 4], "big")
    entry, other = aac[at + 16 : at + size], boxed(b"Opus", bytes(28))
    for entries in ((entry, other), (other, entry)):
        both = aac[:at] + boxed(b"stsd", bytes(4), struct.pack(">I", 2), *entries) + aac[at + size :]
        assert float(audio_length(both).most) == pytest.approx(0.12 * 2.625 * 16_000 / 1024, rel=0.1)
    unknown = aac[:at] + boxed(b"stsd", bytes(4), struct.pack(">I", 2), entry, boxed(b"samr", bytes(28)))
    assert not audio_length(unknown + aac[at + size :]).sure
    padded = boxed(b"stsd", bytes(4), struct.pack(">I", 2), entry, boxed(b"free", bytes(4096)), other)
    assert not audio_length(aac[:at] + padded + aac[at + size :]).sure, "not all of it is read"


def test_what_has_no_frames_is_not_sure() -> None:
    recorded = content("recorded.webm")
    assert not audio_length(recorded[: recorded.index(b"\x1f\x43\xb6\x75")]).sure
    opus = content("tone.opus")
    assert not audio_length(opus[: opus.index(b"OpusTags")]).sure


def test_a_wav_that_was_written_as_a_stream_has_no_size() -> None:
    wav = bytearray(content("tone.wav"))
    at = wav.index(b"data")
    for size in (0, 0xFFFFFFFF):
        wav[at + 4 : at + 8] = size.to_bytes(4, "little")
        assert seconds(bytes(wav)) == 2.5


def test_aiff() -> None:
    rate = struct.pack(">HQ", 16383 + 13, 11_025 << (63 - 13))
    common = struct.pack(">HIH", 2, 1, 16) + rate
    aiff = (
        b"FORM\0\0\0\0AIFFCOMM" + struct.pack(">I", 18) + common + b"SSND" + struct.pack(">I", 88_208) + bytes(88_208)
    )
    assert audio_length(aiff).seconds == 2
    assert audio_length(b"FORM\0\0\0\0AIFF").most < 1


def test_unreadable_audio_is_bounded_by_its_bytes() -> None:
    length = audio_length(b"#!AMR\n" + bytes(59_994))
    assert (length.seconds, length.most) == (Decimal(15), Decimal(80))
    assert audio_length(b"").most == 0
    assert not audio_length(b"ID3\x04\0\0\x7f\x7f\x7f\x7f").sure, "a tag that is longer than the file"
    assert bare_length(48_000, 24_000).seconds == 1


def test_only_a_bounded_number_of_frames_is_examined() -> None:
    """Two hundred thousand, and the rest by its bytes: nobody can block the server with one file."""
    length = audio_length((b"\xff\xe3\x18\xc4" + bytes(68)) * 300_000)
    assert float(length.seconds) == pytest.approx(300_000 * 0.072, rel=0.01)
    assert length.most >= length.seconds


@settings(max_examples=200)
@given(st.sampled_from(sorted(ENCODED)), st.integers(0, 4000), st.binary(max_size=12), st.integers(0, 20_000))
def test_a_broken_file_never_breaks_the_reader(name: str, at: int, noise: bytes, end: int) -> None:
    data = bytearray(content(name))
    data[at : at + len(noise)] = noise
    length = audio_length(bytes(data[: end or None]))
    assert 0 <= length.seconds <= length.most


@given(
    st.sampled_from([b"", b"ID3", b"OggS", b"RIFF", b"FORM", b"fLaC", b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftyp"]),
    st.binary(),
)
def test_garbage(start: bytes, data: bytes) -> None:
    length = audio_length(start + data)
    assert 0 <= length.seconds <= length.most
