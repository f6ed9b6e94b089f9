"""An account's own profiles: keywords and regular expressions."""

import re
from typing import Annotated, Final

import msgspec

from farebox.screening.profiles import Detector, Profile
from farebox.screening.scan import PATTERN_BYTES_MAX

ENTRIES_MAX: Final = 50
"""Of one profile."""
PROFILES_MAX: Final = 50
"""Of an account."""
PATTERNS_OF_ACCOUNT_MAX: Final = 200
"""Entries of all of an account's profiles."""
_SPECIAL: Final = re.compile(r"([^\w\s])", re.ASCII)
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Regex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """RE2's syntax."""

    regex: Annotated[str, msgspec.Meta(min_length=1, max_length=PATTERN_BYTES_MAX)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is looked for: a pattern, or a keyword."""

    id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Assigned where it is not sent; findings name it."""
    name: _Name
    enabled: bool = True
    pattern: Regex | msgspec.UnsetType = msgspec.UNSET
    keyword: Annotated[str, msgspec.Meta(min_length=2, max_length=128)] | msgspec.UnsetType = msgspec.UNSET
    """Found as whole words, in capitals or not."""


class OwnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile as it is stored."""

    name: _Name
    description: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(min_length=1, max_length=ENTRIES_MAX)]


def profile_of(profile_id: str, own: OwnProfile) -> Profile:
    """What the scanner looks for."""
    return Profile(profile_id, tuple(Detector(entry.id, pattern_of(entry)) for entry in own.entries if entry.enabled))


def pattern_of(entry: Entry) -> str:
    """RE2's pattern."""
    if entry.pattern:
        return entry.pattern.regex
    words = (entry.keyword or "").split()
    text = r"\s+".join(_SPECIAL.sub(_escaped, word) for word in words)
    first, last = words[0][0], words[-1][-1]
    return f"(?i){_border(first)}{text}{_border(last)}"


def _escaped(found: re.Match[str]) -> str:
    """RE2 takes a backslash before ASCII alone."""
    return f"\\{found[0]}" if found[0].isascii() else found[0]


def _border(character: str) -> str:
    """RE2's border of a word is one of ASCII."""
    return r"\b" if character.isascii() and (character.isalnum() or character == "_") else ""
