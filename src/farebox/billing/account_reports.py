"""What an account's owner can read about money: balance, usage, the current month, the statement, the lots."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from farebox.calendar import DAY_MS, HOUR_MS, month_start, next_month
from farebox.errors import ACCESS_DENIED, Problem
from farebox.model import Account, Balance
from farebox.periods import CalendarSpan, ZoneChange, window
from farebox.runtime.services import Services
from farebox.storage.account_settings import read_settings
from farebox.storage.accounts import find_account, read_balance, read_owed
from farebox.storage.call_reports import ModelUsage, usage_by_model, usage_by_window
from farebox.storage.sql import Connection
from farebox.storage.transfer_statement import StatementLot, TransferFilter, TransferRow, list_lots, list_transfers

DEFAULT_SPAN_MS = 31 * DAY_MS
"""How far back usage goes by default."""


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """What calls were charged in an hour or a day. Times in milliseconds, the charge in nano-dollars."""

    start: int
    end: int
    charge: int


@dataclass(frozen=True, slots=True)
class MonthUsage:
    """What the calendar month (UTC) has cost so far. `start` and `end` in milliseconds, amounts in nano-dollars."""

    start: int
    end: int
    lines: list[ModelUsage]

    @property
    def charge(self) -> int:
        return sum(line.charge for line in self.lines)


async def balance(services: Services, account_id: str) -> Balance:
    """The account's current money. Raises Problem (ACCESS_DENIED) if there is no such account."""
    found = await services.database.get_shared(read_balance, account_id)
    if found is None:
        raise Problem(ACCESS_DENIED, "Authentication error")
    return found


async def owed(services: Services, account_id: str) -> int:
    """What was taken back from the account beyond what it had left, in nano-dollars; the next credit pays it first."""
    return await services.database.get(partial(read_owed, account_id=account_id))


async def usage(
    services: Services, account_id: str, period: Literal["hourly", "daily"], start: int | None, end: int | None
) -> list[PeriodUsage]:
    """Usage per hour, or per day in the account's time zone, oldest first, without empty ones; one that overlaps the
    requested time is reported in full. An hour of UTC in which a day ends belongs to that day.

    `start` and `end` in milliseconds; by default the last 31 days.
    """
    end = services.clock.now_ms() + 1 if end is None else end
    start = end - DEFAULT_SPAN_MS if start is None else start
    if start >= end:
        return []
    settings = await services.database.get(partial(read_settings, account_id=account_id))
    zones = () if settings is None else tuple(ZoneChange(0, change.zone) for change in settings.zones[-1:])
    if period == "hourly" or not zones:
        length = HOUR_MS if period == "hourly" else DAY_MS
        read = partial(
            usage_by_window, account_id=account_id, start=start - start % length, end=end + -end % length,
            window_ms=length,
        )  # fmt: skip
        return [
            PeriodUsage(each.start, each.start + length, each.charge) for each in await services.database.scan(read)
        ]
    first, last = window("daily", start, zones).start, window("daily", end - 1, zones).end
    hours = partial(
        usage_by_window, account_id=account_id, start=first + -first % HOUR_MS, end=last, window_ms=HOUR_MS
    )  # fmt: skip
    days: dict[CalendarSpan, int] = {}
    for each in await services.database.scan(hours):
        day = window("daily", each.start, zones)
        days[day] = days.get(day, 0) + each.charge
    return [PeriodUsage(day.start, day.end, charge) for day, charge in days.items()]


async def running_month(services: Services, account_id: str) -> MonthUsage:
    """What the account was charged for this month's calls, by model."""
    now = services.clock.now_ms()
    start, end = month_start(now), next_month(now)
    lines = await services.database.scan(partial(usage_by_model, account_id=account_id, start=start, end=end))
    return MonthUsage(start, end, lines)


async def statement(
    services: Services, account_id: str, offset: int, limit: int, wanted: TransferFilter | None = None
) -> tuple[list[TransferRow], int]:
    """The account's transfers that `wanted` accepts, newest first, and their total number."""
    return await services.database.scan(
        partial(list_transfers, account_id=account_id, offset=offset, limit=limit, wanted=wanted or TransferFilter())
    )


async def lots(
    services: Services, account_id: str, offset: int, limit: int, *, spent: bool
) -> tuple[list[StatementLot], int]:
    """The account's lots in the order in which they are spent, and their number; with `spent`, including spent ones."""
    return await services.database.scan(
        partial(list_lots, account_id=account_id, offset=offset, limit=limit, spent=spent)
    )


async def accounts(services: Services, account_ids: frozenset[str]) -> list[Account]:
    """The accounts with these IDs that exist, in order of ID."""

    def read(connection: Connection) -> list[Account]:
        found = (find_account(connection, account_id) for account_id in sorted(account_ids))
        return [account for account in found if account is not None]

    return await services.database.scan(read)
