"""The reader of event streams."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from farebox.providers.formats.base import Observed
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import Seen, observed
from farebox.providers.skimmer import Skimmer
from farebox.providers.sse import BYTE_ORDER_MARK, LINE_BYTES_MAX, LineCutter, is_blank

EVENT_BYTES_MAX: Final = 2**20
"""An event with several data lines above this size is not read."""
EVENT_LINES_MAX: Final = 10_000
"""An event with more lines is not read either: each line takes many times the memory of a short one."""
_FIELDS: Final = (b":", b"event", b"id", b"retry", b"data")
"""The beginnings of lines of an event; others are arbitrary text."""


class EventReader:
    """Reads a stream of server-sent events. `parse` reads one event's data and says whether to pass the event on.

    An event ends with an empty line, or consists of one data line that is complete JSON by itself: some providers
    separate their events by a single line break. Every line passes as soon as it is read. Only the last event is held
    back: the one that ends the stream by its own protocol, with everything after it, or, for a moment (see `release`),
    one that may be the last.
    """

    __slots__ = (
        "_cutter",
        "_data",
        "_dropped",
        "_dropping",
        "_empty",
        "_event",
        "_is_error_event",
        "_kept",
        "_kept_closed",
        "_long",
        "_long_data",
        "_reading",
        "_seen",
        "_separated",
        "_tail",
        "_waiting",
        "parse",
    )

    def __init__(self, parse: Callable[[Seen, bytes], bool], reading: Reading, seen: Seen | None = None) -> None:
        self.parse = parse
        self._reading = reading
        self._seen = seen or Seen()
        self._cutter = LineCutter()
        self._event: list[bytes] = []
        """Lines of the current event that have not been relayed, since it may have to be dropped or held back."""
        self._data: list[bytes] = []
        """Data of the current event that is not complete yet."""
        self._waiting = 0
        """Bytes in the kept lines of the current event."""
        self._separated = False
        """Whether this stream has empty lines."""
        self._dropping = False
        """An event has been dropped: the empty line that ends it is dropped too."""
        self._dropped = False
        """Whether the last line has been dropped too."""
        self._kept: list[bytes] = []
        self._kept_closed = False
        self._is_error_event = False
        """Whether the current event has the name `error`."""
        self._long: Skimmer | None = None
        self._long_data = False
        self._tail = b""
        self._empty = True

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return those to relay."""
        passed: list[bytes] = []
        cutter = self._cutter
        late, lines = cutter.push(chunk)
        if len(lines) == 2 and lines[1] == b"\n" and lines[0].startswith(b"data: {") and self._idle and not late:
            self._json_line(lines[0], passed)  # one event, as in nearly all cases
            if passed == lines[:1] and not (self._event or self._kept or self._data):
                self._separated = True
                return lines[0] + lines[1]
            del lines[0]
        if late:
            self._late(late, passed)
        if self._long is not None and lines:
            piece = lines.pop(0)
            self._long.feed(piece)
            if lines or not cutter.long:
                self._end_long(piece, passed)
            else:
                self._pass_long(piece, passed)
        begun = lines.pop() if cutter.long and lines else b""
        for line in lines:
            if self._event or self._kept or self._data or self._dropping:
                self._line(line, passed)
            elif line == b"\n":  # this and the next branch handle nearly all lines
                self._separated = True
                passed.append(line)
            elif line.startswith(b"data: {"):
                self._json_line(line, passed)
            else:
                self._line(line, passed)
        if begun:
            self._begin_long(begun, passed)
            self._pass_long(begun, passed)
        return b"".join(passed)

    @property
    def _idle(self) -> bool:
        """Whether no earlier line is kept."""
        return not (
            self._event or self._kept or self._data or self._dropping or self._long is not None or self._cutter.long
        )

    @property
    def seen(self) -> Seen:
        """What has been seen so far."""
        return self._seen

    @property
    def finished(self) -> bool:
        return self._seen.finished

    @property
    def holding(self) -> bool:
        """Whether an event is held back only because it may be the last."""
        return bool(self._kept) and not self._seen.finished

    @property
    def all_ended(self) -> bool:
        return self._seen.all_ended

    @property
    def input_reported(self) -> bool:
        return self._reading.reports_input(self._seen.usage)

    @property
    def events(self) -> bool:
        return True

    @property
    def kept_bytes(self) -> int:
        return 0 if self._long is None else self._long.kept_bytes

    def stop_collecting(self) -> None:
        if self._long is not None:
            self._long.stop_collecting()

    def release(self) -> bytes:
        """The held event was not the last, or cannot be held any longer: return it."""
        kept = b"".join(self._kept)
        self._kept.clear()
        return kept

    def close(self) -> tuple[bytes, Observed]:
        end: list[bytes] = []
        rest = self._cutter.rest()
        if self._long is not None:
            self._end_long(b"", end)
        elif rest:
            self._line(rest, end)
        if self._data and self._taken(b"\n".join(self._data)) is False:  # an incomplete line is not relayed
            self._event.clear()
        end += self._kept
        end += self._event
        seen = self._seen
        if seen.failed or self._empty or (seen.all_ended and not seen.has_terminal):
            seen.complete = True  # a stream without a terminal event ends with the body
        found = observed(seen, self._reading, whole=seen.finished, empty=self._empty)
        return b"".join(end), replace(found, broken_off=True) if self._is_broken_off() else found

    def _is_broken_off(self) -> bool:
        """Whether the stream stopped before its end. An event that could not be read, or usage, may have been the
        end."""
        seen = self._seen
        if seen.complete or seen.all_ended or seen.unreadable or seen.oversize:
            return False
        return seen.shows_end or not seen.usage

    # --- lines ---

    def _json_line(self, line: bytes, passed: list[bytes]) -> None:
        """The fast path of `_line`, when no event is in progress."""
        seen = self._seen
        if len(line) > LINE_BYTES_MAX:
            self._long_line(line, passed)
            return
        try:
            keep = self.parse(seen, line[6:])
        except (ValueError, RecursionError):
            self._line(line, passed)
            return
        self._empty = self._dropped = False
        if keep and not seen.finished and (seen.usage is None or not seen.all_ended):
            passed.append(line)
        else:
            self._event.append(line)
            self._read(keep, passed)

    def _line(self, line: bytes, passed: list[bytes]) -> None:
        bare = line.removeprefix(BYTE_ORDER_MARK) if self._empty else line
        if bare.startswith(b"data:"):
            self._data_line(line, bare[5:].strip(), passed)
        elif is_blank(line):
            self._blank(line, passed)
        else:
            self._field_line(line, bare, passed)

    def _data_line(self, line: bytes, data: bytes, passed: list[bytes]) -> None:
        if len(line) > LINE_BYTES_MAX:
            self._long_line(line, passed)
            return
        self._release(passed)
        self._dropping = self._dropped = False
        if self._is_error_event:
            self._is_error_event, self._seen.failed = False, True
        self._empty = self._empty and data in (b"", b"[DONE]")
        whole = data == b"[DONE]" or (data[:1] in (b"{", b"[") and data[-1:] in (b"}", b"]"))
        keep = self._taken(data) if whole and not (self._data and self._separated) else None
        if keep is None:  # a part of an event with several lines, or unreadable
            self._event.append(line)
            self._data.append(data)
            self._waiting += len(line)
            if self._too_long:
                self._stop_reading(passed)
            return
        self._stop_reading(passed)  # a previous event without a visible end
        self._event.append(line)
        self._read(keep, passed)

    def _field_line(self, line: bytes, bare: bytes, passed: list[bytes]) -> None:
        """A comment, or a field other than data; `bare`: without a byte order mark."""
        self._release(passed)
        self._dropping = self._dropped = False
        self._event.append(line)
        if bare.startswith(b"event:"):
            self._is_error_event = bare[6:].strip() == b"error"
        self._waiting += len(line)
        if not bare.startswith(_FIELDS) and not any(field.startswith(bare) for field in _FIELDS):
            self._text_line(bare)
        is_comment = bare.startswith(b":") and len(self._event) == 1  # comments keep connections alive
        if is_comment or self._too_long:
            self._stop_reading(passed)
            self._flush(passed)

    def _text_line(self, line: bytes) -> None:
        """A line that is not a field, nor the beginning of one that was cut off."""
        if text := line.strip():
            self._empty = False
            self._lost(len(text))

    def _blank(self, line: bytes, passed: list[bytes]) -> None:
        self._separated = True
        self._dropped = self._dropping
        if self._dropping:
            self._dropping = False
        elif self._kept and not self._kept_closed and not self._event:
            self._kept.append(line)
            self._kept_closed = True
        else:
            self._release(passed)
            self._event.append(line)
            keep = self._end_data()
            self._read(keep, passed) if keep is not None else self._flush(passed)
            self._dropped, self._dropping = self._dropping, False

    def _late(self, late: bytes, passed: list[bytes]) -> None:
        """The LF of a line whose CR has been processed."""
        if self._dropping or self._dropped:
            return
        (self._event or self._kept or passed).append(late)

    # --- events ---

    def _taken(self, data: bytes) -> bool | None:
        """Read an event's data; returns whether it passes on, or None if it cannot be read."""
        if data == b"[DONE]":
            self._seen.end()
            return True
        try:
            return self.parse(self._seen, data)
        except (ValueError, RecursionError):
            return None

    def _end_data(self) -> bool | None:
        """The current event has ended: read its data, which came in several lines or is not JSON; None if it has
        none."""
        data = b"\n".join(self._data)
        self._data.clear()
        self._waiting = 0
        if not data:
            return None
        keep = self._taken(data)
        if keep is None:
            self._lost(len(data))
            return True
        return keep

    def _read(self, keep: bool, passed: list[bytes]) -> None:
        """The event's data has been read: relay its lines, hold them back, or drop them."""
        if not keep:
            self._dropping = True
        elif self._seen.finished or (self._seen.usage is not None and self._seen.all_ended):
            self._kept += self._event
            self._kept_closed = is_blank(self._event[-1])
        else:
            passed += self._event
        self._event.clear()
        self._waiting = 0

    def _flush(self, passed: list[bytes]) -> None:
        if self._seen.finished:
            self._kept += self._event
        else:
            passed += self._event
        self._event.clear()
        self._waiting = 0

    def _release(self, passed: list[bytes]) -> None:
        """Something follows, so the held event was not the last."""
        if self._kept and not self._seen.finished:
            passed += self._kept
            self._kept.clear()

    def _stop_reading(self, passed: list[bytes]) -> None:
        """Relay the lines of an unfinished event without reading it."""
        if self._data:
            self._lost(sum(map(len, self._data)))
            self._data.clear()
            self._waiting = 0
            self._flush(passed)

    @property
    def _too_long(self) -> bool:
        """Whether the current event is too long to be kept."""
        return self._waiting > EVENT_BYTES_MAX or len(self._event) > EVENT_LINES_MAX

    def _lost(self, size: int) -> None:
        self._seen.unreadable += 1
        if not self._seen.failed:
            self._seen.delivered += size  # it may have been text

    # --- lines that are too long to be kept ---

    def _long_line(self, line: bytes, passed: list[bytes]) -> None:
        """A long line that arrived whole is read as if it had come in pieces."""
        self._begin_long(line, passed)
        self._end_long(line, passed)

    def _begin_long(self, piece: bytes, passed: list[bytes]) -> None:
        self._release(passed)
        self._dropping = self._dropped = False
        bare = piece.removeprefix(BYTE_ORDER_MARK) if self._empty else piece
        self._long_data = bare.startswith(b"data:")
        if self._long_data:
            self._stop_reading(passed)
        self._flush(passed)
        self._empty = self._empty and not self._long_data
        self._long = Skimmer()
        self._long.feed(bare.removeprefix(b"data:"))

    def _pass_long(self, piece: bytes, passed: list[bytes]) -> None:
        """Relay all but the last byte: without it the event is incomplete for the client."""
        (self._kept if self._seen.finished else passed).append(self._tail + piece[:-1])
        self._tail = piece[-1:]

    def _end_long(self, piece: bytes, passed: list[bytes]) -> None:
        skimmer, self._long = self._long, None
        assert skimmer is not None
        self._event.append(self._tail + piece)
        self._tail = b""
        if not self._long_data:
            self._flush(passed)
            return
        data = skimmer.skeleton()
        line_end = len(piece) - len(piece.rstrip(b"\r\n"))
        size = skimmer.size - skimmer.dropped - line_end
        if data is None:
            self._seen.oversize += 1
            self._seen.delivered += size
        elif self._taken(data.strip()) is None:
            self._lost(size)
        self._read(True, passed)
