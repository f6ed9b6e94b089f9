"""Which key a call uses: the caller's own, one stored for the gateway, or the operator's, which is paid from credit.
There is no fallback from one to another that the request or the gateway rules out."""

import msgspec
from msgspec.structs import replace

from farebox.errors import (
    INVALID_REQUEST,
    KEY_UNKNOWN,
    KEY_UNREADABLE,
    OWN_KEY_REQUIRED,
    PROVIDER_OFF,
    PROVIDER_UNKNOWN,
    ZDR_UNAVAILABLE,
    Problem,
)
from farebox.gateway import GatewayConfig
from farebox.http.call_target import RUN
from farebox.http.exchange import RequestHeaders
from farebox.providers.catalogue import provider_of
from farebox.providers.naming import is_custom
from farebox.quoting import quoted
from farebox.runtime.own_providers import OwnProviders, StoredKey
from farebox.runtime.provider_access import ProviderAccess
from farebox.runtime.services import Services


class Payer(msgspec.Struct, frozen=True):
    """Who pays for a call, and with which key."""

    own: bool
    """Whether the account pays the provider itself, so that nothing is held or charged."""
    key: str | None = None
    """The key to send: a stored one, or the operator's. None if the caller's own is forwarded as it is."""
    stored: StoredKey | None = None
    key_id: str = ""
    """ID of the operator's key."""
    weight: int = 0
    shared: "tuple[Payer, ...]" = ()
    """If several keys share the calls: each of them with its weight, this one first."""

    def __repr__(self) -> str:
        return f"Payer(own={self.own}, stored={self.stored!r})"


CALLER = Payer(own=True)


def alias_of(headers: RequestHeaders) -> str:
    """The alias of the stored key that the request asks for; empty for the default."""
    return (headers.get("cf-aig-byok-alias") or "").strip()


def pays_itself(own: OwnProviders, slug: str, headers: RequestHeaders) -> bool:
    """Whether a call to a URL with this provider (or `compat`, `rest`, or none) may be paid for by the account itself,
    without a key in the request."""
    if slug in ("", "compat", "rest", RUN):
        return bool(own.keys or own.custom)
    provider = provider_of(slug)
    return is_custom(slug) or (provider is not None and provider.slug in own.with_alias(alias_of(headers)))


def access_of(services: Services, own: OwnProviders, slug: str) -> ProviderAccess:
    """How to reach the provider. Raises Problem (PROVIDER_UNKNOWN, PROVIDER_OFF, KEY_UNREADABLE)."""
    provider = provider_of(slug)
    access = own.custom.get(slug) if provider is None else services.configuration.provider(provider.slug)
    if access is None:
        raise Problem(PROVIDER_UNKNOWN, f"There is no provider {quoted(slug)}.")
    if access.custom is not None and not access.custom.readable:
        raise Problem(KEY_UNREADABLE, f"The stored headers of {quoted(slug)} cannot be read: store them again.")
    if access.custom is not None and not access.custom.enabled:
        raise Problem(PROVIDER_OFF, f"The provider {quoted(slug)} is switched off: set its `enable` to true.")
    return access


def payer_of(
    services: Services,
    access: ProviderAccess,
    own: OwnProviders,
    gateway: GatewayConfig,
    headers: RequestHeaders,
    *,
    own_key: bool,
) -> Payer:
    """Who pays. `own_key`: the request contains a provider key of the caller's own. Raises Problem."""
    if own_key:
        return CALLER
    alias, provider = alias_of(headers), access.provider
    stored = own.keys.get((provider.slug, alias))
    if stored is not None and stored.secret is None:
        raise Problem(
            KEY_UNREADABLE, f"The stored key {quoted(stored.alias)} for {provider.name} cannot be read: store it again."
        )
    if stored is not None:
        shared = () if alias else tuple(map(_by_stored, own.shared.get(provider.slug, ())))
        return replace(_by_stored(stored), shared=shared)
    if alias:
        raise Problem(KEY_UNKNOWN, f"The gateway has no stored key with the alias {quoted(alias)} for {provider.name}.")
    if access.custom is not None:
        return CALLER
    _check_operator(services, access, gateway, headers)
    shared = tuple(Payer(own=False, key=key.key, key_id=key.key_id, weight=key.weight) for key in access.keys)
    return Payer(own=False, key=access.api_key, key_id=access.key_id, shared=shared)


def _by_stored(key: StoredKey) -> Payer:
    return Payer(own=True, key=key.secret, stored=key, weight=key.weight)


def _check_operator(
    services: Services, access: ProviderAccess, gateway: GatewayConfig, headers: RequestHeaders
) -> None:
    """Raises Problem (OWN_KEY_REQUIRED, ZDR_UNAVAILABLE) if the operator has no key for the provider, or the call may
    not use it."""
    provider = access.provider
    if gateway.byok_only or switch("cf-aig-no-wholesale", headers, default=False):
        raise Problem(
            OWN_KEY_REQUIRED,
            "This call may not be paid from credit, and there is no key of your own for "
            f"{provider.name}: send one with it, or store one for the gateway.",
        )
    if access.api_key is None:
        raise Problem(
            OWN_KEY_REQUIRED,
            f"The operator has no key for {provider.name}: send or store your own, or ask the operator to set one "
            f"on the Operator's provider keys page, or with "
            f"`farebox provider set {provider.slug} --api-key-stdin < FILE`.",
        )
    if switch("cf-aig-zdr", headers, default=gateway.zdr) and provider.slug not in services.zdr:
        raise Problem(
            ZDR_UNAVAILABLE,
            f"{provider.name} does not promise zero data retention on the operator's key, and this call asks for it.",
        )


def switch(name: str, headers: RequestHeaders, *, default: bool) -> bool:
    """The value of a header that protects the caller: anything except `true` and `false` is refused rather than
    interpreted. Raises Problem (INVALID_REQUEST)."""
    text = headers.get(name)
    if text is not None and text.strip().lower() not in ("true", "false"):
        raise Problem(INVALID_REQUEST, f"The header `{name}` must be true or false.")
    return flag(text, default=default)


def flag(text: str | None, *, default: bool) -> bool:
    """Whether the header is `true`; `default` if it is absent."""
    return default if text is None else text.strip().lower() == "true"
