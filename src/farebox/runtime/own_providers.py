"""What an account has of its own for one gateway: stored keys, and custom providers."""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec
import structlog

from farebox.custom_provider import CUSTOM, CustomCostConfig, CustomProviderConfig
from farebox.pricing.custom_provider_costs import CompiledCost, CustomCosts, compile_cost
from farebox.providers.naming import custom_provider, is_versioned
from farebox.runtime.provider_access import CustomAccess, ProviderAccess
from farebox.storage.custom_providers import CustomCostRow, CustomProviderRow, costs_of, providers_of
from farebox.storage.database import Database
from farebox.storage.provider_configs import ProviderConfigRow, SecretRow, configs_of, secrets_of
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable, Vault

DEFAULT_ALIAS: Final = "default"
_SECRET_NAME: Final = re.compile(r"auth|key|token|secret|password|credential|cookie|session", re.IGNORECASE)
_PUBLIC: Final = frozenset(
    {"accept", "accept-language", "anthropic-beta", "anthropic-version", "openai-beta", "referer", "user-agent"}
)
_LONG: Final = 16
_SCHEMES: Final = ("apikey", "basic", "bearer", "token")

log = structlog.get_logger("farebox.configuration")


class StoredKey(msgspec.Struct, frozen=True):
    """A stored key of the account, as a gateway uses it."""

    config_id: str
    provider: str
    alias: str
    secret: str | None
    """None if it can no longer be decrypted."""
    rate_limit: int | None
    """Maximum calls per window."""
    rate_seconds: int
    weight: int = 0
    """Its share of the calls that name no alias."""

    def __repr__(self) -> str:
        return f"StoredKey({self.provider!r}, {self.alias!r})"


class OwnProviders(msgspec.Struct, frozen=True):
    """The stored keys of a gateway, and the account's custom providers. Read-only."""

    keys: Mapping[tuple[str, str], StoredKey] = {}
    """By provider slug and alias; an empty alias stands for the default key."""
    custom: Mapping[str, ProviderAccess] = {}
    """By slug, with the prefix `custom-`; including those that are switched off."""
    defaults: frozenset[str] = frozenset()
    """Slugs of the providers that have a default key."""
    shared: Mapping[str, tuple[StoredKey, ...]] = {}
    """The keys with a weight, for providers that have several of them."""

    def with_alias(self, alias: str) -> frozenset[str]:
        """Slugs of the providers that have a key with this alias; for an empty alias, a default key."""
        if not alias:
            return self.defaults
        return frozenset(slug for slug, name in self.keys if name == alias)


NOTHING: Final = OwnProviders()


async def read_own_providers(database: Database, vault: Vault, account_id: str, gateway_id: str) -> OwnProviders:
    """The providers as they are in the database now."""
    return await database.get(partial(_read, vault=vault, account_id=account_id, gateway_id=gateway_id))


def _read(connection: Connection, vault: Vault, account_id: str, gateway_id: str) -> OwnProviders:
    configs = configs_of(connection, account_id, gateway_id)
    providers = providers_of(connection, account_id)
    if not configs and not providers:
        return NOTHING
    secrets = secrets_of(connection, account_id) if configs else {}
    costs = costs_of(connection, account_id) if providers else []
    keys: dict[tuple[str, str], StoredKey] = {}
    for config in configs:
        key = _key(vault, account_id, config, secrets.get(config.secret_id))
        keys[config.provider, config.alias] = key
        if config.is_default or (config.alias == DEFAULT_ALIAS and (config.provider, "") not in keys):
            keys[config.provider, ""] = key
    weighted = defaultdict[str, list[StoredKey]](list)
    for key in (key for (_, alias), key in keys.items() if alias and key.weight):
        weighted[key.provider].append(key)
    for provider, sharing in weighted.items():  # an unreadable key is used only if none is readable
        weighted[provider] = sharing = [key for key in sharing if key.secret is not None] or sharing[:1]
        keys[provider, ""] = sharing[0]
    shared = {provider: tuple(sharing) for provider, sharing in weighted.items() if len(sharing) > 1}
    custom = {CUSTOM + row.slug: _access(vault, account_id, row, costs) for row in providers}
    return OwnProviders(keys, custom, frozenset(slug for slug, alias in keys if not alias), shared)


def _key(vault: Vault, account_id: str, config: ProviderConfigRow, secret: SecretRow | None) -> StoredKey:
    text = None if secret is None else _decrypted(vault, secret.sealed, secret_place(account_id, secret.secret_id))
    limit = config.rate_limit or None
    seconds, weight = config.rate_period or 60, config.weight or 0
    return StoredKey(config.config_id, config.provider, config.alias, text, limit, seconds, weight)


def _access(vault: Vault, account_id: str, row: CustomProviderRow, costs: list[CustomCostRow]) -> ProviderAccess:
    slug, config = CUSTOM + row.slug, msgspec.json.decode(row.config, type=CustomProviderConfig)
    headers, readable = stored_headers(vault, account_id, row)
    found = [_compiled(slug, cost) for cost in costs if cost.provider_id == row.provider_id]
    access = CustomAccess(
        enabled=config.enable,
        readable=readable,
        headers=tuple(headers.items()),
        secrets=tuple(secret_part(value) for name, value in headers.items() if is_secret(name, value)),
        costs=CustomCosts(slug, (cost for cost in found if cost is not None)),
        versioned=is_versioned(config.base_url),
    )
    base_url = config.base_url.rstrip("/")
    return ProviderAccess(custom_provider(slug, config.name, base_url), base_url, None, access)


def _compiled(slug: str, cost: CustomCostRow) -> CompiledCost | None:
    """The cost with compiled patterns; None if it is switched off."""
    config = msgspec.json.decode(cost.config, type=CustomCostConfig)
    return compile_cost(cost.cost_id, slug, config) if config.enable else None


def stored_headers(vault: Vault, account_id: str, row: CustomProviderRow) -> tuple[dict[str, str], bool]:
    """The headers of a custom provider, with names in lower case, and whether they could be decrypted."""
    if row.headers is None:
        return {}, True
    text = _decrypted(vault, row.headers, headers_place(account_id, row.provider_id))
    return ({}, False) if text is None else (msgspec.json.decode(text, type=dict[str, str]), True)


def _decrypted(vault: Vault, sealed: bytes, place: str) -> str | None:
    """The decrypted text; None if it cannot be decrypted: the account's calls that need it are then refused, and no
    other calls."""
    try:
        return vault.decrypt(sealed, place)
    except SecretUnreadable as error:
        log.warning("a stored secret cannot be read", why=str(error))
        return None


def secret_place(account_id: str, secret_id: str) -> str:
    """What the encryption of a stored key is bound to."""
    return f"secret:{account_id}:{secret_id}"


def headers_place(account_id: str, provider_id: str) -> str:
    """What the encryption of a custom provider's headers is bound to."""
    return f"custom-provider:{account_id}:{provider_id}"


def is_secret(name: str, value: str) -> bool:
    """Whether the value of a header may be a credential, which no response may contain: judged by the header's name, by
    a scheme before the value, or because it is a long text without spaces."""
    if _SECRET_NAME.search(name) is not None or secret_part(value) != value:
        return True
    return name not in _PUBLIC and len(value) >= _LONG and not any(character.isspace() for character in value)


def secret_part(value: str) -> str:
    """The value of a header, without a scheme such as `Bearer`."""
    scheme, _, rest = value.partition(" ")
    return rest.strip() if scheme.lower() in _SCHEMES and rest.strip() else value
