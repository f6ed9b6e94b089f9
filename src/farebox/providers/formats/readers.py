"""What was seen of a response, and the reader of whole bodies. Formats define for the readers what a response means."""

import io
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.providers.formats.base import FurtherUsage, Observed, Reference
from farebox.providers.formats.bodies import plain
from farebox.providers.formats.iterations import ONE_PASS
from farebox.providers.formats.lenient import LENIENT_BYTES_MAX
from farebox.providers.formats.meters import Reading, UsageFigures, consistent
from farebox.providers.skimmer import Skimmer
from farebox.providers.sse import BYTE_ORDER_MARK
from farebox.usage import AbsurdUsage, Quantity

KEPT_WHOLE: Final = 64 * 1024
"""A body up to this size is kept as it is; a larger one that is JSON is reduced by skimmer.Skimmer."""
RAW_BYTES_MAX: Final = 8 * 1024 * 1024
"""A body that is not JSON is kept up to this size."""
TEXT_MAX: Final = 2**20
"""Characters of generated text that are kept for counting; beyond that, only the bytes are counted."""

SAMPLES_BYTES_PER_SECOND: Final = 48_000
"""24,000 samples of 16 bits: the only audio that OpenAI streams outside its speech endpoint."""


_NO_SOUND: Final = Decimal(0)


class Seen(msgspec.Struct):
    """What a format has seen of one response so far. Formats write it, readers turn it into an Observed."""

    hide_usage: bool = False
    """Whether to drop the event that contains nothing but usage."""
    choices: int = 1
    """How many choices the request asked for."""
    usage: dict[str, object] | None = None
    """The provider's usage object so far."""
    counted: dict[str, Quantity] = {}
    """Meters that the response shows outside its usage object, such as searches made; they count together with it."""
    model: str | None = None
    context: dict[str, str] = {}
    """Observed.context."""
    delivered: int = 0
    """UTF-8 bytes of generated text that are not in `text`."""
    text: Any = msgspec.field(default_factory=io.StringIO)
    """The generated text."""
    kept: int = 0
    """Characters in `text`."""
    has_terminal: bool = False
    """Whether a stream without its terminal event is incomplete even if every choice has ended."""
    shows_end: bool = False
    """Whether every whole stream ends in a terminal event or in finish reasons; some others end with their usage."""
    ended: set[int] = set()
    """Indexes of the choices with a finish reason."""
    complete: bool = False
    failed: bool = False
    finished: bool = False
    """Whether the stream's terminal event has arrived."""
    unreadable: int = 0
    """Number of events or bodies that could not be read."""
    refused: bool = False
    """The model declined to answer. If nothing had been generated, that is not billed."""
    oversize: int = 0
    """Number of events or bodies of which even the skeleton was too large to be read."""
    reference: str = ""
    """Observed.reference."""
    sound_seconds: Decimal = _NO_SOUND
    """Observed.sound_seconds."""
    input_audio_seconds: Decimal = _NO_SOUND
    """Observed.input_audio_seconds."""
    image_tokens_delivered: int = 0
    """Observed.image_tokens_delivered."""
    further: list[FurtherUsage] = []
    """Observed.further, as far as the response reports it outside its usage object."""
    doubts: list[str] = []
    """Observed.notes, as far as reported there."""
    handed_out: dict[Reference, None] = {}
    """Observed.handed_out."""

    def add_text(self, value: object) -> None:
        """Count generated text: a string, or an object with strings and numbers."""
        if type(value) is str:
            if self.kept < TEXT_MAX:
                self.kept += self.text.write(value)
            else:
                self.delivered += weight(value)
        elif value is not None:
            for piece in _pieces(value):
                self.add_text(piece)

    def add_audio(self, encoded: object, bytes_per_second: int) -> None:
        """Count generated audio, in base64."""
        if isinstance(encoded, str):
            self.sound_seconds += Decimal(len(encoded) * 3 // 4) / bytes_per_second

    def end(self, *, failed: bool = False) -> None:
        """The terminal event has been seen."""
        self.finished = self.complete = True
        self.failed = self.failed or failed

    def choice_ended(self, index: object) -> None:
        """A choice has a finish reason; some providers send it repeatedly."""
        self.ended.add(index if isinstance(index, int) else 0)

    @property
    def all_ended(self) -> bool:
        """Whether every choice has ended. Some providers report that too early, so this does not end the stream."""
        return self.finished or len(self.ended) >= self.choices

    def applied(self, key: str, value: object) -> None:
        """Record options that the provider reports as applied: `service_tier`, `speed`."""
        if isinstance(value, str) and value:
            self.context[key] = plain(value)

    def update(self, usage: object, model: object = None) -> None:
        """Take newer figures. Usage that comes in several events is cumulative: the newest figure of each kind holds,
        and neither null nor zero takes back what was reported before."""
        if isinstance(model, str) and model:
            self.model = model
        if isinstance(usage, dict):
            self.usage = _merged(self.usage, usage) if self.usage else dict(usage)


def _merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = {**before, **{k: v for k, v in value.items() if v or k not in before}}
        elif value or key not in merged:
            merged[key] = value
    return merged


class BodyReader:
    """Reads a response that is one document. The bytes are relayed unchanged; `parse` reads the document at its end.
    Only the last byte is held back, if it may be the end, as the document is incomplete without it.
    """

    __slots__ = ("_blank", "_body", "_is_list", "_last", "_raw_max", "_reading", "_seen", "_size", "_skimmer", "parse")

    events = finished = holding = all_ended = input_reported = False
    """A document's content is known only at its end."""

    def __init__(
        self,
        parse: Callable[[Seen, bytes], None],
        reading: Reading,
        seen: Seen | None = None,
        *,
        raw_max: int = RAW_BYTES_MAX,
        blank: bool = False,
    ) -> None:
        """`raw_max`: up to which size a body that is not JSON is kept; `blank`: whether white space alone is a valid
        response.
        """
        self._raw_max = raw_max
        self._blank = blank
        self.parse = parse
        self._reading = reading
        self._seen = seen or Seen()
        self._body: list[bytes] = []
        self._skimmer: Skimmer | None = None
        self._last = b""
        self._size = 0
        self._is_list = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return what passes on."""
        self._size += len(chunk)
        if self._skimmer is not None:
            self._skimmer.feed(chunk)
        elif self._size <= self._raw_max:
            self._body.append(chunk)
            if self._size > KEPT_WHOLE >= self._size - len(chunk):
                self._skim()
        else:
            self._body.clear()
        if self._size == len(chunk):
            self._is_list = chunk[:1] == b"["
        end = len(chunk.rstrip()) - 1
        if end < 0:  # only white space, which may follow the document
            self._last += chunk
            return b""
        if self._is_list and chunk[end : end + 1] != b"]":  # more follows, and this may be a complete entry
            passed, self._last = self._last + chunk, b""
            return passed
        passed = self._last + chunk[:end]
        self._last = chunk[end:]
        return passed

    def whole(self, body: bytes) -> Observed:
        """Read a document that has arrived completely, instead of feeding it."""
        self._size = len(body)
        if not body or self._size > KEPT_WHOLE or body.isspace():
            self._body.append(body)
            if self._size > KEPT_WHOLE:
                self._skim()
            return self.close()[1]
        self._read(body)
        return observed(self._seen, self._reading, whole=self._seen.complete, empty=False)

    @property
    def kept_bytes(self) -> int:
        if self._skimmer is not None:
            return self._skimmer.kept_bytes
        return self._size if self._body else 0

    def stop_collecting(self) -> None:
        if self._skimmer is not None:
            self._skimmer.stop_collecting()
        else:
            self._raw_max = 0
            self._body.clear()

    def release(self) -> bytes:
        return b""

    def close(self) -> tuple[bytes, Observed]:
        seen = self._seen
        body = b"".join(self._body) if self._skimmer is None else self._skimmer.skeleton()
        blank = body is not None and self._size == len(body) and body.isspace()
        empty = not self._size or (blank and not self._blank)
        if empty:
            seen.complete = True
        elif body is None or not body:
            seen.oversize += 1
            self._count_unread()
        else:
            self._read(body)
        self.stop_collecting()  # the document is not needed while the charge is written
        return self._last, observed(seen, self._reading, whole=seen.complete, empty=empty)

    def _read(self, body: bytes) -> None:
        """Read the document, or what the skimmer has left of it."""
        seen = self._seen
        try:
            self.parse(seen, body)
        except (ValueError, RecursionError):
            seen.unreadable += 1
        if len(body) > LENIENT_BYTES_MAX and seen.usage is None and not self._has_output(seen):
            seen.complete = False  # too large to be read whole, and the part that was read is not the usage
        if not seen.complete:
            self._count_unread()

    def _count_unread(self) -> None:
        """Count what could not be read: it has no more text than bytes."""
        seen = self._seen
        if not seen.delivered and not seen.kept:
            seen.delivered = self._size - (self._skimmer.dropped if self._skimmer else 0)

    def _has_output(self, seen: Seen) -> bool:
        """Whether any generated output has been read."""
        return bool(
            seen.kept or seen.delivered or seen.sound_seconds or seen.image_tokens_delivered or seen.input_audio_seconds
        )

    def _skim(self) -> None:
        """From now on, keep only a skeleton, if this is JSON."""
        body = b"".join(self._body)
        self._body = [body]
        if body.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in (b"{", b"["):
            self._body.clear()
            self._skimmer = Skimmer()
            self._skimmer.feed(body)


class UnreadReader:
    """Relays a response that cannot be read here, such as one with an unknown encoding."""

    events = finished = holding = all_ended = input_reported = False
    kept_bytes = 0

    def __init__(self, problem: str) -> None:
        self._problem = problem
        self._size = 0
        self._last = b""

    def feed(self, chunk: bytes) -> bytes:
        """Relay all but the last byte."""
        self._size += len(chunk)
        passed = self._last + chunk[:-1]
        self._last = chunk[-1:]
        return passed

    def stop_collecting(self) -> None:
        """Does nothing, because nothing is kept."""

    def release(self) -> bytes:
        return b""

    def close(self) -> tuple[bytes, Observed]:
        seen = Observed(delivered_bytes=self._size, problem=self._problem, complete=True, empty=not self._size)
        return self._last, seen


def observed(seen: Seen, reading: Reading, *, whole: bool, empty: bool) -> Observed:
    """The observations of a response, with the provider's figures only if they are possible. `whole`: the response is
    complete, so its text need not be counted if its usage is reported.
    """
    figures: UsageFigures | None = None
    problem: str | None = None
    text: str = seen.text.getvalue()
    delivered = seen.delivered + weight(text)
    try:
        if seen.usage:
            figures = reading.read(seen.usage)
            if seen.counted and figures is not None:
                figures = consistent({**figures.usage, **seen.counted}, figures.missing)
    except AbsurdUsage as absurd:
        figures, problem = None, str(absurd)
    implausible = problem is not None
    stated_usd: Decimal | None = None
    doubts: tuple[str, ...] = ()
    passes = ONE_PASS
    if seen.usage and figures is not None:
        if not reading.plain:
            stated_usd, doubts = reading.stated_usd(seen.usage)
            passes = reading.passes(seen.usage)
        if seen.refused and not figures.usage.get("output_tokens"):
            declined = "the model declined before it said anything: the provider bills nothing"
            figures = UsageFigures({}, notes=(declined,))
    if figures is None and problem is None:
        problem = _no_usage(seen, empty)
    missing = () if figures is None else _missing(seen, figures, delivered)
    needed = figures is None or bool(missing) or not whole or seen.failed
    return Observed(  # positional: keyword arguments take 25 times as long for this many fields
        None if figures is None else figures.usage,
        seen.model,
        delivered,
        seen.context,
        problem,
        seen.complete,
        seen.failed,
        text.encode("utf-8", "replace").decode() if needed else "",
        seen.all_ended,
        seen.sound_seconds if needed else _NO_SOUND,
        seen.input_audio_seconds,
        seen.image_tokens_delivered,
        (*passes.further, *seen.further),
        passes.model,
        stated_usd,
        (*(() if figures is None else figures.notes), *doubts, *passes.notes, *seen.doubts),
        missing,
        implausible,
        seen.reference,
        empty,
        False,
        tuple(seen.handed_out) if seen.handed_out else (),
    )


def _no_usage(seen: Seen, empty: bool) -> str:
    if empty:
        return "no usage (an empty response)"
    notes = [f"{seen.unreadable} unreadable"] if seen.unreadable else []
    notes += [f"{seen.oversize} too large to read"] if seen.oversize else []
    return f"no usage ({', '.join(notes)})" if notes else "no usage"


def _missing(seen: Seen, figures: UsageFigures, delivered: int) -> tuple[str, ...]:
    """The meters to be counted: those that the usage does not report and, if text was delivered, those that it reports
    as zero although they cannot be. Output that is not reported is zero if none was delivered."""
    if not figures.missing and "output_tokens" in figures.usage:
        return ()  # as in nearly all cases
    if not delivered:
        return tuple(meter for meter in figures.missing if meter != "output_tokens")
    if not seen.complete or seen.failed or _bills_output(figures.usage):
        return figures.missing
    zero = (meter for meter in ("input_tokens", "output_tokens") if meter not in figures.usage)
    return tuple(dict.fromkeys((*figures.missing, *zero)))


def _bills_output(usage: Mapping[str, Quantity]) -> bool:
    """Whether the figures bill generated text: by its tokens, or by the seconds of audio it was made from."""
    return "output_tokens" in usage or any(meter.endswith("_seconds") for meter in usage)


def weight(text: str) -> int:
    """The size of a text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _pieces(value: object) -> Iterator[str]:
    """Every string and number inside a container, in order."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif item is not None:
            yield str(item)
