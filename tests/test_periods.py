"""Calendar windows in time zones: without gaps or overlaps, whatever the clocks do."""

import struct
from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.calendar import DAY_MS, HOUR_MS
from farebox.periods import CalendarSpan, Period, ZoneChange, Zones, is_zone, window

PERIODS: tuple[Period, ...] = ("hourly", "daily", "weekly", "monthly")
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo",
    "America/Havana", "Asia/Beirut", "Africa/Cairo", "Pacific/Apia", "Pacific/Kiritimati", "America/St_Johns",
    "Asia/Kathmandu", "Atlantic/Azores", "America/Asuncion",
)  # fmt: skip


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def always(zone: str) -> Zones:
    return (ZoneChange(0, zone),)


@pytest.mark.parametrize(
    ("period", "zone", "at", "start", "end"),
    [
        ("daily", "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
        ("daily", "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
        ("weekly", "Europe/Berlin", "2026-03-29T12:00", "2026-03-22T23:00", "2026-03-29T22:00"),
        ("monthly", "America/New_York", "2026-03-31T12:00", "2026-03-01T05:00", "2026-04-01T04:00"),
        ("daily", "Asia/Kolkata", "2026-06-01T18:29", "2026-05-31T18:30", "2026-06-01T18:30"),
        ("hourly", "Asia/Kolkata", "2026-06-01T18:29", "2026-06-01T17:30", "2026-06-01T18:30"),
        ("hourly", "Australia/Lord_Howe", "2026-04-04T14:59", "2026-04-04T14:00", "2026-04-04T15:00"),
        ("hourly", "Australia/Lord_Howe", "2026-04-04T15:00", "2026-04-04T15:00", "2026-04-04T15:30"),  # half past one
        ("hourly", "Australia/Lord_Howe", "2026-10-03T15:29", "2026-10-03T14:30", "2026-10-03T15:30"),
        ("hourly", "Australia/Lord_Howe", "2026-10-03T15:59", "2026-10-03T15:30", "2026-10-03T16:00"),  # half past two
        ("hourly", "Europe/Berlin", "2026-10-25T01:30", "2026-10-25T01:00", "2026-10-25T02:00"),
        ("daily", "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", "2018-11-05T02:00"),  # begins at one
        ("daily", "America/Sao_Paulo", "2018-02-17T12:00", "2018-02-17T02:00", "2018-02-18T03:00"),  # 23:xx twice
        ("daily", "Asia/Beirut", "2026-03-29T12:00", "2026-03-28T22:00", "2026-03-29T21:00"),
        ("daily", "America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00"),  # midnight twice
        ("daily", "Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00"),  # the 30th is skipped
        ("daily", "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        ("monthly", "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("weekly", "UTC", "2026-11-30T00:00", "2026-11-30T00:00", "2026-12-07T00:00"),
    ],
)
def test_windows(period: Period, zone: str, at: str, start: str, end: str) -> None:
    assert window(period, ms(at), always(zone)) == CalendarSpan(ms(start), ms(end))


MOMENTS = st.integers(ms("2005-01-01"), ms("2035-01-01"))


@settings(deadline=None, max_examples=400)
@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(PERIODS))
def test_every_moment_is_in_the_window_that_ends_where_the_next_begins(at: int, zone: str, period: Period) -> None:
    found = window(period, at, always(zone))
    assert found.start <= at < found.end
    assert window(period, found.start, always(zone)) == window(period, found.end - 1, always(zone)) == found
    assert window(period, found.end, always(zone)).start == found.end
    local = datetime.fromtimestamp(found.start / 1000, ZoneInfo(zone))
    assert local.minute == 0 or zone == "America/St_Johns" or period == "hourly"


def transitions(zone: str) -> list[int]:
    """The times of the zone's clock changes from its file (RFC 9636), as seconds since 1970."""
    data = (resources.files("tzdata") / "zoneinfo" / zone).read_bytes()
    is_utc, is_standard, leaps, times, types, characters = struct.unpack(">6L", data[20:44])
    second = 44 + times * 5 + types * 6 + characters + leaps * 8 + is_standard + is_utc  # the block of 64 bits
    (count,) = struct.unpack(">L", data[second + 32 : second + 36])
    found = struct.unpack(f">{count}q", data[second + 44 : second + 44 + count * 8])
    return [at for at in found if at > DAY_MS // 1000]


def test_no_moment_is_in_two_hours_wherever_clocks_have_changed_by_part_of_one() -> None:
    names = (resources.files("tzdata") / "zones").read_text().split()
    tried = 0
    for zone in filter(is_zone, names):
        for change in transitions(zone):
            before, after = (datetime.fromtimestamp(at, ZoneInfo(zone)).utcoffset() for at in (change - 1, change))
            assert before is not None
            assert after is not None
            if not (after - before) % timedelta(hours=1):
                continue
            tried += 1
            at = change * 1000 - 2 * HOUR_MS
            while at < change * 1000 + 2 * HOUR_MS:
                found = window("hourly", at, always(zone))
                assert found.start <= at < found.end <= found.start + HOUR_MS, (zone, change)
                assert window("hourly", found.end - 1, always(zone)) == found
                assert window("hourly", found.end, always(zone)).start == found.end
                assert not found.start < change * 1000 < found.end
                at = found.end
    assert tried > 100


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.tuples(MOMENTS, st.sampled_from(ZONES)), min_size=1, max_size=6).map(sorted),
    st.sampled_from(PERIODS),
    st.integers(-40 * DAY_MS, 40 * DAY_MS),
)
def test_changes_of_the_zone_leave_no_gap_and_move_no_window_in_progress(
    changes: list[tuple[int, str]], period: Period, offset: int
) -> None:
    zones = tuple(ZoneChange(*change) for change in changes)
    at = changes[-1][0] + offset
    found = window(period, at, zones)
    assert found.start <= at < found.end
    assert window(period, found.end - 1, zones) == window(period, found.start, zones) == found
    assert window(period, found.end, zones).start == found.end
    for count, change in enumerate(zones):
        before, after = zones[:count], zones[: count + 1]
        assert window(period, change.at, after) == window(period, change.at, before)


def test_a_change_takes_effect_with_the_next_window() -> None:
    zones = (ZoneChange(ms("2026-05-10T12:00"), "America/New_York"),)
    assert window("daily", ms("2026-05-10T23:59"), zones) == CalendarSpan(ms("2026-05-10"), ms("2026-05-11"))
    assert window("daily", ms("2026-05-11T00:00"), zones) == CalendarSpan(ms("2026-05-11"), ms("2026-05-11T04:00"))
    assert window("daily", ms("2026-05-11T04:00"), zones) == CalendarSpan(
        ms("2026-05-11T04:00"), ms("2026-05-12T04:00")
    )
    back = (*zones, ZoneChange(ms("2026-05-10T18:00"), "Asia/Tokyo"))
    assert window("daily", ms("2026-05-11T00:00"), back) == CalendarSpan(ms("2026-05-11"), ms("2026-05-11T15:00"))
    assert window("hourly", ms("2026-05-11T00:00"), back).end - ms("2026-05-11") == HOUR_MS


def test_names() -> None:
    assert all(map(is_zone, ZONES))
    for wrong in (
        "",
        "Mars/Olympus",
        "../../etc/passwd",
        "posix/UTC",
        "right/UTC",
        "localtime",
        "europe/berlin",
        "zones",
        "Factory",
    ):
        assert not is_zone(wrong)
    assert datetime.fromtimestamp(0, ZoneInfo("UTC")).utcoffset() == UTC.utcoffset(None)
