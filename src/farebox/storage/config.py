"""Stores of the operator's configuration: providers, prices, markups, and the changes that invalidate caches.

Every write of configuration increments the version in its transaction, and records whose configuration it changed;
every process checks the version twice a second.
"""

import json
from dataclasses import dataclass
from typing import Final

from farebox.storage.sql import Connection, row, rows

CHANGES_KEPT: Final = 1_000
"""How many of the latest changes are kept. A process that has missed more reads everything again."""


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """The operator's settings for one provider; the key is encrypted (farebox.vault)."""

    name: str
    base_url: str
    api_key: bytes | None
    updated_at: int
    weight: int = 1
    """The key's share of the calls, relative to the weights of further keys."""


@dataclass(frozen=True, slots=True)
class ProviderKeyRow:
    """Another of the operator's keys at a provider; encrypted as well."""

    provider: str
    name: str
    api_key: bytes
    weight: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class PriceRow:
    """An operator's price; `rates` as pricing.pricebook.OwnPrice reads them."""

    price_id: str
    provider: str
    model: str
    account_id: str | None
    rates: dict[str, str]
    output_max: int | None
    valid_from: int


@dataclass(frozen=True, slots=True)
class MarkupRow:
    markup_id: str
    account_id: str | None
    provider: str | None
    model: str | None
    parts_per_million: int
    valid_from: int


def config_version(connection: Connection) -> int:
    found = row(connection, "SELECT version FROM config_version")
    return int(found[0]) if found else 0


def lock_configuration(connection: Connection) -> None:
    """Wait for others who are changing the configuration. What is read afterwards, nobody else changes until the
    commit; on SQLite, writers take turns anyway."""
    connection.execute("UPDATE config_version SET version = version")


def note_change(connection: Connection, account_id: str = "") -> int:
    """Record that the configuration of this account has changed, or with an empty ID that of all accounts. Returns the
    version, which is the number of this write. The version's row is locked until the commit, so versions are committed
    in order."""
    connection.execute("UPDATE config_version SET version = version + 1")
    version = config_version(connection)
    connection.execute("INSERT INTO config_changes (version, account_id) VALUES (?, ?)", (version, account_id))
    connection.execute("DELETE FROM config_changes WHERE version <= ?", (version - CHANGES_KEPT,))
    return version


def changes_since(connection: Connection, version: int) -> tuple[int, frozenset[str]] | None:
    """The current version, and the accounts whose configuration has changed since `version`; None if any account's may
    have."""
    now = config_version(connection)
    if now == version:
        return now, frozenset()
    found = rows(
        connection,
        "SELECT version, account_id FROM config_changes WHERE version > ? AND version <= ? ORDER BY version",
        (version, now),
    )
    accounts = frozenset(str(account_id) for _, account_id in found)
    complete = [int(number) for number, _ in found] == list(range(version + 1, now + 1))
    if now < version or not complete or "" in accounts:
        return None  # the database is an older copy; changes are missing; all accounts
    return now, accounts


def set_provider(connection: Connection, provider: ProviderRow) -> None:
    connection.execute(
        "INSERT INTO providers (name, base_url, api_key, updated_at, weight) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url, api_key = excluded.api_key, "
        "updated_at = excluded.updated_at, weight = excluded.weight",
        (provider.name, provider.base_url, provider.api_key, provider.updated_at, provider.weight),
    )
    note_change(connection)


def list_providers(connection: Connection) -> list[ProviderRow]:
    found = rows(connection, "SELECT name, base_url, api_key, updated_at, weight FROM providers ORDER BY name")
    return [ProviderRow(*fields) for fields in found]


def put_provider_key(connection: Connection, key: ProviderKeyRow) -> None:
    """Add the key, or replace the one with its name."""
    connection.execute(
        "INSERT INTO provider_keys (provider, name, api_key, weight, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (provider, name) DO UPDATE SET api_key = excluded.api_key, weight = excluded.weight, "
        "updated_at = excluded.updated_at",
        (key.provider, key.name, key.api_key, key.weight, key.updated_at),
    )
    note_change(connection)


def delete_provider_key(connection: Connection, provider: str, name: str) -> None:
    connection.execute("DELETE FROM provider_keys WHERE provider = ? AND name = ?", (provider, name))
    note_change(connection)


def list_provider_keys(connection: Connection) -> list[ProviderKeyRow]:
    columns = "provider, name, api_key, weight, updated_at"
    found = rows(connection, f"SELECT {columns} FROM provider_keys ORDER BY provider, name")
    return [ProviderKeyRow(*fields) for fields in found]


def add_price(connection: Connection, price: PriceRow, at: int) -> None:
    """Prices are appended, never changed: a later one applies from its own start date."""
    connection.execute(
        "INSERT INTO prices (price_id, provider, model, account_id, rates, output_max, valid_from, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            price.price_id,
            price.provider,
            price.model,
            price.account_id,
            json.dumps(price.rates, sort_keys=True),
            price.output_max,
            price.valid_from,
            at,
        ),
    )
    note_change(connection)


def list_prices(connection: Connection) -> list[PriceRow]:
    found = rows(
        connection,
        "SELECT price_id, provider, model, account_id, rates, output_max, valid_from FROM prices "
        "ORDER BY provider, model, valid_from, price_id",
    )
    return [PriceRow(a, b, c, d, json.loads(rates), m, v) for a, b, c, d, rates, m, v in found]


def add_markup(connection: Connection, markup: MarkupRow, at: int) -> None:
    connection.execute(
        "INSERT INTO markups (markup_id, account_id, provider, model, parts_per_million, valid_from, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            markup.markup_id,
            markup.account_id,
            markup.provider,
            markup.model,
            markup.parts_per_million,
            markup.valid_from,
            at,
        ),
    )
    note_change(connection)


def list_markups(connection: Connection) -> list[MarkupRow]:
    found = rows(
        connection,
        "SELECT markup_id, account_id, provider, model, parts_per_million, valid_from FROM markups "
        "ORDER BY valid_from, markup_id",
    )
    return [MarkupRow(*fields) for fields in found]


def installation_id(connection: Connection, new_id: str) -> str:
    """The name of this installation at the processor; it becomes `new_id` if it has none yet."""
    found = find_installation(connection)
    if found is not None:  # a node of Citus may be unavailable: a start writes nothing on every node
        return found
    connection.execute(
        "INSERT INTO installation (one, installation_id) VALUES (1, ?) ON CONFLICT DO NOTHING", (new_id,)
    )
    return find_installation(connection) or new_id


def find_installation(connection: Connection) -> str | None:
    """The name of this installation; None if it has none yet."""
    found = row(connection, "SELECT installation_id FROM installation")
    return None if found is None else str(found[0])


def add_supplement(connection: Connection, text: str, at: int) -> None:
    """Replace the loaded price supplement; an empty text restores the shipped one."""
    connection.execute(
        "INSERT INTO price_supplements (loaded_at, text) VALUES (?, ?) "
        "ON CONFLICT (loaded_at) DO UPDATE SET text = excluded.text",
        (at, text),
    )
    note_change(connection)


def find_supplement(connection: Connection) -> str:
    """The loaded supplement; empty if the shipped one applies."""
    found = row(connection, "SELECT text FROM price_supplements ORDER BY loaded_at DESC LIMIT 1")
    return "" if found is None else str(found[0])
