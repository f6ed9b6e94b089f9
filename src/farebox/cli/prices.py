"""`farebox price`, `farebox markup`: what models cost, and what is charged for that."""

from typing import Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import session_of
from farebox.cli.values import (
    AsJson,
    OnlyAccount,
    Percent,
    Rates,
    ValidFrom,
    moment_text,
    parse_price,
    percent_text,
)

price = typer.Typer(no_args_is_help=True, help="Prices: your own, overriding the built-in list.")
markup = typer.Typer(no_args_is_help=True, help="Markups: what you charge on top of the cost.")


def register(app: typer.Typer) -> None:
    app.add_typer(price, name="price")
    app.add_typer(markup, name="markup")


@price.command("set")
def set_price(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="For example openai.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name, or a prefix followed by *.")],
    input_price: Annotated[
        str | None, typer.Option("--input", parser=parse_price, metavar="USD", help="Per million input tokens.")
    ] = None,
    output_price: Annotated[
        str | None, typer.Option("--output", parser=parse_price, metavar="USD", help="Per million output tokens.")
    ] = None,
    cache_read: Annotated[
        str | None, typer.Option(parser=parse_price, metavar="USD", help="Per million tokens read from a cache.")
    ] = None,
    cache_write: Annotated[
        str | None, typer.Option(parser=parse_price, metavar="USD", help="Per million tokens written to a cache.")
    ] = None,
    rates: Rates = None,
    output_max: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Maximum output of one response: tokens, images, seconds.")
    ] = None,
    account_id: OnlyAccount = None,
    valid_from: ValidFrom = None,
    as_json: AsJson = False,
) -> None:
    """Set the price of a model. It replaces the built-in price entirely: what is not given here has no price.

    Calls in flight keep the price they began with. An account's own price takes precedence. --rate takes any price key
    of genai-prices, and those of docs/metering.md for seconds, characters and images; for a free model use --input 0.

    \b
    Examples:
      farebox price set openai gpt-5-mini --input 0.25 --output 2 --cache-read 0.025
      farebox price set workers-ai "@cf/meta/*" --input 0.10 --output 0.40 --output-max 4096
      farebox price set ideogram ideogram-v3 --rate output_images_count=0.06
      farebox price set groq my-model --input 1 --output 1 --account acme --valid-from 2027-01-01
    """
    from farebox.operator import prices

    options = {"input_mtok": input_price, "output_mtok": output_price}
    options |= {"cache_read_mtok": cache_read, "cache_write_mtok": cache_write}
    given = {key: usd for key, usd in options.items() if usd is not None}
    for key, usd in rates or ():
        if key in given:
            raise typer.BadParameter(f"{key} is given twice", param_hint="--rate")
        given[key] = usd
    if not given:
        raise typer.BadParameter("give at least one price; for a free model use --input 0", param_hint="--input")
    session = session_of(context)
    with session.writing() as connection:
        stored = prices.set_price(
            connection, session.ids, by=session.operator, provider=provider, model=model, rates=given,
            account_id=account_id, output_max=output_max, valid_from=valid_from, at=session.clock.now_ms(),
        )  # fmt: skip
    data = {
        "price_id": stored.price_id, "provider": stored.provider, "model": model, "account_id": account_id,
        "rates": given, "output_max": output_max, "valid_from": moment_text(stored.valid_from),
    }  # fmt: skip
    text = f"From {moment_text(stored.valid_from)} on, {stored.provider}/{model} costs {_costs_text(given)}."
    show(data, as_json=as_json, text=text + _soon(stored.valid_from, session.clock.now_ms()))


def _soon(valid_from: int, at: int) -> str:
    """When servers that run now begin to use what was set."""
    return "" if valid_from > at else " A running server picks this up within a second."


@price.command("list")
def list_prices(context: typer.Context, as_json: AsJson = False) -> None:
    """List the prices you set. All other models use the built-in price list."""
    from farebox.storage import config

    with session_of(context).reading() as connection:
        found = config.list_prices(connection)
    rows: list[Row] = [
        {
            "price_id": item.price_id, "provider": item.provider, "model": item.model, "account_id": item.account_id,
            "rates": item.rates if as_json else _rates_text(item.rates), "output_max": item.output_max,
            "valid_from": moment_text(item.valid_from),
        }
        for item in found
    ]  # fmt: skip
    columns = {
        "provider": "PROVIDER", "model": "MODEL", "account_id": "ACCOUNT", "rates": "RATES", "valid_from": "VALID FROM",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="No price of your own: the built-in price list applies.")


def _rates_text(rates: dict[str, str]) -> str:
    return ", ".join(f"{key} {usd}" for key, usd in rates.items())


def _costs_text(rates: dict[str, str]) -> str:
    return ", ".join(_rate_text(key, usd) for key, usd in rates.items())


def _rate_text(key: str, usd: str) -> str:
    from farebox.pricing.rates import unit_text

    what, _, unit = key.rpartition("_")
    match unit:
        case "mtok":
            return f"{usd} USD per million {what.replace('_', ' ')} tokens"
        case "kcount":
            return f"{usd} USD per thousand {what.replace('_', ' ')}"
        case _:
            return f"{usd} USD {unit_text(key)}"


@markup.command("set")
def set_markup(
    context: typer.Context,
    percent: Percent,
    account_id: OnlyAccount = None,
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Only for this provider's models.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Only for this model, or names with *.")] = None,
    valid_from: ValidFrom = None,
    as_json: AsJson = False,
) -> None:
    """Set the percentage charged on top of the cost. Without a markup, the cost itself is charged.

    The most specific one applies: an account's before everyone's, then a model's, then a provider's.

    \b
    Examples:
      farebox markup set 20
      farebox markup set 12.5 --provider openai --account acme
      farebox markup set -- -10           (charge less than the cost)
    """
    from farebox.operator import prices

    session = session_of(context)
    with session.writing() as connection:
        stored = prices.set_markup(
            connection,
            session.ids,
            by=session.operator,
            parts_per_million=percent,
            account_id=account_id,
            provider=provider,
            model=model,
            valid_from=valid_from,
            at=session.clock.now_ms(),
        )
    data = _markup_row(stored.markup_id, account_id, stored.provider, model, percent, stored.valid_from)
    text = f"From {moment_text(stored.valid_from)} on, {prices.markup_text(stored)}."
    show(data, as_json=as_json, text=text + _soon(stored.valid_from, session.clock.now_ms()))


@markup.command("list")
def list_markups(context: typer.Context, as_json: AsJson = False) -> None:
    """List the markups."""
    from farebox.storage import config

    with session_of(context).reading() as connection:
        found = config.list_markups(connection)
    rows = [
        _markup_row(item.markup_id, item.account_id, item.provider, item.model, item.parts_per_million, item.valid_from)
        for item in found
    ]
    columns = {
        "percent": "PERCENT", "account_id": "ACCOUNT", "provider": "PROVIDER", "model": "MODEL",
        "valid_from": "VALID FROM",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="No markup: the cost itself is charged.")


def _markup_row(
    markup_id: str,
    account_id: str | None,
    provider: str | None,
    model: str | None,
    parts_per_million: int,
    valid_from: int,
) -> Row:
    return {
        "markup_id": markup_id,
        "percent": percent_text(parts_per_million),
        "parts_per_million": parts_per_million,
        "account_id": account_id,
        "provider": provider,
        "model": model,
        "valid_from": moment_text(valid_from),
    }
