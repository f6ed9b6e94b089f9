"""The store of dynamic routes: an account's named flows, their versions, and which of these is deployed.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows

DEPLOYMENTS_KEPT = 500


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of a route."""

    version_id: str
    elements: str
    """JSON array: farebox.dynamic_routes.elements."""
    valid: bool
    """Whether it can be called; False for a draft."""
    created_at: int


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A deployment: the time at which a version came into use."""

    deployment_id: str
    version_id: str
    created_at: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route with the version in use."""

    account_id: str
    gateway_id: str
    route_id: str
    name: str
    created_at: int
    modified_at: int
    version: VersionRow
    deployment: DeploymentRow


@dataclass(frozen=True, slots=True)
class RouteInUse:
    """A route with the elements of the version that is deployed (JSON array: farebox.dynamic_routes.elements)."""

    gateway_id: str
    route_id: str
    name: str
    elements: str


_OF_GATEWAY = f"{OF_ACCOUNT} AND gateway_id = ?"
_OF_ROUTE = f"{_OF_GATEWAY} AND route_id = ?"
_VERSION = "version_id, elements, valid, created_at"
_SELECT = (
    "SELECT r.account_id, r.gateway_id, r.route_id, r.name, r.created_at, r.modified_at, "
    "v.version_id, v.elements, v.valid, v.created_at, d.deployment_id, d.created_at FROM routes r "
    "JOIN route_versions v ON v.bucket = r.bucket AND v.account_id = r.account_id AND v.gateway_id = r.gateway_id "
    "AND v.route_id = r.route_id AND v.version_id = r.version_id "
    "JOIN route_deployments d ON d.bucket = r.bucket AND d.account_id = r.account_id "
    "AND d.gateway_id = r.gateway_id AND d.route_id = r.route_id AND d.deployment_id = r.deployment_id "
    "WHERE r.bucket = ? AND r.account_id = ? AND r.gateway_id = ?"
)


def find_route(connection: Connection, account_id: str, gateway_id: str, route_id: str) -> RouteRow | None:
    key = key_of(connection, account_id)
    found = row(connection, f"{_SELECT} AND r.route_id = ?", (*key, gateway_id, route_id))
    return None if found is None else _route(found)


def find_route_named(connection: Connection, account_id: str, gateway_id: str, name: str) -> RouteRow | None:
    key = key_of(connection, account_id)
    found = row(connection, f"{_SELECT} AND r.name = ?", (*key, gateway_id, name))
    return None if found is None else _route(found)


def routes_in_use(connection: Connection, account_id: str, route_ids: Sequence[str]) -> list[RouteInUse]:
    """Those of these routes of the account that exist, with what is deployed."""
    if not route_ids:
        return []
    places = ", ".join("?" for _ in route_ids)
    found = rows(
        connection,
        "SELECT r.gateway_id, r.route_id, r.name, v.elements FROM routes r "
        "JOIN route_versions v ON v.bucket = r.bucket AND v.account_id = r.account_id AND v.gateway_id = r.gateway_id "
        "AND v.route_id = r.route_id AND v.version_id = r.version_id "
        f"WHERE r.bucket = ? AND r.account_id = ? AND r.route_id IN ({places})",
        (*key_of(connection, account_id), *route_ids),
    )
    return [RouteInUse(*fields) for fields in found]


def list_routes(
    connection: Connection, account_id: str, gateway_id: str, limit: int = 1000, offset: int = 0
) -> list[RouteRow]:
    """The gateway's routes, oldest first."""
    key = key_of(connection, account_id)
    found = rows(connection, f"{_SELECT} ORDER BY r.route_id LIMIT ? OFFSET ?", (*key, gateway_id, limit, offset))
    return [_route(fields) for fields in found]


def count_routes(connection: Connection, account_id: str, gateway_id: str) -> int:
    key = key_of(connection, account_id)
    found = row(connection, f"SELECT count(*) FROM routes WHERE {_OF_GATEWAY}", (*key, gateway_id))
    return int(found[0]) if found else 0


def add_route(connection: Connection, route: RouteRow) -> None:
    """Store a new route with its first version, deployed. Does nothing if there is no such account."""
    key = find_key(connection, route.account_id)
    if key is None:
        return
    note_change(connection, route.account_id)
    connection.execute(
        "INSERT INTO routes (bucket, account_id, gateway_id, route_id, name, version_id, deployment_id, created_at, "
        "modified_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            route.gateway_id,
            route.route_id,
            route.name,
            route.version.version_id,
            route.deployment.deployment_id,
            route.created_at,
            route.modified_at,
        ),
    )
    add_version(connection, route.account_id, route.gateway_id, route.route_id, route.version)
    _add_deployment(connection, route, route.deployment)


def rename_route(connection: Connection, route: RouteRow, name: str, at: int) -> None:
    note_change(connection, route.account_id)
    connection.execute(
        f"UPDATE routes SET name = ?, modified_at = ? WHERE {_OF_ROUTE}", (name, at, *_key(connection, route))
    )


def delete_route(connection: Connection, route: RouteRow) -> None:
    """Delete the route with its versions and deployments."""
    note_change(connection, route.account_id)
    key = _key(connection, route)
    connection.execute(f"DELETE FROM routes WHERE {_OF_ROUTE}", key)
    connection.execute(f"DELETE FROM route_versions WHERE {_OF_ROUTE}", key)
    connection.execute(f"DELETE FROM route_deployments WHERE {_OF_ROUTE}", key)


def delete_routes_of(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete all routes of a gateway."""
    key = (*key_of(connection, account_id), gateway_id)
    connection.execute(f"DELETE FROM routes WHERE {_OF_GATEWAY}", key)
    connection.execute(f"DELETE FROM route_versions WHERE {_OF_GATEWAY}", key)
    connection.execute(f"DELETE FROM route_deployments WHERE {_OF_GATEWAY}", key)


# Versions.


def find_version(
    connection: Connection, account_id: str, gateway_id: str, route_id: str, version_id: str
) -> VersionRow | None:
    key = key_of(connection, account_id)
    found = row(
        connection,
        f"SELECT {_VERSION} FROM route_versions WHERE {_OF_ROUTE} AND version_id = ?",
        (*key, gateway_id, route_id, version_id),
    )
    return None if found is None else _version(found)


def list_versions(
    connection: Connection, account_id: str, gateway_id: str, route_id: str, limit: int, offset: int = 0
) -> list[VersionRow]:
    """The versions of a route, newest first."""
    found = rows(
        connection,
        f"SELECT {_VERSION} FROM route_versions WHERE {_OF_ROUTE} ORDER BY version_id DESC LIMIT ? OFFSET ?",
        (*key_of(connection, account_id), gateway_id, route_id, limit, offset),
    )
    return [_version(fields) for fields in found]


def count_versions(connection: Connection, account_id: str, gateway_id: str, route_id: str) -> int:
    key = key_of(connection, account_id)
    found = row(connection, f"SELECT count(*) FROM route_versions WHERE {_OF_ROUTE}", (*key, gateway_id, route_id))
    return int(found[0]) if found else 0


def add_version(connection: Connection, account_id: str, gateway_id: str, route_id: str, version: VersionRow) -> None:
    connection.execute(
        "INSERT INTO route_versions (bucket, account_id, gateway_id, route_id, version_id, elements, valid, "
        "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key_of(connection, account_id),
            gateway_id,
            route_id,
            version.version_id,
            version.elements,
            version.valid,
            version.created_at,
        ),
    )


# Deployments.


def list_deployments(
    connection: Connection, account_id: str, gateway_id: str, route_id: str, limit: int, offset: int = 0
) -> list[DeploymentRow]:
    """The deployments of a route, newest first."""
    found = rows(
        connection,
        f"SELECT deployment_id, version_id, created_at FROM route_deployments WHERE {_OF_ROUTE} "
        "ORDER BY deployment_id DESC LIMIT ? OFFSET ?",
        (*key_of(connection, account_id), gateway_id, route_id, limit, offset),
    )
    return [DeploymentRow(*fields) for fields in found]


def deploy(connection: Connection, route: RouteRow, deployment: DeploymentRow) -> None:
    """Deploy another version of the route. Only the latest deployments are kept."""
    note_change(connection, route.account_id)
    key = _key(connection, route)
    connection.execute(
        f"UPDATE routes SET version_id = ?, deployment_id = ?, modified_at = ? WHERE {_OF_ROUTE}",
        (deployment.version_id, deployment.deployment_id, deployment.created_at, *key),
    )
    _add_deployment(connection, route, deployment)
    old = rows(
        connection,
        f"SELECT deployment_id FROM route_deployments WHERE {_OF_ROUTE} ORDER BY deployment_id DESC LIMIT 1 OFFSET ?",
        (*key, DEPLOYMENTS_KEPT),
    )
    for (deployment_id,) in old:
        connection.execute(
            f"DELETE FROM route_deployments WHERE {_OF_ROUTE} AND deployment_id <= ?", (*key, deployment_id)
        )


def _add_deployment(connection: Connection, route: RouteRow, deployment: DeploymentRow) -> None:
    connection.execute(
        "INSERT INTO route_deployments (bucket, account_id, gateway_id, route_id, deployment_id, version_id, "
        "created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*_key(connection, route), deployment.deployment_id, deployment.version_id, deployment.created_at),
    )


def _key(connection: Connection, route: RouteRow) -> tuple[object, ...]:
    return (*key_of(connection, route.account_id), route.gateway_id, route.route_id)


def _version(fields: tuple[Any, ...]) -> VersionRow:
    version_id, elements, valid, created_at = fields
    return VersionRow(version_id, elements, bool(valid), created_at)


def _route(fields: tuple[Any, ...]) -> RouteRow:
    version = _version(fields[6:10])
    deployment = DeploymentRow(fields[10], version.version_id, fields[11])
    account_id, gateway_id, route_id, name, created_at, modified_at = fields[:6]
    return RouteRow(account_id, gateway_id, route_id, name, created_at, modified_at, version, deployment)
