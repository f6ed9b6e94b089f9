"""The operator's own prices and markups, which are appended and never changed. Plain functions, as in `administer`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import TypeVar

from farebox.clock import Ids
from farebox.model import Operator
from farebox.operator.administer import ActionRefused, provider_slug, require_account
from farebox.storage import config
from farebox.storage.config import MarkupRow, PriceRow
from farebox.storage.operator_actions import ActionName, record_action
from farebox.storage.sql import Connection


def set_price(
    connection: Connection,
    ids: Ids,
    *,
    by: Operator,
    provider: str,
    model: str,
    rates: Mapping[str, str],
    at: int,
    account_id: str | None = None,
    output_max: int | None = None,
    valid_from: int | None = None,
) -> PriceRow:
    """Set what a model costs from `valid_from` (or now) on; `rates` as in pricing.pricebook.OwnPrice."""
    from farebox.pricing.pricebook import OwnPrice, check_price  # here: it loads the price list
    from farebox.pricing.rates import InvalidPrice

    _check_scope(connection, account_id, model)
    provider = provider_slug(provider)
    row = PriceRow(
        ids.log_id(), provider, model, account_id, dict(rates), output_max, at if valid_from is None else valid_from
    )
    try:
        check_price(OwnPrice(row.price_id, provider, model, account_id, row.rates, row.valid_from, output_max))
    except InvalidPrice as error:
        raise ActionRefused(f"{provider}/{model} cannot be charged with these prices: {error}") from error
    before = _latest(
        each
        for each in config.list_prices(connection)
        if (each.provider, each.model, each.account_id) == (provider, model, account_id)
    )
    config.add_price(connection, row, at)
    _record_price(connection, by, "price.set", at, f"{provider}/{model}", row, before)
    return row


def set_markup(
    connection: Connection,
    ids: Ids,
    *,
    by: Operator,
    parts_per_million: int,
    at: int,
    account_id: str | None = None,
    provider: str | None = None,
    model: str | None = None,
    valid_from: int | None = None,
) -> MarkupRow:
    """Set what is charged for a cost from `valid_from` (or now) on: 1_200_000 charges the cost plus a fifth of it."""
    from farebox.pricing.pricebook import OwnMarkup, check_markup  # here: it loads the price list
    from farebox.pricing.rates import InvalidPrice

    _check_scope(connection, account_id, model)
    if provider is not None:
        provider = provider_slug(provider)
    row = MarkupRow(
        ids.log_id(), account_id, provider, model, parts_per_million, at if valid_from is None else valid_from
    )
    try:
        check_markup(OwnMarkup(row.markup_id, account_id, provider, model, parts_per_million, row.valid_from))
    except InvalidPrice as error:
        raise ActionRefused("a markup is at least -100 and at most 99,900 percent of the cost") from error
    before = _latest(
        each
        for each in config.list_markups(connection)
        if (each.account_id, each.provider, each.model) == (account_id, provider, model)
    )
    config.add_markup(connection, row, at)
    _record_price(connection, by, "markup.set", at, f"{provider or '*'}/{model or '*'}", row, before)
    return row


def markup_text(row: MarkupRow) -> str:
    """What a markup charges, and for what: `5 % is charged on top of the cost of demo/gold for account acme`."""
    more = Decimal(row.parts_per_million - 1_000_000) / 10_000
    percent = f"{abs(more).normalize():,f} %"
    does = (
        f"{percent} is charged on top of" if more > 0 else f"{percent} is taken off" if more else "nothing is added to"
    )
    model = f" of {'/'.join(filter(None, (row.provider, row.model)))}" if row.provider or row.model else ""
    return f"{does} the cost{model}{f' for account {row.account_id}' if row.account_id else ''}"


P = TypeVar("P", PriceRow, MarkupRow)


def _latest(found: Iterable[P]) -> P | None:
    return max(found, key=lambda row: row.valid_from, default=None)


def _record_price(
    connection: Connection, by: Operator, action: ActionName, at: int, subject: str, row: P, before: P | None
) -> None:
    """Record the action, together with the latest earlier price for the same model."""
    was = None if before is None else asdict(before)
    record_action(
        connection, by, action, at, account_id=row.account_id or "", subject=subject, before=was, after=asdict(row)
    )


def _check_scope(connection: Connection, account_id: str | None, model: str | None) -> None:
    if account_id is not None:
        require_account(connection, account_id)
    if model is not None and not model.strip():
        raise ActionRefused("the model needs a name, such as gpt-5-mini or gpt-5*")
