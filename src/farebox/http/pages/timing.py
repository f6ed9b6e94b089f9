"""Where the time of a call went: the bar on its page, and the table that says the same."""

from dataclasses import dataclass

from farebox.storage.calls import CallRow

WIDTH = 1000
"""Width of the bar."""
_NOT_KEPT = "unknown (kept only for the latest calls of each process)"


@dataclass(frozen=True, slots=True)
class TimingPart:
    """One part of the time, in milliseconds; None: there is none, or it is unknown, as `why` says."""

    kind: str
    """Determines its color."""
    name: str
    took: float | None
    why: str
    x: float = 0
    width: float = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """The parts in their order, and all of them together."""

    parts: list[TimingPart]
    total: float
    after: float
    """How much of it came after the response, which the duration of the call does not count."""


def timing_of(call: CallRow, settle_seconds: float | None) -> Timing | None:
    """The timing of a call; None if there is nothing to show, because the call had neither a hold nor a response."""
    first, hold = call.detail.first_byte_ms, call.detail.hold_ms
    if first is None and hold is None:
        return None
    begun = call.duration if first is None else min(first, call.duration)
    asked = min(hold or 0, begun)
    parts = [
        TimingPart("hold", "Waiting for the hold", None if hold is None else asked, _no_hold(call)),
        TimingPart("wait", "Provider, until the first byte", begun - asked, ""),
        TimingPart("stream", "Rest of the response", None if first is None else call.duration - begun, "no response"),
        TimingPart(
            "settle", "Settling the charge", None if settle_seconds is None else settle_seconds * 1000, _NOT_KEPT
        ),
    ]
    total = sum(part.took or 0 for part in parts)
    return Timing(_drawn(parts), total, max(0.0, total - call.duration))


def _no_hold(call: CallRow) -> str:
    """Why the duration of the hold is unknown."""
    detail = call.detail
    if detail.outcome == "free" and detail.first_byte_ms is not None:
        return "unknown"  # a call of an earlier release may have had one
    needed = not (detail.own_key or detail.cached or detail.outcome == "free")
    return "unknown (included in the next line)" if needed else "not needed"


def _drawn(parts: list[TimingPart]) -> list[TimingPart]:
    """The parts with their positions on the bar."""
    total, x, drawn = sum(part.took or 0 for part in parts) or 1, 0.0, []
    for part in parts:
        width = round(WIDTH * (part.took or 0) / total, 1)
        drawn.append(TimingPart(part.kind, part.name, part.took, part.why, round(x, 1), width))
        x += width
    return drawn
