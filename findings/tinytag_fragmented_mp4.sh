#!/bin/bash
# tinytag 2.3.2: how long audio plays, of an MP4 in fragments and of AAC in ADTS.
#
# Guess: the length of a valid M4A is its length, whether its index stands at the beginning or in fragments, as browsers
# and cameras record it; and a stream of AAC is either measured or refused as an unknown format.
# Seen: the fragmented file, whose `mvhd` truly says 0 because its length was not known when it began, has a length of
# 0.0 seconds. The ADTS stream is taken for MP3 and comes out many times too short. Neither raises or gives None.
# A program that bills or limits by this length counts recordings as nothing.
#
# Both files are written and checked here by PyAV 18.1.0 (FFmpeg). Exits 0 while tinytag behaves as described.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" -q install tinytag==2.3.2 av==18.1.0 numpy==2.3.5
"$tmp/venv/bin/python" - "$tmp" <<'PY'
import sys
from pathlib import Path

import av
import numpy
from tinytag import TinyTag

SECONDS, RATE = 10, 16_000
folder = Path(sys.argv[1])


def write(name: str, options: dict[str, str]) -> Path:
    path = folder / name
    tone = (numpy.sin(numpy.arange(SECONDS * RATE) * 2 * numpy.pi * 300 / RATE) * 8000).astype(numpy.int16)
    with av.open(str(path), "w", options=options) as output:
        stream = output.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return path


def decoded(path: Path) -> float:
    with av.open(str(path)) as source:
        return sum(frame.samples for frame in source.decode(audio=0)) / RATE


whole = write("whole.m4a", {})
fragments = write("fragments.m4a", {"movflags": "frag_keyframe+empty_moov"})
adts = write("stream.aac", {})
seen = {path.name: (decoded(path), TinyTag.get(path).duration) for path in (whole, fragments, adts)}
for name, (true, told) in seen.items():
    print(f"{name}: decoded {true:.2f} s, tinytag says {told:.3f} s")
as_described = abs(seen["whole.m4a"][1] - SECONDS) < 0.2 and seen["fragments.m4a"][1] == 0.0 and seen["stream.aac"][1] < 5
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
