"""A span: what a tracing backend receives about one call."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Attributes: TypeAlias = Sequence[tuple[str, Value]]


class SpanEvent(msgspec.Struct, frozen=True, gc=False):
    """Something that happened within a span."""

    at_ns: int
    name: str
    attributes: Attributes


class Span(msgspec.Struct, frozen=True):
    """One call. IDs in lower-case hexadecimal, times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty if it has no parent."""
    trace_state: str
    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: tuple[SpanEvent, ...]
    error: str | None
    """What went wrong; None: nothing."""
    prompt: bytes | None = None
    """The bodies as the log stores them; None if it stores none."""
    completion: bytes | None = None

    @property
    def size(self) -> int:
        """Approximate size in memory, in bytes."""
        return 2_000 + len(self.prompt or b"") + len(self.completion or b"")
