"""The models that an account can call without a key in the request, and what each costs it."""

import asyncio
from fractions import Fraction
from functools import lru_cache
from typing import Any

import msgspec

from farebox.calls.quotes import small_call
from farebox.calls.spending import spending_limit
from farebox.errors import MODEL_NOT_FOUND, Problem
from farebox.gateway import GatewayConfig
from farebox.model import in_models
from farebox.money import NANOS_PER_USD
from farebox.pricing.ceilings import ceiling_known, output_ceiling
from farebox.pricing.charge import PER_MILLION
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Markup, ModelPrice, Rate
from farebox.pricing.rates import UNITS
from farebox.providers.catalogue import PROVIDERS
from farebox.quoting import quoted
from farebox.runtime.own_providers import OwnProviders
from farebox.runtime.services import Services
from farebox.storage.accounts import read_balance

_CACHED = 8_192
"""Cached entries of the lists of all accounts: some 500 bytes each."""


class ListedModel(msgspec.Struct, frozen=True):
    """One model that can be called."""

    slug: str
    model: str
    price: ModelPrice
    markup: Markup
    own: bool
    """Whether the account pays the provider itself."""

    @property
    def name(self) -> str:
        return f"{self.slug}/{self.model}"


def callable_models(
    services: Services, account_id: str, own: OwnProviders, gateway: GatewayConfig, models: tuple[str, ...] | None
) -> list[ListedModel]:
    """Every priced model of every provider that the operator has a key for or the gateway a default key, unless the
    gateway may not use the operator's key; and the models of custom providers that a cost names. Sorted by name.
    `models`: those that the caller's token may call. The first call in a process takes a second, as all prices are
    compiled."""
    prices, now = services.configuration.prices, services.clock.now_ms()
    found = []
    for provider in PROVIDERS:
        slug, access = provider.slug, services.configuration.provider(provider.slug)
        mine = slug in own.defaults
        if access is None or provider.chat_path is None or not (mine or access.api_key is not None):
            continue
        if not mine and (gateway.byok_only or (gateway.zdr and slug not in services.zdr)):
            continue
        for model, price in prices.priced(account_id, slug, now):
            if in_models(models, slug, model):
                markup = Markup() if mine else prices.markup(account_id, slug, model, now)
                found.append(ListedModel(slug, model, price, markup, mine))
    for slug, access in own.custom.items():
        if access.custom is not None and access.custom.enabled:
            costs = access.custom.costs
            named = (model for model in costs.models if in_models(models, slug, model))
            found.extend(ListedModel(slug, model, costs.find(model), Markup(), own=True) for model in named)
    return sorted(found, key=lambda listed: (listed.slug, listed.model))


async def model_list(
    services: Services,
    account_id: str,
    own: OwnProviders,
    gateway: GatewayConfig,
    models: tuple[str, ...] | None,
    name: str = "",
) -> bytes:
    """`{"object": "list", "data": […]}`, like OpenAI's, of `callable_models` named `provider/model`, each with what is
    known of it; or the one model with this name. Raises Problem (MODEL_NOT_FOUND), DatabaseUnavailable."""
    available = await _available(services, account_id)
    listed = await asyncio.to_thread(_entries, services, account_id, own, gateway, models, name)
    if name and not listed:
        raise Problem(MODEL_NOT_FOUND, f"There is no model {quoted(name)} that can be called here.")
    data = [text + (b"true}" if hold <= available else b"false}") for text, hold in listed]
    return data[0] if name else b'{"object":"list","data":[' + b",".join(data) + b"]}"


async def _available(services: Services, account_id: str) -> int:
    """What a call may hold now, in nano-dollars: the available credit, within the account's spending limit."""
    balance = await services.database.get(lambda connection: read_balance(connection, account_id))
    limit = await spending_limit.state(services, account_id)
    available = 0 if balance is None else balance.available
    return available if limit is None else min(available, limit.available)


def _entries(
    services: Services,
    account_id: str,
    own: OwnProviders,
    gateway: GatewayConfig,
    models: tuple[str, ...] | None,
    name: str,
) -> list[tuple[bytes, int]]:
    found = callable_models(services, account_id, own, gateway, models)
    return [
        _entry(each.slug, each.model, _Priced(each.price), each.markup.parts_per_million, own=each.own)
        for each in found
        if name in ("", each.name)
    ]


class _Priced:
    """A price, compared by its permanent identifier: its version."""

    def __init__(self, price: ModelPrice) -> None:
        self.price = price

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Priced) and self.price.version == other.price.version

    def __hash__(self) -> int:
        return hash(self.price.version)


@lru_cache(_CACHED)
def _entry(slug: str, model: str, priced: _Priced, parts_per_million: int, *, own: bool) -> tuple[bytes, int]:
    """All of an entry except the value of its last field, `affordable`; and what a small call holds."""
    price, markup = priced.price, Markup(parts_per_million)
    hold = 0 if own else estimate(small_call(model, price), price, markup).amount
    entry = {
        "id": f"{slug}/{model}",
        "object": "model",
        "created": 0,
        "owned_by": slug,
        "context_window": price.context_window,
        "max_output_tokens": output_ceiling(price) if ceiling_known(price) else None,
        "paid_from": "own_key" if own else "credit",
        "pricing": {
            "currency": "USD",
            **{rate.meter: _usd(rate, price, markup) for rate in reversed(price.rates)},
        },
        "small_call_nanos": hold,
    }
    return msgspec.json.encode(entry)[:-1] + b',"affordable":', hold


def _usd(rate: Rate, price: ModelPrice, markup: Markup) -> dict[str, Any]:
    """What the account pays for `per` units of a meter, and for each tier the number of input tokens at which it begins
    and the price from there on."""
    per = UNITS.units[rate.meter].per
    factor = Fraction(per * markup.parts_per_million, price.denominator * PER_MILLION * NANOS_PER_USD)
    found: dict[str, Any] = {"per": per, "usd": float(rate.base * factor)}
    if rate.tiers:
        found["above"] = [{"input_tokens": start, "usd": float(number * factor)} for start, number in rate.tiers]
    return found
