"""Upper bounds for parts of a session's conversation, and what a usage object says about a turn."""

import math
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.providers.formats.base import Observed
from farebox.providers.formats.meters import Reading
from farebox.usage import AbsurdUsage

AHEAD_SECONDS: Final = 30
"""Audio is held for in steps of this many seconds, so that not every piece needs a new hold."""
_TEXT_STEP: Final = 1_024


class Size(msgspec.Struct):
    """Upper bounds of a part of the conversation."""

    text: int = 0
    """Tokens, or bytes if the provider has not counted it."""
    audio: int = 0
    """Tokens."""
    images: int = 0
    """Pictures that the provider has not counted."""

    def __add__(self, other: "Size") -> "Size":
        return Size(self.text + other.text, self.audio + other.audio, self.images + other.images)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.text - other.text, self.audio - other.audio, self.images - other.images)


def seconds_ahead(seconds: float) -> int:
    """These seconds, rounded up to include some that may follow."""
    return (math.floor(seconds / AHEAD_SECONDS) + 2) * AHEAD_SECONDS


def text_ahead(text: int) -> int:
    """This much text, rounded up to a step."""
    return math.ceil(text / _TEXT_STEP) * _TEXT_STEP


def observed_of(reading: Reading, usage: Any, otherwise: Observed) -> Observed:
    """What a usage object says; `otherwise` if there is none."""
    if not isinstance(usage, dict):
        return otherwise
    try:
        figures = reading.read(usage)
    except AbsurdUsage as absurd:
        return replace(otherwise, usage=None, implausible=True, problem=str(absurd))
    if figures is None:
        return replace(otherwise, usage={}, missing=())
    return Observed(usage=figures.usage, missing=figures.missing, notes=figures.notes)
