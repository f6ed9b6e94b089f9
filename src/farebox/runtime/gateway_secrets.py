"""The secrets in a gateway's configuration, encrypted as a whole and stored beside the rest; and the destinations of
its spans, which need them."""

from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog

from farebox.custom_provider import CUSTOM, CustomProviderConfig
from farebox.gateway import GatewayConfig, OtelExporter
from farebox.quoting import quoted
from farebox.runtime.own_providers import secret_place
from farebox.storage.custom_providers import providers_of
from farebox.storage.database import Database
from farebox.storage.gateways import GatewayRow, find_gateway
from farebox.storage.provider_configs import SecretRow, find_secret
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable, Vault

log = structlog.get_logger("farebox.configuration")


class GatewaySecrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """The secrets of one gateway, in the form in which they are encrypted."""

    otel: Mapping[str, Mapping[str, str]] = {}
    """Exporter's URL → its headers, with names in lower case."""
    stripe: str = ""
    """The account's Stripe key."""

    def __repr__(self) -> str:
        return "GatewaySecrets()"


NO_SECRETS: Final = GatewaySecrets()


class Exporter(msgspec.Struct, frozen=True):
    """A destination of a gateway's spans."""

    url: str
    headers: tuple[tuple[str, str], ...]
    exporter: OtelExporter
    unusable: str = ""
    """Why nothing can be sent there; empty if it can."""

    def __repr__(self) -> str:
        return f"Exporter({self.url!r})"


def seal(vault: Vault, account_id: str, gateway_id: str, secrets: GatewaySecrets) -> bytes | None:
    """The encrypted secrets; None if there are none."""
    if secrets == NO_SECRETS:
        return None
    return vault.encrypt(msgspec.json.encode(secrets).decode(), _place(account_id, gateway_id))


def unsealed(vault: Vault, row: GatewayRow) -> GatewaySecrets:
    """The decrypted secrets of a gateway. Raises SecretUnreadable."""
    if row.sealed is None:
        return NO_SECRETS
    text = vault.decrypt(row.sealed, _place(row.account_id, row.gateway_id))
    return msgspec.json.decode(text, type=GatewaySecrets)


async def read_exporters(database: Database, vault: Vault, account_id: str, gateway_id: str) -> Mapping[str, Exporter]:
    """The destinations of the gateway's spans, by URL."""
    return await database.get(partial(_exporters, vault=vault, account_id=account_id, gateway_id=gateway_id))


def _exporters(connection: Connection, vault: Vault, account_id: str, gateway_id: str) -> Mapping[str, Exporter]:
    row = find_gateway(connection, account_id, gateway_id)
    config = None if row is None else msgspec.json.decode(row.config, type=GatewayConfig)
    if row is None or config is None or not config.otel:
        return {}
    try:
        secrets, why = unsealed(vault, row), ""
    except SecretUnreadable as error:
        secrets, why = NO_SECRETS, str(error)
    return {
        exporter.url: _exporter(connection, vault, account_id, exporter, secrets, config.store_id or "", why)
        for exporter in config.otel
    }


def _exporter(
    connection: Connection,
    vault: Vault,
    account_id: str,
    exporter: OtelExporter,
    secrets: GatewaySecrets,
    store_id: str,
    why: str,
) -> Exporter:
    headers = tuple(secrets.otel.get(exporter.url, {}).items())
    if exporter.authorization is not msgspec.UNSET and not why:
        secret = key_for(connection, account_id, exporter.authorization, store_id, exporter.url)
        if secret is None:
            why = f"there is no key {quoted(exporter.authorization)} for this URL any more"
        else:
            try:
                key = vault.decrypt(secret.sealed, secret_place(account_id, secret.secret_id))
                headers = (*headers, ("authorization", f"Bearer {key}"))
            except SecretUnreadable as error:
                why = str(error)
    return Exporter(exporter.url, headers, exporter, why)


def key_for(connection: Connection, account_id: str, secret_id: str, store_id: str, url: str) -> SecretRow | None:
    """The stored key with this ID, if it is in the gateway's store and belongs to a custom provider with this URL's
    origin: a key is sent only to the provider that it is stored for."""
    secret = find_secret(connection, account_id, secret_id)
    if secret is None or secret.store_id != store_id:
        return None
    for row in providers_of(connection, account_id):
        if CUSTOM + row.slug == secret.provider:
            base_url = msgspec.json.decode(row.config, type=CustomProviderConfig).base_url
            return secret if _origin(base_url) == _origin(url) else None
    return None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url.lower())
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _place(account_id: str, gateway_id: str) -> str:
    """What the encryption of the secrets is bound to."""
    return f"gateway:{account_id}:{gateway_id}"
