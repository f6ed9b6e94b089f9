"""Windows of the calendar: hours, days, weeks from Monday and months, in the time zone of an account.

A window ends where the next one begins, whatever the clocks of the zone do: a day that begins with a change to summer
time begins when it does, at one o'clock. Moments are milliseconds since the Unix epoch.
"""

from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from farebox.calendar import DAY_MS, HOUR_MS

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
        offset = _local(at, zone).utcoffset() or timedelta()
        start = at - (at + offset // timedelta(milliseconds=1)) % HOUR_MS
        return Span(start, start + HOUR_MS)
    day = _local(at, zone).date()
    first = _first_day(period, day)
    begins, ends = _begins(first, zone), _begins(_next(period, first), zone)
    if ends <= at:  # clocks that were put back over midnight show the day before once more
        first = _next(period, first)
        return Span(ends, _begins(_next(period, first), zone))
    if begins > at:  # clocks that were put forward over midnight
        return Span(_begins(_first_day(period, first - timedelta(days=1)), zone), begins)
    return Span(begins, ends)


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
    return frozenset((resources.files("tzdata") / "zones").read_text().split())


def is_zone(name: str) -> bool:
    """Whether there is a zone of that IANA name. Systems have others besides, such as those that count leap seconds."""
    return name in _names()


_UTC: Final = ZoneInfo(UTC_NAME)
