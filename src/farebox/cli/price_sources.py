"""`farebox price supplement` and `farebox price audit`: where prices come from, and whether they are still right."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farebox.calendar import DAY_MS
from farebox.cli.output import Row, show, show_rows
from farebox.cli.prices import price
from farebox.cli.session import CliSession, Stopped, session_of
from farebox.cli.values import AsJson

if TYPE_CHECKING:
    from farebox.operator.audit_prices import PriceDifference
    from farebox.pricing.supplement import Entry, Supplement


def register(app: typer.Typer) -> None:
    """Registers nothing: the commands belong to `farebox price`."""


@price.command("supplement")
def supplement(
    context: typer.Context,
    load: Annotated[
        Path | None, typer.Option("--load", metavar="FILE", help="Replace the supplement with this file.")
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="Go back to the one shipped with this release.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the supplement: dated prices for what the built-in list lacks.

    It contains models missing from the list, the cost of tiers, geographies and speeds, meters that the list has no
    price for, and names that a provider has moved to another model, each from a public source. Your own prices take
    precedence over it, and so does the list wherever it has a price. With --load a file of the same format replaces it,
    for every process at once; --json prints the format.

    \b
    Examples:
      farebox price supplement
      farebox price supplement --json > supplement.json
      farebox price supplement --load supplement.json
    """
    session = session_of(context)
    if load is not None and shipped:
        raise typer.BadParameter("give either --load or --shipped", param_hint="--shipped")
    if load is not None or shipped:
        text = "" if load is None else _read(load)
        _put(session, text)
    found = _current(session)
    if as_json:
        typer.echo(found.text.decode().rstrip("\n"))
        return
    rows = [_entry_row(entry) for entry in found.entries()]
    columns = {"provider": "PROVIDER", "models": "MODELS", "what": "WHAT", "date": "DATE", "source": "SOURCE"}
    show_rows(rows, as_json=False, columns=columns, empty="The supplement is empty.")
    show(None, as_json=False, text=f"Supplement of {found.date}.")


def _read(file: Path) -> str:
    from farebox.pricing.supplement import InvalidSupplement, Supplement

    try:
        text = file.read_text("utf-8")
        Supplement(text.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise Stopped(f"{file} cannot be read: {error}") from error
    except InvalidSupplement as error:
        raise Stopped(f"{file}: {error}") from error
    return text


def _put(session: CliSession, text: str) -> None:
    from farebox.operator.installation import set_supplement

    with session.writing() as connection:
        set_supplement(connection, text, by=session.operator, at=session.clock.now_ms())


def _current(session: CliSession) -> "Supplement":
    from farebox.pricing.supplement import Supplement, shipped
    from farebox.storage.config import find_supplement

    with session.reading() as connection:
        text = find_supplement(connection)
    return Supplement(text.encode()) if text else shipped()


def _entry_row(entry: "Entry") -> Row:
    from farebox.pricing.supplement import AdditionEntry, MovedEntry, VariantEntry

    if isinstance(entry, VariantEntry):
        what = ", ".join(f"{key}={value}" for key, value in entry.when.items()) + f": {entry.factor} times"
    elif isinstance(entry, MovedEntry):
        what = f"now {entry.to}"
    else:
        prices = [f"{key} {usd if isinstance(usd, str) else usd.base + ' …'}" for key, usd in entry.rates.items()]
        if isinstance(entry, AdditionEntry):
            prices += [f"{key} {one.times} × {one.of}" for key, one in entry.times.items()]
        what = ", ".join(prices)
    return {
        "provider": entry.provider,
        "models": ", ".join(entry.models),
        "what": what,
        "date": entry.date,
        "source": entry.source,
    }


@price.command("audit")
def audit(
    context: typer.Context,
    litellm: Annotated[
        Path | None,
        typer.Option("--litellm", metavar="FILE", help="LiteLLM's price map; the installed package's if omitted."),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", min=1, help="Look at the calls of the last N days.")] = 30,
    limit: Annotated[
        int, typer.Option(metavar="PERCENT", min=1, help="Exit with 1 if a model in use differs by more.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Compare your prices with those that others publish and providers state.

    They are compared with LiteLLM's price map (of the installed package, or a file), with the supplement, and with the
    median of the costs that providers stated in their responses. Differences of more than 1 % are shown, latest prices
    first. Exits with 1 if a model that was called differs by more than --limit.

    \b
    Examples:
      farebox price audit
      farebox price audit --litellm model_prices_and_context_window.json --days 7
    """
    from farebox.operator.audit_prices import newest_first

    session = session_of(context)
    found, notes = _differences(session, litellm, days)
    found = newest_first(found)
    rows = [_difference_row(one) for one in found]
    columns = {
        "date": "DATE", "provider": "PROVIDER", "model": "MODEL", "price": "PRICE", "ours": "OURS", "theirs": "THEIRS",
        "percent": "DIFFERS BY", "in_use": "IN USE", "version": "OUR VERSION", "source": "THEIR SOURCE",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="No price differs by more than 1 %.")
    for note in notes:
        typer.echo(note, err=True)
    if any(one.in_use and abs(one.percent) > limit for one in found):
        raise typer.Exit(1)


def _differences(session: CliSession, litellm: Path | None, days: int) -> "tuple[list[PriceDifference], list[str]]":
    from farebox.operator.audit_prices import against_map, against_stated, against_supplement, summarize_calls
    from farebox.pricing.compiler import PriceList
    from farebox.pricing.litellm_map import UnreadableMap, read_map
    from farebox.pricing.supplement import Supplement, shipped
    from farebox.runtime.configuration import price_book
    from farebox.storage import config
    from farebox.storage.calls import models_since, stated_since

    now = session.clock.now_ms()
    with session.reading() as connection:
        text = config.find_supplement(connection)
        price_list = PriceList(supplement=Supplement(text.encode()) if text else shipped())
        book = price_book(config.list_prices(connection), config.list_markups(connection), price_list)
        since = now - days * DAY_MS
        calls = summarize_calls(models_since(connection, since), stated_since(connection, since))
    found = against_supplement(price_list, calls, now) + against_stated(book, calls, now)
    try:
        theirs = read_map(None if litellm is None else str(litellm), now)
    except UnreadableMap as error:
        if litellm is not None:
            raise Stopped(str(error)) from error
        return found, [f"Not compared with LiteLLM's map: {error}."]
    return found + against_map(book, theirs, calls, now), []


def _difference_row(one: "PriceDifference") -> Row:
    return {
        "date": one.date or None,
        "provider": one.provider,
        "model": one.model,
        "price": one.key,
        "ours": f"{one.ours.normalize():f}",
        "theirs": f"{one.theirs.normalize():f}",
        "percent": f"{one.percent:+.1f} %",
        "in_use": one.in_use,
        "version": one.version,
        "source": one.source,
    }
