"""Usage, from the hourly sums: by hour, day or month, by model or provider, next to the period before."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlencode

from farebox.calendar import DAY_MS, HOUR_MS, month_start, next_month
from farebox.http.envelope import Response
from farebox.http.pages import charts, labels
from farebox.http.pages.table import Shown
from farebox.http.pages.visit import Visit, download
from farebox.storage.usage_sums import UsageSum, usage_sums

_BY = {"model": "model", "provider": "provider"}
_PER = {"hour": "hour", "day": "day", "month": "month"}
_BARS_MAX = 400
_USUAL = {"hour": 24, "day": 30, "month": 12}
"""How many of them are shown unless the address says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What is shown: hours, days or months from `start` on, in UTC, in milliseconds; `end` is not included."""

    per: str
    start: int
    end: int

    @property
    def before(self) -> "Period":
        """The same length of time, up to the start; as many months."""
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
            at = next_month(at) if self.per == "month" else at + (HOUR_MS if self.per == "hour" else DAY_MS)
        return found

    def label(self, at: int) -> str:
        if self.per == "month":
            return labels.month_name(at)
        return labels.day(at) if self.per == "day" else f"{labels.day(at)}, {labels.hour(at)}"


@dataclass(slots=True)
class Line:
    """The sums of a model or provider. Nano-dollars, tokens."""

    name: str
    calls: int = 0
    charge: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    before: int = 0
    """Its charge in the period before."""
    path: str = ""
    """Its calls."""

    def add(self, found: UsageSum) -> None:
        self.calls += found.calls
        self.charge += found.charge
        self.tokens_in += found.tokens_in
        self.tokens_out += found.tokens_out


async def usage(visit: Visit) -> Shown:
    """Usage as the address asks for it."""
    per, by, compare, period, given = _asked(visit)
    now = await _sums(visit, period)
    before = await _sums(visit, period.before) if compare else []
    lines = _lines(now, before, by, period)
    charge, charge_before = sum(each.charge for each in now), sum(each.charge for each in before)
    return {
        "chart": _chart(period, now, before if compare else None),
        "lines": lines,
        "total": _total(lines),
        "compare": compare,
        "change": labels.change(charge, charge_before) if compare else "",
        "given": given,
        "by": by,
        "per": per,
        "bys": _BY,
        "pers": _PER,
        "query": urlencode(given),
        "fields": {"from": _input(period.start, per), "to": _input(period.end, per)},
        "tabs": [
            (f"{count} {name}s", f"/ui/usage?{urlencode({'per': name, 'by': by})}") for name, count in _USUAL.items()
        ],
        "tab": f"{_USUAL[per]} {per}s" if "from" not in given and "to" not in given else "",
    }


async def as_csv(visit: Visit) -> Response:
    """What the page shows, for a spreadsheet."""
    _, by, _, period, _ = _asked(visit)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*period_columns(by), "calls", "charge_usd", "tokens_in", "tokens_out"])
    for row in _rows(await _sums(visit, period), by, period):
        writer.writerow([tame(str(cell)) for cell in row])
    return download(out.getvalue().encode(), "text/csv; charset=utf-8", "usage.csv")


async def as_json(visit: Visit) -> Response:
    """The same for a program."""
    _, by, _, period, _ = _asked(visit)
    names = [*period_columns(by), "calls", "charge_usd", "tokens_in", "tokens_out"]
    rows = [dict(zip(names, row, strict=True)) for row in _rows(await _sums(visit, period), by, period)]
    return download(json.dumps(rows, ensure_ascii=False, indent=1).encode(), "application/json", "usage.json")


def tame(cell: str) -> str:
    """A cell that spreadsheets do not take for a formula: a name may begin as one."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def period_columns(by: str) -> list[str]:
    return ["start", "provider", "model"] if by == "model" else ["start", "provider"]


def _rows(found: Sequence[UsageSum], by: str, period: Period) -> Iterable[tuple[object, ...]]:
    sums: dict[tuple[str, ...], Line] = {}
    for each in found:
        key = (labels.iso(_start_of(period, each.start)), each.provider, *([each.model] if by == "model" else []))
        sums.setdefault(key, Line("")).add(each)
    for key, line in sorted(sums.items()):
        amount = labels.exact_usd(line.charge).replace(",", "").replace("−", "-")
        yield (*key, line.calls, amount, line.tokens_in, line.tokens_out)


def _asked(visit: Visit) -> tuple[str, str, bool, Period, dict[str, str]]:
    pairs = dict(visit.request.query_pairs())
    per = pairs.get("per") if pairs.get("per") in _PER else "day"
    by = pairs.get("by") if pairs.get("by") in _BY else "model"
    assert per is not None
    assert by is not None
    compare = pairs.get("compare") == "on"
    period = _period(per, pairs.get("from", ""), pairs.get("to", ""), visit.services.clock.now_ms())
    given = {"per": per, "by": by} | {name: pairs[name] for name in ("from", "to") if pairs.get(name)}
    return per, by, compare, period, given | ({"compare": "on"} if compare else {})


def _period(per: str, first: str, last: str, now: int) -> Period:
    """From the text of the fields; what is none of a time is the usual one."""
    end = _moment(last)
    end = now if end is None else end - 1
    length = HOUR_MS if per == "hour" else DAY_MS
    end = next_month(end) if per == "month" else end - end % length + length
    start = _moment(first)
    if start is None or start >= end:
        start = end - _USUAL[per] * length
        if per == "month":
            start = month_start(end - 1)
            for _ in range(_USUAL[per] - 1):
                start = month_start(start - 1)
    start = month_start(start) if per == "month" else max(start - start % length, end - _BARS_MAX * length)
    return Period(per=per, start=max(0, start), end=end)


def _moment(text: str) -> int | None:
    try:
        at = datetime.fromisoformat(text.strip())
        found = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return found if 0 < found < 4_102_444_800_000 else None  # this century


def _input(at: int, per: str) -> str:
    return labels.iso(at)[:16] if per == "hour" else labels.iso(at)[:10]


async def _sums(visit: Visit, period: Period) -> list[UsageSum]:
    window = HOUR_MS if period.per == "hour" else DAY_MS
    return await visit.services.database.scan(
        partial(usage_sums, account_id=visit.account_id, start=period.start, end=period.end, window_ms=window)
    )


def _start_of(period: Period, at: int) -> int:
    return month_start(at) if period.per == "month" else at


def _lines(now: Sequence[UsageSum], before: Sequence[UsageSum], by: str, period: Period) -> list[Line]:
    lines: dict[str, Line] = {}

    def line(found: UsageSum) -> Line:
        name = f"{found.provider}/{found.model}" if by == "model" else found.provider
        window = {"from": labels.iso(period.start)[:16], "to": labels.iso(period.end)[:16]}
        which = {"provider": found.provider} | ({"model": found.model} if by == "model" else {})
        return lines.setdefault(name, Line(name, path=f"/ui/calls?{urlencode(which | window)}"))

    for each in now:
        line(each).add(each)
    for each in before:
        line(each).before += each.charge
    return sorted(lines.values(), key=lambda each: (-each.charge, -each.before, each.name))


def _total(lines: Sequence[Line]) -> Line:
    total = Line("Total")
    for each in lines:
        total.calls += each.calls
        total.charge += each.charge
        total.tokens_in += each.tokens_in
        total.tokens_out += each.tokens_out
        total.before += each.before
    return total


def _chart(period: Period, now: Sequence[UsageSum], before: Sequence[UsageSum] | None) -> charts.Bars:
    values = _values(period, now)
    then = [] if before is None else _values(period.before, before)[: len(values)]
    then += [charts.Value("", 0, "0.00 USD")] * (len(values) - len(then)) if before is not None else []
    caption = f"Charged by {period.per}, in UTC"
    return charts.bars(
        "charged", caption, period.per.capitalize(), values, what="Charged", then=then, what_then="The period before"
    )


def _values(period: Period, found: Sequence[UsageSum]) -> list[charts.Value]:
    sums = dict.fromkeys(period.starts, 0)
    for each in found:
        start = _start_of(period, each.start)
        if start in sums:
            sums[start] += each.charge
    return [charts.Value(period.label(at), charge, f"{labels.round_usd(charge)} USD") for at, charge in sums.items()]
