"""`farebox receipt`, `farebox check`: what a call cost and why, and whether the books balance."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from farebox.calendar import day_text
from farebox.cli.output import print_table, show
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AsJson, percent_text
from farebox.money import format_precise_usd, format_usd
from farebox.quoting import quoted

if TYPE_CHECKING:
    from farebox.operator.checking import CheckResult
    from farebox.pricing.receipt import Receipt, ReceiptLine


DAMAGED_STATUS = 3
"""Exit status of `farebox check` if the database itself is damaged."""
EMPTY_STATUS = 4
"""Exit status if the database has no account: nothing was checked, and it may be the wrong database."""


def register(app: typer.Typer) -> None:
    app.command("receipt")(receipt)
    app.command("check")(check)


def receipt(
    context: typer.Context,
    log_id: Annotated[str, typer.Argument(metavar="LOG_ID", help="The response's cf-aig-log-id header.")],
    as_json: AsJson = False,
) -> None:
    """Explain what one call cost.

    Shows the meters and their rates, the markup, the rounding, the hold and the charge, all in US dollars. With --json,
    amounts are in nano-dollars, and exact even if they have more than twelve decimals.

    \b
    Example:
      farebox receipt 019a1b2c-3d4e-7f50-8a9b-0c1d2e3f4a5b
    """
    import msgspec

    from farebox.pricing.stored_receipt import whole, with_corrections
    from farebox.storage.calls import find_receipt
    from farebox.storage.corrections import corrections_of

    with session_of(context).reading() as connection:
        found = find_receipt(connection, log_id)
        corrected = [] if found is None else corrections_of(connection, found.account_id, log_id)
    if found is None:
        raise Stopped(
            f"there is no receipt for call {quoted(log_id)}: take the ID from the response's cf-aig-log-id header"
        )
    explained = with_corrections(whole(found), corrected)
    if as_json:
        show(msgspec.to_builtins(explained), as_json=True, text="")
    else:
        _print_receipt(explained)


def _print_receipt(found: "Receipt") -> None:
    """The receipt as text: what was used, then how the charge was computed."""
    facts = {
        "Call": found.log_id,
        "Account": f"{found.account_id}, gateway {found.gateway_id}",
        "Model": f"{found.provider}/{found.model}"
        + (f" (priced as {found.priced_model})" if found.priced_model not in (None, found.model) else ""),
        "Outcome": found.outcome,
        "Usage from": found.usage_source,
        "Price": found.price_version,
        "Policy": found.policy,
        "Not priced": ", ".join(found.unpriced_meters),
    }
    _print_facts(facts)
    if found.lines:
        headings = ["METER", "QUANTITY", "USD PER MILLION", "USD"]
        lines = [
            [_meter(line), line.quantity, _usd_per_million(line.nanos_per_unit), format_precise_usd(line.cost_nanos)]
            for line in found.lines
        ]
        typer.echo()
        print_table(headings, lines, numbers=headings[1:])
        typer.echo()
    sums = {
        "Cost": f"{format_precise_usd(found.cost_nanos)} USD",
        "By our price": f"{format_precise_usd(found.computed_nanos)} USD" if found.computed_nanos else None,
        "Markup": f"{percent_text(found.markup_parts_per_million)} % ({found.markup_version})",
        "Rounding": f"{format_precise_usd(found.rounding_nanos)} USD",
        "Written off": f"{format_usd(found.written_off_nanos)} USD" if found.written_off_nanos else None,
        "Held": f"{format_usd(found.hold_nanos)} USD",
        "Charge": f"{format_usd(found.charge_nanos)} USD",
        "Note": "\n             ".join(found.notes),
    }
    _print_facts(sums)
    for each in found.corrections:
        did = "given back" if each.amount_nanos > 0 else "charged"
        typer.echo(
            f"{'Corrected':<11}  {format_usd(abs(each.amount_nanos))} USD {did} on {day_text(each.at)}: "
            f"{format_usd(each.charge_nanos)} USD by the price {each.price_version}"
        )


def _usd_per_million(nanos_per_unit: str) -> str:
    return format_precise_usd(str(Fraction(nanos_per_unit) * 1_000_000))


def _meter(line: "ReceiptLine") -> str:
    return f"{line.meter} ({line.model})" if line.model else line.meter


def _print_facts(facts: dict[str, str | None]) -> None:
    for word, value in facts.items():
        if value:
            typer.echo(f"{word:<11}  {value}")


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the database, and prove that the books balance.

    First the database itself is read (on PostgreSQL, the tables of the books). Then every balance is replayed from its
    transfers and holds; each difference is a line with the account and the transfer. Last, the audit log is compared
    with its digests. The exit status is 0 if nothing is wrong, 1 if there are differences, 3 if the database is damaged
    (the books are then not checked), and 4 if it has no accounts (so nothing was proved). The command can run next to a
    server: each account is read in one snapshot.

    \b
    Examples:
      farebox check
      farebox check --json | jq .differences
    """
    from farebox.operator import checking
    from farebox.storage.sql import DatabaseDamaged

    session = session_of(context)
    database = session.settings.database_shown
    try:
        with session.reading() as connection, _progress(shown=not as_json) as progress:
            checked = checking.check(connection, progress)
    except DatabaseDamaged as error:  # the database cannot even be opened
        checked = checking.CheckResult([" ".join(str(error).split())], 0, [], [])
    if checked.damage:
        _exit_damaged(checked.damage, database, as_json=as_json)
    if as_json:
        show(_checked_row(checked, database), as_json=True, text="")
    else:
        _print_checked(checked, database)
    if checked.differences or checked.actions:
        raise typer.Exit(1)
    if not checked.accounts:
        raise typer.Exit(EMPTY_STATUS)


def _checked_row(checked: "CheckResult", database: str) -> dict[str, object]:
    return {
        "clean": checked.clean,
        "damage": [],
        "database": database,
        "accounts": checked.accounts,
        "differences": [{**asdict(each), "message": each.message} for each in checked.differences],
        "audit_log": [{"number": number, "what": what} for number, what in checked.actions],
    }


def _print_checked(checked: "CheckResult", database: str) -> None:
    from farebox.ledger.differences import NODE_UNAVAILABLE
    from farebox.operator.checking import action_text
    from farebox.storage.sql import NodeUnavailable

    for difference in checked.differences:
        typer.echo(difference.message)
    for number, what in checked.actions:
        typer.echo(action_text(number, what))
    unchecked = sum(difference.what == NODE_UNAVAILABLE for difference in checked.differences)
    differ = len(checked.differences) - unchecked + len(checked.actions)
    outcome = counted(differ, "difference") if differ else "the books balance"
    if unchecked:
        outside = f"the accounts outside of {counted(unchecked, 'bucket')}"
        typer.echo(f"Checked {outside}: {outcome}. To check all, {NodeUnavailable.remedy}.")
    elif checked.accounts or differ:
        typer.echo(f"Checked {counted(checked.accounts, 'account')}: {outcome}.")
    else:
        typer.echo(f"The database {database} has no account: there is nothing to check. Is it the one you mean?")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _exit_damaged(damage: list[str], database: str, *, as_json: bool) -> NoReturn:
    """Report the damage and end the command."""
    from farebox.storage.sql import DatabaseDamaged

    body = {
        "clean": False,
        "damage": damage,
        "database": database,
        "accounts": 0,
        "differences": [],
        "remedy": DatabaseDamaged.remedy,
    }
    lines = [*damage, f"The database is damaged, and the books were not checked: {DatabaseDamaged.remedy}."]
    show(body, as_json=as_json, text="\n".join(lines))
    raise typer.Exit(DAMAGED_STATUS)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("Checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
