"""`farebox bill`: what providers bill you, compared with what was metered."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.calendar import day_text
from farebox.cli.output import show, show_rows
from farebox.cli.session import CliSession, Stopped, session_of
from farebox.cli.values import AsJson, From, To, moment, parse_usd_or_zero
from farebox.money import NANOS_PER_USD, format_usd

if TYPE_CHECKING:
    from farebox.operator.bill_formats import BillLine
    from farebox.operator.bills import Drift

bill = typer.Typer(no_args_is_help=True, help="Providers' bills, compared with what was metered.")

BYTES_MAX = 256 * 1024 * 1024
"""Largest file, which is read as a whole."""

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="openai, anthropic or openrouter.")]
Source = Annotated[str, typer.Option(metavar="NAME", help="Distinguishes organizations at the provider.")]


def register(app: typer.Typer) -> None:
    app.add_typer(bill, name="bill")


@bill.command("import")
def import_bill(
    context: typer.Context,
    provider: Provider,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A report of the provider's, JSON or CSV; - reads stdin.")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the report from the provider, with an admin key on stdin.")
    ] = False,
    start: Annotated[int | None, typer.Option("--from", parser=moment, metavar="DATE", help="For --fetch.")] = None,
    end: Annotated[int | None, typer.Option("--to", parser=moment, metavar="DATE", help="For --fetch.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="For --fetch: URL of the API, if not the default.")
    ] = None,
    source: Source = "default",
    as_json: AsJson = False,
) -> None:
    """Store what a provider bills, by day and model.

    Takes the usage and cost reports of OpenAI, Anthropic and OpenRouter: responses of their reporting APIs, and CSV
    files from their dashboards (docs/provider-bills.md). A day in a report replaces what was stored for that day, so a
    repeat changes nothing. With --fetch, the report is fetched from the provider; the admin key is read from stdin and
    not stored.

    \b
    Examples:
      farebox bill import openai costs.json
      farebox bill import anthropic claude_api_cost_2026_11.csv
      farebox bill import openai --fetch --from 2026-11-01 --to 2026-12-01 < admin.key
    """
    from farebox.operator.bill_formats import PROVIDERS
    from farebox.operator.bills import import_bill as store

    if provider not in PROVIDERS:
        raise typer.BadParameter(f"the bills of {', '.join(PROVIDERS)} can be read", param_hint="PROVIDER")
    if (file is None) != fetch:
        raise typer.BadParameter("give a file, or --fetch", param_hint="FILE / --fetch")
    session = session_of(context)
    lines = _fetched(session, provider, start, end, base_url) if file is None else _read(provider, file)
    with session.writing() as connection:
        done = store(connection, provider, source, lines, session.clock.now_ms(), by=session.operator)
    data = {
        "provider": provider, "source": source, "days": done.days, "rows": done.rows, "changed": done.changed,
        "amount_nanos": done.amount, "amount": format_usd(done.amount),
    }  # fmt: skip
    text = (
        f"Days: {done.days}. Rows: {done.rows}. New, changed or gone: {done.changed}. "
        f"Billed: {format_usd(done.amount)} USD."
    )
    show(data, as_json=as_json, text=text)


def _read(provider: str, file: Path) -> "list[BillLine]":
    from farebox.operator.bill_formats import BillUnreadable, read_bill

    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(BYTES_MAX + 1) if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
        else:
            with file.open("rb") as opened:
                data = opened.read(BYTES_MAX + 1)
    except OSError as error:
        raise Stopped(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > BYTES_MAX:
        raise Stopped(f"{file} is larger than {BYTES_MAX} bytes: export fewer days at once")
    try:
        return read_bill(provider, data)
    except BillUnreadable as error:
        raise Stopped(f"{file}: {error}") from error


def _fetched(
    session: CliSession, provider: str, start: int | None, end: int | None, base_url: str | None
) -> "list[BillLine]":
    from farebox.operator.bill_fetch import FetchFailed, fetch_bill
    from farebox.operator.bill_formats import BillUnreadable
    from farebox.settings import proxies

    if start is None or end is None:
        raise typer.BadParameter("--fetch needs --from and --to", param_hint="--fetch")
    key = sys.stdin.read().strip()
    if not key or not key.isascii() or not key.isprintable():
        raise Stopped("there is no admin key on standard input: farebox bill import … --fetch < admin.key")
    try:
        return fetch_bill(provider, start, end, key, base_url=base_url, proxies=proxies())
    except (FetchFailed, BillUnreadable) as error:
        raise Stopped(str(error).replace(key, "…")) from error


@bill.command("report")
def report(
    context: typer.Context,
    provider: Provider,
    start: From,
    end: To,
    percent: Annotated[
        int, typer.Option(metavar="PERCENT", min=0, help="A day may differ by this many percent, or by --usd.")
    ] = 2,
    usd: Annotated[
        int | None,
        typer.Option(
            parser=parse_usd_or_zero,
            metavar="USD",
            help="A day may differ by this amount, or by --percent; 1 if omitted.",
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only this source; all if omitted.")] = None,
    alarm: Annotated[bool, typer.Option("--alarm", help="Raise an operator alarm for each day beyond that.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare what a provider bills with what was metered on your keys, by UTC day and model.

    Metered is the raw cost without a markup. The exit status is 1 if a day as a whole differs by more than --percent
    and by more than --usd.

    \b
    Examples:
      farebox bill report openai --from 2026-11-01 --to 2026-12-01
      farebox bill report anthropic --from 2026-11-01 --to 2026-12-01 --percent 5 --usd 10 --alarm
    """
    from farebox.operator.bill_formats import PROVIDERS
    from farebox.operator.bills import alarms, drifts, raise_alarms

    if provider not in PROVIDERS:
        raise typer.BadParameter(f"the bills of {', '.join(PROVIDERS)} can be read", param_hint="PROVIDER")
    nanos = NANOS_PER_USD if usd is None else usd
    session = session_of(context)
    with session.reading() as connection:
        found = drifts(connection, provider, start, end, source)
    raised = alarms(provider, found, percent, nanos, session.clock.now_ms())
    if alarm and raised:
        with session.writing() as connection:
            raise_alarms(connection, raised, session.clock.now_ms(), by=session.operator)
    rows = [_row(each, percent, nanos) for each in found]
    columns = {
        "day": "DAY", "model": "MODEL", "billed": "BILLED USD", "metered": "METERED USD",
        "difference": "DIFFERENCE USD", "percent": "PERCENT", "requests_billed": "REQUESTS BILLED", "calls": "CALLS",
        "tokens_billed": "TOKENS BILLED", "tokens": "TOKENS", "beyond": "BEYOND",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="Nothing was billed or metered in that time.")
    if raised:
        raise typer.Exit(1)


def _row(drift: "Drift", percent: int, nanos: int) -> dict[str, object]:
    return {
        "day": day_text(drift.day),
        "model": "(all)" if drift.model is None else drift.model,
        "billed_nanos": drift.billed,
        "billed": None if drift.billed is None else format_usd(drift.billed),
        "metered_nanos": drift.metered,
        "metered": None if drift.metered is None else format_usd(drift.metered),
        "difference_nanos": drift.difference,
        "difference": format_usd(drift.difference),
        "percent": None if drift.percent is None else f"{drift.percent:+.2f}",
        "requests_billed": drift.requests_billed,
        "calls": drift.calls,
        "tokens_billed": drift.tokens_billed,
        "tokens": drift.tokens,
        "beyond": drift.billed is not None and drift.exceeds(percent, nanos),
    }
