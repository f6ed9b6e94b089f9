"""Calendar windows in an account's time zone: hours, days, weeks from Monday, and months.

A window ends where the next one begins, whatever the zone's clocks do. If midnight is skipped by a change to summer
time, the day begins at the moment of the change, at one o'clock. An hour in which the clocks change by half an hour is
two windows. Moments are Unix milliseconds.
"""

from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from farebox.calendar import DAY_MS, HOUR_MS, SECOND_MS

Period: TypeAlias = Literal["hourly", "daily", "weekly", "monthly"]
UTC_NAME: Final = "UTC"


class CalendarSpan(NamedTuple):
    """A window: from `start` up to but not including `end`."""

    start: int
    end: int


class ZoneChange(NamedTuple):
    """A time zone, and the moment from which the account has it."""

    at: int
    zone: str


Zones: TypeAlias = tuple[ZoneChange, ...]
"""The time zones of an account, the latest last; empty: always UTC."""


def window(period: Period, at: int, zones: Zones = ()) -> CalendarSpan:
    """The window that contains the moment `at`.

    The window during which the zone is changed ends as it would have without the change; the next one begins there, and
    ends by the new zone. So no moment is in two windows, and what was spent in a window counts until it ends.
    """
    if not zones:
        return _window(period, at, UTC_NAME)
    floor, zone = _since(period, at, zones)
    found = _window(period, at, zone)
    return found if found.start >= floor else CalendarSpan(floor, found.end)


def _since(period: Period, at: int, zones: Zones) -> tuple[int, str]:
    """The zone that determines the window of `at`, and the moment from which it does."""
    cuts: list[tuple[int, str]] = [(0, UTC_NAME)]
    for change in zones:
        in_progress = next(cut for cut in reversed(cuts) if cut[0] <= max(change.at, 0))
        end = _window(period, change.at, in_progress[1]).end if change.at else 0
        while cuts and cuts[-1][0] >= end:
            cuts.pop()
        cuts.append((end, change.zone))
    return next(cut for cut in reversed(cuts) if cut[0] <= max(at, 0))


def _window(period: Period, at: int, zone: str) -> CalendarSpan:
    if zone == UTC_NAME and period in ("hourly", "daily"):
        length = HOUR_MS if period == "hourly" else DAY_MS
        start = at - at % length
        return CalendarSpan(start, start + length)
    if period == "hourly":
        return _hour(at, zone)
    day = _local(at, zone).date()
    first = _first_day(period, day)
    begins, ends = _begins(first, zone), _begins(_next(period, first), zone)
    if ends <= at:  # clocks that were put back over midnight show the day before once more
        first = _next(period, first)
        return CalendarSpan(ends, _begins(_next(period, first), zone))
    if begins > at:  # clocks that were put forward over midnight
        return CalendarSpan(_begins(_first_day(period, first - timedelta(days=1)), zone), begins)
    return CalendarSpan(begins, ends)


def _hour(at: int, zone: str) -> CalendarSpan:
    """The hour by the zone's clocks. If the clocks change within it by half an hour, it ends there, and another hour
    begins."""
    offset = _offset(at, zone)
    start = at - (at + offset) % HOUR_MS
    end = start + HOUR_MS
    if _offset(start, zone) != offset:
        start = _change_between(start, at, zone)
    if _offset(end - 1, zone) != offset:
        end = _change_between(at, end - 1, zone)
    return CalendarSpan(start, end)


def _change_between(before: int, after: int, zone: str) -> int:
    """When the clocks change between these two moments, which are less than an hour apart and have different
    offsets."""
    old, first, last = _offset(before, zone), before // SECOND_MS, after // SECOND_MS
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if _offset(middle * SECOND_MS, zone) == old else (first, middle)
    return last * SECOND_MS


def _offset(at: int, zone: str) -> int:
    """The zone's offset from UTC in milliseconds."""
    return (_local(at, zone).utcoffset() or timedelta()) // timedelta(milliseconds=1)


def _local(at: int, zone: str) -> datetime:
    return datetime.fromtimestamp(at // 1000, zone_of(zone))


def _first_day(period: Period, day: date) -> date:
    if period == "weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "monthly" else day


def _next(period: Period, first: date) -> date:
    if period == "monthly":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if period == "weekly" else 1)


@lru_cache(maxsize=4096)
def _begins(day: date, zone: str) -> int:
    """The start of the day: its first midnight or, if midnight is skipped, the moment of the change."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone_of(zone)).timestamp()) * 1000


def zone_of(name: str) -> ZoneInfo:
    """The zone with this IANA name, which must satisfy `is_zone`."""
    return _UTC if name == UTC_NAME else ZoneInfo(name)


@cache
def _names() -> frozenset[str]:
    return frozenset((resources.files("tzdata") / "zones").read_text().split()) - {"Factory"}


def is_zone(name: str) -> bool:
    """Whether a zone with this IANA name exists. Excluded are zones that only some systems have, such as those that
    count leap seconds, and `Factory`, the zone of a machine that has not been set up."""
    return name in _names()


_UTC: Final = ZoneInfo(UTC_NAME)
