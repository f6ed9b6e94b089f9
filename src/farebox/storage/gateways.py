"""The store of gateways: an account's named configurations. Times are milliseconds since the Unix epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from farebox.gateway import DEFAULT_GATEWAY
from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of, was_moved
from farebox.storage.accounts import take_gateway_from_tokens
from farebox.storage.cached_responses import leave_responses
from farebox.storage.config import note_change
from farebox.storage.custom_domains import delete_domains_of
from farebox.storage.datasets import DATASETS, EVALUATIONS
from farebox.storage.dynamic_routes import delete_routes_of
from farebox.storage.model_aliases import ALIASES
from farebox.storage.policies import POLICIES
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """A gateway as stored. `config` is JSON: http.control.gateways gives it its fields, the data plane reads a few of
    them."""

    account_id: str
    gateway_id: str
    config: bytes
    created_at: int
    modified_at: int
    sealed: bytes | None = field(default=None, repr=False)
    """The secret parts of the configuration, encrypted (runtime.gateway_secrets); `config` has only what may be
    shown."""
    cache_generation: int = 0
    """Generation of the entries that its cache may return; entries of other generations are out of date. Assigned by
    the store."""


_COLUMNS = "account_id, gateway_id, config, created_at, modified_at, sealed, cache_generation"


def find_gateway(connection: Connection, account_id: str, gateway_id: str) -> GatewayRow | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM gateways WHERE {OF_ACCOUNT} AND gateway_id = ?",
        (*key_of(connection, account_id), gateway_id),
    )
    if found is None and was_moved(connection, account_id):
        return find_gateway(connection, account_id, gateway_id)
    return None if found is None else _gateway(found)


def can_have_calls(connection: Connection, account_id: str, gateway_id: str) -> bool:
    """Whether the gateway exists, would be created by its first call, or was deleted and still has calls in its log."""
    if gateway_id == DEFAULT_GATEWAY or find_gateway(connection, account_id, gateway_id) is not None:
        return True
    logged = f"SELECT 1 FROM calls WHERE {OF_ACCOUNT} AND gateway_id = ? AND logged = 1 LIMIT 1"
    return row(connection, logged, (*key_of(connection, account_id), gateway_id)) is not None


def missing_gateways(connection: Connection, account_id: str, gateway_ids: Sequence[str]) -> list[str]:
    """Those of these gateways that there are not, in their order. `default` always is: its first call makes it."""
    sql = f"SELECT gateway_id FROM gateways WHERE {OF_ACCOUNT}"
    there = {gateway_id for (gateway_id,) in rows(connection, sql, key_of(connection, account_id))}
    return [gateway_id for gateway_id in gateway_ids if gateway_id not in there | {DEFAULT_GATEWAY}]


def list_gateways(connection: Connection, account_id: str) -> list[GatewayRow]:
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM gateways WHERE {OF_ACCOUNT} ORDER BY created_at, gateway_id",
        key_of(connection, account_id),
    )
    return [_gateway(fields) for fields in found]


def put_gateway(connection: Connection, gateway: GatewayRow, *, empty_cache: bool = False) -> None:
    """Create the gateway, or replace its configuration and, with `empty_cache`, empty its cache. Does nothing if there
    is no such account."""
    key = find_key(connection, gateway.account_id)
    if key is None:
        return
    version = note_change(connection, gateway.account_id)
    emptied = ", cache_generation = excluded.cache_generation" if empty_cache else ""
    connection.execute(
        f"INSERT INTO gateways (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, gateway_id) "
        "DO UPDATE SET config = excluded.config, modified_at = excluded.modified_at, "
        f"sealed = excluded.sealed{emptied}",
        (
            *key,
            gateway.gateway_id,
            gateway.config.decode(),
            gateway.created_at,
            gateway.modified_at,
            gateway.sealed,
            version,
        ),
    )
    if empty_cache:
        leave_responses(connection, key, gateway.gateway_id)


def delete_gateway(connection: Connection, account_id: str, gateway_id: str) -> bool:
    """Delete the gateway with everything that belongs to it except its log; returns whether it existed."""
    note_change(connection, account_id)
    for own in (DATASETS, EVALUATIONS, ALIASES, POLICIES):
        own.clear(connection, account_id, gateway_id)
    delete_routes_of(connection, account_id, gateway_id)
    delete_domains_of(connection, account_id, gateway_id)
    take_gateway_from_tokens(connection, account_id, gateway_id)
    key = key_of(connection, account_id)
    leave_responses(connection, key, gateway_id)
    connection.execute(f"DELETE FROM gateways WHERE {OF_ACCOUNT} AND gateway_id = ?", (*key, gateway_id))
    return connection.changes() == 1


def _gateway(fields: tuple[Any, ...]) -> GatewayRow:
    account_id, gateway_id, config, created_at, modified_at, sealed, generation = fields
    sealed = None if sealed is None else bytes(sealed)
    return GatewayRow(account_id, gateway_id, config.encode(), created_at, modified_at, sealed, generation)
