"""Farebox extension: usage by hour, day or month, and by properties of the calls. Money is in nano-dollars."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from farebox.calls import usage_report
from farebox.calls.usage_report import STEPS_MAX, Per, Usage, fault_of, is_dimension, period
from farebox.http.control.wire import Moment, iso, iso_or_none, moment
from farebox.http.csv_output import CSV, asks_for_csv, csv_table
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.money import format_usd
from farebox.storage.usage_values import OTHER, ValueSum

_FAULTS = {
    "order": "Expected a time before `to`, which is not included",
    "future": "Expected a time that is not in the future",
    "length": "A report has at most {most} {per}s",
}
OTHERS = "(other)"
"""The common name of the values beyond the limit."""


class UsageOf(msgspec.Struct, frozen=True, kw_only=True):
    """The charged calls with one value in one hour, day or month."""

    start: str
    value: str
    """`provider/model` for a model; empty: calls without a value; `(other)`: all values beyond the limit."""
    calls: int
    charge_nanos: int
    tokens_in: int
    tokens_out: int


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of whole hours, days or months in UTC: `from` is included, `to` is not."""

    per: Per
    by: str
    from_: str = msgspec.field(name="from")
    to: str
    as_of: str | None
    """Charges after this time are not included yet; null: all are included."""
    usage: list[UsageOf]


class UsageReportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`by`: model, provider, gateway, token, user, or metadata.KEY."""

    per: Per = "day"
    by: str = "model"
    from_: Moment | None = msgspec.field(name="from", default=None)
    to: Moment | None = None
    format: Literal["json", "csv"] | None = None


async def get(request: Request, query: UsageReportQuery) -> Response:
    """Usage as the query asks for it, as JSON or CSV."""
    if not is_dimension(query.by):
        raise invalid("Expected model, provider, gateway, token, user or metadata.KEY", "query", "by")
    start, end = moment(query.from_, "from"), moment(query.to, "to")
    asked = period(query.per, start, end, request.services.clock.now_ms())
    if fault := fault_of(asked, start, end):
        raise invalid(_FAULTS[fault].format(most=STEPS_MAX[query.per], per=query.per), "query", "from")
    as_of = await usage_report.refresh(request.services, request.account_id, query.by)
    found = await usage_report.read(request.services, request.account_id, query.by, [asked])
    if asks_for_csv(request, query.format):
        disposition = ("content-disposition", 'attachment; filename="usage.csv"')
        headers = (disposition, ("x-content-type-options", "nosniff"))
        return Response(as_csv(query.by, found), content_type=CSV, headers=headers)
    usage = [
        UsageOf(
            start=iso(each.start),
            value=named(each.value),
            calls=each.calls,
            charge_nanos=each.charge,
            tokens_in=each.tokens_in,
            tokens_out=each.tokens_out,
        )
        for each in found[0].sums
    ]
    return ok(
        UsageReport(
            per=query.per,
            by=query.by,
            from_=iso(asked.start),
            to=iso(asked.end),
            as_of=iso_or_none(as_of),
            usage=usage,
        )
    )


def named(value: str) -> str:
    """A value as it appears in files and responses."""
    return OTHERS if value == OTHER else value


def columns(by: str) -> list[str]:
    """The columns of a line."""
    of = ["provider", "model"] if by == "model" else [by]
    return ["start", *of, "calls", "charge_usd", "tokens_in", "tokens_out"]


def lines(by: str, found: Sequence[Usage]) -> Iterator[tuple[str | int, ...]]:
    """The sums of all periods, a tuple of `columns` each."""
    for usage in found:
        for each in usage.sums:
            yield (
                iso(each.start),
                *_names(by, each),
                each.calls,
                format_usd(each.charge),
                each.tokens_in,
                each.tokens_out,
            )


def as_csv(by: str, found: Sequence[Usage]) -> bytes:
    return csv_table(columns(by), lines(by, found))


def _names(by: str, each: ValueSum) -> tuple[str, ...]:
    provider, _, model = each.value.partition("/")
    return (provider, model) if by == "model" else (named(each.value),)
