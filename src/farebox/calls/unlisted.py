"""Models at OpenRouter that no list has a price for: its router, its image and embedding models, variants.

OpenRouter states the cost of such a call in the response. Until then the hold is the most that the call may cost: by
the request's own `provider.max_price` or, for what that omits, the operator's bound. Both are sent with the request, so
that OpenRouter respects them.
"""

from decimal import Decimal
from typing import Any, Final

from farebox.pricing.bill import with_fee
from farebox.pricing.model import ModelPrice
from farebox.pricing.rates import compile_rates
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest
from farebox.settings import Settings

OPENROUTER: Final = "openrouter"
_SAME_PRICE: Final = frozenset({"nitro", "floor", "exacto", "thinking", "extended", "online"})
"""Suffixes of variants of a model, after a colon, that choose among its providers or add something; the model's price
applies."""
_SEARCH_NANOS: Final = 20_000_000
"""The most that `:online` adds: five results at four dollars per thousand."""
_REQUEST_USD: Final = Decimal("0.05")
_USD_MAX: Final = 1_000_000


def plain_model(model: str) -> str:
    """The model that a variant belongs to."""
    name, colon, variant = model.rpartition(":")
    return name if colon and variant in _SAME_PRICE else model


def with_variant(price: ModelPrice, model: str) -> ModelPrice:
    """The price of a variant, derived from that of its model."""
    return with_fee(price, _SEARCH_NANOS) if model.endswith(":online") else price


def is_free(model: str) -> bool:
    """Whether the model's name at OpenRouter marks it as free."""
    return model.endswith(":free") or model == "openrouter/free"


def price_without_list(model: str, body: bytes, settings: Settings) -> ModelPrice:
    """The most that the call may cost, as a price."""
    if is_free(model):
        denominator, rates = compile_rates({"input_mtok": Decimal(0), "output_mtok": Decimal(0)})
        return ModelPrice(OPENROUTER, model, "openrouter/free", denominator, rates)
    most = _most(body, settings)
    amounts = {
        "input_mtok": most["prompt"],
        "output_mtok": most["completion"],
        "requests_kcount": most["request"] * 1000,
    }
    denominator, rates = compile_rates(amounts)
    version = f"max_price/{most['prompt']:f}/{most['completion']:f}"
    return ModelPrice(OPENROUTER, model, version, denominator, rates, bounded=True)


def with_max_price(body: bytes, settings: Settings) -> bytes:
    """The body with the bound as its `max_price`, which OpenRouter respects. Raises InvalidRequest."""
    preferences = _preferences(body)
    asked = preferences.get("max_price")
    kept = dict(asked) if isinstance(asked, dict) else {}
    most = {key: float(usd) for key, usd in _most(body, settings).items()}
    return bodies.changed(body, provider={**preferences, "max_price": {**kept, **most}})


def _most(body: bytes, settings: Settings) -> dict[str, Decimal]:
    """Maximum prices in US dollars: per million tokens of prompt and of completion, and per request."""
    asked = _preferences(body).get("max_price")
    asked = asked if isinstance(asked, dict) else {}
    bounds = {
        "prompt": Decimal(settings.openrouter_prompt_usd),
        "completion": Decimal(settings.openrouter_completion_usd),
        "request": _REQUEST_USD,
    }
    return {key: _amount(asked.get(key), bound) for key, bound in bounds.items()}


def _preferences(body: bytes) -> dict[str, Any]:
    try:
        raw = bodies.fields(body).get("provider")
        found = None if raw is None else bodies.tree([raw])[0]
    except InvalidRequest:
        return {}
    return found if isinstance(found, dict) else {}


def _amount(asked: object, bound: Decimal) -> Decimal:
    """The amount in the request, if it is a valid amount; otherwise the bound."""
    if isinstance(asked, bool) or not isinstance(asked, int | float | str):
        return bound
    try:
        amount = Decimal(str(asked))
    except ArithmeticError:
        return bound
    return amount if amount.is_finite() and 0 <= amount <= _USD_MAX and len(amount.as_tuple().digits) < 18 else bound
