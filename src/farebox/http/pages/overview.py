"""The overview: the balance, how long it lasts, what was spent on what, and what needs attention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from farebox.billing import account_reports
from farebox.calendar import DAY_MS, HOUR_MS, month_start, next_month
from farebox.calls import usage_report
from farebox.http.envelope import Response
from farebox.http.pages import charts, labels
from farebox.http.pages.attention import attention
from farebox.http.pages.sdk_snippets import example_model, first_call
from farebox.http.pages.table import BUILD, MONEY, Shown
from farebox.http.pages.usage import token_names
from farebox.http.pages.visit import Visit, see_other
from farebox.model import Balance
from farebox.runtime.services import Services
from farebox.storage.call_reports import ModelUsage, UsageWindow, usage_by_model, usage_by_window
from farebox.storage.usage_values import OTHER

BURN_DAYS = 14
"""Number of whole days from which the burn rate is computed."""
_BURN_DAYS_MIN = 3
_TOP = 5
_LONG = "over two years"


@dataclass(frozen=True, slots=True)
class Runway:
    """How many days the money lasts at the burn rate of the last days, with bounds of one standard error either way;
    `most` is None if the burn rate may be zero."""

    days: float
    least: float
    most: float | None

    @property
    def text(self) -> str:
        return _days(self.days)

    @property
    def bounds(self) -> str:
        if self.most is None:
            return f"at least {_days(self.least)}"
        low, high = _days(self.least), _days(self.most)
        return f"between {low} and {high}" if low != high else f"about {low}" if low != _LONG else ""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The charged calls of this month with one access token. Nano-dollars."""

    name: str
    calls: int
    charge: int


async def overview(visit: Visit) -> Shown | Response:
    """The account's balance and spending."""
    if not visit.account_id:
        return see_other("/ui/accounts")
    services, account_id, now = visit.services, visit.account_id, visit.services.clock.now_ms()
    balance = await account_reports.balance(services, account_id)
    month, day = month_start(now), now - now % DAY_MS
    last = month_start(month - 1)
    hours = await _windows(services, account_id, now - now % HOUR_MS - 23 * HOUR_MS, now + HOUR_MS, HOUR_MS)
    days = await _windows(services, account_id, day - BURN_DAYS * DAY_MS, day, DAY_MS)
    models = await _models(services, account_id, month, now + 1)
    before = await _models(services, account_id, last, min(month, last + now - month))
    spent, spent_before = _sum(models), _sum(before)
    as_of, tokens = await _tokens(visit, month)
    return {
        "balance": balance,
        "runway": runway(balance, days, day),
        "spent": spent,
        "spent_before": spent_before,
        "change": labels.change(spent, spent_before),
        "calls": sum(model.calls for model in models),
        "models": sorted(models, key=lambda model: model.charge, reverse=True)[:_TOP],
        "tokens": tokens,
        "as_of": as_of,
        "today": _by_hour(hours, now),
        "spent_today": sum(hour.charge for hour in hours if hour.start >= day),
        "month": labels.month_name(now),
        "attention": await attention(visit, balance, now),
        "buys": visit.may(MONEY) and services.processor is not None,
        "builds": visit.may(BUILD),
        "empty": not days and not hours and not models,
        "first_call": first_call(services.base_url, account_id, example_model(demo=services.configuration.demo)),
    }


def runway(balance: Balance, days: Sequence[UsageWindow], today: int) -> Runway | None:
    """The runway; None if too few days are known, or nothing was spent. Days before the first call do not count."""
    if not days:
        return None
    whole = (today - days[0].start) // DAY_MS
    burn = [0.0] * (whole - len(days)) + [float(day.charge) for day in days]
    mean = sum(burn) / len(burn)
    if len(burn) < _BURN_DAYS_MIN or not mean:
        return None
    error = math.sqrt(sum((day - mean) ** 2 for day in burn) / (len(burn) - 1) / len(burn))
    available = max(0, balance.available)
    most = available / (mean - error) if mean > error else None
    return Runway(available / mean, available / (mean + error), most)


async def _windows(services: Services, account_id: str, start: int, end: int, window_ms: int) -> list[UsageWindow]:
    return await services.database.scan(
        partial(usage_by_window, account_id=account_id, start=start, end=end, window_ms=window_ms)
    )


async def _models(services: Services, account_id: str, start: int, end: int) -> list[ModelUsage]:
    return await services.database.scan(partial(usage_by_model, account_id=account_id, start=start, end=end))


async def _tokens(visit: Visit, month: int) -> tuple[int | None, list[TokenUsage]]:
    """The access tokens with the highest charges this month, and the time up to which charges are counted, in
    milliseconds (None: all are)."""
    as_of = await usage_report.refresh(visit.services, visit.account_id, "token")
    whole = usage_report.Period(per="month", start=month, end=next_month(month))
    [usage] = await usage_report.read(visit.services, visit.account_id, "token", [whole])
    named = (each for each in usage.sums if each.value not in ("", OTHER))
    most = sorted(named, key=lambda each: each.charge, reverse=True)[:_TOP]
    names = await token_names(visit, replace(usage, sums=most))
    return as_of, [TokenUsage(names.get(each.value, each.value[:8]), each.calls, each.charge) for each in most]


def _sum(models: Sequence[ModelUsage]) -> int:
    return sum(model.charge for model in models)


def _by_hour(hours: Sequence[UsageWindow], now: int) -> charts.Bars:
    of = {hour.start: hour for hour in hours}
    first = now - now % HOUR_MS - 23 * HOUR_MS
    values = []
    for start in range(first, first + 24 * HOUR_MS, HOUR_MS):
        charge = of[start].charge if start in of else 0
        values.append(charts.Value(labels.hour(start), charge, f"{labels.round_usd(charge)} USD"))
    return charts.bars("today", "The last 24 hours, in UTC", "Hour", values, what="Charged")


def _days(days: float) -> str:
    if days >= 730:
        return _LONG
    if days >= 10:
        return f"{days:.0f} days"
    return f"{days:.1f} days" if days >= 1 else f"{max(1, round(days * 24))} h"
