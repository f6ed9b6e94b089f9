"""The price list of genai-prices with our supplement, compiled into integer tables on first use of a model.

What comes from the list equals genai-prices' own calculation to the last digit (tests/pricing/test_price_list.py, over
every model). Its `calc_price` takes 195 µs per call; a lookup here about one. Its network updater is not used: the
prices are those of the installed release, and the price version names that release.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from genai_prices import __version__ as RELEASE
from genai_prices import data as list_data
from genai_prices.types import ModelInfo, Provider, StartDateConstraint, TimeOfDateConstraint
from genai_prices.types import ModelPrice as ListedPrice

from farebox.calendar import DAY_MS
from farebox.pricing.list_ids import LIST_IDS
from farebox.pricing.model import ModelPrice
from farebox.pricing.rates import UNITS, Price, ancestors, compile_rates
from farebox.pricing.supplement import (
    AdditionEntry,
    MatchedEntries,
    PriceEntry,
    Supplement,
    multiple,
    prices_of,
    shipped,
)

Context = Mapping[str, str]
"""Fields of the request or the response that select another price: `service_tier`, `inference_geo`, `speed`…"""

STANDARD = frozenset(
    {"", "default", "standard", "standard_only", "auto", "on_demand", "global", "not_available", "unspecified"}
)
"""Values of these fields that mean the standard price."""

MODEL_REF_MAX = 256
"""Maximum characters of a model name; a longer one is not a model name, and is not cached."""

_CACHED_REFS = 4096
_THURSDAY = 3
"""The weekday of the first day of the epoch, where Monday is 0."""
_WORKING_DAYS_ONLY: Mapping[str, tuple[time, ...]] = MappingProxyType({"deepseek": (time(1), time(6))})
"""The list's daily intervals, by their start in UTC, that apply from Monday to Friday only. The list can say so only in
its notes: DeepSeek bills its peak prices on working days (since 2026-08-23). In these hours, the day in Beijing, which
counts, is the same as in UTC."""
_SNAPSHOT = re.compile(r"-20\d\d-\d\d-\d\d$")
"""A dated OpenAI name: the same model as the name without the date, unless the list has its own entry."""
_WHISPER_SECONDS_MIN = 10
_WHISPER = ("whisper-large-v3", "whisper-large-v3-turbo")


class PriceList:
    """Finds what a model of the list costs. Thread-safe; caches the compiled prices."""

    def __init__(
        self,
        list_ids: Mapping[str, str] = LIST_IDS,
        providers: Sequence[Provider] | None = None,
        supplement: Supplement | None = None,
    ) -> None:
        """`list_ids` as LIST_IDS; `providers` defaults to the data of the installed genai-prices, `supplement` to the
        shipped one."""
        self.supplement = shipped() if supplement is None else supplement
        self._providers = list(list_data.providers if providers is None else providers)
        self._by_id = {provider.id: provider for provider in self._providers}
        self._list_ids = list_ids
        self._source = f"genai-prices/{RELEASE}"
        self._models: dict[tuple[object, ...], _ListedModel] = {}
        self._factors: dict[str, Decimal] = {}
        # Bounded, because callers choose the model names, and a match rule accepts infinitely many.
        self._lookup = lru_cache(_CACHED_REFS)(self._match)

    def find(self, provider: str, model: str, at_ms: int, context: Context | None = None) -> ModelPrice | None:
        """The price of the model that genai-prices finds for this name, at this moment.

        `context` selects a variant (`{"service_tier": "flex"}`). Values that neither the list nor the supplement knows
        are in the price's `unknown`; it is then the standard price. None if both know no such model, or no price for
        it: unpriced, not free.
        """
        return self.find_lasting(provider, model, at_ms, context)[0]

    def find_lasting(
        self, provider: str, model: str, at_ms: int, context: Context | None = None
    ) -> tuple[ModelPrice | None, bool]:
        """The same, and whether the model's standard price is the same at any time."""
        if len(model) > MODEL_REF_MAX:
            return None, False
        listed = self._lookup(provider, model)
        return (None, False) if listed is None else (listed.at(at_ms, context), listed.is_lasting)

    def models(self, provider: str) -> list[str]:
        """Names of the provider's models, as list and supplement have them; priced or not."""
        listed = self._by_id.get(self._list_ids.get(provider, ""))
        names = [model.id for model in listed.models] if listed is not None else []
        return names + [name for name in self.supplement.models(provider) if not name.endswith("*")]

    def highest_factor(self, provider: str) -> Decimal:
        """The highest multiple of the standard price that any tier, geography or speed costs, over all models of this
        provider; at least 1.
        """
        if provider not in self._factors:
            self._factors[provider] = self._highest_factor(provider)
        return self._factors[provider]

    def _highest_factor(self, provider: str) -> Decimal:
        highest = Decimal(1)
        listed = self._by_id.get(self._list_ids.get(provider, ""))
        for info in listed.models if listed is not None else ():
            standards = [info.prices] if isinstance(info.prices, ListedPrice) else [one.prices for one in info.prices]
            for variant in info.price_variants or ():
                highest = max(highest, _ratio(_prices(standards[-1]), _prices(variant.prices)))
        return max([highest, *(Decimal(entry.factor) for entry in self.supplement.variants(provider))])

    def _match(self, provider: str, model: str) -> "_ListedModel | None":
        name = model.removeprefix("models/") if provider == "google-ai-studio" else model
        if provider == "huggingface":
            name, _, whose = name.rpartition(":")
            return self._find_model(f"{provider}:{whose}", name) if name else None
        found = self._find_model(provider, name)
        if found is None and provider == "openai" and _SNAPSHOT.search(name):
            found = self._find_model(provider, _SNAPSHOT.sub("", name))
        return found

    def _find_model(self, provider: str, name: str) -> "_ListedModel | None":
        model = self.supplement.served(provider, name)
        listed = self._by_id.get(self._list_ids.get(provider, ""))
        info = listed.find_model(model, all_providers=self._providers) if listed is not None else None
        ours = self.supplement.match(provider, model)
        if listed is not None and info is not None:
            key: tuple[object, ...] = (provider, id(info), *map(id, ours.additions), *map(id, ours.variants))
            if key not in self._models:
                self._models[key] = _ListedModel.of_list(
                    provider, listed, info, f"{self._source}/{listed.id}/{info.id}", self._supplement_version, ours
                )
            return self._models[key]
        if ours.price is None:
            return None
        key = (provider, ours.name, id(ours.price), *map(id, ours.additions), *map(id, ours.variants))
        if key not in self._models:
            self._models[key] = _ListedModel.of_supplement(
                provider, ours.name.removesuffix("*"), ours.price, self._supplement_version, ours
            )
        return self._models[key]

    @property
    def _supplement_version(self) -> str:
        return f"supplement/{self.supplement.date}"


@dataclass(frozen=True, slots=True)
class _When:
    """A condition on the time of the call. The label goes into the price's version."""

    label: str
    active: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class _Variant:
    """Prices that replace the standard ones if all of `when` is in the context."""

    moment: _When
    when: Mapping[str, str]
    prices: Mapping[str, Price]


class _ListedModel:
    """One model with all its conditional prices and variants; compiles each combination once, when it first applies."""

    def __init__(
        self,
        shell: ModelPrice,
        standard: list[tuple[_When, Mapping[str, Price]]],
        variants: list[_Variant],
        ours: MatchedEntries,
        our_version: str,
    ) -> None:
        self._shell = shell
        self._standard = standard
        self._variants = variants
        self._additions = ours.additions
        self._factors = ours.variants
        self._our_version = our_version
        self._plain = not any(variant.prices and STANDARD.issuperset(variant.when.values()) for variant in variants)
        """Whether the standard price is the same for all names of the model."""
        self._compiled: dict[tuple[int, tuple[int, ...], tuple[int, ...]], ModelPrice | None] = {}

    @classmethod
    def of_list(
        cls, slug: str, provider: Provider, info: ModelInfo, version: str, our_version: str, ours: MatchedEntries
    ) -> "_ListedModel":
        """A model of genai-prices."""
        shell = ModelPrice(
            provider=slug,
            model=info.id,
            version=version,
            denominator=1,
            rates=(),
            context_window=info.context_window,
            audio_seconds_min=_WHISPER_SECONDS_MIN if provider.id == "groq" and info.id in _WHISPER else 0,
        )
        if isinstance(info.prices, ListedPrice):
            standard = [(_ALWAYS, _prices(info.prices))]
        else:
            standard = [(_when(slug, one.constraint), _prices(one.prices)) for one in info.prices]
        # For models of other vendors (Claude on Google), the list has only the standard price.
        own = any(info is model for model in provider.models)
        variants = [
            _Variant(_when(slug, variant.constraint), variant.when, _prices(variant.prices))
            for variant in (info.price_variants or () if own else ())
        ]
        return cls(shell, list(standard), variants, ours, our_version)

    @classmethod
    def of_supplement(
        cls, slug: str, model: str, entry: PriceEntry, our_version: str, ours: MatchedEntries
    ) -> "_ListedModel":
        """A model that only the supplement has."""
        shell = ModelPrice(
            provider=slug,
            model=model,
            version=f"{our_version}/{slug}/{model}",
            denominator=1,
            rates=(),
            context_window=entry.context_window,
            output_max=entry.output_max,
        )
        return cls(shell, [(_ALWAYS, prices_of(entry.rates))], [], ours, our_version)

    @property
    def is_lasting(self) -> bool:
        """Whether the standard price is the same at any time."""
        return len(self._standard) == 1

    def at(self, at_ms: int, context: Context | None) -> ModelPrice | None:
        """The price at that time; None if the list has none."""
        if not context or (self._plain and STANDARD.issuperset(context.values())):  # nearly every call
            return self._price((self._applying(at_ms), (), ()))
        varying = tuple(
            index
            for index, variant in enumerate(self._variants)
            if variant.moment.active(at_ms) and _holds(variant.when, context)
        )
        known = {key for index in varying for key in self._variants[index].when}
        factors = tuple(
            index
            for index, entry in enumerate(self._factors)
            if _holds(entry.when, context) and known.isdisjoint(entry.when)
        )
        known.update(key for index in factors for key in self._factors[index].when)
        price = self._price((self._applying(at_ms), varying, factors))
        unknown = tuple(
            f"{key}={value}" for key, value in context.items() if key not in known and value not in STANDARD
        )
        return replace(price, unknown=unknown) if price is not None and unknown else price

    def _price(self, key: tuple[int, tuple[int, ...], tuple[int, ...]]) -> ModelPrice | None:
        try:
            return self._compiled[key]
        except KeyError:
            price = self._compiled[key] = self._compile(*key)
            return price

    def _applying(self, at_ms: int) -> int:
        """The last active price applies; the first one if none is active."""
        for index in range(len(self._standard) - 1, 0, -1):
            if self._standard[index][0].active(at_ms):
                return index
        return 0

    def _compile(self, applying: int, varying: tuple[int, ...], factors: tuple[int, ...]) -> ModelPrice | None:
        moment, standard = self._standard[applying]
        overrides: dict[str, Price] = {}
        label = moment.label
        for index in varying:
            variant = self._variants[index]
            label += "/" + ",".join(f"{key}={value}" for key, value in variant.when.items()) + variant.moment.label
            # Each price key takes the first variant that names it.
            overrides = {**variant.prices, **overrides}
        prices = {**standard, **overrides}
        if not prices:
            return None
        added = _added(prices, self._additions)
        if added and not self._shell.version.startswith(self._our_version):
            label += f"+{self._our_version}"
        prices |= added
        for index in factors:
            entry = self._factors[index]
            label += f"/{self._our_version}/" + ",".join(f"{key}={value}" for key, value in entry.when.items())
            prices = {
                key: multiple(price, Decimal(entry.factor)) if _of_tokens(key) and key not in entry.keeps else price
                for key, price in prices.items()
            }
        denominator, rates = compile_rates(prices)
        return replace(self._shell, version=self._shell.version + label, denominator=denominator, rates=rates)


def _added(prices: Mapping[str, Price], additions: Sequence[AdditionEntry]) -> dict[str, Price]:
    """Meters that the supplement adds to the list's; only those whose general meters have a price."""
    wanted: dict[str, Price] = {}
    for entry in additions:
        wanted |= prices_of(entry.rates)
        for key, times in entry.times.items():
            if times.of in prices:
                wanted[key] = multiple(prices[times.of], Decimal(times.times))
    priced = {UNITS.unit_for_price_key(key).usage_key for key in prices}
    return {
        key: price
        for key, price in wanted.items()
        if key not in prices and ancestors(UNITS.unit_for_price_key(key).usage_key) <= priced
    }


def _holds(when: Mapping[str, str], context: Context) -> bool:
    return all(context.get(key) == value for key, value in when.items())


def _of_tokens(key: str) -> bool:
    return UNITS.unit_for_price_key(key).dimensions.get("family") == "tokens"


def _ratio(standard: Mapping[str, Price], variant: Mapping[str, Price]) -> Decimal:
    """The highest ratio of any token price to the standard one."""
    ratios = [Decimal(0)]
    for key, price in variant.items():
        usual = standard.get(key)
        if usual is not None and _of_tokens(key) and _base(usual):
            ratios.append(_base(price) / _base(usual))
    return max(ratios)


def _base(price: Price) -> Decimal:
    return price if isinstance(price, Decimal) else price.base


def _prices(listed: ListedPrice) -> dict[str, Price]:
    return {key: price for key, price in vars(listed).items() if price is not None}


_ALWAYS = _When("", lambda _: True)


def _when(slug: str, constraint: StartDateConstraint | TimeOfDateConstraint | None) -> _When:
    """The condition on UTC milliseconds. Starts at UTC midnight; a daily interval may pass midnight."""
    if constraint is None:
        return _ALWAYS
    if isinstance(constraint, StartDateConstraint):
        midnight = datetime.combine(constraint.start_date, time(), UTC)
        start_ms = int(midnight.timestamp()) * 1000
        return _When(f"/{constraint.start_date}", lambda at_ms: at_ms >= start_ms)
    start, end = _ms_of_day(constraint.start_time), _ms_of_day(constraint.end_time)
    label = f"/{_clock(start)}-{_clock(end)}Z"
    if end < start:
        return _When(label, lambda at_ms: not end <= at_ms % DAY_MS < start)
    if constraint.start_time.replace(tzinfo=None) in _WORKING_DAYS_ONLY.get(slug, ()):
        return _When(f"{label},Mon-Fri", lambda at_ms: start <= at_ms % DAY_MS < end and _working_day(at_ms))
    return _When(label, lambda at_ms: start <= at_ms % DAY_MS < end)


def _working_day(at_ms: int) -> bool:
    return (at_ms // DAY_MS + _THURSDAY) % 7 < 5


def _ms_of_day(moment: time) -> int:
    local = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1000 + moment.microsecond // 1000
    offset = moment.utcoffset()
    return (local - int(offset.total_seconds() * 1000)) % DAY_MS if offset is not None else local


def _clock(ms_of_day: int) -> str:
    minutes = ms_of_day // 60_000
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
