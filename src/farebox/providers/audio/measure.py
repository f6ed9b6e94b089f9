"""Constants and functions that the audio readers share."""

from typing import Final, NamedTuple

SLOWEST: Final = 750
"""Bytes per second: 6 kbit/s, the lowest rate of Opus; the bound for audio that cannot be walked."""
USUAL: Final = 4_000
"""Bytes per second: 32 kbit/s, a usual rate of speech. An unknown format is charged at this rate if no usage is
reported."""
FASTEST: Final = 48_000
"""Bytes per second: 384 kbit/s, the highest rate of a compressed file."""
STEPS_MAX: Final = 200_000
"""Frames that are walked one by one: hours of audio. The rest of a longer file is bounded by its bytes."""
_TRIMMED = 0.3
"""Seconds by which a header may state less than the frames: encoders pad their first and last frames."""


class Measure(NamedTuple):
    """A duration in seconds: what a decoder will find, and an upper bound."""

    seconds: float
    most: float
    sure: bool = True
    """Whether it was counted, rather than taken from a header or guessed from the size: a lossless codec can encode an
    hour of silence in a few bytes.
    """


def plausible_length(declared: float | None, counted: float) -> float:
    """The declared length if the counted frames agree with it, else the counted one."""
    if declared is not None and counted - _TRIMMED <= declared <= counted:
        return declared
    return counted


def within(declared: float | None, size: int) -> Measure:
    """A duration that only the header states, limited to what this many bytes can hold."""
    least, most = size / FASTEST, size / SLOWEST
    return Measure(min(max(declared, least), most) if declared else size / USUAL, most, sure=False)
