"""Custom providers: an account's own providers, called as `custom-{slug}`. The values of their headers are never
returned."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from farebox.addresses import is_base
from farebox.custom_provider import CUSTOM, CustomProviderConfig, Slug
from farebox.http.control.bodies import body_of, given
from farebox.http.control.custom_headers import read_headers, shown_headers
from farebox.http.control.urls import checked_url
from farebox.http.control.wire import Paging, iso, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.runtime.own_providers import headers_place, stored_headers
from farebox.runtime.services import Services
from farebox.storage.account_keys import find_key
from farebox.storage.custom_providers import (
    CustomProviderRow,
    delete_provider,
    find_provider,
    providers_of,
    put_provider,
)
from farebox.storage.provider_configs import delete_configs_of_provider, has_secrets, rename_provider
from farebox.storage.sql import Connection

PROVIDERS_MAX = 100
"""Maximum custom providers of one account."""
_ORDERS = ("name", "slug", "created_at", "modified_at", "position", "id")
_MORE = (("slug", Slug), ("headers", str | None))
_READ_ONLY = ("id", "account_id", "account_tag", "created_at", "modified_at")
_LOGO = Template(files(__package__).joinpath("provider.svg").read_text())

CustomProviderCreate = body_of(
    "CustomProviderCreate", CustomProviderConfig, required=("name", "base_url", "slug"), more=_MORE, ignored=_READ_ONLY
)
CustomProviderChange = body_of("CustomProviderChange", CustomProviderConfig, more=_MORE, ignored=_READ_ONLY)


class CustomProvider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider. `headers` is a string that contains a JSON object, with only the ends of its values."""

    id: str
    name: str
    slug: str
    base_url: str
    enable: bool
    beta: bool
    created_at: str
    modified_at: str
    headers: str
    logo: str
    """An SVG in base64."""
    description: str | UnsetType = UNSET
    link: str | UnsetType = UNSET
    curl_example: str | UnsetType = UNSET
    js_example: str | UnsetType = UNSET
    position: int | UnsetType = UNSET


class CustomProvidersQuery(Paging, frozen=True, kw_only=True):
    enable: bool | None = None
    beta: bool | None = None
    search: str = ""
    """Only providers whose ID, name or slug contains this."""
    order_by: str = "name ASC"


@dataclass(frozen=True, slots=True)
class _Stored:
    """A provider with its decrypted headers."""

    row: CustomProviderRow
    config: CustomProviderConfig
    headers: Mapping[str, str]


async def list_all(request: Request, query: CustomProvidersQuery) -> Response:
    services, account_id = request.services, request.account_id
    rows = await services.database.scan(lambda connection: providers_of(connection, account_id))
    found = [_wire(_stored(services, account_id, row)) for row in rows]
    chosen = [provider for provider in _ordered(found, query.order_by) if _chosen(provider, query)]
    window = query.window()
    shown = chosen[window.offset : window.offset + window.per_page]
    return page(shown, window.page, window.per_page, len(chosen))


async def get(request: Request, _: None) -> Response:
    account_id, provider_id = request.account_id, request.path["id"]
    row = await request.services.database.get(lambda connection: find_provider(connection, account_id, provider_id))
    return ok(_wire(_stored(request.services, account_id, require(row))))


async def create(request: Request, body: Any) -> Response:
    services, account_id = request.services, request.account_id
    at = services.clock.now_ms()
    config = _checked(services, CustomProviderConfig(**given(body, CustomProviderConfig)))
    headers = read_headers(None if body.headers is UNSET else body.headers, {})
    made = _row(services, account_id, services.ids.log_id(), body.slug, config, headers, (at, at))

    def write(connection: Connection) -> None:
        others = providers_of(connection, account_id)
        if len(others) >= PROVIDERS_MAX:
            raise invalid(f"The account has {PROVIDERS_MAX} custom providers, the maximum: delete one", "body")
        _check_slug(others, made)
        _put(connection, account_id, made)

    await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(_Stored(made, config, headers)))


async def change(request: Request, body: Any) -> Response:
    services, account_id, provider_id = request.services, request.account_id, request.path["id"]
    at, changes = services.clock.now_ms(), given(body, CustomProviderConfig)

    def write(connection: Connection) -> _Stored:
        before = _stored(services, account_id, require(find_provider(connection, account_id, provider_id)))
        config = _checked(services, msgspec.structs.replace(before.config, **changes))
        slug = before.row.slug if body.slug is UNSET else body.slug
        headers = before.headers if body.headers is UNSET else read_headers(body.headers, before.headers)
        if _origin(config) != _origin(before.config):
            headers = _moved(connection, account_id, before, body.headers)
        after = _row(services, account_id, provider_id, slug, config, headers, (before.row.created_at, at))
        if slug != before.row.slug:
            _check_slug(providers_of(connection, account_id), after)
            rename_provider(connection, account_id, CUSTOM + before.row.slug, CUSTOM + slug)
        _put(connection, account_id, after)
        return _Stored(after, config, headers)

    changed = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(changed))


async def delete(request: Request, _: None) -> Response:
    """Also deletes the provider's costs and stored keys."""
    services, account_id, provider_id = request.services, request.account_id, request.path["id"]

    def write(connection: Connection) -> CustomProviderRow:
        row = require(find_provider(connection, account_id, provider_id))
        delete_configs_of_provider(connection, account_id, CUSTOM + row.slug)
        delete_provider(connection, account_id, provider_id)
        return row

    row = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(_stored(services, account_id, row)))


def _origin(config: CustomProviderConfig) -> tuple[str, str]:
    parts = urlsplit(config.base_url.lower())
    return parts.scheme, parts.netloc


def _moved(connection: Connection, account_id: str, before: _Stored, headers: str | UnsetType | None) -> dict[str, str]:
    """The headers of a provider whose URL has changed: stored headers are not sent to another server, or anyone who can
    change the URL could read them. Raises InvalidInput."""
    if has_secrets(connection, account_id, CUSTOM + before.row.slug):
        raise invalid(
            "Delete the provider's stored keys first: they may not be sent to another address", "body", "base_url"
        )
    if headers is UNSET and before.headers:
        raise invalid(
            "Send the headers again with their values: stored values may not be sent to another address",
            "body",
            "headers",
        )
    return read_headers(None if headers is UNSET else headers, {})


def _checked(services: Services, config: CustomProviderConfig) -> CustomProviderConfig:
    """The configuration. Raises InvalidInput if the base URL is invalid."""
    parts = checked_url(services.settings, config.base_url, "body", "base_url")
    if "@" in parts.netloc or "?" in config.base_url or "#" in config.base_url or ".." in parts.path:
        message = (
            "A base URL cannot have a user name, query, fragment or `..`: set credentials as `headers`, or store a key"
        )
        raise invalid(message, "body", "base_url", words=message.replace("`", ""))
    if not is_base(parts):
        message = "Invalid url: a base URL consists of a host, an optional port and a percent-encoded path"
        raise invalid(message, "body", "base_url")
    return config


def _check_slug(others: list[CustomProviderRow], made: CustomProviderRow) -> None:
    """Raises InvalidInput."""
    if any(other.slug == made.slug and other.provider_id != made.provider_id for other in others):
        raise invalid(f"A custom provider with the slug '{made.slug}' already exists", "body", "slug")


def _row(
    services: Services,
    account_id: str,
    provider_id: str,
    slug: str,
    config: CustomProviderConfig,
    headers: Mapping[str, str],
    times: tuple[int, int],
) -> CustomProviderRow:
    text = msgspec.json.encode(headers).decode()
    sealed = services.vault.encrypt(text, headers_place(account_id, provider_id)) if headers else None
    return CustomProviderRow(provider_id, slug, msgspec.json.encode(config), sealed, *times)


def _put(connection: Connection, account_id: str, row: CustomProviderRow) -> None:
    key = require(find_key(connection, account_id))
    put_provider(connection, key, row)


def _stored(services: Services, account_id: str, row: CustomProviderRow) -> _Stored:
    headers, _ = stored_headers(services.vault, account_id, row)
    return _Stored(row, msgspec.json.decode(row.config, type=CustomProviderConfig), headers)


def _ordered(found: list[CustomProvider], order: str) -> list[CustomProvider]:
    """Raises InvalidInput."""
    name, _, direction = order.strip().partition(" ")
    if name not in _ORDERS or direction.upper() not in ("", "ASC", "DESC"):
        choices = " | ".join(f"'{choice}'" for choice in _ORDERS)
        raise invalid(f"Invalid enum value. Expected {choices}, with ASC or DESC", "query", "order_by")

    def place(provider: CustomProvider) -> tuple[Any, str]:
        value = getattr(provider, name)
        if name == "position":
            return (-1 if value is UNSET else value), provider.slug
        return value.lower(), provider.slug

    return sorted(found, key=place, reverse=direction.upper() == "DESC")


def _chosen(provider: CustomProvider, query: CustomProvidersQuery) -> bool:
    if query.enable not in (None, provider.enable) or query.beta not in (None, provider.beta):
        return False
    return any(query.search.lower() in text.lower() for text in (provider.id, provider.name, provider.slug))


def _wire(stored: _Stored) -> CustomProvider:
    row, config = stored.row, stored.config
    fields = msgspec.structs.asdict(config)
    texts = {name: value for name, value in fields.items() if value is not None and name != "logo"}
    return CustomProvider(
        **texts,
        id=row.provider_id,
        slug=row.slug,
        logo=config.logo or generated_logo(config.name),
        headers=shown_headers(stored.headers),
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
    )


def generated_logo(name: str) -> str:
    """A generated logo: the first letter of the name."""
    return base64.b64encode(_LOGO.substitute(letter=escape(name[:1].upper())).encode()).decode()
