"""The store of stored keys: an account's encrypted provider keys, and which of them a gateway uses for what.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass, field
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A key at a provider; `sealed` is encrypted (farebox.vault)."""

    secret_id: str
    provider: str
    """The only provider that the key is sent to."""
    store_id: str
    """Gateways with this `store_id` may use it."""
    sealed: bytes = field(repr=False)
    preview: str
    """The part of the key that may be shown."""
    modified_at: int


@dataclass(frozen=True, slots=True)
class ProviderConfigRow:
    """The secret with which a gateway calls a provider under this alias."""

    config_id: str
    gateway_id: str
    provider: str
    """The provider's slug; `custom-…` for a custom provider."""
    alias: str
    is_default: bool
    """Whether it is used by calls that name no alias."""
    secret_id: str
    rate_limit: int | None
    """Calls per window."""
    rate_period: int | None
    """Seconds."""
    created_at: int
    modified_at: int
    weight: int | None = None
    """Its share of the calls that name no alias; None: it gets none of them."""


_SEALED = "secret_id, provider, store_id, sealed, preview, modified_at"
_COLUMNS = (
    "config_id, gateway_id, provider, alias, is_default, secret_id, rate_limit, rate_period, created_at, modified_at, "
    "weight"
)


def put_secret(connection: Connection, key: AccountKey, secret: SecretRow) -> None:
    """Store the secret, replacing one with the same ID."""
    connection.execute(
        f"INSERT INTO secrets (bucket, account_id, {_SEALED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, secret_id) DO UPDATE SET sealed = excluded.sealed, "
        "preview = excluded.preview, modified_at = excluded.modified_at",
        (
            *key,
            secret.secret_id,
            secret.provider,
            secret.store_id,
            secret.sealed,
            secret.preview,
            secret.modified_at,
        ),
    )
    note_change(connection, key.account_id)


def find_secret(connection: Connection, account_id: str, secret_id: str) -> SecretRow | None:
    found = row(
        connection,
        f"SELECT {_SEALED} FROM secrets WHERE {OF_ACCOUNT} AND secret_id = ?",
        (*key_of(connection, account_id), secret_id),
    )
    return None if found is None else _secret(found)


def secrets_of(connection: Connection, account_id: str) -> dict[str, SecretRow]:
    """The account's secrets by ID."""
    found = rows(connection, f"SELECT {_SEALED} FROM secrets WHERE {OF_ACCOUNT}", key_of(connection, account_id))
    return {secret.secret_id: secret for secret in map(_secret, found)}


def add_config(connection: Connection, key: AccountKey, config: ProviderConfigRow) -> None:
    """Add the config; if it is the default for its provider, others cease to be."""
    if config.is_default:
        connection.execute(
            f"UPDATE provider_configs SET is_default = 0 WHERE {OF_ACCOUNT} AND gateway_id = ? AND provider = ?",
            (*key, config.gateway_id, config.provider),
        )
    connection.execute(
        f"INSERT INTO provider_configs (bucket, account_id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            config.config_id,
            config.gateway_id,
            config.provider,
            config.alias,
            int(config.is_default),
            config.secret_id,
            config.rate_limit,
            config.rate_period,
            config.created_at,
            config.modified_at,
            config.weight,
        ),
    )
    note_change(connection, key.account_id)


def configs_of(connection: Connection, account_id: str, gateway_id: str) -> list[ProviderConfigRow]:
    """A gateway's configs, oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM provider_configs WHERE {OF_ACCOUNT} AND gateway_id = ? ORDER BY created_at, config_id",
        (*key_of(connection, account_id), gateway_id),
    )
    return [_config(fields) for fields in found]


def find_config(connection: Connection, account_id: str, gateway_id: str, config_id: str) -> ProviderConfigRow | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM provider_configs WHERE {OF_ACCOUNT} AND config_id = ? AND gateway_id = ?",
        (*key_of(connection, account_id), config_id, gateway_id),
    )
    return None if found is None else _config(found)


def change_config(connection: Connection, key: AccountKey, config: ProviderConfigRow) -> None:
    """Store a change of the config's weight or secret."""
    connection.execute(
        f"UPDATE provider_configs SET modified_at = ?, weight = ? WHERE {OF_ACCOUNT} AND config_id = ?",
        (config.modified_at, config.weight, *key, config.config_id),
    )
    note_change(connection, key.account_id)


def delete_config(connection: Connection, account_id: str, config_id: str) -> None:
    """Delete the config, the time of its last use, and its secret if no other config uses it."""
    connection.execute(
        f"DELETE FROM provider_configs WHERE {OF_ACCOUNT} AND config_id = ?",
        (*key_of(connection, account_id), config_id),
    )
    _forget_unused(connection, account_id)


def delete_configs_of_gateway(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete a gateway's configs, and the secrets that no other config uses."""
    connection.execute(
        f"DELETE FROM provider_configs WHERE {OF_ACCOUNT} AND gateway_id = ?",
        (*key_of(connection, account_id), gateway_id),
    )
    _forget_unused(connection, account_id)


def delete_configs_of_provider(connection: Connection, account_id: str, provider: str) -> None:
    """Delete the configs of one provider on all gateways, and the secrets that no other config uses."""
    connection.execute(
        f"DELETE FROM provider_configs WHERE {OF_ACCOUNT} AND provider = ?", (*key_of(connection, account_id), provider)
    )
    _forget_unused(connection, account_id)


def rename_provider(connection: Connection, account_id: str, old: str, new: str) -> None:
    """Change the slug of a custom provider."""
    values = (new, *key_of(connection, account_id), old)
    connection.execute(f"UPDATE provider_configs SET provider = ? WHERE {OF_ACCOUNT} AND provider = ?", values)
    connection.execute(f"UPDATE secrets SET provider = ? WHERE {OF_ACCOUNT} AND provider = ?", values)


def has_secrets(connection: Connection, account_id: str, provider: str) -> bool:
    """Whether keys are stored for the provider."""
    key = key_of(connection, account_id)
    found = row(connection, f"SELECT 1 FROM secrets WHERE {OF_ACCOUNT} AND provider = ? LIMIT 1", (*key, provider))
    return found is not None


def _forget_unused(connection: Connection, account_id: str) -> None:
    key = key_of(connection, account_id)
    connection.execute(
        f"DELETE FROM secrets WHERE {OF_ACCOUNT} AND secret_id NOT IN "
        f"(SELECT secret_id FROM provider_configs WHERE {OF_ACCOUNT})",
        (*key, *key),
    )
    connection.execute(
        f"DELETE FROM last_uses WHERE {OF_ACCOUNT} AND kind = 'provider_config' AND key_id NOT IN "
        f"(SELECT config_id FROM provider_configs WHERE {OF_ACCOUNT})",
        (*key, *key),
    )
    note_change(connection, account_id)


def _secret(fields: tuple[Any, ...]) -> SecretRow:
    secret_id, provider, store_id, sealed, preview, modified_at = fields
    return SecretRow(secret_id, provider, store_id, bytes(sealed), preview, modified_at)


def _config(fields: tuple[Any, ...]) -> ProviderConfigRow:
    config_id, gateway_id, provider, alias, is_default, *rest = fields
    return ProviderConfigRow(config_id, gateway_id, provider, alias, bool(is_default), *rest)
