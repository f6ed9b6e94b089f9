"""Scanning a text for what profiles look for. RE2 takes time in proportion to the text, whatever the pattern.

One pass with all patterns combined shows whether there is any match; nearly always there is none, and that is all. Only
otherwise are the matches enumerated, pattern by pattern.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from farebox.detection.profiles import Detector, Profile

PATTERN_BYTES_MAX: Final = 512
PROGRAM_MAX: Final = 2_000
"""Maximum number of instructions of one compiled pattern: about a millisecond to compile."""
MATCHES_MAX: Final = 100
"""Maximum number of matches that are counted for an entry; this number can stand for more."""
_PLACES: Final = (b"", b"a")
"""Texts in which a pattern that matches only a position finds one: the end of a text, or a word boundary."""
_MEMORY, _MEMORY_TOGETHER = 2**20, 2**23
"""Maximum bytes for a compiled pattern and RE2's cache for it; beyond that, matching is slower, never wrong."""


class InvalidPattern(ValueError):
    """The pattern cannot be used; the message tells its author why."""


class TooManyCandidates(Exception):
    """There are more possible matches than may be checked here."""


class Match(msgspec.Struct, frozen=True, gc=False):
    """A match of a detector: start and end, in bytes of the text."""

    profile_id: str
    entry_id: str
    start: int
    end: int


class Scanner:
    """Looks for several profiles."""

    def __init__(self, profiles: tuple[Profile, ...]) -> None:
        self.profiles = profiles
        found = [(profile.profile_id, one) for profile in profiles for one in profile.detectors]
        self._detectors = [
            _CompiledDetector(profile_id, one, _compile(one.pattern), _check(one.check)) for profile_id, one in found
        ]
        self._any = _together([one.pattern for _, one in found])

    def find(self, text: bytes, candidates_max: int | None = None) -> list[Match]:
        """All matches, entry by entry. Raises TooManyCandidates beyond this many possible matches."""
        if self._any is not None and self._any.search(text) is None:
            return []
        found: list[Match] = []
        left = candidates_max
        for compiled in self._detectors:
            matches, left = _matches(compiled, text, left)
            found += matches
        return found


class _CompiledDetector(msgspec.Struct, frozen=True):
    """A detector with its compiled pattern and its check."""

    profile_id: str
    detector: Detector
    pattern: Any
    check: Callable[[str], bool] | None


def _matches(compiled: _CompiledDetector, text: bytes, left: int | None) -> tuple[list[Match], int | None]:
    """The detector's matches, and how many possible matches may still be checked. Raises TooManyCandidates."""
    found: list[Match] = []
    at = 0
    while len(found) < MATCHES_MAX and (match := compiled.pattern.search(text, at)) is not None:
        if left is not None:
            if not left:
                raise TooManyCandidates
            left -= 1
        start, end = match.span()
        at = max(end, start + 1)
        if end - start < compiled.detector.at_least:
            continue
        if compiled.check is None or compiled.check(text[start:end].decode("utf-8", "replace")):
            found.append(Match(compiled.profile_id, compiled.detector.entry_id, start, end))
    return found, left


def _together(patterns: list[str]) -> Any:
    """All patterns combined into one; None if that would be too large."""
    try:
        return _compile("|".join(f"(?:{pattern})" for pattern in patterns), _MEMORY_TOGETHER)
    except InvalidPattern:
        return None


def _check(name: str) -> Callable[[str], bool] | None:
    if not name:
        return None
    from farebox.detection.checks import CHECKS  # its libraries are slow to load, and few servers need them

    return CHECKS[name]


@lru_cache(64)
def scanner_of(profiles: tuple[Profile, ...]) -> Scanner:
    """The scanner for these profiles, cached; for helper processes."""
    return Scanner(profiles)


def scan(text: bytes, profiles: tuple[Profile, ...]) -> list[Match]:
    """`Scanner.find`, for helper processes."""
    return scanner_of(profiles).find(text)


def check_pattern(text: bytes) -> str:
    """What is wrong with an account's own pattern; empty if nothing is. For helper processes: compiling may take
    long."""
    pattern = text.decode()
    if "\\Q" in pattern.replace("\\\\", ""):
        return "\\Q is not supported: escape the characters one by one"
    try:
        compiled = _compile(pattern)
    except InvalidPattern as error:
        return str(error)
    if compiled.programsize > PROGRAM_MAX or compiled.reverseprogramsize > PROGRAM_MAX:
        return "The pattern is too large when its repetitions are written out"
    return "It matches the empty text" if any(map(_finds_nothing(compiled), _PLACES)) else ""


def _finds_nothing(compiled: Any) -> Callable[[bytes], bool]:
    """Tests whether the first match in a text is empty."""
    return lambda text: (match := compiled.search(text)) is not None and match.start() == match.end()


@lru_cache(4096)
def _compile(pattern: str, memory: int = _MEMORY) -> Any:
    """Compile a pattern. Raises InvalidPattern."""
    import re2  # slow to load, too

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # so that the names of groups in several patterns do not collide
    options.max_mem = memory
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        raise InvalidPattern(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from error
