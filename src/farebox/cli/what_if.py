"""`farebox what-if`: what past calls would have cost under another limit, price, markup or model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from farebox.calendar import HOUR_MS
from farebox.cli.books import counted
from farebox.cli.output import print_table, show
from farebox.cli.price_book import price_book_of
from farebox.cli.session import CliSession, Stopped, session_of
from farebox.cli.values import AccountId, AsJson, From, To, moment_text, percent, whole_cents
from farebox.money import format_usd
from farebox.quoting import quoted

if TYPE_CHECKING:
    from farebox.calls.what_if.replay import Scenario
    from farebox.calls.what_if.report import Report

_UNKNOWN = {
    "refused_then": "calls were refused then: what they would have cost is not known",
    "cached": "calls were answered from a cache, for free",
    "user": "calls do not say who their end user was",
    "token": "calls do not say which access token they came with",
}

Texts: TypeAlias = list[str] | None


def register(app: typer.Typer) -> None:
    app.command("what-if")(what_if)


def what_if(
    context: typer.Context,
    account_id: AccountId,
    start: From,
    end: To,
    rules: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Spend limits of a gateway as JSON: {"rules": [...]}.'),
    ] = None,
    gateway_id: Annotated[
        str, typer.Option("--gateway", metavar="ID", help="Gateway that --rules applies to.")
    ] = "default",
    limit: Annotated[
        int | None, typer.Option(parser=whole_cents, metavar="CENTS", help="A spending limit of the account.")
    ] = None,
    duration: Annotated[str, typer.Option(metavar="daily|weekly|monthly", help="Period of --limit.")] = "monthly",
    strategy: Annotated[str, typer.Option(metavar="fixed|sliding", help="Window type of --limit.")] = "fixed",
    prices: Annotated[
        Texts, typer.Option("--price", metavar="MODEL:KEY=USD,…", help="Another price; may be repeated.")
    ] = None,
    markup: Annotated[int | None, typer.Option(parser=percent, metavar="PERCENT", help="Another markup.")] = None,
    models: Annotated[
        Texts, typer.Option("--model", metavar="FROM=TO", help="Replace one model by another; may be repeated.")
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="user|token|metadata.KEY", help="What the last table is grouped by.")
    ] = "user",
    as_json: AsJson = False,
) -> None:
    """Replay past calls under another limit, price or model.

    Shows how many calls would have been refused, the first of them, and what would have been charged, by model, day and
    user. The calls are replayed in the order in which they began, through the ledger's own rules. Models are written
    provider/model, or dynamic/NAME for the calls of a dynamic route. Nothing is changed.

    \b
    Examples:
      farebox what-if --account acme --from 2026-11-01 --to 2026-12-01 --limit 5000
      farebox what-if --account acme --from 2026-11-01 --to 2026-12-01 --rules limits.json --by token
      farebox what-if --account acme --from 2026-11-01 --to 2026-12-01 --price openai/gpt-5:input_mtok=1,output_mtok=8
      farebox what-if --account acme --from 2026-11-01 --to 2026-12-01 --model openai/gpt-5=openai/gpt-5-mini
    """
    from farebox.calls.spending.spending_limit import AMOUNT_MIN_CENTS

    if limit is not None and limit < AMOUNT_MIN_CENTS:
        raise typer.BadParameter(f"a spending limit is at least {AMOUNT_MIN_CENTS} cents", param_hint="--limit")
    given = {
        "rules": _rules(rules),
        "limit": None if limit is None else {"amount": limit, "duration": duration, "strategy": strategy},
        "models": dict(_pair(text, "=", "--model") for text in models or ()),
        "prices": dict(_price(text) for text in prices or ()),
        "markup": markup,
    }
    if not any(value or value == 0 for value in given.values()):
        raise typer.BadParameter("say what is different: --limit, --rules, --price, --markup or --model")
    session = session_of(context)
    period = {"start": start, "end": end, "at": session.clock.now_ms()}
    scenario = _scenario({**given, **period, "gateway_id": gateway_id, "by": by})
    report = _replayed(session, account_id, scenario, shown=not as_json)
    if as_json:
        import msgspec

        show(msgspec.to_builtins(report), as_json=True, text="")
    else:
        _print(report, by)


def _rules(path: Path | None) -> list[Any]:
    """Read the rules. What a gateway would refuse is refused here too."""
    import msgspec

    from farebox.gateway import SpendLimits
    from farebox.http.control.spend_rules import faults, with_positions

    if path is None:
        return []
    try:
        limits = msgspec.json.decode(path.read_bytes(), type=SpendLimits)
    except (OSError, msgspec.DecodeError) as error:
        raise Stopped(f"{path} cannot be read as spend limits: {error}") from error
    for fault in faults(limits):
        where = ".".join(str(step) for step in fault.path[2:])
        raise Stopped(f"{path} cannot be read as spend limits: {where}: {fault.message}")
    return list(with_positions(limits).rules)


def _pair(text: str, between: str, option: str) -> tuple[str, str]:
    before, found, after = text.partition(between)
    if not (before and found and after):
        raise typer.BadParameter(f"{quoted(text)} has no {quoted(between)} in it", param_hint=option)
    return before, after


def _price(text: str) -> tuple[str, dict[str, str]]:
    """`provider/model:KEY=USD,KEY=USD`; the model may have a colon too."""
    model, colon, rates = text.rpartition(":")
    if not colon:
        raise typer.BadParameter(f"{quoted(text)} has no price: write openai/gpt-5:input_mtok=1", param_hint="--price")
    return model, dict(_pair(rate, "=", "--price") for rate in rates.split(","))


def _scenario(values: dict[str, Any]) -> "Scenario":
    import msgspec

    from farebox.calls.what_if.replay import PERIOD_MAX_MS, Scenario
    from farebox.pricing.pricebook import OwnPrice, check_price
    from farebox.pricing.rates import InvalidPrice

    if not 0 < values["end"] - values["start"] <= PERIOD_MAX_MS:
        raise typer.BadParameter("it must be after --from, by at most 366 days", param_hint="--to")
    try:
        scenario = msgspec.convert(values, Scenario)
        for name, rates in scenario.prices.items():
            provider, _, model = name.partition("/")
            check_price(OwnPrice(name, provider, model, None, rates, 0))
    except (msgspec.ValidationError, InvalidPrice) as error:
        raise Stopped(f"this cannot be replayed: {error}") from error
    return scenario


def _replayed(session: CliSession, account_id: str, scenario: "Scenario", *, shown: bool) -> "Report":
    from functools import partial

    from farebox.calls.what_if.replay import PAGE, Replay, since
    from farebox.operator.administer import require_account
    from farebox.periods import UTC_NAME
    from farebox.storage.account_settings import read_settings
    from farebox.storage.call_reports import usage_by_window
    from farebox.storage.corrections import count_calls, page_of_calls
    from farebox.storage.gateways import can_have_calls

    hour = scenario.start - scenario.start % HOUR_MS
    with session.reading() as connection:
        require_account(connection, account_id)
        if scenario.rules and not can_have_calls(connection, account_id, scenario.gateway_id):
            raise Stopped(f"the account has no gateway {quoted(scenario.gateway_id)}: name one with --gateway")
        book = price_book_of(connection)
        for name in scenario.models.values():
            provider, _, model = name.partition("/")
            if book.find(account_id, provider, model, scenario.at) is None and name not in scenario.prices:
                raise Stopped(f"{quoted(name)} has no price: write provider/model, or give it one with --price")
        usage = partial(usage_by_window, connection, account_id, window_ms=HOUR_MS)
        settings = read_settings(connection, account_id)
        zone = UTC_NAME if settings is None else settings.zone
        replay = Replay(scenario, account_id, book, usage(start=since(scenario, zone), end=hour), zone)
        total = count_calls(connection, account_id, scenario.start, scenario.end)
        after = ""
        with _progress(total, shown=shown) as advance:
            while calls := page_of_calls(
                connection, account_id, after=after, start=scenario.start, end=scenario.end, limit=PAGE,
                bodies=scenario.reads_bodies,
            ):  # fmt: skip
                replay.feed(calls)
                after = calls[-1].log_id
                advance(len(calls))
        return replay.report(sum(window.charge for window in usage(start=hour, end=scenario.end)))


def _print(report: "Report", by: str) -> None:
    typer.echo(
        f"{counted(report.calls, 'call')}: {report.refused} would have been refused, {report.limited} limited. "
        f"Actual: {format_usd(report.charged_then_nanos)} USD; replayed: {format_usd(report.charged_nanos)} USD."
    )
    first = report.first_refused
    if first is not None:
        by_what = "the account's spending limit" if first.rule_id is None else f"the rule {first.rule_id}"
        typer.echo(
            f"The first refused call: {first.log_id} at {moment_text(first.at)} ({first.provider}/{first.model}), by "
            f"{by_what}: {format_usd(first.spent_nanos)} of {format_usd(first.limit_nanos)} USD were spent."
        )
    for heading, groups in (("MODEL", report.models), ("DAY", report.days), (by.upper(), report.groups)):
        headings = [heading, "CALLS", "REFUSED", "CHARGED THEN USD", "CHARGED USD"]
        lines = [
            [each.name, str(each.calls), str(each.refused), format_usd(each.charged_then_nanos),
             format_usd(each.charged_nanos)]
            for each in groups
        ]  # fmt: skip
        typer.echo()
        print_table(headings, lines, numbers=headings[1:])
    for name, count in report.unknown.items():
        if name == "charged_without_call_nanos":
            typer.echo(f"{format_usd(count)} USD were charged without a call in the log.", err=True)
        elif name.startswith("not_repriced."):
            typer.echo(f"{count} calls keep their charge: {name.removeprefix('not_repriced.')}.", err=True)
        else:
            typer.echo(f"{count} {_UNKNOWN[name]}.", err=True)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=total)
        yield lambda more: bar.advance(task, more)
