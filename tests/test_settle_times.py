"""Settlement times are kept for the latest calls only."""

from farebox.runtime.settle_times import KEPT, SettleTimes


def test_the_latest_are_kept_and_the_oldest_forgotten() -> None:
    times = SettleTimes()
    for number in range(5 * KEPT):
        times.note(str(number), float(number))
        assert times.of(str(number)) == number
    kept = [number for number in range(5 * KEPT) if times.of(str(number)) is not None]
    assert kept[0] <= 4 * KEPT
    assert KEPT <= len(kept) < 2 * KEPT
    assert times.of("never") is None
