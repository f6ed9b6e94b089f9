"""An account's own profiles: keywords and regular expressions."""

import re
from typing import Annotated, Final

import msgspec

from farebox.detection.profiles import Detector, Profile
from farebox.detection.scan import PATTERN_BYTES_MAX

ENTRIES_MAX: Final = 50
"""Maximum number of entries in one profile."""
PROFILES_MAX: Final = 50
"""Maximum number of profiles of an account."""
PATTERNS_OF_ACCOUNT_MAX: Final = 200
"""Maximum number of entries in all of an account's profiles together."""
_SPECIAL: Final = re.compile(r"([^\w\s])", re.ASCII)
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Regex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A regular expression in RE2's syntax."""

    regex: Annotated[str, msgspec.Meta(min_length=1, max_length=PATTERN_BYTES_MAX)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is looked for: a pattern or a keyword."""

    id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Assigned if the request has none; findings name it."""
    name: _Name
    enabled: bool = True
    pattern: Regex | msgspec.UnsetType = msgspec.UNSET
    keyword: Annotated[str, msgspec.Meta(min_length=2, max_length=128)] | msgspec.UnsetType = msgspec.UNSET
    """Matched as whole words, ignoring case."""


class OwnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile in its stored form."""

    name: _Name
    description: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(min_length=1, max_length=ENTRIES_MAX)]


def profile_of(profile_id: str, own: OwnProfile) -> Profile:
    """The profile as the scanner uses it."""
    return Profile(profile_id, tuple(Detector(entry.id, pattern_of(entry)) for entry in own.entries if entry.enabled))


def pattern_of(entry: Entry) -> str:
    """The entry as an RE2 pattern."""
    if entry.pattern:
        return entry.pattern.regex
    words = (entry.keyword or "").split()
    text = r"\s+".join(_SPECIAL.sub(_escaped, word) for word in words)
    first, last = words[0][0], words[-1][-1]
    return f"(?i){_border(first)}{text}{_border(last)}"


def _escaped(found: re.Match[str]) -> str:
    """Escape a character: RE2 accepts a backslash only before ASCII."""
    return f"\\{found[0]}" if found[0].isascii() else found[0]


def _border(character: str) -> str:
    """The pattern for a word boundary next to this character: RE2's `\\b` knows only ASCII words."""
    return r"\b" if character.isascii() and (character.isalnum() or character == "_") else ""
