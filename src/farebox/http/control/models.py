"""The list of models in Cloudflare's format: those that this installation can call, and what they cost the account."""

import asyncio
import re
from typing import Any, Final, Literal
from uuid import NAMESPACE_URL, uuid5

import msgspec

from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig
from farebox.http.control.wire import Paging
from farebox.http.credentials import check_gateway
from farebox.http.envelope import Response, page
from farebox.http.model_list import ListedModel, callable_models
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.pricing.charge import PER_MILLION
from farebox.pricing.model import Markup, ModelPrice

PER_PAGE_MAX: Final = 1000
_TOKENS: Final = {
    "input_tokens": "per M input tokens",
    "cache_read_tokens": "per M cached input tokens",
    "output_tokens": "per M output tokens",
}
_NANOS: Final = 10**9
_is_embedding: Final = re.compile(r"embed|/bge-(?!reranker)", re.IGNORECASE).search

Name = Literal[
    "Text Generation", "Text Embeddings", "Text-to-Image", "Text-to-Speech", "Automatic Speech Recognition", "Other"
]


class ModelsQuery(Paging, frozen=True, kw_only=True):
    """No model is experimental or deprecated here: `hide_experimental` and `include_deprecated` have no effect."""

    search: str | None = None
    task: str | None = None
    author: str | None = None
    source: float | None = None
    hide_experimental: bool | None = None
    include_deprecated: bool | None = None
    format: str | None = None
    per_page: int = 100


class Task(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: Name
    description: str


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """`context_window` in tokens, or `price`: a list of `unit`, `price`, `currency`."""

    property_id: str
    value: Any


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is the name that `/ai/run` and `/ai/v1/…` accept."""

    id: str
    source: int
    name: str
    description: str
    task: Task
    tags: list[str]
    properties: list[Property]


async def search(request: Request, query: ModelsQuery) -> Response:
    if query.format is not None:
        raise invalid("The list is available in Cloudflare's format only: leave out 'format'", "query", "format")
    services, account_id = request.services, request.account_id
    gateway_id = request.headers.get("cf-aig-gateway-id") or DEFAULT_GATEWAY
    assert request.caller is not None
    check_gateway(request.caller, gateway_id)
    own = await services.configuration.own_providers(account_id, gateway_id)
    gateway = await services.configuration.gateway(account_id, gateway_id, create=False) or GatewayConfig()
    listed = await asyncio.to_thread(callable_models, services, account_id, own, gateway, request.caller.models)
    found = [each for each in listed if _is_wanted(query, each.slug, each.model)]
    if query.task is not None:
        wanted = query.task.strip().lower()
        found = [each for each in found if _task(each.slug, each.model, each.price).lower() == wanted]
    window = query.window(PER_PAGE_MAX)
    shown = found[window.offset : window.offset + window.per_page]
    return page([_wire(each) for each in shown], window.page, window.per_page, len(found))


def _is_wanted(query: ModelsQuery, slug: str, model: str) -> bool:
    name, author = _name(slug, model), _author(slug, model)
    if query.source is not None and query.source != _source(model):
        return False
    if query.author is not None and query.author.strip().lower() != author:
        return False
    return query.search is None or query.search.strip().lower() in name.lower()


def _wire(listed: ListedModel) -> Model:
    price = listed.price
    name, task = _name(listed.slug, listed.model), _task(listed.slug, listed.model, price)
    properties = []
    if price.context_window is not None:
        properties.append(Property(property_id="context_window", value=str(price.context_window)))
    if costs := _costs(price, listed.markup):
        properties.append(Property(property_id="price", value=costs))
    return Model(
        id=str(uuid5(NAMESPACE_URL, name)),
        source=_source(listed.model),
        name=name,
        description=f"{listed.model} of {listed.slug}",
        task=Task(id=str(uuid5(NAMESPACE_URL, task)), name=task, description=task),
        tags=[],
        properties=properties,
    )


def _costs(price: ModelPrice, markup: Markup) -> list[dict[str, Any]]:
    """What the account pays for tokens, in US dollars; for prices with tiers, that of a small call."""
    return [
        {"unit": _TOKENS[rate.meter], "price": _dollars_per_million(rate.base, price, markup), "currency": "USD"}
        for rate in price.rates
        if rate.meter in _TOKENS
    ]


def _dollars_per_million(rate: int, price: ModelPrice, markup: Markup) -> float:
    return rate * PER_MILLION * markup.parts_per_million / (price.denominator * PER_MILLION * _NANOS)


def _name(slug: str, model: str) -> str:
    return model if model.startswith("@") else f"{slug}/{model}"


def _author(slug: str, model: str) -> str:
    return model.split("/")[1].lower() if model.startswith("@") and "/" in model else slug


def _source(model: str) -> int:
    """1: Workers AI's models, as at Cloudflare; 2: others."""
    return 1 if model.startswith("@") else 2


def _task(slug: str, model: str, price: ModelPrice) -> Name:
    """The model's task, by its name, or else by the units of its price."""
    if _is_embedding(model):
        return "Text Embeddings"
    meters = price.meters
    if any(meter.endswith("_seconds") for meter in meters) and "output_tokens" not in meters:
        return "Automatic Speech Recognition"
    if any(meter.endswith("_characters") for meter in meters):
        return "Text-to-Speech"
    if "output_tokens" in meters:
        return "Text Generation"
    return "Text-to-Image" if any("image" in meter for meter in meters) else "Other"
