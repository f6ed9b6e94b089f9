"""How large a part of a session's conversation is at most, and what a usage object says of a turn."""

import math
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.providers.formats.base import Observed
from farebox.providers.formats.meters import Reading
from farebox.usage import AbsurdUsage

AHEAD_SECONDS: Final = 30
"""Audio is held for in steps of this, so that not every piece of it needs a new hold."""
_TEXT_STEP: Final = 1_024


class Size(msgspec.Struct):
    """Upper bounds of a part of the conversation."""

    text: int = 0
    """Tokens, or bytes where it has not been counted by the provider."""
    audio: int = 0
    """Tokens."""
    images: int = 0
    """Pictures that the provider has not counted."""

    def __add__(self, other: "Size") -> "Size":
        return Size(self.text + other.text, self.audio + other.audio, self.images + other.images)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.text - other.text, self.audio - other.audio, self.images - other.images)


def seconds_ahead(seconds: float) -> int:
    """At least these seconds, and some that may follow."""
    return (math.floor(seconds / AHEAD_SECONDS) + 2) * AHEAD_SECONDS


def text_ahead(text: int) -> int:
    """At least this much text, in steps."""
    return math.ceil(text / _TEXT_STEP) * _TEXT_STEP


def observed_of(reading: Reading, usage: Any, otherwise: Observed) -> Observed:
    """What a usage object says; `otherwise` where there is none."""
    if not isinstance(usage, dict):
        return otherwise
    try:
        figures = reading.read(usage)
    except AbsurdUsage as absurd:
        return replace(otherwise, usage=None, implausible=True, problem=str(absurd))
    if figures is None:
        return replace(otherwise, usage={}, missing=())
    return Observed(usage=figures.usage, missing=figures.missing, notes=figures.notes)
