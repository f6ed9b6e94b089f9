"""Dynamic routes: named, versioned flows that choose the model of a call. The formats are those of Cloudflare's API,
whose lists and `PATCH` responses have no envelope."""

from functools import partial
from typing import Annotated, Literal

import msgspec

from farebox.calls import logs
from farebox.dynamic_routes.elements import Element, Model, in_newer_form
from farebox.dynamic_routes.graph import InvalidRoute, graph_of, is_draft
from farebox.errors import ROUTE_EXISTS, ROUTE_NOT_FOUND, Problem
from farebox.http.control.wire import Paging, iso
from farebox.http.envelope import Response, ok, plain
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput, invalid
from farebox.providers.catalogue import provider_of
from farebox.providers.naming import is_custom
from farebox.providers.reading import common_path
from farebox.storage import dynamic_routes as store
from farebox.storage.dynamic_routes import DeploymentRow, RouteRow, VersionRow
from farebox.storage.sql import Connection

ROUTES_MAX = 200
"""Maximum routes of one gateway."""
VERSIONS_MAX = 500
"""Maximum versions of one route."""

Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="text on one line, without control characters",
    ),
]


class RouteCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    elements: list[Element]


class RouteRename(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name


class VersionCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    elements: list[Element]


class DeploymentCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version_id: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`data` is the version's elements as JSON; a version that is not valid is a draft, and cannot be called."""

    version_id: str
    active: Literal["true", "false"]
    is_valid: bool
    created_at: str
    data: str


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    deployment_id: str
    version_id: str
    created_at: str


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route with its deployed version."""

    id: str
    account_tag: str
    gateway_id: str
    name: str
    created_at: str
    modified_at: str
    elements: msgspec.Raw
    version: Version
    deployment: Deployment


class RouteVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a route."""

    id: str
    gateway_id: str
    name: str
    created_at: str
    modified_at: str
    version_id: str
    active: Literal["true", "false"]
    is_valid: bool
    data: str
    elements: msgspec.Raw


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True
    route: Route


class _List(msgspec.Struct, frozen=True, kw_only=True):
    page: int
    per_page: int
    order_by: str = "created_at"
    order_by_direction: str


class RouteList(_List, frozen=True, kw_only=True):
    routes: list[Route]


class VersionList(_List, frozen=True, kw_only=True):
    versions: list[Version]


class DeploymentList(_List, frozen=True, kw_only=True):
    deployments: list[Deployment]


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True
    data: RouteList


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True
    data: VersionList


class Deployments(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True
    data: DeploymentList


async def list_all(request: Request, query: Paging) -> Response:
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    window = query.window()
    read = partial(
        store.list_routes,
        account_id=request.account_id,
        gateway_id=request.path["gateway_id"],
        limit=window.per_page,
        offset=window.offset,
    )
    found = [_wire(route) for route in await request.services.database.scan(read)]
    shown = RouteList(routes=found, page=window.page, per_page=window.per_page, order_by_direction="asc")
    return plain(Routes(data=shown))


async def create(request: Request, body: RouteCreate) -> Response:
    """Version 1 is deployed at once."""
    version = new_version(request, body.elements)
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    services, gateway_id, at = request.services, request.path["gateway_id"], version.created_at
    deployment = DeploymentRow(services.ids.log_id(), version.version_id, at)
    route = RouteRow(request.account_id, gateway_id, services.ids.log_id(), body.name, at, at, version, deployment)

    def write(connection: Connection) -> RouteRow:
        _check_name(connection, route.account_id, gateway_id, route.name)
        if store.count_routes(connection, route.account_id, gateway_id) >= ROUTES_MAX:
            raise invalid(f"A gateway has at most {ROUTES_MAX} routes", "body", "name")
        store.add_route(connection, route)
        return route

    await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(route))


async def get(request: Request, _: None) -> Response:
    return ok(_wire(await request.services.database.get(partial(_find, request=request))))


async def rename(request: Request, body: RouteRename) -> Response:
    at = request.services.clock.now_ms()

    def write(connection: Connection) -> RouteRow:
        route = _find(connection, request)
        if route.name != body.name:
            _check_name(connection, route.account_id, route.gateway_id, body.name)
            store.rename_route(connection, route, body.name, at)
        return _find(connection, request)

    route = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return plain(Renamed(route=_wire(route)))


async def delete(request: Request, _: None) -> Response:
    def write(connection: Connection) -> RouteRow:
        route = _find(connection, request)
        store.delete_route(connection, route)
        return route

    route = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(route))


async def list_versions(request: Request, query: Paging) -> Response:
    window = query.window()
    route = await request.services.database.get(partial(_find, request=request))
    rows = await request.services.database.scan(
        lambda connection: store.list_versions(connection, *_key(request), window.per_page, window.offset)
    )
    found = [_version(version, route) for version in rows]
    shown = VersionList(versions=found, page=window.page, per_page=window.per_page, order_by_direction="desc")
    return plain(Versions(data=shown))


async def create_version(request: Request, body: VersionCreate) -> Response:
    """A new version is not used until it is deployed. If the elements are those of the newest version, that one is
    returned."""
    version = new_version(request, body.elements)

    def write(connection: Connection) -> tuple[RouteRow, VersionRow]:
        route = _find(connection, request)
        (newest,) = store.list_versions(connection, *_key(request), 1)
        if newest.elements == version.elements:
            return route, newest
        if store.count_versions(connection, *_key(request)) >= VERSIONS_MAX:
            message = f"A route has at most {VERSIONS_MAX} versions: create a new one"
            raise invalid(message, "body", "elements")
        store.add_version(connection, *_key(request), version)
        return route, version

    return ok(_of_version(*await request.services.database.write(write)))


async def get_version(request: Request, _: None) -> Response:
    def read(connection: Connection) -> tuple[RouteRow, VersionRow]:
        route = _find(connection, request)
        return route, _find_version(connection, request, request.path["version_id"])

    return ok(_of_version(*await request.services.database.get(read)))


async def list_deployments(request: Request, query: Paging) -> Response:
    window = query.window()
    await request.services.database.get(partial(_find, request=request))
    rows = await request.services.database.scan(
        lambda connection: store.list_deployments(connection, *_key(request), window.per_page, window.offset)
    )
    found = [_deployment(row) for row in rows]
    shown = DeploymentList(deployments=found, page=window.page, per_page=window.per_page, order_by_direction="desc")
    return plain(Deployments(data=shown))


async def create_deployment(request: Request, body: DeploymentCreate) -> Response:
    """Deploying the version that is already deployed changes nothing."""
    services = request.services
    deployment = DeploymentRow(services.ids.log_id(), body.version_id, services.clock.now_ms())

    def write(connection: Connection) -> RouteRow:
        route = _find(connection, request)
        version = _find_version(connection, request, body.version_id)
        if not version.valid:
            raise invalid("This version is a draft: it has no model to call", "body", "version_id")
        if route.version.version_id != version.version_id:
            store.deploy(connection, route, deployment)
        return _find(connection, request)

    route = await services.database.write(write)
    await services.configuration.notice_own_change()
    return ok(_wire(route))


def _check_name(connection: Connection, account_id: str, gateway_id: str, name: str) -> None:
    """Raises Problem (ROUTE_EXISTS)."""
    if store.find_route_named(connection, account_id, gateway_id, name) is not None:
        raise Problem(ROUTE_EXISTS, f"A route with the name '{name}' already exists", path=("body", "name"))


def _key(request: Request) -> tuple[str, str, str]:
    """IDs of account, gateway and route."""
    return request.account_id, request.path["gateway_id"], request.path["id"]


def _find(connection: Connection, request: Request) -> RouteRow:
    """Raises Problem (ROUTE_NOT_FOUND)."""
    route = store.find_route(connection, *_key(request))
    if route is None:
        raise Problem(ROUTE_NOT_FOUND, "Route not found")
    return route


def _find_version(connection: Connection, request: Request, version_id: str) -> VersionRow:
    """Raises Problem (ROUTE_NOT_FOUND)."""
    version = store.find_version(connection, *_key(request), version_id)
    if version is None:
        raise Problem(ROUTE_NOT_FOUND, "Route version not found")
    return version


def new_version(request: Request, elements: list[Element]) -> VersionRow:
    """The version as it would be stored. Raises InvalidInput if the elements are not a valid route, with the place of
    each fault."""
    elements = [in_newer_form(element) for element in elements]
    draft = is_draft(elements)
    if not draft:
        faults = [*_provider_faults(request, elements), *graph_faults(elements)]
        if faults:
            raise InvalidInput(faults)
    services = request.services
    return VersionRow(services.ids.log_id(), msgspec.json.encode(elements).decode(), not draft, services.clock.now_ms())


def graph_faults(elements: list[Element]) -> list[Fault]:
    """What is wrong with the elements as a graph; of a draft too, which may be stored nevertheless."""
    try:
        graph_of(elements)
    except InvalidRoute as error:
        return [Fault(("body", "elements", *fault.path), fault.message) for fault in error.faults]
    return []


def _provider_faults(request: Request, elements: list[Element]) -> list[Fault]:
    faults = []
    for at, element in enumerate(elements):
        if not isinstance(element, Model):
            continue
        slug, where = element.properties.provider, ("body", "elements", at, "properties", "provider")
        provider = provider_of(slug)
        if is_custom(slug):
            continue  # it may be added later
        if provider is None or request.services.configuration.provider(provider.slug) is None:
            faults.append(Fault(where, f"There is no provider '{slug}'"))
        elif common_path(provider, "chat/completions") is None:
            faults.append(Fault(where, f"{provider.name} does not offer chat completions in OpenAI's form"))
    return faults


def _wire(route: RouteRow) -> Route:
    return Route(
        id=route.route_id,
        account_tag=route.account_id,
        gateway_id=route.gateway_id,
        name=route.name,
        created_at=iso(route.created_at),
        modified_at=iso(route.modified_at),
        elements=msgspec.Raw(route.version.elements.encode()),
        version=_version(route.version, route),
        deployment=_deployment(route.deployment),
    )


def _version(version: VersionRow, route: RouteRow) -> Version:
    return Version(
        version_id=version.version_id,
        active=_active(version, route),
        is_valid=version.valid,
        created_at=iso(version.created_at),
        data=version.elements,
    )


def _active(version: VersionRow, route: RouteRow) -> Literal["true", "false"]:
    return "true" if version.version_id == route.version.version_id else "false"


def _of_version(route: RouteRow, version: VersionRow) -> RouteVersion:
    return RouteVersion(
        id=route.route_id,
        gateway_id=route.gateway_id,
        name=route.name,
        created_at=iso(version.created_at),
        modified_at=iso(route.modified_at),
        version_id=version.version_id,
        active=_active(version, route),
        is_valid=version.valid,
        data=version.elements,
        elements=msgspec.Raw(version.elements.encode()),
    )


def _deployment(row: DeploymentRow) -> Deployment:
    return Deployment(deployment_id=row.deployment_id, version_id=row.version_id, created_at=iso(row.created_at))
