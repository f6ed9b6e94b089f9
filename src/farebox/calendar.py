"""Durations, and calendar months in UTC.

Moments (`at`) are milliseconds since the Unix epoch.
"""

import re
from datetime import UTC, datetime
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
DAY_SECONDS: Final = DAY_MS // SECOND_MS

_MONTH: Final = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")


def month_start(at: int) -> int:
    """The first millisecond of the month that contains the time."""
    when = utc(at)
    return month_begins(when.year, when.month)


def next_month(at: int) -> int:
    """The first millisecond of the month after the one that contains the time."""
    when = utc(at)
    return month_begins(when.year, when.month + 1)


def month_begins(year: int, month: int) -> int:
    """The first millisecond of a month; the thirteenth is the next year's first."""
    return int(datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


def month_span(month: str) -> tuple[int, int] | None:
    """The first millisecond of a month such as `2026-11`, and of the month after it; None if the text is not a
    month."""
    found = _MONTH.fullmatch(month)
    if found is None:
        return None
    year, number = int(found.group(1)), int(found.group(2))
    return month_begins(year, number), month_begins(year, number + 1)


def seconds_until(at: int, now: int) -> int:
    """The time until a moment in whole seconds, at least one."""
    return max(1, -((now - at) // SECOND_MS))


def span_text(seconds: int) -> str:
    """A duration in words, rounded up: `45 seconds`, `1 minute`, `12 minutes`, `2 hours`."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds == length or seconds >= 2 * length:
            return _counted(-(-seconds // length), unit)
    return _counted(seconds, "second")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def day_text(at: int) -> str:
    """The day of a time in UTC: `2026-11-30`."""
    return f"{utc(at):%Y-%m-%d}"


def utc(at: int) -> datetime:
    """A time as date and time of day."""
    return datetime.fromtimestamp(at / 1000, UTC)
