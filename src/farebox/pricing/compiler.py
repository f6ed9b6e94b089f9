"""The price list of genai-prices, compiled into integer tables when a model is first asked for.

The result equals genai-prices' own calculation to the last digit (tests/pricing/test_compiler.py, over every model).
Its `calc_price` takes 195 µs a call; a lookup here about one. Its network updater is not used: the prices are those of
the installed release, which the price version names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from functools import lru_cache
from importlib.metadata import version as release_of
from types import MappingProxyType

from genai_prices import data as list_data
from genai_prices.types import ModelInfo, Provider, StartDateConstraint, TimeOfDateConstraint
from genai_prices.types import ModelPrice as ListedPrice

from farebox.pricing.model import ModelPrice
from farebox.pricing.rates import Price, compile_rates

Context = Mapping[str, str]
"""What of the request, or of the answer, selects another price: `service_tier`, `processing`, `speed`…"""

LIST_IDS: Mapping[str, str] = MappingProxyType(
    {
        "openai": "openai",
        "anthropic": "anthropic",
        "google-ai-studio": "google",
        "groq": "groq",
        "mistral": "mistral",
        "deepseek": "deepseek",
        "grok": "x-ai",
        "cerebras": "cerebras",
        "perplexity-ai": "perplexity",
        "openrouter": "openrouter",
        "cohere": "cohere",
        "workers-ai": "cloudflare",
    }
)
"""Farebox's provider slug → the provider's id in the price list."""

MODEL_REF_MAX = 256
"""Characters of a model name; a longer one is nobody's, and is not kept in any cache."""

_CACHED_REFS = 4096
_DAY_MS = 86_400_000
_WHISPER_SECONDS_MIN = 10
_WHISPER = ("whisper-large-v3", "whisper-large-v3-turbo")


class PriceList:
    """Finds what a model of the list costs. Thread-safe; keeps the compiled prices for as long as it lives."""

    def __init__(self, list_ids: Mapping[str, str] = LIST_IDS, providers: Sequence[Provider] | None = None) -> None:
        """`list_ids` as LIST_IDS; `providers` defaults to the data of the installed genai-prices."""
        self._providers = list(list_data.providers if providers is None else providers)
        self._by_id = {provider.id: provider for provider in self._providers}
        self._list_ids = list_ids
        self._source = f"genai-prices/{release_of('genai-prices')}"
        self._models: dict[tuple[str, int], _ListedModel] = {}
        # Bounded, because callers choose the model names: a match rule accepts endlessly many.
        self._lookup = lru_cache(_CACHED_REFS)(self._match)

    def find(self, provider: str, model: str, at_ms: int, context: Context | None = None) -> ModelPrice | None:
        """The price of the model that genai-prices finds for this name, at this moment.

        `context` selects a variant (`{"service_tier": "flex"}`); without one, or with one that the list does not know,
        the standard price applies. None where the list knows no such model, or no price for it: unpriced, not free.
        """
        if len(model) > MODEL_REF_MAX:
            return None
        listed = self._lookup(provider, model)
        return listed.at(at_ms, context) if listed is not None else None

    def models(self, provider: str) -> list[str]:
        """Names of the provider's models, as the list has them; priced or not."""
        listed = self._by_id.get(self._list_ids.get(provider, ""))
        return [model.id for model in listed.models] if listed is not None else []

    def _match(self, provider: str, model: str) -> "_ListedModel | None":
        listed = self._by_id.get(self._list_ids.get(provider, ""))
        if listed is None:
            return None
        info = listed.find_model(model, all_providers=self._providers)
        if info is None:
            return None
        key = provider, id(info)
        if key not in self._models:
            self._models[key] = _ListedModel(provider, listed, info, f"{self._source}/{listed.id}/{info.id}")
        return self._models[key]


@dataclass(frozen=True, slots=True)
class _When:
    """A condition on the moment of the call. The label goes into the price's version."""

    label: str
    active: Callable[[int], bool]


class _ListedModel:
    """One model with all its conditional prices and variants; compiles each combination once, when it first applies."""

    def __init__(self, slug: str, provider: Provider, info: ModelInfo, version: str) -> None:
        self._shell = ModelPrice(
            provider=slug,
            model=info.id,
            version=version,
            denominator=1,
            rates=(),
            context_window=info.context_window,
            audio_seconds_min=_WHISPER_SECONDS_MIN if provider.id == "groq" and info.id in _WHISPER else 0,
        )
        if isinstance(info.prices, ListedPrice):
            self._standard = [(_ALWAYS, info.prices)]
        else:
            self._standard = [(_when(conditional.constraint), conditional.prices) for conditional in info.prices]
        # The list lends a model to other providers (Claude on Google) at its standard price only.
        own = any(info is model for model in provider.models)
        self._variants = [(_when(variant.constraint), variant) for variant in info.price_variants or ()] if own else []
        self._compiled: dict[tuple[int, tuple[int, ...]], ModelPrice | None] = {}

    def at(self, at_ms: int, context: Context | None) -> ModelPrice | None:
        """The price at that moment; None where the list gives none."""
        key = self._applying(at_ms), self._varying(at_ms, context) if context else ()
        try:
            return self._compiled[key]
        except KeyError:
            price = self._compiled[key] = self._compile(*key)
            return price

    def _applying(self, at_ms: int) -> int:
        """The last active price applies; the first one where none is."""
        for index in range(len(self._standard) - 1, 0, -1):
            if self._standard[index][0].active(at_ms):
                return index
        return 0

    def _varying(self, at_ms: int, context: Context) -> tuple[int, ...]:
        return tuple(
            index
            for index, (when, variant) in enumerate(self._variants)
            if when.active(at_ms) and all(context.get(key) == value for key, value in variant.when.items())
        )

    def _compile(self, applying: int, varying: tuple[int, ...]) -> ModelPrice | None:
        when, standard = self._standard[applying]
        overrides: dict[str, Price] = {}
        label = when.label
        for index in varying:
            when, variant = self._variants[index]
            label += "/" + ",".join(f"{key}={value}" for key, value in variant.when.items()) + when.label
            # Each price key takes the first variant that names it.
            overrides = _prices(variant.prices) | overrides
        prices = _prices(standard) | overrides
        if not prices:
            return None
        denominator, rates = compile_rates(prices)
        return replace(self._shell, version=self._shell.version + label, denominator=denominator, rates=rates)


def _prices(listed: ListedPrice) -> dict[str, Price]:
    return {key: price for key, price in vars(listed).items() if price is not None}


_ALWAYS = _When("", lambda _: True)


def _when(constraint: StartDateConstraint | TimeOfDateConstraint | None) -> _When:
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
        return _When(label, lambda at_ms: not end <= at_ms % _DAY_MS < start)
    return _When(label, lambda at_ms: start <= at_ms % _DAY_MS < end)


def _ms_of_day(moment: time) -> int:
    local = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1000 + moment.microsecond // 1000
    offset = moment.utcoffset()
    return (local - int(offset.total_seconds() * 1000)) % _DAY_MS if offset is not None else local


def _clock(ms_of_day: int) -> str:
    minutes = ms_of_day // 60_000
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
