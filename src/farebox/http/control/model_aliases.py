"""Farebox extension: an account's own names for models, with further models that are called if the first one fails."""

from functools import partial
from typing import Annotated

import msgspec

from farebox.calls import logs
from farebox.dynamic_routes.graph import ALIAS_TARGETS_MAX, Target
from farebox.http.control.wire import Paging, iso, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput, invalid
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import compat_model
from farebox.storage import model_aliases as store
from farebox.storage.model_aliases import ModelAlias
from farebox.storage.sql import Connection

ALIASES_MAX = 200
"""Maximum aliases of one gateway, and of the account itself."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"


class AliasSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The targets as `provider/model`, in the order in which they are tried; targets with a weight share the
    requests."""

    targets: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | Target],
        msgspec.Meta(min_length=1, max_length=ALIAS_TARGETS_MAX),
    ]


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """`gateway_id` is null if the alias applies to all gateways of the account."""

    alias: str
    gateway_id: str | None
    targets: list[str | Target]
    created_at: str
    modified_at: str


async def list_all(request: Request, query: Paging) -> Response:
    await _check_gateway(request)
    place = (request.account_id, _gateway(request))
    found = await request.services.database.scan(lambda connection: store.ALIASES.list(connection, *place))
    window = query.window()
    shown = [_wire(alias) for alias in found[window.offset : window.offset + window.per_page]]
    return page(shown, window.page, window.per_page, len(found))


async def get(request: Request, _: None) -> Response:
    return ok(_wire(await request.services.database.get(partial(_find, request=request))))


async def put(request: Request, body: AliasSet) -> Response:
    """Create the alias, or replace its targets."""
    await _check_gateway(request)
    name = request.path["alias"]
    _check(name, body.targets)
    at, targets = request.services.clock.now_ms(), msgspec.json.encode(body.targets).decode()

    def write(connection: Connection) -> ModelAlias:
        known = {alias.alias: alias for alias in store.ALIASES.list(connection, request.account_id, _gateway(request))}
        if name not in known and len(known) >= ALIASES_MAX:
            raise invalid(f"At most {ALIASES_MAX} aliases", "path", "alias")
        created_at = known[name].created_at if name in known else at
        alias = ModelAlias(request.account_id, _gateway(request), name, targets, created_at, at)
        store.ALIASES.put(connection, alias)
        return alias

    alias = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(alias))


async def delete(request: Request, _: None) -> Response:
    def write(connection: Connection) -> ModelAlias:
        alias = _find(connection, request)
        store.ALIASES.delete(connection, alias.account_id, alias.gateway_id, alias.alias)
        return alias

    alias = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(alias))


async def list_of_gateway(request: Request, query: Paging) -> Response:
    return await list_all(request, query)


async def get_of_gateway(request: Request, _: None) -> Response:
    return await get(request, None)


async def put_of_gateway(request: Request, body: AliasSet) -> Response:
    return await put(request, body)


async def delete_of_gateway(request: Request, _: None) -> Response:
    return await delete(request, None)


def _gateway(request: Request) -> str:
    return request.path.get("gateway_id", "")


async def _check_gateway(request: Request) -> None:
    """Raises Problem (NOT_FOUND)."""
    if _gateway(request):
        await logs.check_gateway(request.services, request.account_id, _gateway(request))


def _check(name: str, targets: list[str | Target]) -> None:
    """Raises InvalidInput."""
    faults = []
    try:
        msgspec.convert(name, Annotated[str, msgspec.Meta(pattern=NAME)])
    except msgspec.ValidationError:
        message = "An alias begins with a letter or digit; up to 63 letters, digits and '_.:-' follow"
        faults.append(Fault(("path", "alias"), message))
    for at, target in enumerate(targets):
        try:
            compat_model(target if isinstance(target, str) else target.model)
        except InvalidRequest as error:
            faults.append(Fault(("body", "targets", at), str(error)))
    if faults:
        raise InvalidInput(faults)


def _find(connection: Connection, request: Request) -> ModelAlias:
    """Raises Problem (NOT_FOUND)."""
    return require(store.ALIASES.find(connection, request.account_id, _gateway(request), request.path["alias"]))


def _wire(alias: ModelAlias) -> Alias:
    return Alias(
        alias=alias.alias,
        gateway_id=alias.gateway_id or None,
        targets=msgspec.json.decode(alias.targets, type=list[str | Target]),
        created_at=iso(alias.created_at),
        modified_at=iso(alias.modified_at),
    )
