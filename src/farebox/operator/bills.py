"""Reconciliation with providers' bills: compares what they bill by day and model with what was metered.

Metered is the raw cost, without a markup, of calls on the operator's keys, by the day on which they began. Providers
name models in more than one way (with a date, by a display name), so names are compared in a canonical form.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from farebox.calendar import day_text
from farebox.model import Operator
from farebox.money import NANOS_PER_USD, format_usd
from farebox.operator.bill_formats import NAMELESS, BillLine
from farebox.operator.rerate import every_account
from farebox.runtime.operator_alarms import keep
from farebox.storage.call_reports import metered_days
from farebox.storage.operator_actions import record_action
from farebox.storage.operator_alarms import Alarm
from farebox.storage.provider_bills import BilledRow, billed_between, put_bill
from farebox.storage.sql import Connection

_DATE = re.compile(r"-(20\d\d-\d\d-\d\d|20\d{6})$")
_WORDS = re.compile(r"[a-z0-9]+")
_DATED = re.compile(r"20\d{6}|latest")


class ImportResult(NamedTuple):
    """What an import did."""

    days: int
    rows: int
    """Number of rows, by day and model."""
    changed: int
    """Rows that are new, were stored differently before, or are gone: a day is replaced as a whole."""
    amount: int
    """Nano-dollars in all."""


class Drift(NamedTuple):
    """The difference for one day and model, or for the day as a whole. Nano-dollars; None: that side lacks it."""

    day: int
    """Milliseconds since the Unix epoch."""
    model: str | None
    """None: all models."""
    billed: int | None
    metered: int | None
    requests_billed: int | None = None
    calls: int | None = None
    tokens_billed: int | None = None
    tokens: int | None = None

    @property
    def difference(self) -> int:
        """Above zero: more is billed than was metered."""
        return (self.billed or 0) - (self.metered or 0)

    @property
    def percent(self) -> Decimal | None:
        """The difference in percent of what was metered; None if nothing was."""
        return None if not self.metered else Decimal(self.difference) * 100 / self.metered

    def exceeds(self, percent: int, nanos: int) -> bool:
        """Whether the difference exceeds both limits."""
        beyond = self.percent is None or abs(self.percent) > percent
        return abs(self.difference) > nanos and beyond


def import_bill(
    connection: Connection, provider: str, source: str, lines: Sequence[BillLine], at: int, *, by: Operator
) -> ImportResult:
    """Store a bill, replacing what was stored for its days: a repeat changes nothing."""
    billed = _summed(lines)
    days = sorted({row.day for row in billed})
    before = {(row.day, row.model): row for row in _stored(connection, provider, source, days)}
    for costs in (True, False):
        of_kind = [_only(row, costs=costs) for row in billed]
        found = [row for row in of_kind if row is not None]
        put_bill(connection, provider, source, found, {row.day for row in found}, at, costs=costs)
    after = {(row.day, row.model): row for row in _stored(connection, provider, source, days)}
    changed = sum(before.get(key) != after.get(key) for key in before.keys() | after.keys())
    done = ImportResult(len(days), len(billed), changed, sum(row.amount or 0 for row in billed))
    if changed:
        subject = f"{provider}/{source}" if source else provider
        record_action(connection, by, "bill.import", at, subject=subject, after=done._asdict())
    return done


def drifts(connection: Connection, provider: str, start: int, end: int, source: str | None = None) -> list[Drift]:
    """Each day that was billed or metered, first as a whole and then by model. Reads the calls of the period."""
    sides: dict[int, dict[str, list[Drift]]] = {}
    for row in billed_between(connection, provider, start, end, source):
        tokens = None if row.tokens_in is None else row.tokens_in + (row.tokens_out or 0)
        billed = Drift(row.day, row.model, row.amount, None, row.requests, None, tokens)
        sides.setdefault(row.day, {}).setdefault(canonical(provider, row.model), []).append(billed)
    for account_id in every_account(connection):
        for day, model, calls, cost, tokens in metered_days(connection, account_id, provider, start, end):
            model = model or NAMELESS  # such as a provider's list of models
            metered = Drift(day, model, None, cost, None, calls, None, tokens)
            sides.setdefault(day, {}).setdefault(canonical(provider, model), []).append(metered)
    found: list[Drift] = []
    for day, models in sorted(sides.items()):
        by_model = [_together(each) for _, each in sorted(models.items())]
        found += [_together(by_model)._replace(day=day, model=None), *by_model]
    return found


def alarms(provider: str, found: Iterable[Drift], percent: int, nanos: int, at: int) -> list[Alarm]:
    """An operator alarm for each day whose difference exceeds both limits."""
    return [
        Alarm(
            kind="bill_differs",
            about=f"{provider} on {day_text(drift.day)}",
            content={
                "billed_usd": format_usd(drift.billed or 0),
                "metered_usd": format_usd(drift.metered or 0),
                "difference_usd": format_usd(drift.difference),
            },
            first_at=at,
            last_at=at,
        )
        for drift in found
        if drift.model is None and drift.billed is not None and drift.exceeds(percent, nanos)
    ]


def raise_alarms(connection: Connection, raised: list[Alarm], at: int, *, by: Operator) -> None:
    """Store the alarms of days that differ."""
    keep(connection, raised)
    record_action(connection, by, "alarm.raise", at, after={"alarms": [each.about for each in raised]})


def canonical(provider: str, model: str) -> str:
    """A name that is the same for all names of a model: without its date and, for Anthropic, whose console writes
    `Claude Haiku 4.5`, with its words in a fixed order."""
    name = model.lower().removeprefix("models/")
    if provider == "anthropic":
        return " ".join(sorted(word for word in _WORDS.findall(name) if not _DATED.fullmatch(word)))
    if provider == "openrouter":
        name = name.partition(":")[0]
    return _DATE.sub("", name)


def _summed(lines: Iterable[BillLine]) -> list[BilledRow]:
    sums: dict[tuple[int, str], list[BillLine]] = {}
    for line in lines:
        sums.setdefault((line.day, line.model), []).append(line)
    return [
        BilledRow(
            day, model, _nanos(each), _sum(line.requests for line in each), _sum(line.tokens_in for line in each),
            _sum(line.tokens_out for line in each),
        )
        for (day, model), each in sorted(sums.items())
    ]  # fmt: skip


def _nanos(lines: Iterable[BillLine]) -> int | None:
    amounts = [line.usd for line in lines if line.usd is not None]
    if not amounts:
        return None
    return int((sum(amounts, Decimal(0)) * NANOS_PER_USD).quantize(Decimal(1), ROUND_HALF_EVEN))


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _only(row: BilledRow, *, costs: bool) -> BilledRow | None:
    """The row's figures for costs, or for usage; None if it has none."""
    if costs:
        return None if row.amount is None else BilledRow(row.day, row.model, row.amount, None, None, None)
    usage = row._replace(amount=None)
    return None if usage[2:] == (None,) * 4 else usage


def _stored(connection: Connection, provider: str, source: str, days: Sequence[int]) -> list[BilledRow]:
    if not days:
        return []
    wanted = set(days)
    found = billed_between(connection, provider, days[0], days[-1] + 1, source)
    return [row for row in found if row.day in wanted]


def _together(found: Sequence[Drift]) -> Drift:
    """Merge several names or sides into one; the name is that of the metered side, if there is one."""
    names = [each.model for each in found if each.metered is not None] + [each.model for each in found]
    return Drift(
        found[0].day, names[0], _sum(each.billed for each in found), _sum(each.metered for each in found),
        _sum(each.requests_billed for each in found), _sum(each.calls for each in found),
        _sum(each.tokens_billed for each in found), _sum(each.tokens for each in found),
    )  # fmt: skip
