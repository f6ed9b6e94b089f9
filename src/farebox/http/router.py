"""The router: a table of routes turned into a tree of path segments, one dictionary lookup per segment."""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias
from urllib.parse import unquote

import msgspec

from farebox.errors import ACCESS_DENIED, METHOD_NOT_ALLOWED, NO_ROUTE, ErrorKind, Problem
from farebox.http.envelope import JSON, Response, ResultInfo, failure
from farebox.http.quotas import Budget
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.model import Permission

Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]
"""Takes the request and the struct of `Route.takes` (None if the route takes nothing)."""


class Access(StrEnum):
    """Who may call a route."""

    PUBLIC = "public"
    """Anyone."""
    TOKEN = "token"  # noqa: S105 - the name of a kind of access
    """The bearer of an access token; the handler judges it."""
    CALLER = "caller"
    """Anyone with valid credentials; the response holds only what is theirs."""
    ACCOUNT = "account"
    """A caller with one of the route's permissions on the account in the path."""


class Shape(StrEnum):
    """What the body of a route's response looks like."""

    OBJECT = "object"
    """The envelope around one result."""
    PAGE = "page"
    """The envelope around a list, with `result_info`."""
    RAW = "raw"
    """The bare thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one URL. `path` has its parameters in braces."""

    method: str
    path: str
    handler: Handler
    summary: str
    result: Any
    """Type of the result; of one item of it where `shape` is PAGE."""
    takes: type[msgspec.Struct] | None = None
    """GET, DELETE: the query parameters. Else: the JSON body."""
    permissions: tuple[Permission, ...] = ()
    """Any one of them will do."""
    access: Access = Access.ACCOUNT
    shape: Shape = Shape.OBJECT
    info: type[msgspec.Struct] = ResultInfo
    """Type of `result_info`, where `shape` is PAGE."""
    status: int = 200
    """Of a success."""
    content_type: str = JSON
    """Of a success, where `shape` is RAW."""
    raw_limit: int = 0
    """Above 0: the handler is given the request's body as it came, in `request.body`, up to this many bytes."""
    budget: Budget | None = None
    """How often one account may call it, if it is expensive; routes with the same budget share it."""
    idempotent: bool = False
    """Whether the handler heeds an `Idempotency-Key` header; for the OpenAPI document."""
    reads_keys: bool = False
    """The handler waits for nothing but rows by their keys (`Database.get`, `Database.get_shared`), and has no body to
    read: where the database gets those inline, the response is there at once."""
    limited_too: bool = False
    """A token that is limited to gateways may call it, although its path names none: the handler leaves out what is of
    other gateways."""
    denied: ErrorKind = ACCESS_DENIED
    """The error for a caller who may act on the account, but has none of the permissions."""
    on_problem: Callable[[Problem, Pages], Response] = failure
    """What a problem looks like; pages for people show it in their own way."""

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(segment[1:-1] for segment in self.path.split("/") if segment.startswith("{"))

    @property
    def takes_body(self) -> bool:
        return self.takes is not None and not self.raw_limit and self.method not in ("GET", "DELETE")


@dataclass(slots=True)
class _Node:
    fixed: dict[str, "_Node"] = field(default_factory=dict)
    open: "_Node | None" = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


_ACCOUNT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SLASHES = re.compile("/{2,}")
_SHOWN_MAX = 32


class Router:
    """Finds the route of a request. A fixed segment wins over a parameter at the same place."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.split("/")[1:]:
            if segment.startswith("{"):
                node.open = node.open or _Node()
                node = node.open
            else:
                node = node.fixed.setdefault(segment, _Node())
        assert route.method not in node.routes, f"two routes for {route.method} {route.path}"
        node.routes[route.method] = (route, route.parameters)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its parameters. Raises Problem: NO_ROUTE, or METHOD_NOT_ALLOWED with what is allowed."""
        node = self._root
        values: list[str] = []
        for segment in path.split("/")[1:]:
            fixed = node.fixed.get(segment)
            if fixed is not None:
                node = fixed
            elif node.open is not None and segment:
                node = node.open
                values.append(unquote(segment) if "%" in segment else segment)
            else:
                raise no_route(path)
        if not node.routes:
            raise no_route(path)
        found = node.routes.get("GET" if method == "HEAD" else method)
        if found is None:
            raise MethodNotAllowed(method, node.routes)
        route, names = found
        parameters = dict(zip(names, values, strict=True))
        account_id = parameters.get("account_id")
        if account_id is not None and not _ACCOUNT_ID.fullmatch(account_id):
            raise no_route(path)
        return route, parameters


class MethodNotAllowed(Problem):
    """There is no such method at this URL; `allow` is the value of the header that says which there are."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        super().__init__(METHOD_NOT_ALLOWED, f"Method {method[:16]} not available for that URI.")
        methods = set(allowed)
        self.allow = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def no_route(path: str) -> Problem:
    """The problem of a path that leads nowhere."""
    return Problem(NO_ROUTE, f"Could not route to {shown(path)}, perhaps your object identifier is invalid?")


def shown(path: str) -> str:
    """A path as it may be repeated in answers and logs: whatever is long enough to be a secret is left out."""
    segments = path[:1024].split("/")[:16]
    return "/".join("…" if len(segment) > _SHOWN_MAX or segment.startswith("fbx_") else segment for segment in segments)


def tidy_path(path: str) -> str:
    """A path without the doubled and trailing slashes that base URLs bring along."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
