"""Directives, by which a caller controls the demo provider's response (`tokens=200 delay=500 cut=5`)."""

import re
from dataclasses import dataclass, fields

from farebox.quoting import quoted

FALSIFICATIONS = ("none", "negative", "absurd", "string", "float")
"""How `usage=` may falsify the figures."""


class BadDirective(ValueError):
    """A directive that does not exist or has an impossible value. It is rejected, so that a misspelled one in a test is
    noticed."""


@dataclass(frozen=True, slots=True)
class Directives:
    """One response's directives; the defaults give a normal response."""

    tokens: int | None = None
    """Length of the response, in tokens; `max_tokens` still limits it."""
    delay: int = 0
    """Milliseconds before the first byte of the response, its head included."""
    gap: int = 0
    """Milliseconds between two stream events, and before a stream breaks."""
    cut: int | None = None
    """Break the connection after this many stream events; a response that is not a stream breaks in the middle."""
    end: int | None = None
    """End the stream after this many events: correctly in terms of HTTP, but without its terminal event."""
    status: int = 0
    """Respond with this error status instead, in the provider's own format."""
    usage: str = ""
    """How to falsify the usage figures: one of FALSIFICATIONS."""
    garbage: bool = False
    """Respond with bytes that are not JSON; in a stream, put them between the events."""
    hang: bool = False
    """Accept the request and never respond."""
    cached: int = 0
    """How many of the input tokens were read from a cache."""
    cache_write: int = 0
    """How many of the input tokens were written to a cache."""
    reasoning: int = 0
    """How many output tokens were reasoning: they are counted but not delivered."""
    error_event: bool = False
    """Report a failure inside a 200: as an event in the middle of the stream, or as the whole body."""
    trickle: bool = False
    """Send one byte at a time."""
    big: int = 0
    """Stretch the words so that the response's text is this many bytes long (its tokens stay the same)."""
    nousage_stream: bool = False
    """Streams report no usage even if it was requested."""


PLAIN = Directives()

_KINDS = {field.name: type(field.default) for field in fields(Directives)}
_PAIR = r"[a-z_]+=[\w.+-]+"
_IN_TEXT = re.compile(rf"\bdemo:((?:[\s,]*{_PAIR})+)")
_BETWEEN = re.compile(r"[\s,]+")


def in_text(text: str) -> tuple[str, str]:
    """The directives written in a message after the word `demo:`, and the message without them."""
    if "demo:" not in text:
        return "", text
    found = _IN_TEXT.findall(text)
    return " ".join(found), _IN_TEXT.sub(" ", text)


def parse(*sources: str) -> Directives:
    """Read directives; where two sources name the same one, the later source wins. Raises BadDirective."""
    values: dict[str, int | bool | str] = {}
    for source in sources:
        for pair in filter(None, _BETWEEN.split(source)):
            name, _, value = pair.partition("=")
            values[name] = _value(name, value)
    return Directives(**values) if values else PLAIN  # type: ignore[arg-type]  # _value keeps to the fields' types


def _value(name: str, text: str) -> int | bool | str:
    kind = _KINDS.get(name)
    if kind is None:
        raise BadDirective(f"there is no directive {quoted(name)}; there are {', '.join(_KINDS)}")
    if name == "usage":
        if text not in FALSIFICATIONS:
            raise BadDirective(f"usage is one of {', '.join(FALSIFICATIONS)}, not {quoted(text)}")
        return text
    if not text.isascii() or not text.isdigit():
        raise BadDirective(f"{name} is a whole number, not {quoted(text)}")
    number = int(text)
    if name == "status" and not 400 <= number <= 599:
        raise BadDirective("status is an error: 400 to 599")
    return bool(number) if kind is bool else number
