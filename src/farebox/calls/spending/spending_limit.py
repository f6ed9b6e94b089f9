"""An account's spending limit: setting it, removing it, reporting what is spent, and explaining refusals to callers.

The limit is enforced in the transaction of the hold (ledger.posting), without consulting this module.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from farebox.calendar import HOUR_MS, seconds_until
from farebox.errors import ACCESS_DENIED, LIMIT_TOO_LOW, SPEND_LIMITED, VALIDATION_FAILED, Problem, Shortage
from farebox.ledger.commands import Verdict
from farebox.ledger.spending import SLIDING_MS, window_end, window_start
from farebox.money import AMOUNT_MAX, NANOS_PER_CENT, format_usd
from farebox.periods import Zones
from farebox.runtime.services import Services
from farebox.storage.account_settings import read_settings
from farebox.storage.accounts import find_account, read_balance
from farebox.storage.notices import add_notice, find_notice
from farebox.storage.spending import Duration, SpendingLimit, Strategy, find_limit, hours_since, set_limit, spent_since
from farebox.storage.sql import Connection

AMOUNT_MIN_CENTS = 100
_WINDOWS = {
    ("daily", "fixed"): "running day",
    ("weekly", "fixed"): "running week",
    ("monthly", "fixed"): "running month",
    ("daily", "sliding"): "last 24 hours",
    ("weekly", "sliding"): "last 7 days",
    ("monthly", "sliding"): "last 30 days",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """A limit and what counts towards it now. Amounts are in nano-dollars, times in milliseconds."""

    limit: SpendingLimit
    spent: int
    """What was charged in the window."""
    held: int
    """What open calls hold, which counts as spent until they end."""
    window_start: int
    window_end: int | None
    """When the count restarts; None for a sliding window, which never ends."""

    @property
    def available(self) -> int:
        return max(0, self.limit.amount - self.spent - self.held)


async def get(services: Services, account_id: str) -> SpendingLimit | None:
    """The account's limit; None if it has none."""
    return await services.database.get(lambda connection: find_limit(connection, account_id))


async def put(
    services: Services, account_id: str, *, amount_cents: int, duration: Duration, strategy: Strategy
) -> SpendingLimit:
    """Set the account's limit, replacing any other. What was already charged in the window counts.

    Raises Problem: VALIDATION_FAILED, ACCESS_DENIED if there is no such account.
    """
    if not AMOUNT_MIN_CENTS <= amount_cents <= AMOUNT_MAX // NANOS_PER_CENT:
        largest = AMOUNT_MAX // NANOS_PER_CENT
        raise Problem(
            VALIDATION_FAILED,
            f"A spending limit is {AMOUNT_MIN_CENTS} to {largest} cents.",
            path=("body", "amount"),
        )
    limit = SpendingLimit(amount_cents * NANOS_PER_CENT, duration, strategy)
    await _set(services, account_id, limit)
    return limit


async def remove(services: Services, account_id: str) -> None:
    """Remove the limit, if there is one. Raises Problem (ACCESS_DENIED)."""
    await _set(services, account_id, None)


async def _set(services: Services, account_id: str, limit: SpendingLimit | None) -> None:
    if not await services.database.write(lambda connection: set_limit(connection, account_id, limit)):
        raise Problem(ACCESS_DENIED, "Authentication error")
    services.waiters.wake(account_id)  # calls that wait for room under the limit try again


async def state(services: Services, account_id: str) -> LimitState | None:
    """The limit with what is spent and held now; None if there is no limit."""
    now = services.clock.now_ms()
    return await services.database.get(lambda connection: _state(connection, account_id, now))


def _state(connection: Connection, account_id: str, at: int) -> LimitState | None:
    account, limit = find_account(connection, account_id), find_limit(connection, account_id)
    balance = read_balance(connection, account_id)
    if account is None or limit is None or balance is None:
        return None
    zones = _zones(connection, account_id)
    start = window_start(limit.duration, limit.strategy, at, zones)
    return LimitState(
        limit=limit,
        spent=spent_since(connection, account.bucket, account_id, start),
        held=balance.held,
        window_start=start,
        window_end=window_end(limit.duration, limit.strategy, at, zones),
    )


def _zones(connection: Connection, account_id: str) -> Zones:
    settings = read_settings(connection, account_id)
    return () if settings is None else settings.zones


async def refusal(services: Services, account_id: str, verdict: Verdict, asked: int, least: int) -> Problem:
    """The error for a call that the ledger refused as LIMITED: it asked for `asked` nano-dollars, and `least` is what
    it needs with limited output. LIMIT_TOO_LOW if that is more than the whole limit.

    The first other refusal in a calendar day, week or month writes the notice `limit_reached`. It is written here and
    not by the ledger, because a refused hold may still be made smaller and admitted.
    """
    at, limit = services.clock.now_ms(), await get(services, account_id)
    if limit is None:  # just removed
        return Problem(SPEND_LIMITED, "The account's spending limit was reached. Nothing was charged.", retry_after=1)
    shortage = Shortage(least, max(limit.amount - verdict.spent, 0))
    if least > limit.amount:
        words = f"{_exceeded(limit)}, and this alone can cost up to {format_usd(asked)} USD"
        return Problem(LIMIT_TOO_LOW, f"{words}. Nothing was charged.", shortage=shortage)
    zones = await services.database.get(lambda connection: _zones(connection, account_id))
    end = window_end(limit.duration, limit.strategy, at, zones)
    notice_id = f"limit_reached:{window_start(limit.duration, 'fixed', at, zones)}"
    if await services.database.get(lambda connection: find_notice(connection, account_id, notice_id)) is None:
        content = {
            "limit_nanos": limit.amount,
            "spent_nanos": verdict.spent,
            "duration": limit.duration,
            "strategy": limit.strategy,
            "window_end": end,
        }

        def write_notice(connection: Connection) -> None:
            account = find_account(connection, account_id)
            if account is not None:
                add_notice(connection, account.bucket, account_id, notice_id, "limit_reached", content, at)

        await services.database.write(write_notice)
    room_at = await services.database.scan(lambda connection: _room_at(connection, account_id, limit, least, at, end))
    return Problem(
        SPEND_LIMITED,
        _message(limit, verdict, asked, end),
        retry_after=None if room_at is None else seconds_until(room_at, at),
        resets_at=room_at,
        shortage=shortage,
    )


def _room_at(
    connection: Connection, account_id: str, limit: SpendingLimit, needed: int, at: int, end: int | None
) -> int | None:
    """When this amount will fit in the limit, if nothing more is spent until then; None if never. In a sliding window,
    which has no `end`, one hour after another stops counting."""
    account = find_account(connection, account_id)
    if needed > limit.amount or account is None:
        return None
    if end is not None:
        return end
    start = window_start(limit.duration, limit.strategy, at)
    hours = hours_since(connection, account.bucket, account_id, start)
    left = sum(charge for _, charge in hours)
    for hour, charge in hours:
        left -= charge
        if left + needed <= limit.amount:
            return hour + HOUR_MS + SLIDING_MS[limit.duration]
    return None


def _message(limit: SpendingLimit, verdict: Verdict, asked: int, end: int | None) -> str:
    ends = "" if end is None else f" (until {datetime.fromtimestamp(end / 1000, UTC):%Y-%m-%dT%H:%M:%SZ})"
    return (
        f"{_exceeded(limit)}{ends}, {format_usd(verdict.spent)} USD has been spent, and this can cost up to "
        f"{format_usd(asked)} USD. Nothing was charged."
    )


def _exceeded(limit: SpendingLimit) -> str:
    window = _WINDOWS[limit.duration, limit.strategy]
    return f"Spending limit exceeded: the limit is {format_usd(limit.amount)} USD for the {window}"
