"""Extracting the text of a body and scanning it, in one step: on the event loop, or in a helper process."""

from typing import Final

import msgspec

from farebox.detection.body_text import BodyText, Unreadable
from farebox.detection.profiles import Profile
from farebox.detection.request_text import request_text
from farebox.detection.response_text import response_text
from farebox.detection.scan import Match, Scanner, scanner_of

INLINE_BYTES: Final = 16 * 2**10
INLINE_QUOTES: Final = 1_024
INLINE_CANDIDATES: Final = 8
"""Number of possible matches that are checked on the event loop: about a millisecond of work, as measured."""
CONVERSATION_BYTES_MAX: Final = 512 * 2**10
"""Maximum text that is sent to the scorer."""
RAISES: Final = (Unreadable,)


class ScanResult(msgspec.Struct, frozen=True):
    """What was found in a body, and the text written to or by the model; that is empty if it is not needed."""

    matches: list[Match]
    conversation: bytes


def is_light(body: bytes) -> bool:
    """Whether the body is small enough to be read on the event loop."""
    return len(body) <= INLINE_BYTES and body.count(b'"') <= INLINE_QUOTES


def read_request(body: bytes, content_type: str, profiles: tuple[Profile, ...], wants_text: bool) -> ScanResult:
    """Raises Unreadable."""
    return scan_text(request_text(body, content_type), _scanner(profiles), wants_text)


def read_response(body: bytes, content_type: str, profiles: tuple[Profile, ...], wants_text: bool) -> ScanResult:
    """Raises Unreadable."""
    text = response_text(body, content_type)
    return ScanResult([], b"") if text is None else scan_text(text, _scanner(profiles), wants_text)


def scan_text(
    text: BodyText, scanner: Scanner | None, wants_text: bool, candidates_max: int | None = None
) -> ScanResult:
    """Scan a text. Raises Unreadable if there is more text than may be sent to the scorer; TooManyCandidates."""
    matches = [] if scanner is None else scanner.find(text.text, candidates_max)
    if not wants_text:
        return ScanResult(matches, b"")
    if len(text.conversation) > CONVERSATION_BYTES_MAX:
        raise Unreadable(f"its text has more than {CONVERSATION_BYTES_MAX:,} bytes")
    return ScanResult(matches, text.conversation)


def _scanner(profiles: tuple[Profile, ...]) -> Scanner | None:
    return scanner_of(profiles) if profiles else None
