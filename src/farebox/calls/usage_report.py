"""Usage reports for owners: by hour, day or month, and by properties of the calls. All times are UTC.

Usage by provider and model comes from the hourly sums, which are written with the calls; by anything else, from the
sums that are kept after the calls (calls.usage_aggregates).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from farebox.calendar import DAY_MS, HOUR_MS, month_start, next_month
from farebox.calls import usage_aggregates
from farebox.runtime.services import Services
from farebox.storage.sql import Connection
from farebox.storage.usage_sums import usage_sums
from farebox.storage.usage_values import METADATA, Span, ValueSum, metadata_keys, value_sums

Per: TypeAlias = Literal["hour", "day", "month"]

STEPS_MAX: Final[dict[Per, int]] = {"hour": 400, "day": 400, "month": 60}
"""Maximum number of hours, days or months in one report."""
USUAL: Final[dict[Per, int]] = {"hour": 24, "day": 30, "month": 12}
"""Number of hours, days or months in a report by default."""
OF_CALLS: Final = ("model", "provider")
OF_SUMS: Final = ("gateway", "token", "user")
_ALL: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Hours, days or months from `start` up to but not including `end`, in milliseconds."""

    per: Per
    start: int
    end: int

    @property
    def step_ms(self) -> int:
        """Length of an hour or a day."""
        return HOUR_MS if self.per == "hour" else DAY_MS

    @property
    def before(self) -> "Period":
        """The period of the same length, or as many months, that ends at this one's start."""
        if self.per == "month":
            start = self.start
            for _ in self.starts:
                start = month_start(start - 1)
            return Period(per="month", start=start, end=self.start)
        return Period(per=self.per, start=2 * self.start - self.end, end=self.start)

    @property
    def starts(self) -> list[int]:
        found, at = [], self.start
        while at < self.end:
            found.append(at)
            at = self.after(at)
        return found

    def after(self, at: int) -> int:
        """The end of the step that begins at `at`."""
        return next_month(at) if self.per == "month" else at + self.step_ms


def period(per: Per, start: int | None, end: int | None, now: int) -> Period:
    """The whole hours, days or months that contain the time between `start` and `end`; by default the usual number up
    to now."""
    last = now if end is None else end - 1
    step = HOUR_MS if per == "hour" else DAY_MS
    end = next_month(last) if per == "month" else last - last % step + step
    earliest = _back(end, per, STEPS_MAX[per])
    if start is None or start >= end:
        return Period(per=per, start=max(0, _back(end, per, USUAL[per])), end=end)
    start = month_start(start) if per == "month" else start - start % step
    return Period(per=per, start=max(0, start, earliest), end=end)


def fault_of(of: Period, start: int | None, end: int | None) -> Literal["", "order", "future", "length"]:
    """Why the period is not the one that was asked for: its start is not before its end, or in the future, or it is too
    long."""
    if start is None:
        return ""
    if start >= (of.end if end is None else end):
        return "future" if end is None else "order"
    return "length" if max(0, start) < of.start else ""


def _back(end: int, per: Per, steps: int) -> int:
    if per != "month":
        return end - steps * (HOUR_MS if per == "hour" else DAY_MS)
    for _ in range(steps):
        end = month_start(end - 1) if end > 0 else 0
    return end


@dataclass(frozen=True, slots=True)
class Usage:
    """The sums of a period by step and by value, oldest first. The value of a model is `provider/model`; an empty value
    stands for calls without one."""

    period: Period
    sums: list[ValueSum]


def is_dimension(by: str) -> bool:
    """Whether usage can be reported by this property."""
    return by in (*OF_CALLS, *OF_SUMS) or (by.startswith(f"{METADATA}.") and len(by) > len(METADATA) + 1)


async def read(services: Services, account_id: str, by: str, periods: Sequence[Period]) -> list[Usage]:
    """Usage in each of the periods, from the same state of the sums."""

    def read_all(connection: Connection) -> list[Usage]:
        return [Usage(period, _sums(connection, account_id, by, period)) for period in periods]

    return await services.database.scan(read_all)


async def refresh(services: Services, account_id: str, by: str) -> int | None:
    """Bring the sums up to date. Returns up to what time they are complete (milliseconds) if that was not possible."""
    return None if by in OF_CALLS else await usage_aggregates.refresh(services, account_id)


async def keys_of(services: Services, account_id: str, of: Period) -> list[str]:
    """The metadata keys by which usage can be reported in that period."""
    return await services.database.scan(partial(metadata_keys, account_id=account_id, start=of.start, end=of.end))


def _sums(connection: Connection, account_id: str, by: str, of: Period) -> list[ValueSum]:
    if of.per != "month":
        return _between(connection, account_id, by, of.start, of.end, of.step_ms)
    return [
        found._replace(start=start)
        for start in of.starts
        for found in _between(connection, account_id, by, start, of.after(start), None)
    ]


def _between(
    connection: Connection, account_id: str, by: str, start: int, end: int, step_ms: int | None
) -> list[ValueSum]:
    """`step_ms`: an hour or a day; None: one sum of whole days."""
    if by in OF_CALLS:
        return _of_calls(connection, account_id, by, start, end, step_ms or _ALL)
    span: Span = "hour" if step_ms == HOUR_MS else "day"
    step = step_ms or _ALL
    found = value_sums(connection, account_id, by, span, start, end, step)
    if not by.startswith(f"{METADATA}."):
        return found
    return _with_rest(value_sums(connection, account_id, "gateway", span, start, end, step), found)


def _of_calls(connection: Connection, account_id: str, by: str, start: int, end: int, step_ms: int) -> list[ValueSum]:
    sums = dict[tuple[int, str], ValueSum]()
    for each in usage_sums(connection, account_id, start, end, step_ms):
        value = f"{each.provider}/{each.model}" if by == "model" else each.provider
        one = ValueSum(each.start, value, each.calls, each.charge, each.tokens_in, each.tokens_out)
        before = sums.get((each.start, value))
        sums[each.start, value] = one if before is None else _added(before, one)
    return list(sums.values())


def _with_rest(every: list[ValueSum], found: list[ValueSum]) -> list[ValueSum]:
    """The sums of one metadata key, plus those of the calls without it, which get an empty value."""
    rest = dict[int, ValueSum]()
    for each in every:
        rest[each.start] = _added(rest[each.start], each) if each.start in rest else each._replace(value="")
    for each in found:
        if each.value:
            rest[each.start] = _added(rest[each.start], each, -1)
    without = [each for each in rest.values() if each.calls or each.charge]
    return sorted([*without, *(each for each in found if each.value)])


def _added(one: ValueSum, other: ValueSum, times: int = 1) -> ValueSum:
    return one._replace(
        calls=one.calls + times * other.calls,
        charge=one.charge + times * other.charge,
        tokens_in=one.tokens_in + times * other.tokens_in,
        tokens_out=one.tokens_out + times * other.tokens_out,
    )
