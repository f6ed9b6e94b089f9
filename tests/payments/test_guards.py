"""The guards and the classes of declines: pure functions, tested with arbitrary attempts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_stripe.cards import DECLINES
from farebox.calendar import DAY_MS, HOUR_MS, MINUTE_MS, month_start, next_month
from farebox.money import NANOS_PER_CENT
from farebox.payments import declines, guards
from farebox.payments.charge_attempts import Attempt, AttemptOutcome
from farebox.payments.declines import TRIES_MAX, classify, public_code, safe_text, wait_after
from farebox.payments.states import DISABLED_REASONS

NOW = 1_795_348_800_000

outcomes = st.sampled_from(["paid", "declined", "action_required", "closed", None])
attempts = st.lists(
    st.builds(
        Attempt,
        top_up_id=st.text("ab", min_size=1, max_size=2),
        attempt=st.integers(1, TRIES_MAX),
        kind=st.sampled_from(["manual", "auto"]),
        fingerprint=st.sampled_from(["f1", "f2"]),
        amount_cents=st.sampled_from([1_000, 2_000]),
        started_at=st.integers(NOW - 32 * DAY_MS, NOW),
        outcome=outcomes,
    ),
    max_size=60,
)
brands = st.sampled_from(["visa", "mastercard", "amex", ""])


def check(found: list[Attempt], at: int, brand: str = "visa") -> guards.Wait | None:
    return guards.check_auto(found, brand=brand, fingerprint="f1", charge_cents=1_000, at=at)


def made(ago: int, outcome: AttemptOutcome | None = "declined", **more: object) -> Attempt:
    values = {"top_up_id": "a", "attempt": 1, "kind": "auto", "fingerprint": "f1", "amount_cents": 1_000}
    return Attempt(**{**values, "started_at": NOW - ago, "outcome": outcome, **more})  # type: ignore[arg-type]


# --- guards -----------------------------------------------------------------------------------------------------------


@given(attempts, brands)
def test_a_wait_is_in_the_future_ends_and_has_a_documented_reason(found: list[Attempt], brand: str) -> None:
    wait = check(found, NOW, brand)
    if wait is not None:
        assert NOW < wait.until <= NOW + 31 * DAY_MS
        assert wait.reason in DISABLED_REASONS
        assert check(found, NOW + 31 * DAY_MS + 1, brand) is None


@given(attempts, brands)
def test_a_wait_is_never_longer_than_needed(found: list[Attempt], brand: str) -> None:
    """After the wait the oldest counted attempt no longer counts, so that following the waits never wastes time."""
    wait = check(found, NOW, brand)
    if wait is not None:
        again = check(found, wait.until, brand)
        assert again is None or again.until > wait.until


@given(attempts)
def test_an_allowed_charge_satisfies_every_guard(found: list[Attempt]) -> None:
    if check(found, NOW) is not None:
        return
    auto = [attempt for attempt in found if attempt.kind == "auto"]
    assert sum(attempt.started_at > NOW - 10 * MINUTE_MS for attempt in auto) < 2
    assert not any(a.outcome == "declined" and a.fingerprint == "f1" and a.started_at > NOW - HOUR_MS for a in auto)
    assert sum(a.outcome == "paid" and a.started_at > NOW - 10 * MINUTE_MS for a in found) <= 3
    declined = [a for a in found if a.outcome == "declined" and (a.fingerprint, a.amount_cents) == ("f1", 1_000)]
    assert sum(attempt.started_at > NOW - 30 * DAY_MS for attempt in declined) < 15


def test_without_attempts_there_is_no_wait() -> None:
    assert check([], NOW) is None
    assert check([made(0, None)], NOW) is None, "an unknown outcome is not a failure"


@pytest.mark.parametrize(
    ("found", "reason", "wait"),
    [
        ([made(MINUTE_MS, "paid"), made(2 * MINUTE_MS, "paid")], "too_many_attempts", 8 * MINUTE_MS),
        ([made(20 * MINUTE_MS)], "too_many_attempts", 40 * MINUTE_MS),
        ([made(60 * MINUTE_MS, ended_at=NOW - 10 * MINUTE_MS)], "too_many_attempts", 50 * MINUTE_MS),
        ([made(MINUTE_MS * n, "paid", kind="manual") for n in range(1, 5)], "too_many_top_ups", 6 * MINUTE_MS),
        ([made(HOUR_MS * n, "paid") for n in range(24)], "too_many_top_ups", HOUR_MS),
        ([made(HOUR_MS + DAY_MS * n) for n in range(1, 16)], "too_many_attempts", 15 * DAY_MS - HOUR_MS),
    ],
)
def test_each_guard_waits_until_its_oldest_attempt_leaves_the_window(
    found: list[Attempt], reason: str, wait: int
) -> None:
    assert check(found, NOW) == guards.Wait(reason, NOW + wait)


def test_a_failure_of_another_card_does_not_hold_up_a_new_one() -> None:
    assert check([made(20 * MINUTE_MS, fingerprint="f2")], NOW) is None


def test_mastercard_counts_declines_by_day_whatever_the_amount() -> None:
    found = [made(HOUR_MS * 2 + n, amount_cents=n) for n in range(10)]
    assert check(found, NOW, "mastercard") == guards.Wait("too_many_attempts", NOW + 22 * HOUR_MS - 9)
    assert check(found, NOW, "visa") is None
    assert check(found, NOW, "some other network") is not None


def test_visa_counts_declines_of_the_same_amount_alone() -> None:
    assert check([made(HOUR_MS + DAY_MS * n, amount_cents=999) for n in range(1, 16)], NOW, "visa") is None


def test_manual_purchases_allow_ten_declines_an_hour() -> None:
    found = [made(MINUTE_MS * n, kind="manual", fingerprint=f"f{n}") for n in range(10)]
    reported = guards.check_manual(found, brand="visa", fingerprint="new", charge_cents=1, at=NOW)
    assert reported == guards.Wait("too_many_attempts", NOW + 51 * MINUTE_MS)
    assert guards.check_manual(found[:9], brand="visa", fingerprint="new", charge_cents=1, at=NOW) is None


# --- sizes ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**13), st.integers(1_000, 10**6))
def test_the_charge_is_the_smallest_that_ends_above_the_threshold(gap: int, amount: int) -> None:
    count = guards.increments(gap, amount)
    assert count * amount * NANOS_PER_CENT > gap
    assert (count - 1) * amount * NANOS_PER_CENT <= gap


@given(
    gap=st.integers(-(10**12), 10**13),
    amount=st.integers(1_000, 10**6),
    most=st.integers(50, 10**7),
    rest=st.integers(-(10**6), 10**8),
    fee=st.integers(0, 100),
)
def test_a_charge_is_within_maximum_and_cap_and_as_large_as_they_allow(
    gap: int, amount: int, most: int, rest: int, fee: int
) -> None:
    def charge_of(credit: int) -> int:
        return credit + credit * fee // 1000 + fee

    credit = guards.size(gap, amount, max_cents=most, remainder_cents=rest, charge_of=charge_of)
    assert credit == 0 or (0 < credit <= most and charge_of(credit) <= rest)
    assert credit % amount == 0 or credit == most < amount
    if gap <= 0:
        assert credit == 0
    elif credit % amount == 0 and amount <= most:
        closed = credit * NANOS_PER_CENT > gap
        more = credit + amount
        assert closed or more > most or charge_of(more) > rest


@given(st.integers(0, 4_000_000_000_000))
def test_months_are_those_of_the_calendar_in_utc(at: int) -> None:
    start, end = month_start(at), next_month(at)
    assert start <= at < end
    first, following = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (start, end))
    for moment in (first, following):
        assert (moment.day, moment.hour, moment.minute, moment.second, moment.microsecond) == (1, 0, 0, 0, 0)
    assert (following.year * 12 + following.month) - (first.year * 12 + first.month) == 1


# --- declines ---------------------------------------------------------------------------------------------------------


def test_no_code_is_in_two_classes() -> None:
    tables = [set(declines.HARD), set(declines.SOFT), set(declines.AUTHENTICATION)]
    assert sum(map(len, tables)) == len(set.union(*tables))


@pytest.mark.parametrize("code", sorted(DECLINES))
def test_every_decline_code_of_the_fake_is_classified(code: str) -> None:
    assert code in declines.HARD or code in declines.SOFT or code in declines.AUTHENTICATION


@pytest.mark.parametrize("code", ["stolen_card", "lost_card", "pickup_card", "fraudulent", "merchant_blacklist"])
def test_confidential_decline_codes_are_never_disclosed(code: str) -> None:
    assert classify(code) == "hard"
    assert safe_text(code) == "The card was declined."
    assert public_code(code) == "generic_decline"


@given(st.text(max_size=30))
def test_an_unknown_decline_code_is_soft_and_described_generically(code: str) -> None:
    if code not in declines.HARD and code not in declines.AUTHENTICATION:
        assert classify(code) == "soft"
    assert safe_text(code)
    assert public_code(None) is None


@pytest.mark.parametrize("advice", ["do_not_try_again", "confirm_card_data", "03", "21"])
def test_the_network_s_advice_makes_any_decline_hard(advice: str) -> None:
    assert classify("insufficient_funds", advice) == "hard"
    assert classify("insufficient_funds", "try_again_later") == "soft"


@given(st.integers(1, 50), st.sampled_from([None, "try_again_later", *map(str, range(24, 31))]))
def test_waits_double_to_a_day_and_are_never_shorter_than_advised(tries: int, advice: str | None) -> None:
    wait = wait_after(tries, advice)
    assert wait >= HOUR_MS
    assert wait >= declines.ADVICE_WAITS.get(advice or "", 0)
    assert wait <= max(DAY_MS, declines.ADVICE_WAITS.get(advice or "", 0))
    assert wait_after(tries + 1, advice) >= wait


def test_the_first_waits_are_one_two_and_four_hours() -> None:
    assert [wait_after(tries) for tries in range(1, 8)] == [HOUR_MS * n for n in (1, 2, 4, 8, 16, 24, 24)]
    assert wait_after(1, "30") == 10 * DAY_MS
