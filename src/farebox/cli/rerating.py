"""`farebox rerate`: corrects charges after a wrong price: gives back what calls cost too much, or charges what they
cost too little."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import show_rows
from farebox.cli.price_book import price_book_of
from farebox.cli.session import CliSession, session_of
from farebox.cli.values import AsJson, From, OnlyAccount, To
from farebox.money import format_usd

if TYPE_CHECKING:
    from farebox.operator.rerate import Spec, Tally
    from farebox.pricing.pricebook import PriceBook
    from farebox.storage.sql import Connection

_WHY = {
    "by_rule": "charged by a rule, not by its usage",
    "stated": "charged at the cost that the provider states",
    "unpriced": "its model has no price now",
    "unknown_parts": "an early receipt does not say how much of a newly priced meter was used",
    "doubtful": "the receipt's figures do not fit the price",
}


def register(app: typer.Typer) -> None:
    app.command("rerate")(rerate)


def rerate(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="For example openai.")],
    start: From,
    end: To,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Its name, or a prefix followed by *. All if omitted.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only calls charged at this price, named as on receipts.")
    ] = None,
    account_id: OnlyAccount = None,
    increase: Annotated[bool, typer.Option("--increase", help="Also charge what was charged too little.")] = False,
    markups: Annotated[
        bool, typer.Option("--markups", help="Use today's markups instead of those on the receipts.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the corrections. Without it, only show them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Correct the charges of calls after a wrong price.

    First set the right price, with the date from which it should have been valid: farebox price set … --valid-from.
    Then this command prices the calls of the period again, with their own usage, tier and markup, and shows what each
    account was charged too much or too little. With --apply it gives back the difference, and shows it on the receipts
    and the statement. Repeating the command continues where it was interrupted, and otherwise changes nothing.

    \b
    Examples:
      farebox rerate openai gpt-5-mini --from 2026-11-01 --to 2026-12-01
      farebox rerate openai gpt-5-mini --from 2026-11-01 --to 2026-12-01 --apply
    """
    from farebox.operator.administer import provider_slug, require_account
    from farebox.operator.rerate import Spec

    if start >= end:
        raise typer.BadParameter("it must be after --from", param_hint="--to")
    spec = Spec(
        provider=provider_slug(provider), model=model, version=version, start=start, end=end, account_id=account_id,
        increases=increase, markups=markups,
    )  # fmt: skip
    session = session_of(context)
    with session.reading() as connection:
        if account_id is not None:
            require_account(connection, account_id)
        book = price_book_of(connection)
        with _progress(shown=not as_json) as step:
            rerate_id, found = _run(session, connection, book, spec, step, apply=apply)
    _show(found, rerate_id, as_json=as_json)


def _run(
    session: CliSession,
    connection: "Connection",
    book: "PriceBook",
    spec: "Spec",
    step: Callable[[], None],
    *,
    apply: bool,
) -> "tuple[str | None, list[Tally]]":
    from farebox.operator import rerate as operator

    rerate_id = None
    if apply:
        with session.writing() as writing:
            rerate_id = operator.begin(writing, spec, session.ids.log_id(), session.clock.now_ms(), by=session.operator)
    found = []
    for account_id in operator.accounts_of(connection, spec):
        tally = operator.Tally(account_id)
        if rerate_id is None:
            for page in operator.changes(connection, book, spec, tally):
                operator.forecast(connection, spec, page, tally)
        else:
            _correct(session, connection, book, spec, rerate_id, tally)
        if tally.affected:
            found.append(tally)
        step()
    if rerate_id is not None:
        with session.writing() as writing:
            operator.finish(writing, rerate_id, session.clock.now_ms())
    return rerate_id, found


def _correct(
    session: CliSession, connection: "Connection", book: "PriceBook", spec: "Spec", rerate_id: str, tally: "Tally"
) -> None:
    """Correct one account, some hundred calls in each transaction."""
    from farebox.operator import rerate as operator

    lots = None
    for page in operator.changes(connection, book, spec, tally):
        lots = lots or operator.lots_of(connection, spec, tally.account_id)
        for batch in operator.batches(page):
            with session.writing() as writing:
                operator.post(writing, spec, rerate_id, batch, lots, tally, session.clock.now_ms())
    if lots is not None:
        with session.writing() as writing:
            operator.notify(writing, spec, rerate_id, tally.account_id, session.clock.now_ms())


def _show(found: "list[Tally]", rerate_id: str | None, *, as_json: bool) -> None:
    done = rerate_id is not None
    rows = [_row(tally) for tally in found]
    if as_json:
        from farebox.cli.output import show

        names = ("given_back_nanos", "charged_nanos", "undercharged_nanos")
        totals = {name: sum(int(str(row[name])) for row in rows) for name in names}
        show({"rerate_id": rerate_id, "applied": done, "totals": totals, "accounts": rows}, as_json=True, text="")
        return
    columns = {
        "account_id": "ACCOUNT", "calls": "CALLS", "given_back_calls": "CHARGED TOO MUCH",
        "given_back": "GIVEN BACK USD" if done else "TO GIVE BACK USD", "charged_calls": "CHARGED TOO LITTLE",
        "charged": "CHARGED USD" if done else "TO CHARGE USD", "undercharged": "NOT CHARGED USD",
    }  # fmt: skip
    show_rows(rows, as_json=False, columns=columns, empty="No call of the period would be charged differently.")
    left = sum((tally.left for tally in found), Counter[str]())
    for why, count in sorted(left.items()):
        typer.echo(f"{count} {'call is' if count == 1 else 'calls are'} left as they were: {_WHY[why]}.", err=True)
    if rows and not done:
        typer.echo("Nothing was changed: --apply does it.", err=True)


def _row(tally: "Tally") -> dict[str, object]:
    return {
        "account_id": tally.account_id,
        "calls": tally.calls,
        "given_back_calls": tally.given_back_calls,
        "given_back_nanos": tally.given_back,
        "given_back": format_usd(tally.given_back),
        "charged_calls": tally.charged_calls,
        "charged_nanos": tally.charged,
        "charged": format_usd(tally.charged),
        "undercharged_calls": tally.undercharged_calls,
        "undercharged_nanos": tally.undercharged,
        "undercharged": format_usd(tally.undercharged),
        "left": {str(why): count for why, count in sorted(tally.left.items())},
    }


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[], None]]:
    """Counts accounts on stderr, if it is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed} accounts"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None)
        yield lambda: bar.advance(task)
