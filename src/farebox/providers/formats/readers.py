"""The two readers of answers: one for event streams, one for whole bodies. What an answer means, formats tell them."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from farebox.providers.formats.base import Observed
from farebox.providers.formats.bodies import plain
from farebox.providers.formats.iterations import ONE_PASS
from farebox.providers.formats.meters import Figures, Reading, consistent
from farebox.providers.sse import EventSplitter, data_of
from farebox.usage import AbsurdUsage, Quantity

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A whole body above this size passes, but is not read."""


class Seen(msgspec.Struct):
    """What a format has seen of one answer so far. Formats write it, readers turn it into an Observed."""

    hide_usage: bool = False
    """Drop the event that carries nothing but usage."""
    choices: int = 1
    """How many choices the request asked for."""
    usage: dict[str, object] | None = None
    """The provider's usage object as it stands."""
    counted: dict[str, Quantity] = {}
    """Meters that the answer shows beside its usage object, such as searches made; they count only together with it."""
    model: str | None = None
    context: dict[str, str] = {}
    """Observed.context."""
    delivered: int = 0
    ended: int = 0
    """Choices that have named a finish reason."""
    complete: bool = False
    failed: bool = False
    finished: bool = False
    unreadable: int = 0
    """Events, or bodies, that could not be read."""
    refused: bool = False
    """The model declined to answer. Where it had not begun to, that is not billed."""

    def end(self, *, failed: bool = False) -> None:
        """The terminal event has been seen."""
        self.finished = self.complete = True
        self.failed = self.failed or failed

    def applied(self, key: str, value: object) -> None:
        """The provider names what it applied: `service_tier`, `speed`."""
        if isinstance(value, str) and value:
            self.context[key] = plain(value)

    def update(self, usage: object, model: object = None) -> None:
        """Take newer figures. Usage that comes in several events is cumulative: the newest figure of each kind holds,
        and neither null nor zero takes back what was reported before."""
        if isinstance(model, str) and model:
            self.model = model
        if isinstance(usage, dict):
            self.usage = _merged(self.usage or {}, usage)


def _merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = {**before, **{k: v for k, v in value.items() if v or k not in before}}
        elif value or key not in merged:
            merged[key] = value
    return merged


class EventReader:
    """Reads a stream of server-sent events. `take` reads one event's data and says whether to pass the event on."""

    __slots__ = ("_reading", "_seen", "_splitter", "_take")

    def __init__(self, take: Callable[[Seen, bytes], bool], reading: Reading, seen: Seen | None = None) -> None:
        self._take = take
        self._reading = reading
        self._seen = seen or Seen()
        self._splitter = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """Pass whole events on; an unfinished one waits, since its end may show that it is to be dropped."""
        unread, events = self._splitter.push(chunk)
        passed = [event for event in events if self._passes(event)]
        return unread + b"".join(passed) if unread else b"".join(passed)

    @property
    def finished(self) -> bool:
        return self._seen.finished

    def close(self) -> tuple[bytes, Observed]:
        rest = self._splitter.rest()
        if rest and not self._passes(rest):  # the last event may lack its empty line
            rest = b""
        seen = self._seen
        return rest, observed(seen, self._reading, self._splitter.oversize)

    def _passes(self, event: bytes) -> bool:
        data = data_of(event)
        if not data:
            return True
        try:
            return self._take(self._seen, data)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            self._seen.unreadable += 1
            return True


class BodyReader:
    """Reads an answer that is one document. The bytes pass unchanged; `take` reads the document at its end."""

    __slots__ = ("_body", "_reading", "_seen", "_size", "_take")

    def __init__(self, take: Callable[[Seen, bytes], None], reading: Reading, seen: Seen | None = None) -> None:
        self._take = take
        self._reading = reading
        self._seen = seen or Seen()
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size <= BODY_BYTES_MAX:
            self._body.append(chunk)
        else:
            self._body.clear()
        return chunk

    @property
    def finished(self) -> bool:
        """Always False: a document shows its end only by ending."""
        return False

    def close(self) -> tuple[bytes, Observed]:
        seen = self._seen
        oversize = self._size > BODY_BYTES_MAX
        if not oversize:
            try:
                self._take(seen, b"".join(self._body))
            except (ValueError, RecursionError):
                seen.unreadable += 1
        if not seen.complete and not seen.delivered:
            seen.delivered = self._size  # a document cut short holds no more text than bytes
        return b"", observed(seen, self._reading, int(oversize))


def observed(seen: Seen, reading: Reading, oversize: int = 0) -> Observed:
    """The account of an answer, with the provider's figures only if they can be right."""
    figures: Figures | None = None
    problem: str | None = None
    try:
        if seen.usage:
            figures = reading.read(seen.usage)
            if seen.counted and figures is not None:
                figures = consistent({**figures.usage, **seen.counted}, figures.missing)
    except AbsurdUsage as absurd:
        figures, problem = None, str(absurd)
    disbelieved = problem is not None
    stated_usd: Decimal | None = None
    doubts: tuple[str, ...] = ()
    passes = ONE_PASS
    if seen.usage and figures is not None:
        stated_usd, doubts = reading.stated_usd(seen.usage)
        passes = reading.passes(seen.usage)
        if seen.refused and not figures.usage.get("output_tokens"):
            declined = "the model declined before it said anything: the provider bills nothing"
            figures = Figures({}, notes=(declined,))
    if figures is None and problem is None:
        notes = [f"{seen.unreadable} unreadable"] if seen.unreadable else []
        notes += [f"{oversize} too large to read"] if oversize else []
        problem = f"no usage ({', '.join(notes)})" if notes else "no usage"
    return Observed(
        usage=None if figures is None else figures.usage,
        model=seen.model,
        context=seen.context,
        delivered_bytes=seen.delivered,
        problem=problem,
        complete=seen.complete,
        failed=seen.failed,
        further=passes.further,
        billed_model=passes.model,
        stated_usd=stated_usd,
        notes=(*(() if figures is None else figures.notes), *doubts, *passes.notes),
        missing=() if figures is None else _missing(seen, figures),
        disbelieved=disbelieved,
    )


def _missing(seen: Seen, figures: Figures) -> tuple[str, ...]:
    """The meters to be counted: those that the usage does not tell, and where text was delivered, those of which it
    says zero although it cannot be. Output that is not told where none was delivered is none."""
    if not seen.delivered:
        return tuple(meter for meter in figures.missing if meter != "output_tokens")
    if not seen.complete or seen.failed or _bills_output(figures.usage):
        return figures.missing
    zero = (meter for meter in ("input_tokens", "output_tokens") if meter not in figures.usage)
    return tuple(dict.fromkeys((*figures.missing, *zero)))


def _bills_output(usage: Mapping[str, Quantity]) -> bool:
    """Whether the figures pay for generated text: by its tokens, or by the seconds of audio it was made from."""
    return "output_tokens" in usage or any(meter.endswith("_seconds") for meter in usage)


def weight(value: object) -> int:
    """UTF-8 bytes of the text in a piece of an answer: a string, or every string and number inside a container."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif item is not None:
            total += len(str(item))
    return total
