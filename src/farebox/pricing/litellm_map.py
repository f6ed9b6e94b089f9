"""LiteLLM's published price map, converted to the price keys that this project uses, for comparison.

The map is JSON: a model's name (often with its provider before a slash) and its prices, in US dollars per unit. It is
read from the installed package, or from a file; nothing is fetched.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from genai_prices.types import Tier, TieredPrices

from farebox.pricing.rates import Price

PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openai": "openai",
        "text-completion-openai": "openai",
        "anthropic": "anthropic",
        "gemini": "google-ai-studio",
        "groq": "groq",
        "mistral": "mistral",
        "deepseek": "deepseek",
        "xai": "grok",
        "cerebras": "cerebras",
        "perplexity": "perplexity-ai",
        "openrouter": "openrouter",
        "cohere": "cohere",
        "cohere_chat": "cohere",
        "cloudflare": "workers-ai",
    }
)
"""The map's `litellm_provider` → ours."""

_FIELDS: Final[Mapping[str, tuple[tuple[str, int], ...]]] = MappingProxyType(
    {
        "input_cost_per_token": (("input_mtok", 10**6),),
        "output_cost_per_token": (("output_mtok", 10**6),),
        "cache_read_input_token_cost": (("cache_read_mtok", 10**6),),
        "cache_creation_input_token_cost": (("cache_write_mtok", 10**6),),
        "cache_creation_input_token_cost_above_1hr": (("cache_write_1h_mtok", 10**6),),
        "cache_creation_input_token_cost_above_12hr": (("cache_write_12h_mtok", 10**6),),
        "input_cost_per_audio_token": (("input_audio_mtok", 10**6),),
        "output_cost_per_audio_token": (("output_audio_mtok", 10**6),),
        "cache_read_input_audio_token_cost": (("cache_audio_read_mtok", 10**6),),
        "input_cost_per_image_token": (("input_image_mtok", 10**6),),
        "output_cost_per_image_token": (("output_image_mtok", 10**6),),
        "cache_read_input_image_token_cost": (("cache_image_read_mtok", 10**6),),
        "output_cost_per_reasoning_token": (("output_reasoning_mtok", 10**6),),
        "citation_cost_per_token": (("output_citation_mtok", 10**6),),
        "input_cost_per_character": (("input_mchars", 10**6),),
        "input_cost_per_second": (("audio_hours", 3600), ("input_audio_hours", 3600)),
        "input_cost_per_request": (("requests_kcount", 1000),),
    }
)
"""A field of the map → price keys, and how many of the map's units one unit of the key is."""
_USD_MAX: Final = 1_000
"""US dollars for one unit; a larger or negative value is not a price."""
_ABOVE: Final = re.compile(r"_above_(\d+)k_tokens$")
_FILES: Final = ("model_prices_and_context_window_backup.json", "model_prices_and_context_window.json")


class UnreadableMap(ValueError):
    """No such package or file, or its content is not a price map."""


class LiteLLMMap:
    """The prices of a map at one time, by our provider and the provider's model name."""

    def __init__(self, entries: Mapping[str, Any], version: str, at_ms: int) -> None:
        self.version = version
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        self._rates: dict[tuple[str, str], dict[str, Price]] = {}
        self._sources: dict[tuple[str, str], str] = {}
        for name, entry in entries.items():
            slug = PROVIDERS.get(str(entry.get("litellm_provider"))) if isinstance(entry, dict) else None
            if slug is None:
                continue
            whose, slash, rest = name.partition("/")
            model = rest if slash and PROVIDERS.get(whose) == slug else name
            rates = _rates(_in_force(entry, at))
            if rates:
                self._rates[slug, model] = rates
                self._sources[slug, model] = str(entry.get("source") or "")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rates)

    def rates(self, provider: str, model: str) -> dict[str, Price] | None:
        """Price key → price; None if the map has none."""
        return self._rates.get((provider, model))

    def source(self, provider: str, model: str) -> str:
        """The source that the map states; empty if it states none."""
        return self._sources.get((provider, model), "")


def _in_force(entry: Mapping[str, Any], at: datetime) -> Mapping[str, Any]:
    """The entry with its off-peak prices if they apply at this time; the others are those of the peak hours."""
    off_peak = entry.get("off_peak_pricing")
    if not isinstance(off_peak, dict) or not isinstance(windows := off_peak.get("windows"), list):
        return entry
    return {**entry, **off_peak} if any(isinstance(one, dict) and _holds(one, at) for one in windows) else entry


def _holds(window: Mapping[str, Any], at: datetime) -> bool:
    """Whether a window such as `{"hours_utc": ["10:00-00:00"], "weekdays": [1, 2]}` is open; Monday is 1."""
    days, spans = window.get("weekdays"), window.get("hours_utc", ())
    if isinstance(days, list) and at.isoweekday() not in days:
        return False
    listed = [spans] if isinstance(spans, str) else spans if isinstance(spans, list) else ()
    return any(isinstance(span, str) and _within(span, f"{at:%H:%M}") for span in listed)


def _within(span: str, now: str) -> bool:
    begin, _, end = span.partition("-")
    return begin <= now < end if begin < end else now >= begin or now < end


def _rates(entry: Mapping[str, Any]) -> dict[str, Price]:
    """The standard prices of one entry."""
    base: dict[str, Decimal] = {}
    tiers: dict[str, list[Tier]] = {}
    for field, usd in entry.items():
        if not isinstance(usd, int | Decimal) or isinstance(usd, bool) or not 0 <= usd <= _USD_MAX:
            continue
        above = _ABOVE.search(field)
        for key, units in _FIELDS.get(_ABOVE.sub("", field), ()):
            if above is None:
                base[key] = Decimal(usd) * units
            else:
                tiers.setdefault(key, []).append(Tier(int(above[1]) * 1000, Decimal(usd) * units))
    rates: dict[str, Price] = {}
    for key, price in base.items():
        higher = sorted(tiers.get(key, ()), key=lambda tier: tier.start)
        rates[key] = TieredPrices(base=price, tiers=higher) if higher else price
    if entry.get("mode") == "rerank" and isinstance(entry.get("input_cost_per_query"), int | Decimal):
        rates = {"rerank_searches_kcount": entry["input_cost_per_query"] * 1000}
    return rates


def read_map(path: str | None, at_ms: int) -> LiteLLMMap:
    """The map of a file, or of the installed package, with the prices of that time. Raises UnreadableMap."""
    try:
        if path is None:
            package = distribution("litellm")
            found = next(
                Path(str(package.locate_file(file)))
                for file in package.files or ()
                if file.name in _FILES and len(file.parts) == 2
            )
            version = f"litellm/{package.version}"
        else:
            found, version = Path(path), f"litellm/{Path(path).name}"
        entries = json.loads(found.read_text("utf-8"), parse_float=Decimal)
    except PackageNotFoundError as error:
        raise UnreadableMap("litellm is not installed, and --litellm names no file") from error
    except (OSError, StopIteration, ValueError, RecursionError) as error:
        raise UnreadableMap(f"LiteLLM's price map cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise UnreadableMap("LiteLLM's price map is an object of models")
    return LiteLLMMap(entries, version, at_ms)
