"""The list of models that an account can call without a key in the request, in OpenAI's format."""

import msgspec

from farebox.providers.catalogue import PROVIDERS
from farebox.runtime.own_providers import OwnProviders
from farebox.runtime.services import Services


def model_list(services: Services, account_id: str, own: OwnProviders) -> bytes:
    """`{"object": "list", "data": […]}`, named `provider/model`: every priced model of every provider that the operator
    has a key for, or the gateway a default one; and of custom providers those that a cost names."""
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
    data = [
        {"id": f"{slug}/{model}", "object": "model", "created": 0, "owned_by": slug} for slug, model in sorted(names)
    ]
    return msgspec.json.encode({"object": "list", "data": data})
