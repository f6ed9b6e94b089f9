"""The keys that a request may be made with, each with the resulting headers."""

from farebox.calls.model import KeyChoice, KeyLimit
from farebox.http.exchange import RequestHeaders
from farebox.http.forwarded_headers import forwarded_headers
from farebox.http.payer import Payer
from farebox.http.upstream_endpoint import UpstreamEndpoint
from farebox.providers.provider import Metering
from farebox.providers.upstream import SentHead
from farebox.runtime.provider_access import ProviderAccess


def key_choices(
    headers: RequestHeaders,
    access: ProviderAccess,
    path: str,
    metering: Metering,
    endpoint: UpstreamEndpoint,
    *,
    coded: bool,
) -> tuple[KeyChoice, ...]:
    """At least one key; several if they share the calls. Raises Problem (INVALID_REQUEST)."""
    return tuple(
        KeyChoice(
            key_id=one.payer.key_id if one.payer.stored is None else one.payer.stored.config_id,
            alias="" if one.payer.stored is None else one.payer.stored.alias,
            weight=one.payer.weight,
            limit=_limit(one.payer),
            headers=forwarded_headers(headers, access, path, metering, one, coded=coded),
            sent_head=SentHead(),
            signing=one.signing,
        )
        for one in endpoint.shared or (endpoint,)
    )


def secrets_of(access: ProviderAccess, endpoint: UpstreamEndpoint) -> tuple[str, ...]:
    """Secrets that are sent to the provider, which the caller must not learn and no response may contain."""
    endpoints = endpoint.shared or (endpoint,)
    secrets = tuple(secret for one in endpoints if one.credential is not None for secret in one.credential.secrets)
    return secrets if access.custom is None else (*secrets, *access.custom.secrets)


def _limit(payer: Payer) -> KeyLimit | None:
    stored = payer.stored
    if stored is None or stored.rate_limit is None:
        return None
    return KeyLimit(stored.config_id, stored.rate_limit, stored.rate_seconds)
