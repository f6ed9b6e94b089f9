"""The program's own log: structured lines on standard error, as JSON or as text for people."""

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from farebox.clock import SystemClock
from farebox.settings import Settings

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(settings: Settings, *, cached: bool = True) -> None:
    """Set up structlog. `cached`: for the life of the process; else it can be set up anew, as after one command."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    common: list[Any] = [structlog.processors.add_log_level, _Timestamp(), structlog.processors.format_exc_info]
    if as_text:
        colors = sys.stderr.isatty()
        processors = [*common, structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors = [*common, _as_json]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=factory,
        cache_logger_on_first_use=cached,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


class _Timestamp:
    """Adds the time in UTC to the millisecond. Formats each second once: every call writes a line."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._second = -1
        self._text = ""

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        second, milliseconds = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        event["timestamp"] = f"{self._text}.{milliseconds:03d}Z"
        return event


def _as_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    for key in [key for key, value in event.items() if value is None]:
        del event[key]
    return _encode(event)
