"""Usage by hour, day or month, and by what the calls were made with, compared with the previous period."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlencode

from farebox.calendar import utc
from farebox.calls import usage_report
from farebox.calls.usage_report import STEPS_MAX, USUAL, Per, Period, Usage, is_dimension, period
from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.control import usage as of_api
from farebox.http.csv_output import CSV
from farebox.http.envelope import Response
from farebox.http.pages import charts, labels
from farebox.http.pages.table import Shown
from farebox.http.pages.times import moment
from farebox.http.pages.visit import Visit, download
from farebox.storage.accounts import token_labels
from farebox.storage.usage_values import METADATA, OTHER, ValueSum

_BY = {
    "model": "model",
    "provider": "provider",
    "gateway": "gateway",
    "token": "token",
    "user": "end user",
}
_WITHOUT = {"gateway": "No gateway", "token": "No token", "user": "No end user"}
_PER: dict[Per, str] = {"hour": "hour", "day": "day", "month": "month"}
_FAULTS = {
    "order": "“From” must be before “To”, which is not included.",
    "future": "“From” must not be in the future.",
    "length": "This period is too long: at most {most} {per}s can be shown. Only its end is shown.",
}
_BY_MAX = 250
_UNTIL = 4_102_444_800_000
"""The end of 2099."""


@dataclass(slots=True)
class UsageLine:
    """The sums of one value. Nano-dollars, tokens."""

    name: str
    calls: int = 0
    charge: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    before: int = 0
    """Its charge in the previous period."""
    path: str = ""
    """Path of the list of its calls."""

    def add(self, found: ValueSum) -> None:
        self.calls += found.calls
        self.charge += found.charge
        self.tokens_in += found.tokens_in
        self.tokens_out += found.tokens_out


@dataclass(frozen=True, slots=True)
class _Query:
    """What an address asks for."""

    by: str
    period: Period
    compare: bool
    given: Mapping[str, str]
    """The filters as written in addresses."""
    faults: list[str]
    """What is wrong with the address; the period may then differ from the one asked for."""

    @property
    def periods(self) -> list[Period]:
        return [self.period, self.period.before] if self.compare else [self.period]


async def usage(visit: Visit) -> Shown:
    """Usage as the address asks for it."""
    asked = _asked(visit)
    as_of, found = await _read(visit, asked)
    now, before = found[0], found[1] if asked.compare else None
    lines = _lines(now, before, asked.by, await token_names(visit, *found) if asked.by == "token" else {})
    total = _total(lines)
    per = asked.period.per
    keys = await usage_report.keys_of(visit.services, visit.account_id, asked.period)
    return {
        "chart": _chart(now, before),
        "lines": lines,
        "total": total,
        "compare": asked.compare,
        "change": labels.change(total.charge, total.before) if asked.compare else "",
        "as_of": as_of,
        "by": asked.by,
        "by_name": _by_name(asked.by),
        "per": per,
        "bys": _BY | {each: _by_name(each) for each in _of_keys(keys, asked.by)},
        "pers": _PER,
        "query": urlencode(asked.given),
        "fields": _fields(asked),
        "faults": asked.faults,
        "tabs": [
            (f"{count} {name}s", f"/ui/usage?{urlencode({'per': name, 'by': asked.by})}")
            for name, count in USUAL.items()
        ],
        "tab": f"{USUAL[per]} {per}s" if asked.period == period(per, None, None, visit.services.clock.now_ms()) else "",
    }


async def as_csv(visit: Visit) -> Response:
    """The page's content for a spreadsheet."""
    asked = _exactly(visit)
    _, found = await _read(visit, asked)
    return download(of_api.as_csv(asked.by, found), CSV, "usage.csv")


async def as_json(visit: Visit) -> Response:
    """The page's content for a program."""
    asked = _exactly(visit)
    _, found = await _read(visit, asked)
    names = of_api.columns(asked.by)
    rows = [dict(zip(names, line, strict=True)) for line in of_api.lines(asked.by, found)]
    return download(json.dumps(rows, ensure_ascii=False, indent=1).encode(), "application/json", "usage.json")


async def _read(visit: Visit, asked: _Query) -> tuple[int | None, list[Usage]]:
    as_of = await usage_report.refresh(visit.services, visit.account_id, asked.by)
    return as_of, await usage_report.read(visit.services, visit.account_id, asked.by, asked.periods)


# --- the address ------------------------------------------------------------------------------------------------------


def _exactly(visit: Visit) -> _Query:
    """What the address asks for, for a file, which must not contain another period. Raises Problem."""
    asked = _asked(visit)
    if asked.faults:
        raise Problem(VALIDATION_FAILED, asked.faults[0])
    return asked


def _asked(visit: Visit) -> _Query:
    """What the address asks for; values that are wrong are replaced by the defaults, and listed in `faults`."""
    pairs = {name: value.strip() for name, value in visit.request.query_pairs() if value.strip()}
    per = cast("Per", pairs["per"]) if pairs.get("per") in _PER else "day"
    by = pairs.get("by", "model")[:_BY_MAX]
    faults = [] if pairs.get("per", per) == per else [f"Usage is by hour, day or month, not by “{pairs['per'][:40]}”."]
    if not is_dimension(by):
        faults.append(f"Usage cannot be grouped by “{by[:40]}”.")
        by = "model"
    compare = pairs.get("compare") == "on"
    of = _period(pairs, per, visit.now, faults)
    given = {"per": per, "by": by} | {name: pairs[name] for name in ("from", "to") if name in pairs}
    return _Query(by, of, compare, given | ({"compare": "on"} if compare else {}), faults)


def _period(pairs: Mapping[str, str], per: Per, now: int, faults: list[str]) -> Period:
    start, end = _moment(pairs.get("from", ""), faults), _moment(pairs.get("to", ""), faults)
    of = period(per, start, end, now)
    if not faults and (fault := usage_report.fault_of(of, start, end)):
        faults.append(_FAULTS[fault].format(most=STEPS_MAX[per], per=per))
    return of


def _moment(text: str, faults: list[str]) -> int | None:
    found = moment(text, faults)
    if found is None or 0 < found < _UNTIL:
        return found
    faults.append(f"“{text[:40]}” is not between 1970 and {utc(_UNTIL - 1).year}.")
    return None


def _fields(asked: _Query) -> dict[str, str]:
    """The period as the form shows it; if something is wrong with it, as it was typed."""
    per = asked.period.per
    shown = {"from": _input(asked.period.start, per), "to": _input(asked.period.end, per)}
    return shown | {name: asked.given[name] for name in shown if asked.faults and name in asked.given}


def _input(at: int, per: Per) -> str:
    return labels.iso(at)[:16] if per == "hour" else labels.iso(at)[:10]


def _of_keys(keys: Iterable[str], by: str) -> list[str]:
    """The metadata keys to choose from, in the form of `by`; including the chosen one."""
    return list(dict.fromkeys([*(f"{METADATA}.{key}" for key in keys), *([by] if by not in _BY else [])]))


def _by_name(by: str) -> str:
    return _BY.get(by) or f"metadata: {by.partition('.')[2]}"


# --- what is shown ----------------------------------------------------------------------------------------------------


async def token_names(visit: Visit, *found: Usage) -> Mapping[str, str]:
    """The names of the tokens in reports by token, by ID."""
    token_ids = {each.value for usage in found for each in usage.sums}
    return await visit.services.database.scan(partial(token_labels, account_id=visit.account_id, token_ids=token_ids))


def _lines(now: Usage, before: Usage | None, by: str, names: Mapping[str, str]) -> list[UsageLine]:
    lines: dict[str, UsageLine] = {}

    def line(value: str) -> UsageLine:
        if value not in lines:
            lines[value] = UsageLine(
                _name(value, by, names), path=_calls(now.period, now.period.end, _which(value, by))
            )
        return lines[value]

    for each in now.sums:
        line(each.value).add(each)
    for each in before.sums if before is not None else ():
        line(each.value).before += each.charge
    return sorted(lines.values(), key=lambda each: (-each.charge, -each.before, each.name))


def _name(value: str, by: str, names: Mapping[str, str]) -> str:
    if value == OTHER:
        return "All others"
    return names.get(value, value) if value else _WITHOUT.get(by, f"Without {by.partition('.')[2]}")


def _which(value: str, by: str) -> dict[str, str]:
    """The filters with which the list of calls shows the calls with this value, if there are any."""
    if not value or value == OTHER:
        return {}
    if by == "model":
        provider, _, model = value.partition("/")
        return {"provider": provider, "model": model}
    kind, _, key = by.partition(".")
    return {"key": key, "metadata": value} if kind == METADATA else {by: value}


def _calls(of: Period, end: int, which: Mapping[str, str], start: int | None = None) -> str:
    window = {"from": labels.iso(of.start if start is None else start)[:16], "to": labels.iso(end)[:16]}
    return f"/ui/calls?{urlencode({**which, 'outcome': 'charged', **window})}"


def _total(lines: Sequence[UsageLine]) -> UsageLine:
    total = UsageLine("Total")
    for each in lines:
        total.calls += each.calls
        total.charge += each.charge
        total.tokens_in += each.tokens_in
        total.tokens_out += each.tokens_out
        total.before += each.before
    return total


def _chart(now: Usage, before: Usage | None) -> charts.Bars:
    per, values = now.period.per, _values(now)
    then = [] if before is None else _values(before)[: len(values)]
    then += [charts.Value("", 0, "0.00 USD")] * (len(values) - len(then)) if before is not None else []
    caption = f"Charged by {per}, in UTC"
    return charts.bars(
        "charged", caption, per.capitalize(), values, what="Charged", then=then, what_then="Previous period"
    )


def _values(found: Usage) -> list[charts.Value]:
    of = found.period
    sums = dict.fromkeys(of.starts, 0)
    for each in found.sums:
        sums[each.start] += each.charge
    return [
        charts.Value(_label(of.per, at), charge, f"{labels.round_usd(charge)} USD", _calls(of, of.after(at), {}, at))
        for at, charge in sums.items()
    ]


def _label(per: Per, at: int) -> str:
    if per == "month":
        return labels.month_name(at)
    return labels.day(at) if per == "day" else f"{labels.day(at)}, {labels.hour(at)}"
