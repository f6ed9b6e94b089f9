"""The list of models that an account can call with the operator's keys, in OpenAI's format."""

import msgspec

from farebox.providers.catalogue import PROVIDERS
from farebox.runtime.services import Services


def model_list(services: Services, account_id: str) -> bytes:
    """`{"object": "list", "data": […]}`: every priced model of every provider that the operator has a key for, named
    `provider/model`."""
    configuration = services.configuration
    names: list[tuple[str, str]] = []
    for provider in PROVIDERS:
        access = configuration.provider(provider.slug)
        if access is not None and access.api_key is not None and provider.chat_path is not None:
            names.extend(
                (provider.slug, model)
                for model in configuration.prices.models(account_id, provider.slug, services.clock.now_ms())
            )
    data = [
        {"id": f"{slug}/{model}", "object": "model", "created": 0, "owned_by": slug} for slug, model in sorted(names)
    ]
    return msgspec.json.encode({"object": "list", "data": data})
