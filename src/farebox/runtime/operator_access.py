"""How the providers are reached on the operator's account: base URLs, and the keys that share the calls."""

from collections import defaultdict
from typing import Final

from farebox.providers.catalogue import PROVIDERS
from farebox.runtime.provider_access import OperatorKey, ProviderAccess
from farebox.storage.config import ProviderKeyRow, list_provider_keys, list_providers
from farebox.storage.sql import Connection
from farebox.vault import Vault

_DEMO: Final = "demo"


def read_operator_access(connection: Connection, vault: Vault, demo_url: str | None) -> dict[str, ProviderAccess]:
    """Access to each provider by slug; the demo provider only if it is running. Raises SecretUnreadable."""
    stored = {row.name: row for row in list_providers(connection)}
    further = defaultdict[str, list[ProviderKeyRow]](list)
    for key in list_provider_keys(connection):
        further[key.provider].append(key)
    found = {}
    for provider in PROVIDERS:
        slug, row = provider.slug, stored.get(provider.slug)
        if slug == _DEMO:
            if demo_url is not None:
                found[slug] = ProviderAccess(provider, demo_url, "demo")
            continue
        keys = []
        if row is not None and row.api_key is not None:
            keys.append(OperatorKey(slug, vault.decrypt(row.api_key, provider_place(slug)), row.weight))
        for key in further[slug]:
            text = vault.decrypt(key.api_key, provider_place(slug, key.name))
            keys.append(OperatorKey(f"{slug}/{key.name}", text, key.weight))
        found[slug] = _access(ProviderAccess(provider, provider.base_url if row is None else row.base_url, None), keys)
    return found


def provider_place(slug: str, name: str = "") -> str:
    """What the encryption of an operator's key is bound to. `name`: the name of an additional key."""
    return f"provider:{slug}:{name}" if name else f"provider:{slug}"


def _access(access: ProviderAccess, keys: list[OperatorKey]) -> ProviderAccess:
    """The access with these keys. Keys without a weight are not used, unless all are without one: then the first is."""
    shared = tuple(key for key in keys if key.weight) or tuple(keys[:1])
    if not shared:
        return access
    several = shared if len(shared) > 1 else ()
    return ProviderAccess(access.provider, access.base_url, shared[0].key, None, several, shared[0].key_id)
