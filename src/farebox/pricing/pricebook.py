"""The operator's own prices and markups on top of the price list: what a model costs this account, and the markup.

A book is immutable: when the operator edits a price, a new book with the same list replaces it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from farebox.pricing.bill import highest_ratio, scaled
from farebox.pricing.compiler import MODEL_REF_MAX, STANDARD, Context, PriceList
from farebox.pricing.model import OWN, Markup, ModelPrice
from farebox.pricing.rates import InvalidPrice, compile_rates
from farebox.quoting import quoted

_USD = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?")
_PARTS_PER_MILLION_MAX = 10**9
_CACHED_REFS = 4096
_NEAR_MAX = 100
"""Longest name that is compared with others."""
_NO_MARKUP = Markup()


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A price that the operator set. It replaces the list's price entirely: a meter that is not in `rates` has no
    price.
    """

    price_id: str
    provider: str
    """Farebox's provider slug."""
    model: str
    """A model name, or a prefix followed by `*`; case-insensitive."""
    account_id: str | None
    """None: for every account."""
    rates: Mapping[str, str]
    """Price key of genai-prices → US dollars per unit of the key, as decimal text: `{"input_mtok": "0.15"}`. A free
    model has `"0"`."""
    valid_from: int
    """Milliseconds since the Unix epoch."""
    output_max: int | None = None
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class OwnMarkup:
    """A markup set by the operator. None, for account, provider or model, means any."""

    markup_id: str
    account_id: str | None
    provider: str | None
    model: str | None
    """As in OwnPrice."""
    parts_per_million: int
    """1_200_000 charges the cost plus a fifth of it."""
    valid_from: int
    """Milliseconds since the Unix epoch."""


DEMO_PRICE = OwnPrice(
    price_id="demo",
    provider="demo",
    model="demo-1",
    account_id=None,
    rates={"input_mtok": "1", "output_mtok": "2", "cache_read_mtok": "0.1"},
    valid_from=0,
    output_max=4096,
    context_window=128_000,
)
"""The price of the built-in demo provider."""


class PriceBook:
    """Looks up a model's price and the markup on it."""

    def __init__(
        self,
        own: Iterable[OwnPrice] = (),
        markups: Iterable[OwnMarkup] = (),
        *,
        price_list: PriceList | None = None,
        demo: bool = False,
    ) -> None:
        """`price_list` should be passed on from book to book: it caches what it compiled.

        Raises InvalidPrice for an invalid row (`check_price` and `check_markup` detect them earlier).
        """
        prices = [*own, DEMO_PRICE] if demo else list(own)
        rows = list(markups)
        self._list = price_list if price_list is not None else PriceList()
        self._own = prices
        self._compiled = {row.price_id: check_price(row) for row in prices}
        self._markups = {row.markup_id: check_markup(row) for row in rows}
        self._valid_from = {row.price_id: row.valid_from for row in prices} | {
            row.markup_id: row.valid_from for row in rows
        }
        self._prices = _Table(prices) if prices else None
        self._markup_rows = _Table(rows) if rows else None
        self._fixed: dict[tuple[str, str], ModelPrice] = {}
        """Prices by provider and model that are the same for all accounts, at any time."""
        self._named_price = lru_cache(_CACHED_REFS)(self._name)

    def find(
        self, account_id: str, provider: str, model: str, at_ms: int, context: Context | None = None
    ) -> ModelPrice | None:
        """The price of a model for an account at a moment (milliseconds since the Unix epoch).

        The operator's own price takes precedence over the list's: the account's before the general one, then the most
        specific model name, then the latest that is valid. `context` as in PriceList.find; for an own price, a tier
        costs the same multiple as in the list. None means unpriced: the caller refuses the call.
        """
        if not context and (fixed := self._fixed.get((provider, model))) is not None:
            return fixed
        if len(model) > MODEL_REF_MAX:
            return None
        if self._prices is None:
            found, lasting = self._list.find_lasting(provider, model, at_ms, context)
            if lasting and found is not None and not context and len(self._fixed) < _CACHED_REFS:
                self._fixed[provider, model] = found
            return found
        row = self._prices.find(account_id, provider, model, at_ms)
        if row is not None:
            price = self._named_price(row.price_id, model)
            return self._of_tier(price, provider, model, at_ms, context) if context else price
        return self._list.find(provider, model, at_ms, context)

    def priced_at(self, account_id: str, provider: str, requested: str, priced: str, at_ms: int) -> str:
        """The name by which a call was priced: the requested one, or that of the model that the provider billed.
        `priced` is the name in the price list."""
        if requested == priced:
            return requested
        listed = self._list.find(provider, requested, at_ms)
        return requested if listed is not None and listed.model == priced else priced

    def meters(self, version: str) -> frozenset[str] | None:
        """The meters of the own price with this version; None if there is none."""
        own = self._compiled.get(version.removeprefix(OWN).partition("/")[0]) if version.startswith(OWN) else None
        return None if own is None else own.meters

    def valid_from(self, identifier: str) -> int | None:
        """Since when the operator's price or markup of this ID is valid, in milliseconds; None: there is none."""
        return self._valid_from.get(identifier)

    def highest_factor(self, provider: str) -> Decimal:
        """As PriceList.highest_factor."""
        return self._list.highest_factor(provider)

    def _of_tier(self, own: ModelPrice, provider: str, model: str, at_ms: int, context: Context) -> ModelPrice:
        """The operator's price, adjusted if the provider applies `context`."""
        special = {key: value for key, value in context.items() if value not in STANDARD}
        if not special:
            return own
        standard = self._list.find(provider, model, at_ms)
        varied = self._list.find(provider, model, at_ms, special)
        if standard is None or varied is None or varied.unknown:
            return replace(own, unknown=tuple(f"{key}={value}" for key, value in special.items()))
        factor = highest_ratio(standard, varied)
        return own if factor == 1 else scaled(own, factor, ",".join(f"{key}={special[key]}" for key in special))

    def markup(self, account_id: str, provider: str, model: str, at_ms: int) -> Markup:
        """The markup on a model's cost: the account's row before the general one, then the most specific model name,
        then one for the provider, then the latest that is valid. Without any, the cost itself is charged.
        """
        if self._markup_rows is None:
            return _NO_MARKUP
        row = self._markup_rows.find(account_id, provider, model, at_ms)
        return self._markups[row.markup_id] if row is not None else _NO_MARKUP

    def priced(self, account_id: str, provider: str, at_ms: int) -> list[tuple[str, ModelPrice]]:
        """The provider's models that have a price for the account now, by name: the list's, and the operator's own if
        they are full names.
        """
        found = ((name, self.find(account_id, provider, name, at_ms)) for name in sorted(self._names(provider)))
        return [(name, price) for name, price in found if price is not None]

    def near(self, account_id: str, provider: str, model: str, at_ms: int) -> list[str]:
        """Priced models with a similar spelling, most similar first; at most three."""
        found = get_close_matches(model[:_NEAR_MAX], self._names(provider), n=3, cutoff=0.7)
        return [name for name in found if self.find(account_id, provider, name, at_ms) is not None]

    def _names(self, provider: str) -> set[str]:
        own = {row.model for row in self._own if row.provider == provider and not row.model.endswith("*")}
        return own.union(self._list.models(provider))

    def may_be_free(self, account_id: str, provider: str | None) -> bool:
        """Whether the account gets anything from this provider, or from any provider, for free."""
        return any(
            row.account_id in (None, account_id) and provider in (None, row.provider) and self._has_zero(row)
            for row in self._own
        )

    def _has_zero(self, row: OwnPrice) -> bool:
        return any(not rate.base for rate in self._compiled[row.price_id].rates)

    def _name(self, price_id: str, model: str) -> ModelPrice:
        """The price with the requested model name, by which the ceiling and image tables are looked up."""
        return replace(self._compiled[price_id], model=model)


def check_price(row: OwnPrice) -> ModelPrice:
    """Compile the row. Raises InvalidPrice with what is wrong: no rate at all, an unknown price key, an amount that is
    not plain decimal text, or a special meter without its general one.
    """
    if not row.rates:
        raise InvalidPrice(f"price {row.price_id} has no rate: write a rate of 0 for a free model")
    for key, usd in row.rates.items():
        if not _USD.fullmatch(usd):
            raise InvalidPrice(f"{key} is {quoted(usd)}: write US dollars as 12.34, with at most 18 decimals")
    denominator, rates = compile_rates({key: Decimal(usd) for key, usd in row.rates.items()})
    return ModelPrice(
        provider=row.provider,
        model=row.model,
        version=f"{OWN}{row.price_id}",
        denominator=denominator,
        rates=rates,
        context_window=row.context_window,
        output_max=row.output_max,
    )


def check_markup(row: OwnMarkup) -> Markup:
    """The row as a Markup. Raises InvalidPrice if it is out of range."""
    if not 0 <= row.parts_per_million <= _PARTS_PER_MILLION_MAX:
        raise InvalidPrice(f"markup {row.markup_id} is outside 0 … {_PARTS_PER_MILLION_MAX} parts per million")
    return Markup(row.parts_per_million, row.markup_id)


class _Row(Protocol):
    @property
    def account_id(self) -> str | None: ...
    @property
    def provider(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def valid_from(self) -> int: ...


_R = TypeVar("_R", bound=_Row)


class _Table(Generic[_R]):
    """Rows by account, provider and model. Full names are looked up; only prefixes are tried one by one.

    Of two rows with the same key, the later one wins.
    """

    def __init__(self, rows: Iterable[_R]) -> None:
        self._exact: dict[tuple[str | None, str | None, str], list[_R]] = {}
        self._prefixes: dict[str | None, list[tuple[str, _R]]] = {}
        for row in sorted(rows, key=lambda row: row.valid_from):
            pattern = "*" if row.model is None else row.model.lower()
            if pattern.endswith("*"):
                self._prefixes.setdefault(row.account_id, []).insert(0, (pattern[:-1], row))
            else:
                self._exact.setdefault((row.account_id, row.provider, pattern), []).insert(0, row)
        for prefixes in self._prefixes.values():
            prefixes.sort(key=lambda pair: (-len(pair[0]), pair[1].provider is None))

    def find(self, account_id: str, provider: str, model: str, at_ms: int) -> _R | None:
        """The most specific row that is valid: by account, then model, then provider, then date."""
        name = model.lower()
        for account in (account_id, None):
            for whose in (provider, None):
                for row in self._exact.get((account, whose, name), ()):
                    if row.valid_from <= at_ms:
                        return row
            for prefix, row in self._prefixes.get(account, ()):
                if row.valid_from <= at_ms and name.startswith(prefix) and row.provider in (provider, None):
                    return row
        return None
