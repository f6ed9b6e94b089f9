"""Extracting the text of a body and scanning it, in one step: on the event loop, or in a helper process."""

from typing import Final

import msgspec

from farebox.screening.profiles import Profile
from farebox.screening.request_text import request_text
from farebox.screening.response_text import response_text
from farebox.screening.said import Said, Unreadable
from farebox.screening.scan import Match, Scanner, scanner_of

HERE_BYTES: Final = 16 * 2**10
HERE_QUOTES: Final = 1_024
HERE_MATCHES: Final = 8
"""Number of possible matches that are checked on the event loop: about a millisecond of work, as measured."""
SPOKEN_BYTES_MAX: Final = 512 * 2**10
"""Maximum text that is sent to the scorer."""
RAISES: Final = (Unreadable,)


class Seen(msgspec.Struct, frozen=True):
    """What was found in a body, and the text spoken to or by the model; that is empty if it is not needed."""

    matches: list[Match]
    spoken: bytes


def is_light(body: bytes) -> bool:
    """Whether the body is small enough to be read on the event loop."""
    return len(body) <= HERE_BYTES and body.count(b'"') <= HERE_QUOTES


def read_request(body: bytes, content_type: str, profiles: tuple[Profile, ...], wants_spoken: bool) -> Seen:
    """Raises Unreadable."""
    return look(request_text(body, content_type), _scanner(profiles), wants_spoken)


def read_response(body: bytes, content_type: str, profiles: tuple[Profile, ...], wants_spoken: bool) -> Seen:
    """Raises Unreadable."""
    said = response_text(body, content_type)
    return Seen([], b"") if said is None else look(said, _scanner(profiles), wants_spoken)


def look(said: Said, scanner: Scanner | None, wants_spoken: bool, looked_at: int | None = None) -> Seen:
    """Scan a text. Raises Unreadable if there is more text than may be sent to the scorer; TooMany."""
    matches = [] if scanner is None else scanner.find(said.text, looked_at)
    if not wants_spoken:
        return Seen(matches, b"")
    if len(said.spoken) > SPOKEN_BYTES_MAX:
        raise Unreadable(f"its text has more than {SPOKEN_BYTES_MAX:,} bytes")
    return Seen(matches, said.spoken)


def _scanner(profiles: tuple[Profile, ...]) -> Scanner | None:
    return scanner_of(profiles) if profiles else None
