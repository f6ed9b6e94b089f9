"""Further operator keys at a provider, which share its calls with the first key by weight."""

import dataclasses
import re
from typing import Final

from farebox.model import Operator
from farebox.operator.administer import ActionRefused, provider_slug, provider_state
from farebox.operator.provider_keys import key_problem
from farebox.quoting import quoted
from farebox.runtime.operator_access import provider_place
from farebox.storage import config
from farebox.storage.config import ProviderKeyRow, ProviderRow
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection
from farebox.vault import Vault

FIRST: Final = "default"
"""The name of the key that `farebox provider set` stores."""
WEIGHT_MAX: Final = 1_000
KEYS_MAX: Final = 50
"""Most further keys at one provider."""


class OfFirstKey(ActionRefused):
    """The request is about the first key, which is set with the provider itself."""


_is_name: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


def set_key(
    connection: Connection,
    vault: Vault,
    *,
    by: Operator,
    provider: str,
    name: str,
    at: int,
    api_key: str | None = None,
    weight: int | None = None,
) -> ProviderKeyRow | ProviderRow:
    """Add a key, or change one; None leaves a value unchanged. Raises ActionRefused."""
    slug = provider_slug(provider)
    if weight is not None and not 0 <= weight <= WEIGHT_MAX:
        raise ActionRefused(f"the weight is a whole number from 0 to {WEIGHT_MAX:,}")
    if api_key is not None and (wrong := key_problem(slug, api_key)):
        raise ActionRefused(wrong)
    if name == FIRST:
        return _set_first(connection, vault, by, slug, at, api_key, weight)
    if not _is_name(name):
        raise ActionRefused(
            f"{quoted(name)} is not a valid name for a key: use 1 to 64 letters, digits, dots, hyphens and underscores"
        )
    keys = {key.name: key for key in config.list_provider_keys(connection) if key.provider == slug}
    before = keys.get(name)
    if before is None and api_key is None:
        raise ActionRefused(f"{_name(slug)} has no key {quoted(name)}: give the key itself, too")
    if before is None and len(keys) >= KEYS_MAX:
        raise ActionRefused(f"{_name(slug)} has {KEYS_MAX} further keys, the maximum: remove one")
    if before is None and slug not in {row.name for row in config.list_providers(connection)}:
        raise OfFirstKey(f"{_name(slug)} has no key yet: set the provider’s first key before further ones")
    sealed = vault.encrypt(api_key, provider_place(slug, name)) if api_key is not None else None
    row = ProviderKeyRow(
        slug,
        name,
        sealed or (b"" if before is None else before.api_key),
        weight if weight is not None else 1 if before is None else before.weight,
        at,
    )
    config.put_provider_key(connection, row)
    _record(connection, by, at, row, before, new_key=api_key is not None)
    return row


def _name(slug: str) -> str:
    """The provider's name for people."""
    from farebox.providers.catalogue import provider_of  # here: only these commands need all the formats

    provider = provider_of(slug)
    return slug if provider is None else provider.name


def _record(
    connection: Connection,
    by: Operator,
    at: int,
    row: ProviderKeyRow | ProviderRow,
    before: ProviderKeyRow | ProviderRow | None,
    *,
    new_key: bool,
) -> None:
    subject = f"{row.provider}/{row.name}" if isinstance(row, ProviderKeyRow) else f"{row.name}/{FIRST}"
    was = None if before is None else provider_state(before)
    after = provider_state(row, new_key=new_key)
    record_action(connection, by, "provider_key.set", at, subject=subject, before=was, after=after)


def _set_first(
    connection: Connection, vault: Vault, by: Operator, slug: str, at: int, api_key: str | None, weight: int | None
) -> ProviderRow:
    row = before = next((row for row in config.list_providers(connection) if row.name == slug), None)
    if row is None or row.api_key is None:
        raise OfFirstKey(f"{_name(slug)} has no key yet: set the provider’s first key")
    if api_key is not None:
        row = dataclasses.replace(row, api_key=vault.encrypt(api_key, provider_place(slug)))
    row = dataclasses.replace(row, weight=row.weight if weight is None else weight, updated_at=at)
    config.set_provider(connection, row)
    _record(connection, by, at, row, before, new_key=api_key is not None)
    return row


def remove_key(connection: Connection, *, by: Operator, provider: str, name: str, at: int) -> None:
    """Remove a further key. Raises ActionRefused."""
    slug = provider_slug(provider)
    if name == FIRST:
        raise OfFirstKey(f"{FIRST} is the provider’s first key, which is not removed as a further one")
    keys = config.list_provider_keys(connection)
    before = next((key for key in keys if (key.provider, key.name) == (slug, name)), None)
    if before is None:
        raise ActionRefused(f"{_name(slug)} has no key {quoted(name)}")
    config.delete_provider_key(connection, slug, name)
    was = provider_state(before)
    record_action(connection, by, "provider_key.remove", at, subject=f"{slug}/{name}", before=was)
