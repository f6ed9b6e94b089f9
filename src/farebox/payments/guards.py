"""Guards: how often and how much auto top-up may charge, whatever else goes wrong. Pure functions over attempt rows.

Their counts come from rows that were committed before each charge, so a crash, a second process or a lost cache cannot
circumvent them. Amounts are US cents unless the name says nanos; times are milliseconds.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from farebox.calendar import DAY_MS, HOUR_MS, MINUTE_MS
from farebox.money import NANOS_PER_CENT
from farebox.payments.charge_attempts import Attempt
from farebox.payments.declines import network_allows_at

ATTEMPTS_MAX: Final = 2
ATTEMPTS_WINDOW: Final = 10 * MINUTE_MS
FAILURES_WINDOW: Final = HOUR_MS
"""How long auto top-up does not use a card after a failure with it."""
FAILURES_IN_A_ROW: Final = 3
"""This many consecutive failures suspend the rule."""
SUCCESSES_MAX: Final = 3
SUCCESSES_WINDOW: Final = 10 * MINUTE_MS
"""More than SUCCESSES_MAX purchases within this time, manual or automatic, look like a loop."""
DAILY_MAX: Final = 24
"""How many auto top-ups an account may begin in 24 hours."""
DECLINES_PER_HOUR: Final = 10
"""Declined manual purchases of one account: more look like a test of stolen cards."""
CAP_FACTOR: Final = 10
"""The monthly cap is this many times the amount, unless the owner sets one."""

HISTORY: Final = 31 * DAY_MS
"""How far back the attempts must be read for these rules and those of the card networks."""


class Wait(msgspec.Struct, frozen=True):
    """A charge must wait: `reason` is a key of payments.states.DISABLED_REASONS, `until` milliseconds since the Unix
    epoch.
    """

    reason: str
    until: int


def check_auto(attempts: Sequence[Attempt], *, brand: str, fingerprint: str, charge_cents: int, at: int) -> Wait | None:
    """None if an automatic charge may be tried now; otherwise the latest wait that any guard requires."""
    auto = [attempt for attempt in attempts if attempt.kind == "auto"]
    waits = [
        _at_most(ATTEMPTS_MAX, ATTEMPTS_WINDOW, [a.started_at for a in auto], "too_many_attempts", at),
        _at_most(1, FAILURES_WINDOW, _failures(auto, fingerprint), "too_many_attempts", at),
        _at_most(SUCCESSES_MAX + 1, SUCCESSES_WINDOW, _successes(attempts), "too_many_top_ups", at),
        _at_most(DAILY_MAX, DAY_MS, [a.started_at for a in auto if a.attempt == 1], "too_many_top_ups", at),
        _network(attempts, brand, fingerprint, charge_cents, at),
    ]
    return max((wait for wait in waits if wait is not None), key=lambda wait: wait.until, default=None)


def check_manual(
    attempts: Sequence[Attempt], *, brand: str, fingerprint: str, charge_cents: int, at: int
) -> Wait | None:
    """None if a manual purchase may be tried now; otherwise a wait. It is limited only against the testing of stolen
    cards."""
    declined = [a.started_at for a in attempts if a.outcome == "declined" and a.kind == "manual"]
    waits = [
        _at_most(DECLINES_PER_HOUR, HOUR_MS, declined, "too_many_attempts", at),
        _network(attempts, brand, fingerprint, charge_cents, at),
    ]
    return max((wait for wait in waits if wait is not None), key=lambda wait: wait.until, default=None)


def _at_most(count: int, window: int, times: Sequence[int], reason: str, at: int) -> Wait | None:
    """Wait until fewer than `count` of the times lie within the window."""
    recent = sorted(time for time in times if time > at - window)
    return None if len(recent) < count else Wait(reason, recent[-count] + window)


def _network(attempts: Sequence[Attempt], brand: str, fingerprint: str, cents: int, at: int) -> Wait | None:
    allowed = network_allows_at(attempts, brand=brand, fingerprint=fingerprint, amount_cents=cents, at=at)
    return None if allowed <= at else Wait("too_many_attempts", allowed)


def _failures(attempts: Sequence[Attempt], fingerprint: str) -> list[int]:
    return [_ended(a) for a in attempts if a.outcome == "declined" and a.fingerprint == fingerprint]


def _successes(attempts: Sequence[Attempt]) -> list[int]:
    return [_ended(attempt) for attempt in attempts if attempt.outcome == "paid"]


def _ended(attempt: Attempt) -> int:
    return attempt.started_at if attempt.ended_at is None else attempt.ended_at


def increments(gap_nanos: int, amount_cents: int) -> int:
    """How many times the amount is needed to exceed a gap (not only to reach it); 0 if there is none."""
    return 0 if gap_nanos <= 0 else gap_nanos // (amount_cents * NANOS_PER_CENT) + 1


def size(
    gap_nanos: int, amount_cents: int, *, max_cents: int, remainder_cents: int, charge_of: Callable[[int], int]
) -> int:
    """The credit that one charge buys to close the gap: a multiple of the amount that the account's maximum and what
    is left of the month's cap allow. 0: not even one amount is left of the cap.

    `charge_of` returns what the card pays for an amount of credit (never less for more credit): the cap counts what was
    charged.
    """
    if gap_nanos <= 0:
        return 0
    if max_cents < amount_cents:  # the operator lowered the maximum after the rule was saved
        return max_cents if charge_of(max_cents) <= remainder_cents else 0
    low, high = 0, min(increments(gap_nanos, amount_cents), max_cents // amount_cents)
    while low < high:
        middle = (low + high + 1) // 2
        if charge_of(middle * amount_cents) <= remainder_cents:
            low = middle
        else:
            high = middle - 1
    return low * amount_cents
