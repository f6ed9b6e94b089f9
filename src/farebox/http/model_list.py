"""The models that an account can call without a key in the request."""

import msgspec

from farebox.model import in_models
from farebox.providers.catalogue import PROVIDERS
from farebox.runtime.own_providers import OwnProviders
from farebox.runtime.services import Services


def callable_models(
    services: Services, account_id: str, own: OwnProviders, models: tuple[str, ...] | None
) -> list[tuple[str, str]]:
    """Slug and name of every priced model of every provider that the operator has a key for, or the gateway a default
    one, and of custom providers those that a cost names; in their order. `models`: those that the caller's token is
    for."""
    configuration = services.configuration
    names: list[tuple[str, str]] = []
    for provider in PROVIDERS:
        access = configuration.provider(provider.slug)
        if access is None or provider.chat_path is None:
            continue
        if access.api_key is not None or provider.slug in own.defaults:
            names.extend(
                (provider.slug, model)
                for model in configuration.prices.models(account_id, provider.slug, services.clock.now_ms())
            )
    for slug, access in own.custom.items():
        if access.custom is not None and access.custom.enabled:
            names.extend((slug, model) for model in access.custom.costs.models)
    return sorted((slug, model) for slug, model in names if in_models(models, slug, model))


def model_list(services: Services, account_id: str, own: OwnProviders, models: tuple[str, ...] | None) -> bytes:
    """`{"object": "list", "data": […]}`, as OpenAI's, of `callable_models` named `provider/model`."""
    data = [
        {"id": f"{slug}/{model}", "object": "model", "created": 0, "owned_by": slug}
        for slug, model in callable_models(services, account_id, own, models)
    ]
    return msgspec.json.encode({"object": "list", "data": data})
