"""The store of custom providers, and of what their models cost. Times are milliseconds since the Unix epoch."""

from dataclasses import dataclass, field
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class CustomProviderRow:
    """A provider as stored. `config` is JSON: custom_provider.CustomProviderConfig."""

    provider_id: str
    slug: str
    """Without the prefix `custom-`."""
    config: bytes
    headers: bytes | None = field(repr=False)
    """Headers that are sent with each call: encrypted JSON (farebox.vault)."""
    created_at: int
    modified_at: int


@dataclass(frozen=True, slots=True)
class CustomCostRow:
    """A cost as stored. `config` is JSON: custom_provider.CustomCostConfig."""

    cost_id: str
    provider_id: str
    config: bytes
    created_at: int
    modified_at: int


_PROVIDER = "provider_id, slug, config, headers, created_at, modified_at"
_COST = "cost_id, provider_id, config, created_at, modified_at"


def put_provider(connection: Connection, key: AccountKey, provider: CustomProviderRow) -> None:
    """Create the provider, or replace all of it except its ID and creation time."""
    connection.execute(
        f"INSERT INTO custom_providers (bucket, account_id, {_PROVIDER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, provider_id) DO UPDATE SET slug = excluded.slug, config = excluded.config, "
        "headers = excluded.headers, modified_at = excluded.modified_at",
        (
            *key,
            provider.provider_id,
            provider.slug,
            provider.config.decode(),
            provider.headers,
            provider.created_at,
            provider.modified_at,
        ),
    )
    note_change(connection, key.account_id)


def find_provider(connection: Connection, account_id: str, provider_id: str) -> CustomProviderRow | None:
    found = row(
        connection,
        f"SELECT {_PROVIDER} FROM custom_providers WHERE {OF_ACCOUNT} AND provider_id = ?",
        (*key_of(connection, account_id), provider_id),
    )
    return None if found is None else _provider(found)


def providers_of(connection: Connection, account_id: str) -> list[CustomProviderRow]:
    """The account's custom providers, oldest first."""
    found = rows(
        connection,
        f"SELECT {_PROVIDER} FROM custom_providers WHERE {OF_ACCOUNT} ORDER BY created_at, provider_id",
        key_of(connection, account_id),
    )
    return [_provider(fields) for fields in found]


def delete_provider(connection: Connection, account_id: str, provider_id: str) -> None:
    """Delete the provider and its costs."""
    key = key_of(connection, account_id)
    connection.execute(f"DELETE FROM custom_costs WHERE {OF_ACCOUNT} AND provider_id = ?", (*key, provider_id))
    connection.execute(f"DELETE FROM custom_providers WHERE {OF_ACCOUNT} AND provider_id = ?", (*key, provider_id))
    note_change(connection, account_id)


def put_cost(connection: Connection, key: AccountKey, cost: CustomCostRow) -> None:
    """Create or replace the cost."""
    connection.execute(
        f"INSERT INTO custom_costs (bucket, account_id, {_COST}) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, cost_id) "
        "DO UPDATE SET config = excluded.config, modified_at = excluded.modified_at",
        (*key, cost.cost_id, cost.provider_id, cost.config.decode(), cost.created_at, cost.modified_at),
    )
    note_change(connection, key.account_id)


def find_cost(connection: Connection, account_id: str, cost_id: str) -> CustomCostRow | None:
    found = row(
        connection,
        f"SELECT {_COST} FROM custom_costs WHERE {OF_ACCOUNT} AND cost_id = ?",
        (*key_of(connection, account_id), cost_id),
    )
    return None if found is None else _cost(found)


def costs_of(connection: Connection, account_id: str) -> list[CustomCostRow]:
    """The costs of all the account's providers, oldest first."""
    found = rows(
        connection,
        f"SELECT {_COST} FROM custom_costs WHERE {OF_ACCOUNT} ORDER BY created_at, cost_id",
        key_of(connection, account_id),
    )
    return [_cost(fields) for fields in found]


def delete_cost(connection: Connection, account_id: str, cost_id: str) -> None:
    connection.execute(
        f"DELETE FROM custom_costs WHERE {OF_ACCOUNT} AND cost_id = ?", (*key_of(connection, account_id), cost_id)
    )
    note_change(connection, account_id)


def _provider(fields: tuple[Any, ...]) -> CustomProviderRow:
    provider_id, slug, config, headers, created_at, modified_at = fields
    sealed = None if headers is None else bytes(headers)
    return CustomProviderRow(provider_id, slug, config.encode(), sealed, created_at, modified_at)


def _cost(fields: tuple[Any, ...]) -> CustomCostRow:
    cost_id, provider_id, config, created_at, modified_at = fields
    return CustomCostRow(cost_id, provider_id, config.encode(), created_at, modified_at)
