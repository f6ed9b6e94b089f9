"""The operator's page of prices: own prices and markups with their dates, and what a new one would change.

Times are milliseconds since the Unix epoch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final

from farebox.calendar import DAY_MS
from farebox.http.envelope import Response
from farebox.http.pages import labels
from farebox.http.pages.operator_forms import day, invalid, refusal, run_action, text
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.operator import price_effect
from farebox.operator import prices as actions
from farebox.operator.administer import ActionRefused, provider_slug
from farebox.pricing.model import Markup
from farebox.pricing.pricebook import OwnPrice, check_price
from farebox.pricing.rates import InvalidPrice
from farebox.storage import config
from farebox.storage.config import MarkupRow, PriceRow
from farebox.storage.past_usage import LOOKED_AT, past_usage
from farebox.storage.sql import Connection

HERE: Final = "/ui/prices"
RATES: Final[Mapping[str, str]] = {
    "input_mtok": "Input",
    "output_mtok": "Output",
    "cache_read_mtok": "Cache read",
    "cache_write_mtok": "Cache write",
}
"""The rates in the form: US dollars per million tokens. Others are set by `farebox price set --rate`."""
SHOWN: Final = 40
"""Prices, and markups, that one page of either list shows."""
_PERCENT = re.compile(r"-?\d{1,5}(\.\d{1,4})?")
_USD = re.compile(r"\d{1,9}(\.\d{1,12})?")


@dataclass(frozen=True, slots=True)
class Preview:
    """What a form would change, shown before it is confirmed."""

    of: str
    rates: list[price_effect.RateChange]
    past: price_effect.PriceEffect
    days: int = price_effect.PAST_MS // DAY_MS
    looked_at: int = LOOKED_AT


async def price_list(visit: Visit) -> Shown:
    """The operator's own prices and markups. Without these, models cost what the built-in list says, and the cost
    itself is charged."""
    return await _page(visit, {}, None)


async def _page(visit: Visit, given: Fields, preview: Preview | None) -> Shown:
    def read(connection: Connection) -> tuple[list[PriceRow], list[MarkupRow]]:
        return config.list_prices(connection), config.list_markups(connection)

    prices, markups = await visit.services.database.scan(read)
    prices.sort(key=lambda row: (row.provider, row.model, row.account_id or "", -row.valid_from))
    markups.sort(key=lambda row: -row.valid_from)
    return {
        "title": "Prices",
        **visit.part_of("prices", prices, SHOWN),
        **visit.part_of("markups", markups, SHOWN, prefix="markup_"),
        "now": visit.services.clock.now_ms(),
        "rates": RATES,
        "given": given,
        "preview": preview,
    }


async def set_price(visit: Visit, form: Fields) -> Response | str:
    """Set a price, or show what it would change."""
    services, at = visit.services, visit.services.clock.now_ms()
    provider, model, rates = text(form, "provider"), text(form, "model"), _rates(form)
    if not provider:
        raise invalid("Choose a provider, such as openai")
    account_id, valid_from = text(form, "account") or None, day(form, "from")
    if form.get("do") == "preview":
        return shell(visit, "prices.html", await _page(visit, form, await _price_effect(visit, form, rates)), HERE)
    row = await run_action(
        visit,
        lambda connection, by: actions.set_price(
            connection,
            services.ids,
            by=by,
            provider=provider,
            model=model,
            rates=rates,
            account_id=account_id,
            valid_from=valid_from,
            at=at,
        ),
    )
    return f"From {labels.moment(row.valid_from)} on, {row.provider}/{row.model} has the new price."


def _rates(form: Fields) -> dict[str, str]:
    found = {key: text(form, key) for key in RATES if text(form, key)}
    if not found:
        raise invalid("Enter at least one price; for a free model, enter 0 for the input")
    for key, usd in found.items():
        if not _USD.fullmatch(usd):
            raise invalid(f"{RATES[key]}: enter US dollars per million tokens, such as 0.25")
    return found


async def _price_effect(visit: Visit, form: Fields, rates: Mapping[str, str]) -> Preview:
    services, at = visit.services, visit.services.clock.now_ms()
    model, account_id = text(form, "model"), text(form, "account")
    try:
        provider = provider_slug(text(form, "provider"))
        new = check_price(OwnPrice("preview", provider, model, None, dict(rates), at, None))
    except (ActionRefused, InvalidPrice) as error:
        raise invalid(
            f"This price cannot be charged: {error.words if isinstance(error, ActionRefused) else error}"
        ) from error
    book = services.configuration.prices
    markup = book.markup(account_id, provider, model, at)
    since = at - price_effect.PAST_MS
    usage = await services.database.scan(
        partial(past_usage, provider=provider, model=model, account_id=account_id or None, since=since)
    )
    before = book.find(account_id, provider, model.rstrip("*"), at)
    return Preview(
        f"{provider}/{model}",
        price_effect.rates((before, markup), (new, markup)),
        price_effect.repriced(usage, new, markup),
    )


async def set_markup(visit: Visit, form: Fields) -> Response | str:
    """Set a markup, or show what it would change."""
    services, at = visit.services, visit.services.clock.now_ms()
    percent = text(form, "percent")
    if not _PERCENT.fullmatch(percent):
        raise invalid("Enter a percentage, such as 20 or 12.5, with at most four decimals")
    parts = int(Decimal(percent) * 10_000) + 1_000_000
    account_id, provider, model = (text(form, name) or None for name in ("account", "provider", "model"))
    valid_from = day(form, "from")
    if form.get("do") == "preview":
        preview = await _markup_effect(visit, parts, account_id, provider, model)
        return shell(visit, "prices.html", await _page(visit, form, preview), HERE)
    row = await run_action(
        visit,
        lambda connection, by: actions.set_markup(
            connection,
            services.ids,
            by=by,
            parts_per_million=parts,
            account_id=account_id,
            provider=provider,
            model=model,
            valid_from=valid_from,
            at=at,
        ),
    )
    return f"From {labels.moment(row.valid_from)} on, {actions.markup_text(row)}."


async def _markup_effect(
    visit: Visit, parts: int, account_id: str | None, provider: str | None, model: str | None
) -> Preview:
    services, at = visit.services, visit.services.clock.now_ms()
    try:
        slug = None if provider is None else provider_slug(provider)
    except ActionRefused as error:
        raise refusal(error) from error
    before: Markup = services.configuration.prices.markup(account_id or "", slug or "", (model or "").rstrip("*"), at)
    usage = await services.database.scan(
        partial(past_usage, provider=slug, model=model, account_id=account_id, since=at - price_effect.PAST_MS)
    )
    return Preview(
        f"{slug or 'all providers'}, {model or 'all models'}",
        [],
        price_effect.marked_up(usage, before.parts_per_million, parts),
    )
