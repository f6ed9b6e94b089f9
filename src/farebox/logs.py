"""The program's own log: structured lines on standard error, as JSON or as human-readable text.

Logging must not affect the program: a line that cannot be written, or cannot be formatted, is dropped and counted. No
call of a logger raises, and none waits long for the log's reader.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import IO, Any, Protocol

import msgspec
import structlog

from farebox.clock import SystemClock
from farebox.settings import Settings

_PIECE = 4096
"""The number of bytes that a ready pipe accepts entirely or not at all (Linux's PIPE_BUF)."""
_WAITING_MAX = 1000
"""Number of waiting lines after which another write is scheduled, in case the loop that was to run the first has
ended."""
_WAIT_MS = 50
"""How long to wait for a slow reader; afterwards lines are dropped until it has room."""
_NO_WAIT_SECONDS = 1.0
"""How often such a wait is allowed: otherwise a slow reader would delay every call."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class DroppedLines:
    """Log lines that this process has dropped."""

    lines = 0


class StructuredLine(Protocol):
    """A struct that is a complete line, for lines that every call writes: structlog's processors would take ten times
    as long. Fields that are None by default and still None are omitted."""

    event: str
    level: str
    timestamp: str
    """Filled in when the line is written."""


class Direct:
    """Writes such lines at the end of the event loop's turn; None if lines are human-readable text, or this level is
    not logged."""

    write: Callable[[StructuredLine], None] | None = None


def write_line(line: StructuredLine) -> bool:
    """Write a line of level `info`, or drop it. Returns False if it must be written through structlog."""
    write = Direct.write
    if write is None or not structlog.is_configured():
        return False
    write(line)
    return True


def configure(settings: Settings, *, cached: bool = True) -> None:
    """Set up structlog. `cached`: loggers are fixed for the life of the process; otherwise structlog can be set up
    again later."""
    terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and terminal)
    timestamp = _Timestamp()
    common: list[Any] = [structlog.processors.add_log_level, timestamp, structlog.processors.format_exc_info]
    if as_text:
        processors = [*common, structlog.dev.ConsoleRenderer(colors=terminal, sort_keys=False)]
    else:
        processors = [*common, _as_json]
    sink = LogSink(sys.stderr, lost_line=lambda lost: _lost_line(processors, lost), kept=cached)
    wanted = logging.getLevelNamesMapping()[settings.log_level.upper()] <= logging.INFO
    Direct.write = _writer(sink, timestamp) if wanted and not as_text else None
    structlog.configure(
        processors=processors,
        wrapper_class=_unfailing(
            structlog.make_filtering_bound_logger(settings.log_level), None if as_text else timestamp
        ),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=cached,
    )
    logging.raiseExceptions = False  # it would write to standard error, and raise if that is closed
    logging.basicConfig(level=logging.WARNING, stream=sink)


class LogSink:
    """The destination of lines: a text stream, whose file descriptor is written to directly if it has one.

    A stream keeps in its buffer what it could not write, to write a part of it later or fail again; a descriptor
    accepts a line or does not.
    """

    def __init__(self, stream: IO[str] | None, *, lost_line: Callable[[int], bytes], kept: bool) -> None:
        """`lost_line` formats the line that says how many were lost. `kept`: the descriptor is duplicated, so that
        nothing else can close it.
        """
        self._stream = stream
        self._lost_line = lost_line
        self._fd = _descriptor(stream)
        if self._fd is not None and kept:
            self._fd = os.dup(self._fd)
        self._poll = select.poll()
        if self._fd is not None:
            self._poll.register(self._fd, select.POLLOUT)
        self._clock = SystemClock()
        self._no_wait_until = float("-inf")
        self._lost = 0
        """Lines dropped since the last one was written."""
        self._partial_line = False
        """The last line was only partly written."""
        self._waiting = deque[bytes]()
        """Lines logged in this turn of the event loop."""
        self._scheduled = False
        """Writing them is scheduled for the end of the turn."""

    def line(self, text: str | bytes) -> None:
        """Write one line, or drop it."""
        self._waiting.append(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
        self._write_waiting()

    def line_soon(self, data: bytes) -> None:
        """The same at the end of the event loop's turn, together with its other lines; at once if no loop is
        running."""
        self._waiting.append(data)
        if self._scheduled and len(self._waiting) < _WAITING_MAX:
            return
        try:
            asyncio.get_running_loop().call_soon(self._end_turn)
            self._scheduled = True
        except RuntimeError:
            self._write_waiting()

    def _end_turn(self) -> None:
        self._scheduled = False
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Write as many whole lines at once as a pipe accepts."""
        lines: list[bytes] = []
        size = 0
        with contextlib.suppress(IndexError):  # another thread may be writing, too
            while self._waiting:
                data = self._waiting.popleft()
                if lines and size + len(data) >= _PIECE:
                    self._write(lines)
                    lines, size = [], 0
                lines.append(data)
                size += len(data) + 1
        if lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        try:
            if self._lost:
                self._put(self._lost_line(self._lost) + b"\n")
                self._lost = 0
            self._put(b"\n".join((*lines, b"")))
        except (OSError, ValueError):  # a stream that is closed raises ValueError
            self._lost += len(lines)
            DroppedLines.lines += len(lines)

    msg = debug = info = warning = error = critical = exception = fatal = log = line
    """Called by structlog."""

    def write(self, text: str) -> None:
        """Called by the standard library's logging, with a newline at the end."""
        self.line(text.rstrip("\n"))

    def flush(self) -> None:
        """Does nothing: what the standard library writes is not buffered."""

    def _put(self, data: bytes) -> None:
        """Raises OSError or ValueError if the data was not written, or only in part."""
        if self._fd is None:
            if self._stream is None:
                raise ValueError("there is no standard error")
            self._stream.write(data.decode("utf-8", "backslashreplace"))
            self._stream.flush()
            return
        data = b"\n" + data if self._partial_line else data
        written = 0
        while written < len(data):
            if not self._ready():
                self._partial_line = self._partial_line or written > 0
                raise BlockingIOError("the log is not being read")
            try:
                written += os.write(self._fd, data[written : written + _PIECE])
            except OSError:
                self._partial_line = self._partial_line or written > 0
                raise
        self._partial_line = False

    def _ready(self) -> bool:
        """Whether the descriptor accepts data, now or soon."""
        if self._poll.poll(0):
            return True
        now = self._clock.monotonic()
        if self._lost or now < self._no_wait_until:
            return False
        self._no_wait_until = now + _NO_WAIT_SECONDS
        return bool(self._poll.poll(_WAIT_MS))


def _descriptor(stream: IO[str] | None) -> int | None:
    if stream is None:
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):  # it has no file descriptor, or is closed
        return None


def _unfailing(base: type[Any], timestamp: "_Timestamp | None") -> type[Any]:
    """A logger class that never raises: an event that cannot be formatted is dropped. With `timestamp`, lines are JSON,
    and a line without an exception is formatted directly: the processors would take ten times as long.
    """

    class NonRaising(base):  # type: ignore[misc] # structlog creates the class at runtime
        def _proxy_to_logger(self, method_name: str, event: str | None = None, **values: Any) -> Any:
            try:
                if timestamp is not None and "exc_info" not in values and not self._context:
                    values["event"] = event
                    values["level"] = method_name
                    values["timestamp"] = timestamp.text()
                    return self._logger.line(_as_json(None, method_name, values))
                return super()._proxy_to_logger(method_name, event, **values)
            except Exception:  # noqa: BLE001 - any error: logging must not fail the caller
                DroppedLines.lines += 1
                return None

    return NonRaising


def _writer(sink: LogSink, timestamp: "_Timestamp") -> Callable[[StructuredLine], None]:
    def write(line: StructuredLine) -> None:
        try:
            line.timestamp = timestamp.text()
            try:
                data = _encode(line)
            except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):  # a lone surrogate
                data = _as_json(None, line.level, msgspec.to_builtins(line))
            sink.line_soon(data)
        except Exception:  # noqa: BLE001 - any error: logging must not fail the caller
            DroppedLines.lines += 1

    return write


def _lost_line(processors: list[Any], lost: int) -> bytes:
    """The line that says how many were lost."""
    event: Any = {"event": "log lines dropped", "lines": lost}
    with contextlib.suppress(Exception):
        for processor in processors:
            event = processor(None, "warning", event)
    return event if isinstance(event, bytes) else str(event).encode("utf-8", "backslashreplace")


class _Timestamp:
    """Adds the UTC time in milliseconds. Formats each second only once, as every call writes a line."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._second = -1
        self._text = ""

    def text(self) -> str:
        second, milliseconds = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{str(1000 + milliseconds)[1:]}Z"

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["timestamp"] = self.text()
        return event


def _as_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    names, values = list(event), list(event.values())
    while None in values:
        at = values.index(None)
        del values[at], event[names.pop(at)]
    try:
        return _encode(event)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
        # a lone surrogate, or a number that is too large
        return json.dumps(event, default=repr).encode()
