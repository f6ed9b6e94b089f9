"""`farebox tax`, `farebox invoice`, `farebox statement`: tax rates, and documents as files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AccountId, AsJson, moment_text
from farebox.quoting import quoted

if TYPE_CHECKING:
    from farebox.documents.render import Content
    from farebox.storage.tax import TaxRate

tax = typer.Typer(no_args_is_help=True, help="Taxes on purchases of credit, by the customer's country.")

_COUNTRY = re.compile(r"[A-Za-z]{2}|\*")
_PERCENT = re.compile(r"[0-9]{1,2}(\.[0-9]{1,4})?")


def register(app: typer.Typer) -> None:
    app.add_typer(tax, name="tax")
    app.command("invoice")(invoice)
    app.command("statement")(statement)


def _country(text: str) -> str:
    if not _COUNTRY.fullmatch(text):
        raise typer.BadParameter(f"{quoted(text)} is not a country: write two letters such as DE, or * for all others")
    return text.upper()


def _rate(text: str) -> int:
    """Parts per million."""
    if not _PERCENT.fullmatch(text):
        raise typer.BadParameter(f"{quoted(text)} is not a tax rate: write a percentage such as 19 or 7.7")
    whole, _, decimals = text.partition(".")
    return int(whole) * 10_000 + int(decimals.ljust(4, "0"))


Country = Annotated[str, typer.Argument(parser=_country, metavar="COUNTRY", help="For example DE; * for all others.")]


@tax.command("set")
def set_tax(
    context: typer.Context,
    country: Country,
    percent: Annotated[int, typer.Argument(parser=_rate, metavar="PERCENT", help="On top of credit and fee.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name on the invoice.")] = "VAT",
    reverse_charge: Annotated[
        bool, typer.Option("--reverse-charge", help="A customer there with a tax ID owes the tax themselves.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set the tax on purchases by customers of a country. Without a rate, no tax is charged.

    Past purchases keep their tax. Reverse charge applies to customers of other countries than the seller's
    (FAREBOX_SELLER_COUNTRY).

    \b
    Examples:
      farebox tax set DE 19
      farebox tax set FR 20 --name TVA --reverse-charge
      farebox tax set "*" 0 --name "Not taxable"
    """
    from farebox.operator.installation import set_tax as store
    from farebox.storage.tax import TaxRate

    if not name.strip() or len(name) > 60:
        raise typer.BadParameter("write up to 60 characters", param_hint="--name")
    session = session_of(context)
    rate = TaxRate(
        country=country,
        name=name.strip(),
        parts_per_million=percent,
        reverse_charge=reverse_charge,
        updated_at=session.clock.now_ms(),
    )
    with session.writing() as connection:
        store(connection, rate, by=session.operator)
    where = "all other countries" if country == "*" else country
    show(_tax_row(rate), as_json=as_json, text=f"{rate.name} for customers of {where}: {_percent_text(rate)} %.")


@tax.command("list")
def list_taxes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tax rates."""
    from farebox.storage.tax import list_tax_rates

    with session_of(context).reading() as connection:
        rows = [_tax_row(rate) for rate in list_tax_rates(connection)]
    columns = {"country": "COUNTRY", "name": "NAME", "percent": "PERCENT", "reverse_charge": "REVERSE CHARGE"}
    show_rows(rows, as_json=as_json, columns=columns, empty="No tax rate: purchases are not taxed.")


@tax.command("remove")
def remove_tax(context: typer.Context, country: Country, as_json: AsJson = False) -> None:
    """Remove a country's tax rate; the rate of `*` then applies, if there is one.

    \b
    Example:
      farebox tax remove DE
    """
    from farebox.operator.installation import remove_tax as remove

    session = session_of(context)
    with session.writing() as connection:
        remove(connection, country, by=session.operator, at=session.clock.now_ms())
    show({"country": country, "removed": True}, as_json=as_json, text=f"The tax rate for {country} has been removed.")


Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the PDF.", dir_okay=False)
]


def invoice(
    context: typer.Context,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="Of an invoice or credit note.")],
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Write an invoice or credit note as PDF, or print it as JSON.

    \b
    Examples:
      farebox invoice FB-2026-000001 -o invoice.pdf
      farebox invoice FB-CN-2026-000001 --json
    """
    from farebox.billing.documents import content_of
    from farebox.storage.documents import find_by_number

    with session_of(context).reading() as connection:
        found = find_by_number(connection, number)
    if found is None:
        raise Stopped(f"there is no invoice or credit note {quoted(number)}")
    _give(content_of(found), output, as_json=as_json, default=f"{number}.pdf")


def statement(
    context: typer.Context,
    account_id: AccountId,
    month: Annotated[str, typer.Option(metavar="MONTH", help="For example 2026-11, UTC.")],
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Write an account's monthly statement as PDF or JSON.

    It has the opening and closing balance, what came in and what was charged, and one line for each provider and model.

    \b
    Examples:
      farebox statement --account acme --month 2026-11 -o november.pdf
      farebox statement --account acme --month 2026-11 --json | jq .closing_nanos
    """
    from farebox.billing.documents import statement_reader
    from farebox.calendar import month_span
    from farebox.operator import administer

    session = session_of(context)
    now = session.clock.now_ms()
    span = month_span(month)
    if span is None or span[0] > now:
        raise typer.BadParameter(
            f"{quoted(month)}: name the current or a past month, such as 2026-11", param_hint="--month"
        )
    with session.reading() as connection:
        administer.require_account(connection, account_id)
        made = statement_reader(session.settings, account_id, month, now)(connection)
    _give(made, output, as_json=as_json, default=f"statement-{month}.pdf")


def _give(content: "Content", output: Path | None, *, as_json: bool, default: str) -> None:
    """Print the JSON, write the PDF, or both."""
    import msgspec

    if output is not None or not as_json:
        from farebox.documents.render import render

        path = output or Path(re.sub(r"[^A-Za-z0-9._-]", "_", default))
        path.write_bytes(render(content))
        if not as_json:
            show(None, as_json=False, text=f"Wrote {path}.")
    if as_json:
        show(msgspec.to_builtins(content), as_json=True, text="")


def _tax_row(rate: "TaxRate") -> Row:
    return {
        "country": rate.country,
        "name": rate.name,
        "percent": _percent_text(rate),
        "parts_per_million": rate.parts_per_million,
        "reverse_charge": rate.reverse_charge,
        "updated_at": moment_text(rate.updated_at),
    }


def _percent_text(rate: "TaxRate") -> str:
    whole, rest = divmod(rate.parts_per_million, 10_000)
    decimals = f"{rest:04d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)
