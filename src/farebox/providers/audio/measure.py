"""What the readers of audio share."""

from typing import Final, NamedTuple

SLOWEST: Final = 750
"""Bytes a second: 6 kbit/s, the lowest rate of Opus. What cannot be walked through is not held for less."""
USUAL: Final = 4_000
"""Bytes a second: 32 kbit/s, a usual rate of speech. What an unknown format is charged by where nobody tells usage."""
FASTEST: Final = 48_000
"""Bytes a second: 384 kbit/s. A compressed file does not play for less than so."""
STEPS_MAX: Final = 200_000
"""Frames that are looked at one by one: hours of sound. The rest of a file that has more is bounded by its bytes."""
_TRIMMED = 0.3
"""Seconds by which a header may say less than the frames do: encoders pad their first and last frames."""


class Measure(NamedTuple):
    """Seconds, as a decoder will find them, and at most."""

    seconds: float
    most: float
    sure: bool = True
    """Whether it was counted, rather than told by a header or guessed by the size: a codec without loss writes an hour
    of silence into a few bytes."""


def believed(declared: float | None, counted: float) -> float:
    """The declared length where the counted frames agree with it, else the counted."""
    if declared is not None and counted - _TRIMMED <= declared <= counted:
        return declared
    return counted


def within(declared: float | None, size: int) -> Measure:
    """A length that nothing but the header tells, between what so many bytes can hold."""
    least, most = size / FASTEST, size / SLOWEST
    return Measure(min(max(declared, least), most) if declared else size / USUAL, most, sure=False)
