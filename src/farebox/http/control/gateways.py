"""Gateways: the account's named configurations. Stored as GatewayConfig; the ID and the times are added in responses.

A field that asks for something this installation cannot do is rejected: a guardrail that is stored but not enforced is
worse than none.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Union

import msgspec

from farebox.calls import logs
from farebox.errors import PROVIDER_UNKNOWN, RESUME_UNAVAILABLE, Problem, not_found
from farebox.gateway import (
    DEFAULT_GATEWAY,
    GATEWAY_ID,
    GATEWAY_ID_WORDS,
    Dlp,
    GatewayConfig,
    Origin,
    SpendLimits,
    gateway_path,
)
from farebox.http.control import classification, screening, spend_rules
from farebox.http.control.gateway_exports import with_secrets
from farebox.http.control.wire import Paging, iso, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import InvalidInput, invalid
from farebox.runtime.gateway_secrets import NO_SECRETS, GatewaySecrets, seal, unsealed
from farebox.storage.gateways import GatewayRow, delete_gateway, find_gateway, list_gateways, put_gateway
from farebox.storage.provider_configs import delete_configs_of_gateway
from farebox.storage.sql import Connection
from farebox.vault import SecretUnreadable

_CONFIG = msgspec.structs.fields(GatewayConfig)
REQUIRED = frozenset(
    {
        "cache_invalidate_on_update",
        "cache_ttl",
        "collect_logs",
        "rate_limiting_interval",
        "rate_limiting_limit",
    }
)
_OWN = ("cache_coalesce", "cors_origins")
"""Farebox's own fields: omitted from responses if they are empty, as Cloudflare's SDKs do not know them."""
_READ_ONLY = ("account_id", "account_tag", "created_at", "internal_id", "is_default", "modified_at", "wholesale")
"""Fields that a client sends back as it received them; they are ignored."""
GATEWAYS_MAX = 200
"""Maximum gateways of an account: with this, everything that belongs to gateways is bounded."""


class Gateway(GatewayConfig, frozen=True, kw_only=True):
    """A gateway: its configuration, id and times."""

    id: str
    is_default: bool
    created_at: str
    modified_at: str
    dlp: Dlp | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]
    cors_origins: tuple[Origin, ...] | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]
    cache_coalesce: bool | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


_Ignored = Annotated[Any, msgspec.Meta(extra_json_schema={"readOnly": True})]


def _body(name: str, *, required: frozenset[str] = frozenset(), with_id: bool = False) -> type[msgspec.Struct]:
    """The type of a request body: the fields of the configuration. Optional fields that were not sent are UNSET."""
    fields: list[Any] = []
    for item in _CONFIG:
        optional = (item.name, Union[item.type, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - a value, not a type
        fields.append((item.name, item.type) if item.name in required else optional)
    ignored = list(_READ_ONLY)
    if with_id:
        allowed = msgspec.Meta(min_length=1, max_length=64, pattern=GATEWAY_ID, description=GATEWAY_ID_WORDS)
        fields.append(("id", Annotated[str, allowed]))
    else:
        ignored.append("id")
    fields += [(name, _Ignored, msgspec.UNSET) for name in ignored]
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


GatewayCreate = _body("GatewayCreate", required=REQUIRED, with_id=True)
GatewayReplace = _body("GatewayReplace", required=REQUIRED)
GatewayChange = _body("GatewayChange")


class GatewaysQuery(Paging, frozen=True, kw_only=True):
    search: str = ""
    """Only gateways whose id contains this."""


async def list_all(request: Request, query: GatewaysQuery) -> Response:
    found = await request.services.database.scan(partial(list_gateways, account_id=request.account_id))
    assert request.caller is not None
    reaches = request.caller.may_reach
    found = [row for row in found if query.search in row.gateway_id and reaches(row.gateway_id)]
    window = query.window()
    shown = [_wire(row) for row in found[window.offset : window.offset + window.per_page]]
    return page(shown, window.page, window.per_page, len(found))


async def get(request: Request, _: None) -> Response:
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    row = await request.services.database.get(lambda connection: find_gateway(connection, account_id, gateway_id))
    return ok(_wire(require(row)))


async def create(request: Request, body: Any) -> Response:
    account_id, now = request.account_id, request.services.clock.now_ms()
    given = _given(request, body)
    config = classification.with_classification_off(GatewayConfig(**given), given)

    def write(connection: Connection) -> GatewayRow:
        if find_gateway(connection, account_id, body.id) is not None:
            raise invalid(f"A gateway with the id '{body.id}' already exists", "body", "id")
        if len(list_gateways(connection, account_id)) >= GATEWAYS_MAX:
            raise invalid(f"The account has {GATEWAYS_MAX} gateways, the maximum: delete one", "body", "id")
        screening.check_profiles(connection, account_id, config)
        row = _row(request, connection, body.id, config, NO_SECRETS, (now, now))
        put_gateway(connection, row)
        return row

    return await _written(request, write)


async def replace(request: Request, body: Any) -> Response:
    """Farebox's own fields stay as they are if they are not sent, as Cloudflare's SDKs do not know them."""
    given = _given(request, body)
    return await _update(
        request, lambda stored: GatewayConfig(**{name: getattr(stored, name) for name in _OWN} | given), given
    )


async def change(request: Request, body: Any) -> Response:
    changes = _given(request, body)
    return await _update(request, lambda config: msgspec.structs.replace(config, **changes), changes)


async def change_limits(request: Request, changed: Callable[[SpendLimits], SpendLimits]) -> Response:
    """Change the spend limits, as they are in the transaction. Raises what `changed` raises; Problem (NOT_FOUND)."""

    def updated(config: GatewayConfig) -> GatewayConfig:
        return msgspec.structs.replace(config, spend_limits=changed(config.spend_limits or SpendLimits()))

    return await _update(request, updated, {})


async def delete(request: Request, _: None) -> Response:
    account_id, gateway_id = request.account_id, request.path["gateway_id"]

    def write(connection: Connection) -> GatewayRow:
        row = require(find_gateway(connection, account_id, gateway_id))
        delete_gateway(connection, account_id, gateway_id)
        delete_configs_of_gateway(connection, account_id, gateway_id)
        return row

    return await _written(request, write, deleted=True)


async def resume(request: Request, _: None) -> Response:
    """The response that Cloudflare gives if nothing is kept of a stream: its clients then use what they have, or raise
    an error. Raises Problem (RESUME_UNAVAILABLE)."""
    words = "Streams cannot be resumed: nothing is kept once the client has disconnected."
    raise Problem(RESUME_UNAVAILABLE, words)


async def url(request: Request, _: None) -> Response:
    account_id, gateway_id, provider = request.account_id, request.path["gateway_id"], request.path["provider"]
    if not await logs.exists(request.services, account_id, gateway_id):
        raise not_found()
    configuration = request.services.configuration
    own = await configuration.own_providers(account_id, gateway_id)
    if provider != "compat" and configuration.provider(provider) is None and provider not in own.custom:
        raise Problem(PROVIDER_UNKNOWN, "There is no such provider")
    return ok(f"{request.services.base_url}{gateway_path(account_id, gateway_id)}/{provider}")


async def _update(
    request: Request, updated: Callable[[GatewayConfig], GatewayConfig], given: Mapping[str, Any]
) -> Response:
    """Replace the configuration of the gateway in the path with what `updated` returns for it; `given`: the fields that
    were sent."""
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    now = request.services.clock.now_ms()

    def write(connection: Connection) -> GatewayRow:
        stored = require(find_gateway(connection, account_id, gateway_id))
        config = classification.with_classification_off(
            updated(msgspec.json.decode(stored.config, type=GatewayConfig)), given
        )
        screening.check_profiles(connection, account_id, config)
        secrets = _secrets(request, stored)
        row = _row(request, connection, gateway_id, config, secrets, (stored.created_at, now))
        put_gateway(connection, row, empty_cache=config.cache_invalidate_on_update)
        return row

    return await _written(request, write)


def _row(
    request: Request,
    connection: Connection,
    gateway_id: str,
    config: GatewayConfig,
    stored: GatewaySecrets,
    times: tuple[int, int],
) -> GatewayRow:
    """The gateway as it is stored; `stored`: its secrets so far. Raises InvalidInput."""
    services, account_id = request.services, request.account_id
    shown, secrets = with_secrets(services, connection, account_id, config, stored)
    sealed = seal(services.vault, account_id, gateway_id, secrets)
    return GatewayRow(account_id, gateway_id, msgspec.json.encode(shown), *times, sealed)


def _secrets(request: Request, stored: GatewayRow) -> GatewaySecrets:
    """The gateway's secrets; empty if they cannot be decrypted, so that they must be sent again."""
    try:
        return unsealed(request.services.vault, stored)
    except SecretUnreadable:
        return NO_SECRETS


async def _written(request: Request, write: Callable[[Connection], GatewayRow], *, deleted: bool = False) -> Response:
    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    if deleted or msgspec.json.decode(row.config, type=GatewayConfig).cache_invalidate_on_update:
        request.services.response_cache.left(row.account_id, row.gateway_id)
    return ok(_wire(row))


def _given(request: Request, body: Any) -> dict[str, Any]:
    """The fields of the configuration that were sent. Raises InvalidInput if one asks for something that is not
    available."""
    given = {item.name: getattr(body, item.name) for item in _CONFIG}
    given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    faults = screening.faults(given.get("dlp"), given.get("guardrails"), request.services.scorer)
    faults += classification.faults(given, request.services.classifier)
    limits = given.get("spend_limits")
    if limits is not None:
        faults += spend_rules.faults(limits)
        given["spend_limits"] = spend_rules.with_ids(limits)
    if faults:
        raise InvalidInput(faults)
    if given.get("cache_ttl", 0) is None:
        given["cache_ttl"] = 0  # as Cloudflare stores it
    return given


def _wire(row: GatewayRow) -> Gateway:
    config = msgspec.structs.asdict(msgspec.json.decode(row.config, type=GatewayConfig))
    if config["dlp"] is None:
        del config["dlp"]  # the one field that Cloudflare's schema does not allow to be null
    for name in _OWN:
        if not config[name]:
            del config[name]
    return Gateway(
        **config,
        id=row.gateway_id,
        is_default=row.gateway_id == DEFAULT_GATEWAY,
        created_at=iso(row.created_at),
        modified_at=iso(row.modified_at),
    )
