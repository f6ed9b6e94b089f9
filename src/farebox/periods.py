"""Windows of the calendar: hours, days, weeks from Monday and months, in the time zone of an account.

A window ends where the next one begins, whatever the clocks of the zone do: a day that begins with a change to summer
time begins when it does, at one o'clock, and an hour in which the clocks change by half of one is two. Moments are
milliseconds since the Unix epoch.
"""

from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from farebox.calendar import DAY_MS, HOUR_MS, SECOND_MS

Period: TypeAlias = Literal["hourly", "daily", "weekly", "monthly"]
UTC_NAME: Final = "UTC"


class Span(NamedTuple):
    """A window: from `start` on, up to and without `end`."""

    start: int
    end: int


class Change(NamedTuple):
    """Since when an account has a time zone."""

    at: int
    zone: str


Zones: TypeAlias = tuple[Change, ...]
"""The time zones of an account, the latest last; empty: always UTC."""


def window(period: Period, at: int, zones: Zones = ()) -> Span:
    """The window of `at`.

    The window in which the zone is changed ends as it would have without; the next begins there, and ends by the new
    zone. So no moment is in two windows, and what was spent in one counts until it ends.
    """
    if not zones:
        return _window(period, at, UTC_NAME)
    floor, zone = _since(period, at, zones)
    found = _window(period, at, zone)
    return found if found.start >= floor else Span(floor, found.end)


def _since(period: Period, at: int, zones: Zones) -> tuple[int, str]:
    """By which zone the window of `at` is cut, and since when windows are cut by it."""
    cuts: list[tuple[int, str]] = [(0, UTC_NAME)]
    for change in zones:
        in_progress = next(cut for cut in reversed(cuts) if cut[0] <= max(change.at, 0))
        end = _window(period, change.at, in_progress[1]).end if change.at else 0
        while cuts and cuts[-1][0] >= end:
            cuts.pop()
        cuts.append((end, change.zone))
    return next(cut for cut in reversed(cuts) if cut[0] <= max(at, 0))


def _window(period: Period, at: int, zone: str) -> Span:
    if zone == UTC_NAME and period in ("hourly", "daily"):
        length = HOUR_MS if period == "hourly" else DAY_MS
        start = at - at % length
        return Span(start, start + length)
    if period == "hourly":
        return _hour(at, zone)
    day = _local(at, zone).date()
    first = _first_day(period, day)
    begins, ends = _begins(first, zone), _begins(_next(period, first), zone)
    if ends <= at:  # clocks that were put back over midnight show the day before once more
        first = _next(period, first)
        return Span(ends, _begins(_next(period, first), zone))
    if begins > at:  # clocks that were put forward over midnight
        return Span(_begins(_first_day(period, first - timedelta(days=1)), zone), begins)
    return Span(begins, ends)


def _hour(at: int, zone: str) -> Span:
    """The hour of the zone's clocks. One in which they change, by half an hour, ends there, and another begins."""
    offset = _offset(at, zone)
    start = at - (at + offset) % HOUR_MS
    end = start + HOUR_MS
    if _offset(start, zone) != offset:
        start = _change_between(start, at, zone)
    if _offset(end - 1, zone) != offset:
        end = _change_between(at, end - 1, zone)
    return Span(start, end)


def _change_between(before: int, after: int, zone: str) -> int:
    """When the clocks change that show different offsets at these moments, less than an hour apart."""
    old, first, last = _offset(before, zone), before // SECOND_MS, after // SECOND_MS
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if _offset(middle * SECOND_MS, zone) == old else (first, middle)
    return last * SECOND_MS


def _offset(at: int, zone: str) -> int:
    """How far the zone is ahead of UTC, in milliseconds."""
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
    """The first midnight of the day, or where that is skipped the moment at which it is."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone_of(zone)).timestamp()) * 1000


def zone_of(name: str) -> ZoneInfo:
    """The zone of that IANA name, which `is_zone`."""
    return _UTC if name == UTC_NAME else ZoneInfo(name)


@cache
def _names() -> frozenset[str]:
    return frozenset((resources.files("tzdata") / "zones").read_text().split()) - {"Factory"}


def is_zone(name: str) -> bool:
    """Whether there is a zone of that IANA name. Systems have others besides, such as those that count leap seconds;
    and `Factory` is what a machine has whose zone nobody has set."""
    return name in _names()


_UTC: Final = ZoneInfo(UTC_NAME)
