"""The headers of a response that concern the end of its body, or of its connection."""

import re
from typing import Final

FRAMING: Final = ("content-length", "transfer-encoding", "keep-alive")
_NAMES_MAX: Final = 1024
_NAME_BYTES_MAX: Final = 64
_timeout: Final = re.compile(r"(?:^|[\s,;])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE).search

names: Final[dict[bytes, tuple[str, str]]] = {}
"""Header names seen in responses: as text and, if one of FRAMING, in lower case (otherwise empty)."""


def learn(name: bytes) -> tuple[str, str]:
    """The entry of `names` for a name that is not there yet. Not every name is kept."""
    text = name.decode("latin-1")
    found = text, text.lower() if text.lower() in FRAMING else ""
    if len(names) < _NAMES_MAX and len(name) <= _NAME_BYTES_MAX:
        names[name] = found
    return found


def idle_seconds(hint: str) -> float | None:
    """How long a connection may stay unused by the header Keep-Alive (`timeout=N`: the server closes it after N
    seconds), so that no request crosses that close; None if the header does not say."""
    found = _timeout(hint)
    if not found:
        return None
    seconds = float(found[1])
    return max(seconds - 1, seconds / 2)
