"""Stored keys: an account's own keys at providers, by gateway, provider and alias. A key is never returned."""

import dataclasses
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from farebox.errors import not_found
from farebox.gateway import WORD, WORD_WORDS, GatewayConfig
from farebox.http.control.wire import Paging, iso, iso_or_none
from farebox.http.credentials import is_ours
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.providers.catalogue import provider_of
from farebox.providers.credential import KEY_BYTES_MAX, InvalidKey, word_of
from farebox.quoting import quoted
from farebox.runtime.own_providers import OwnProviders, secret_place
from farebox.runtime.services import Services
from farebox.storage.account_keys import AccountKey, find_key
from farebox.storage.gateways import find_gateway
from farebox.storage.last_uses import uses_of
from farebox.storage.provider_configs import (
    ProviderConfigRow,
    SecretRow,
    add_config,
    change_config,
    configs_of,
    delete_config,
    find_config,
    find_secret,
    put_secret,
    secrets_of,
)
from farebox.storage.sql import Connection
from farebox.vault import masked

CONFIGS_MAX = 100
"""Maximum stored keys of one gateway."""
PERIOD_SECONDS = 60

Secret = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=KEY_BYTES_MAX,
        pattern=r"^[\x20-\x7e\t\r\n]+$",
        description="the key as the provider issued it: plain ASCII characters",
    ),
]
"""One word, or the provider's own form of keys: see `Provider.keys`."""
Whole = Annotated[float, msgspec.Meta(ge=0, le=1_000_000_000)]
Weight = Annotated[int, msgspec.Meta(ge=0, le=1_000)]
"""A key's share of the calls that name no alias, relative to the weights of the provider's other keys; 0: none."""


class ProviderConfigCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new key, or an already stored one by its `secret_id`; with both, the new key gets that ID. With neither, the
    stored key whose ID is `{gateway}_{provider}_{alias}`, as Cloudflare names secrets."""

    alias: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=WORD, description=WORD_WORDS)]
    default_config: bool
    provider_slug: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    rate_limit: Whole | None = None
    rate_limit_period: Whole | None = None
    secret: Secret | None = None
    secret_id: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=WORD, description=WORD_WORDS)] | None
    ) = None
    weight: Weight = 0


class ProviderConfigReplace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key that replaces the stored one; with a weight, the key may be omitted to stay as it is."""

    secret: Secret | None = None
    weight: Weight | None = None


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key, without the key itself."""

    id: str
    alias: str
    default_config: bool
    gateway_id: str
    last_used_at: str | None
    """Up to a minute out of date; null: never used."""
    modified_at: str
    provider_slug: str
    secret_id: str
    secret_preview: str
    rate_limit: int | UnsetType = UNSET
    rate_limit_period: int | UnsetType = UNSET
    weight: int | UnsetType = UNSET


async def list_all(request: Request, query: Paging) -> Response:
    account_id, gateway_id = request.account_id, request.path["gateway_id"]

    def read(connection: Connection) -> list[ProviderConfig]:
        found, secrets = configs_of(connection, account_id, gateway_id), secrets_of(connection, account_id)
        used = uses_of(connection, account_id, "provider_config")
        return [_wire(config, secrets[config.secret_id], used.get(config.config_id)) for config in found]

    found = await request.services.database.scan(read)
    window = query.window()
    shown = found[window.offset : window.offset + window.per_page]
    return page(shown, window.page, window.per_page, len(found))


async def create(request: Request, body: ProviderConfigCreate) -> Response:
    services, account_id, gateway_id = request.services, request.account_id, request.path["gateway_id"]
    gateway = await services.configuration.gateway(account_id, gateway_id)
    if gateway is None:
        raise not_found()
    own = await services.configuration.own_providers(account_id, gateway_id)
    limit, period = _limits(body)
    at, provider = services.clock.now_ms(), _slug(services, own, body.provider_slug)
    _check_secret(provider, body.secret)
    usual_id = f"{gateway_id}_{provider}_{body.alias}" if body.secret is None else services.ids.account_id()
    config = ProviderConfigRow(
        config_id=services.ids.log_id(),
        gateway_id=gateway_id,
        provider=provider,
        alias=body.alias,
        is_default=body.default_config,
        secret_id=body.secret_id or usual_id,
        rate_limit=limit,
        rate_period=period,
        created_at=at,
        modified_at=at,
        weight=body.weight or None,
    )
    sealed = None if body.secret is None else _sealed(services, account_id, config, gateway, body.secret)

    def write(connection: Connection) -> ProviderConfig:
        key = find_key(connection, account_id)
        if key is None or find_gateway(connection, account_id, gateway_id) is None:
            raise not_found()
        _check_room(connection, account_id, config)
        secret = _secret_for(connection, key, config, gateway, sealed, named=body.secret_id is not None)
        add_config(connection, key, config)
        return _wire(config, secret, None)

    made = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(made)


async def replace(request: Request, body: ProviderConfigReplace) -> Response:
    """Replaces the key for all configs that use the same secret."""
    services, account_id = request.services, request.account_id
    if body.secret is None and body.weight is None:
        raise invalid("Required", "body", "secret")
    at = services.clock.now_ms()

    def write(connection: Connection) -> ProviderConfig:
        config, secret = _found(connection, request)
        _check_secret(config.provider, body.secret)
        key = find_key(connection, account_id)
        assert key is not None
        if body.secret is not None:
            sealed = services.vault.encrypt(body.secret, secret_place(account_id, secret.secret_id))
            secret = dataclasses.replace(secret, sealed=sealed, preview=masked(body.secret), modified_at=at)
            put_secret(connection, key, secret)
        weight = config.weight if body.weight is None else body.weight or None
        config = dataclasses.replace(config, modified_at=at, weight=weight)
        change_config(connection, key, config)
        return _wire(config, secret, _used(connection, account_id, config))

    changed = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(changed)


async def delete(request: Request, _: None) -> Response:
    account_id = request.account_id

    def write(connection: Connection) -> ProviderConfig:
        config, secret = _found(connection, request)
        shown = _wire(config, secret, _used(connection, account_id, config))
        delete_config(connection, account_id, config.config_id)
        return shown

    deleted = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(deleted)


def _found(connection: Connection, request: Request) -> tuple[ProviderConfigRow, SecretRow]:
    """Raises Problem (NOT_FOUND)."""
    config = find_config(connection, request.account_id, request.path["gateway_id"], request.path["id"])
    secret = None if config is None else find_secret(connection, request.account_id, config.secret_id)
    if config is None or secret is None:
        raise not_found()
    return config, secret


def _check_secret(slug: str, secret: str | None) -> None:
    """Raises InvalidInput."""
    if secret is None:
        return
    if is_ours(secret):
        raise invalid("This is an access token of Farebox, not a provider key", "body", "secret")
    provider = provider_of(slug)
    try:
        (word_of if provider is None else provider.keys)(secret)
    except InvalidKey as error:
        raise invalid(f"This is not a key for {slug}: {error}", "body", "secret") from error


def _limits(body: ProviderConfigCreate) -> tuple[int | None, int | None]:
    """Calls per window, and the window's length in seconds. Raises InvalidInput."""
    for name in ("rate_limit", "rate_limit_period"):
        value = getattr(body, name)
        if value is not None and not value.is_integer():
            raise invalid("Expected integer, received float", "body", name)
    if not body.rate_limit:
        return (None, None) if body.rate_limit is None else (0, int(body.rate_limit_period or PERIOD_SECONDS))
    if body.rate_limit_period is not None and body.rate_limit_period < 1:
        raise invalid("Number must be greater than or equal to 1", "body", "rate_limit_period")
    return int(body.rate_limit), int(body.rate_limit_period or PERIOD_SECONDS)


def _slug(services: Services, own: OwnProviders, name: str) -> str:
    """The provider's own slug. A custom provider may be named without `custom-`. Raises InvalidInput."""
    provider = provider_of(name)
    if provider is None:
        slug = name if name in own.custom else f"custom-{name}"
        if slug in own.custom:
            return slug
    elif provider.slug == "workers-ai":
        raise invalid(
            "Keys for Workers AI cannot be stored, because its URLs name an account at Cloudflare: create a custom "
            "provider with the base URL https://api.cloudflare.com/client/v4/accounts/ID/ai",
            "body",
            "provider_slug",
        )
    elif services.configuration.provider(provider.slug) is not None:
        return provider.slug
    raise invalid(
        f"There is no provider {quoted(name)}: use one of docs/guide.md, or the slug of a custom provider of this "
        "account",
        "body",
        "provider_slug",
        words="This provider does not exist: choose one in the list",
    )


def _sealed(
    services: Services, account_id: str, config: ProviderConfigRow, gateway: GatewayConfig, secret: str
) -> SecretRow:
    sealed, store_id = (
        services.vault.encrypt(secret, secret_place(account_id, config.secret_id)),
        gateway.store_id or "",
    )
    return SecretRow(config.secret_id, config.provider, store_id, sealed, masked(secret), config.created_at)


def _check_room(connection: Connection, account_id: str, config: ProviderConfigRow) -> None:
    """Raises InvalidInput."""
    others = configs_of(connection, account_id, config.gateway_id)
    if any((other.provider, other.alias) == (config.provider, config.alias) for other in others):
        message = f"A provider config for '{config.provider}' with the alias '{config.alias}' already exists"
        known = provider_of(config.provider)
        provider = config.provider if known is None else known.name
        raise invalid(
            message,
            "body",
            "alias",
            words=f"{quoted(config.alias)} is already the alias of a key for {provider}: choose another",
        )
    if len(others) >= CONFIGS_MAX:
        raise invalid(f"The gateway has {CONFIGS_MAX} provider configs, the maximum: delete one", "body")


def _secret_for(
    connection: Connection,
    key: AccountKey,
    config: ProviderConfigRow,
    gateway: GatewayConfig,
    sealed: SecretRow | None,
    *,
    named: bool,
) -> SecretRow:
    """Store and return the secret that the new config uses. `named`: the request names its ID. Raises InvalidInput."""
    stored = find_secret(connection, key.account_id, config.secret_id)
    if sealed is None:
        if stored is None or stored.store_id != (gateway.store_id or ""):
            message = f"The secret '{config.secret_id}' was not found in the store of this gateway: send it as `secret`"
            words = f"This gateway’s key store has no secret with the ID “{config.secret_id}”: enter the key itself"
            raise invalid(message, "body", "secret_id" if named else "secret", words=words if named else "Fill this in")
        if stored.provider != config.provider:
            message = f"The secret '{config.secret_id}' is stored for '{stored.provider}', and for no other provider"
            raise invalid(message, "body", "secret_id")
        return stored
    if stored is not None:
        message = f"A secret with the ID '{config.secret_id}' already exists: replace it with PUT, or leave the ID out"
        words = f"A secret with the ID “{config.secret_id}” already exists: change that key, or leave the ID empty"
        raise invalid(message, "body", "secret_id", words=words)
    put_secret(connection, key, sealed)
    return sealed


def _used(connection: Connection, account_id: str, config: ProviderConfigRow) -> int | None:
    return uses_of(connection, account_id, "provider_config").get(config.config_id)


def _wire(config: ProviderConfigRow, secret: SecretRow, used_at: int | None) -> ProviderConfig:
    return ProviderConfig(
        id=config.config_id,
        alias=config.alias,
        default_config=config.is_default,
        gateway_id=config.gateway_id,
        last_used_at=iso_or_none(used_at),
        modified_at=iso(config.modified_at),
        provider_slug=config.provider,
        secret_id=secret.secret_id,
        secret_preview=secret.preview,
        rate_limit=UNSET if config.rate_limit is None else config.rate_limit,
        rate_limit_period=UNSET if config.rate_period is None else config.rate_period,
        weight=config.weight or UNSET,
    )
