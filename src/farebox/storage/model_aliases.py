"""The store of model aliases: an account's own names for models, for all of its gateways or for one."""

from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """An alias. `gateway_id` is empty where it is for all gateways of the account."""

    account_id: str
    gateway_id: str
    alias: str
    targets: str
    """JSON array of `provider/model`, in the order in which they are tried."""
    created_at: int
    modified_at: int


_OF_ALIAS = f"{OF_ACCOUNT} AND gateway_id = ? AND alias = ?"
_COLUMNS = "account_id, gateway_id, alias, targets, created_at, modified_at"


def find_alias(connection: Connection, account_id: str, gateway_id: str, alias: str) -> ModelAlias | None:
    """The alias of the gateway itself, or with an empty `gateway_id` that of the account."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM model_aliases WHERE {_OF_ALIAS}",
        (*key_of(connection, account_id), gateway_id, alias),
    )
    return None if found is None else _alias(found)


def list_aliases(connection: Connection, account_id: str, gateway_id: str) -> list[ModelAlias]:
    """The aliases of the gateway itself, or of the account, by name."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM model_aliases WHERE {OF_ACCOUNT} AND gateway_id = ? ORDER BY alias",
        (*key_of(connection, account_id), gateway_id),
    )
    return [_alias(fields) for fields in found]


def put_alias(connection: Connection, alias: ModelAlias) -> None:
    """Create the alias, or replace its targets; nothing if there is no such account."""
    key = find_key(connection, alias.account_id)
    if key is None:
        return
    note_change(connection, alias.account_id)
    connection.execute(
        f"INSERT INTO model_aliases (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, gateway_id, alias) "
        "DO UPDATE SET targets = excluded.targets, modified_at = excluded.modified_at",
        (*key, alias.gateway_id, alias.alias, alias.targets, alias.created_at, alias.modified_at),
    )


def delete_alias(connection: Connection, alias: ModelAlias) -> None:
    note_change(connection, alias.account_id)
    connection.execute(
        f"DELETE FROM model_aliases WHERE {_OF_ALIAS}",
        (*key_of(connection, alias.account_id), alias.gateway_id, alias.alias),
    )


def delete_aliases_of(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete all aliases of a gateway."""
    connection.execute(
        f"DELETE FROM model_aliases WHERE {OF_ACCOUNT} AND gateway_id = ?",
        (*key_of(connection, account_id), gateway_id),
    )


def _alias(fields: tuple[Any, ...]) -> ModelAlias:
    return ModelAlias(*fields)
