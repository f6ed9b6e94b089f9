"""What the models of a custom provider cost: prices that its account has set for its log. They are not used for
charges."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

import msgspec

from farebox.custom_provider import CustomCostConfig, TokenPricing
from farebox.money import NANOS_PER_USD, ceil_div
from farebox.pricing.bill import with_fee
from farebox.pricing.model import ModelPrice
from farebox.pricing.rates import InvalidPrice, compile_rates

CUSTOM_COST = "custom/"
"""Prefix of such a price's version."""
UNPRICED = "custom"
"""The price version for a model that no cost matches: its usage is logged anyway."""
_DECIMALS = Decimal(1).scaleb(-18)
_MILLION = 1_000_000
_RULES = ("contains", "starts-with", "equals")
_MODALITIES = ("text", "audio", "image", "video")


class CompiledCost(msgspec.Struct, frozen=True):
    """One cost, compiled."""

    config: CustomCostConfig
    price: ModelPrice
    input_image_nanos: int
    output_image_nanos: int


class CustomCosts:
    """The costs of one provider."""

    def __init__(self, provider: str, costs: Iterable[CompiledCost] = ()) -> None:
        """`provider`: its slug. Of several that match, the one with the highest weight applies; then the most exact
        rule, the longest name, and the latest."""
        denominator, rates = compile_rates({"input_mtok": Decimal(0), "output_mtok": Decimal(0)})
        self._nothing = ModelPrice(provider, "", UNPRICED, denominator, rates)
        latest_first = list(costs)[::-1]
        self._costs = sorted(latest_first, key=_precedence, reverse=True)

    @property
    def models(self) -> list[str]:
        """The models that costs name in full."""
        return [cost.config.model for cost in self._costs if cost.config.model_rule == "equals"]

    def find(self, model: str, *, input_images: int = 0, output_images: int = 0) -> ModelPrice:
        """The price of a model, for a call with this many images; a price of zero if no cost matches."""
        name = model.lower()
        for cost in self._costs:
            if _matches(cost.config, name):
                fee = cost.input_image_nanos * input_images + cost.output_image_nanos * output_images
                price = replace(cost.price, model=model)
                return with_fee(price, fee) if fee else price
        return replace(self._nothing, model=model)


def compile_cost(cost_id: str, provider: str, config: CustomCostConfig) -> CompiledCost:
    """Compile a cost. Raises InvalidPrice, with a message that says what is wrong."""
    pricing = config.token_pricing or TokenPricing()
    denominator, rates = compile_rates(_prices(config, pricing))
    price = ModelPrice(provider, config.model, f"{CUSTOM_COST}{cost_id}", denominator, rates)
    return CompiledCost(config, price, _nanos(pricing.input_image_count), _nanos(pricing.output_image_count))


def _prices(config: CustomCostConfig, pricing: TokenPricing) -> Mapping[str, Decimal]:
    """Price key → price per million tokens."""
    special = {
        "cache_read_mtok": pricing.input_cached_tokens,
        "cache_write_mtok": pricing.input_cache_creation_tokens,
        "output_reasoning_mtok": pricing.output_reasoning_tokens,
        **{f"input_{kind}_mtok": getattr(pricing, f"input_{kind}_tokens") for kind in _MODALITIES},
    }
    for kind in _MODALITIES:  # cached tokens have one price, whatever their modality
        if special[f"input_{kind}_mtok"] is not None:
            special[f"cache_{kind}_read_mtok"] = pricing.input_cached_tokens
            special[f"cache_{kind}_write_mtok"] = pricing.input_cache_creation_tokens
    general = {
        "input_mtok": _first(pricing.input_tokens, config.cost_in, pricing.total_tokens),
        "output_mtok": _first(pricing.output_tokens, config.cost_out, pricing.total_tokens),
    }
    return {key: _usd(usd) * _MILLION for key, usd in {**general, **special}.items() if usd is not None}


def _first(*prices: float | None) -> float:
    """The first amount that is given; zero if none is."""
    return next((price for price in prices if price is not None), 0.0)


def _usd(amount: float) -> Decimal:
    exact = Decimal(str(amount))
    if exact != exact.quantize(_DECIMALS):
        raise InvalidPrice(f"{amount} has more than 18 decimals")
    return exact


def _nanos(usd: float | None) -> int:
    if usd is None:
        return 0
    numerator, denominator = (_usd(usd) * NANOS_PER_USD).as_integer_ratio()
    return ceil_div(numerator, denominator)


def _precedence(cost: CompiledCost) -> tuple[int, int, int]:
    config = cost.config
    return config.weight, _RULES.index(config.model_rule), len(config.model)


def _matches(config: CustomCostConfig, name: str) -> bool:
    wanted = config.model.lower()
    if config.model_rule == "equals":
        return name == wanted
    return name.startswith(wanted) if config.model_rule == "starts-with" else wanted in name
