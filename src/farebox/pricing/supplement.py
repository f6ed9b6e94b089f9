"""The supplement: dated prices from public sources for what genai-prices lacks.

Models that it does not list, meters that it has no unit or price for, the cost of tiers, geographies and speeds that it
does not know, and names that providers have moved to another model. `supplement.json` is shipped with the package; an
operator may replace it (`farebox price supplement --load FILE`). The operator's own prices take precedence over it, and
so does the list wherever it has one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from genai_prices.types import Tier, TieredPrices

from farebox.pricing.rates import InvalidPrice, Price, compile_rates
from farebox.quoting import quoted

FACTOR_MAX: Final = 1_000
_USD_MAX: Final = 10**6
_DECIMALS_MAX: Final = 18
_Day: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
_Names: TypeAlias = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]
_Tokens: TypeAlias = Annotated[int, msgspec.Meta(gt=0, le=10**9)]


class TieredPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price with other values for calls with more input tokens."""

    base: str
    above: dict[_Tokens, str]
    """Input tokens → the price of all units of a call that has more of them."""


RateText: TypeAlias = str | TieredPrice
"""US dollars per the price key's number of units, as decimal text."""


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price given as a multiple of another price of the same model."""

    of: str
    times: str


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The common part of all entries: the models, and the source."""

    provider: str
    models: _Names
    """Names, or prefixes followed by `*`."""
    source: str
    date: _Day
    """The date of the source."""


class PriceEntry(_Entry, frozen=True, kw_only=True):
    """The price of models that are missing from the list."""

    rates: Annotated[dict[str, RateText], msgspec.Meta(min_length=1)]
    context_window: _Tokens | None = None
    output_max: _Tokens | None = None


class AdditionEntry(_Entry, frozen=True, kw_only=True):
    """Meters that are missing from the list's price of a model."""

    rates: dict[str, RateText] = {}
    times: dict[str, Times] = {}


class VariantEntry(_Entry, frozen=True, kw_only=True):
    """The price of a tier, a geography or a speed: token prices times a factor."""

    when: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    factor: str
    keeps: tuple[str, ...] = ()
    """Price keys that cost the same as without it."""


class MovedEntry(_Entry, frozen=True, kw_only=True):
    """Names that the provider serves with another model than the one that the list has them for."""

    to: Annotated[str, msgspec.Meta(min_length=1)]
    """The model's name in the list, or in the supplement."""


Entry: TypeAlias = PriceEntry | AdditionEntry | VariantEntry | MovedEntry
E = TypeVar("E", PriceEntry, AdditionEntry, VariantEntry, MovedEntry)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    date: _Day
    prices: tuple[PriceEntry, ...] = ()
    additions: tuple[AdditionEntry, ...] = ()
    variants: tuple[VariantEntry, ...] = ()
    moved: tuple[MovedEntry, ...] = ()


class InvalidSupplement(ValueError):
    """The file is invalid; the message says where and why."""


@dataclass(frozen=True, slots=True)
class MatchedEntries:
    """The entries for one model name of one provider."""

    price: PriceEntry | None
    name: str
    """The name or prefix by which `price` was found."""
    additions: tuple[AdditionEntry, ...]
    variants: tuple[VariantEntry, ...]


class Supplement:
    """The entries of one file. Immutable."""

    def __init__(self, text: bytes) -> None:
        """Parse the text. Raises InvalidSupplement."""
        try:
            self._file = msgspec.json.decode(text, type=_File)
        except ValueError as error:
            raise InvalidSupplement(f"the supplement cannot be read: {error}") from error
        self.text = text
        self.date = self._file.date
        self._check()

    def entries(self) -> Iterable[Entry]:
        """All entries, as in the file."""
        return (*self._file.prices, *self._file.additions, *self._file.variants, *self._file.moved)

    def moved(self) -> Iterable[MovedEntry]:
        """The entries of names that providers have moved."""
        return self._file.moved

    def served(self, provider: str, model: str) -> str:
        """The name of the model that the provider serves for this name: the name itself unless it has moved."""
        moved = _matching(self._file.moved, provider, model.lower())
        return moved[0][1].to if moved else model

    def match(self, provider: str, model: str) -> MatchedEntries:
        """The entries that apply to a model name."""
        file, name = self._file, model.lower()
        prices = _matching(file.prices, provider, name)
        return MatchedEntries(
            prices[0][1] if prices else None,
            prices[0][0] if prices else "",
            tuple(entry for _, entry in _matching(file.additions, provider, name)),
            tuple(entry for _, entry in _matching(file.variants, provider, name)),
        )

    def rates(self, provider: str, model: str) -> dict[str, Price] | None:
        """Price key → price of a model, if it has one here."""
        entry = self.match(provider, model).price
        return None if entry is None else prices_of(entry.rates)

    def variants(self, provider: str) -> list[VariantEntry]:
        """Tiers, geographies and speeds of a provider, over all its models."""
        return [entry for entry in self._file.variants if entry.provider == provider]

    def models(self, provider: str) -> list[str]:
        """Names of the models that have a price here."""
        return [name for entry in self._file.prices if entry.provider == provider for name in entry.models]

    def _check(self) -> None:
        for entry in self.entries():
            where = f"{entry.provider} {', '.join(entry.models)}"
            try:
                if isinstance(entry, PriceEntry):
                    compile_rates(prices_of(entry.rates))
                elif isinstance(entry, AdditionEntry):
                    prices_of(entry.rates)
                    for times in entry.times.values():
                        _number(times.times)
                elif isinstance(entry, VariantEntry) and not 0 < _number(entry.factor) <= FACTOR_MAX:
                    raise InvalidPrice(f"a factor of {entry.factor}")
            except InvalidPrice as error:
                raise InvalidSupplement(f"{where}: {error}") from error


@cache
def shipped() -> Supplement:
    """The supplement shipped with this release."""
    return Supplement(files("farebox.pricing").joinpath("supplement.json").read_bytes())


def prices_of(rates: Mapping[str, RateText]) -> dict[str, Price]:
    """Price keys with their prices as numbers. Raises InvalidPrice if one is invalid."""
    return {key: _price(rate) for key, rate in rates.items()}


def multiple(price: Price, times: Decimal) -> Price:
    """The price multiplied, in each of its tiers."""
    if isinstance(price, Decimal):
        return price * times
    return TieredPrices(base=price.base * times, tiers=[Tier(tier.start, tier.price * times) for tier in price.tiers])


def _price(rate: RateText) -> Price:
    if isinstance(rate, str):
        return _number(rate)
    return TieredPrices(
        base=_number(rate.base), tiers=[Tier(start, _number(usd)) for start, usd in sorted(rate.above.items())]
    )


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except ArithmeticError:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise InvalidPrice(f"{quoted(text)} is not an amount: write it as 12.34")
    if number > _USD_MAX or number.as_tuple().exponent < -_DECIMALS_MAX:  # type: ignore[operator]  # it is finite
        raise InvalidPrice(f"{quoted(text)} is not a price: above a million dollars, or of more than 18 decimals")
    return number


def _matching(entries: Iterable[E], provider: str, name: str) -> list[tuple[str, E]]:
    """Entries for a name, each with the part that matched; the longest first, full names before prefixes."""
    found: list[tuple[str, E]] = []
    for entry in entries:
        if entry.provider == provider:
            fitting = [pattern for pattern in entry.models if _fits(pattern.lower(), name)]
            if fitting:
                found.append((max(fitting, key=_exactness), entry))
    return sorted(found, key=lambda pair: _exactness(pair[0]), reverse=True)


def _fits(pattern: str, name: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))


def _exactness(pattern: str) -> tuple[bool, int]:
    return not pattern.endswith("*"), len(pattern)
