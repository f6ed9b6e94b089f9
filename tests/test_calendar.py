"""Months, and waits before retries."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from farebox import backoff
from farebox.calendar import DAY_MS, HOUR_MS, month_begins, month_span, month_start, next_month, span_text, utc

TIMES = st.integers(0, 4_102_444_800_000)  # until 2100


@given(TIMES)
def test_every_time_is_in_exactly_one_month(at: int) -> None:
    start, end = month_start(at), next_month(at)
    assert start <= at < end
    assert (month_start(end), next_month(end - 1)) == (end, end)
    assert (utc(start).day, utc(start).hour, utc(end).day, start % DAY_MS) == (1, 0, 1, 0)
    assert 28 * DAY_MS <= end - start <= 31 * DAY_MS


def test_a_month_that_is_written_is_the_one_that_is_counted() -> None:
    december = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1000
    assert month_span("2026-12") == (december, december + 31 * DAY_MS)
    assert month_span("2026-12") == (month_begins(2026, 12), month_begins(2026, 13))
    assert month_span("2028-02") == (month_begins(2028, 2), month_begins(2028, 2) + 29 * DAY_MS)
    for text in ("2026-13", "2026-00", "26-01", "2026-1", " 2026-01", "2026-01\n", ""):
        assert month_span(text) is None


def test_a_duration_in_words_is_rounded_up() -> None:
    spans = {1: "1 second", 60: "1 minute", 119: "119 seconds", 121: "3 minutes", 3600: "1 hour", 7_201: "3 hours"}
    assert {seconds: span_text(seconds) for seconds in spans} == spans


def test_a_wait_doubles_with_each_failure_up_to_the_longest() -> None:
    assert [backoff.doubling(failures, 200, 1_600) for failures in range(1, 7)] == [200, 400, 800, 1_600, 1_600, 1_600]
    assert backoff.doubling(10**9, 1_000, HOUR_MS) == HOUR_MS
    assert backoff.doubling(4, 0, 60_000) == 0


@given(st.integers(-DAY_MS, 10**12), st.integers(1, 100))
def test_a_wait_grows_with_age_within_bounds(age: int, share: int) -> None:
    wait = backoff.with_age(age, 1_000, HOUR_MS, share=share)
    assert 1_000 <= wait <= HOUR_MS
    if 1_000 * share <= age < HOUR_MS * share:
        assert wait == age // share
