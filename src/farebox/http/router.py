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
from farebox.http.quotas import Quota
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.model import Permission
from farebox.storage.sql import Connection

Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]
"""Takes the request and the struct of `Route.takes` (None if the route takes nothing)."""


class AccountRead(msgspec.Struct, frozen=True):
    """A response that follows from one read of the account's rows."""

    read: Callable[[Connection, str], Any]
    """As in `Database.get_shared`."""
    answer: Callable[[Request, Any], Response]
    """Takes the request and what was read. Raises Problem."""

    async def __call__(self, request: Request) -> Response:
        return self.answer(request, await request.services.database.get_shared(self.read, request.account_id))


class Access(StrEnum):
    """Who may call a route."""

    PUBLIC = "public"
    """Anyone."""
    TOKEN = "token"  # noqa: S105 - the name of a kind of access
    """The bearer of an access token; the handler checks it."""
    CALLER = "caller"
    """Anyone with valid credentials; the response contains only what belongs to them."""
    ACCOUNT = "account"
    """A caller with one of the route's permissions on the account in the path."""


class Shape(StrEnum):
    """The format of a route's response body."""

    OBJECT = "object"
    """The envelope around one result."""
    PAGE = "page"
    """The envelope around a list, with `result_info`."""
    RAW = "raw"
    """The result without an envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one URL. Parameters in `path` are in braces."""

    method: str
    path: str
    handler: Handler
    summary: str
    result: Any
    """Type of the result; of one item if `shape` is PAGE."""
    takes: type[msgspec.Struct] | None = None
    """For GET and DELETE: the query parameters. Otherwise the JSON body."""
    permissions: tuple[Permission, ...] = ()
    """Any one of them is sufficient."""
    access: Access = Access.ACCOUNT
    shape: Shape = Shape.OBJECT
    info: type[msgspec.Struct] = ResultInfo
    """Type of `result_info`, if `shape` is PAGE."""
    status: int = 200
    """Status of a success."""
    content_type: str = JSON
    """Content type of a success, if `shape` is RAW."""
    raw_limit: int = 0
    """If above 0, the handler gets the raw request body in `request.body`, up to this many bytes."""
    budget: Quota | None = None
    """How often one account may call it, if it is expensive; routes with the same budget share it."""
    idempotent: bool = False
    """Whether the handler supports an `Idempotency-Key` header; for the OpenAPI document."""
    reads: AccountRead | None = None
    """Set if the handler does no more than this: requests with the head of an earlier one are then answered without a
    task, which would be a third of the work."""
    limited_too: bool = False
    """Whether a token that is limited to gateways may call it although its path names none: the handler leaves out
    other gateways' data."""
    denied: ErrorKind = ACCESS_DENIED
    """The error for a caller who may act on the account, but has none of the permissions."""
    on_problem: Callable[[Problem, Pages], Response] = failure
    """The response to a problem; pages for people show it in their own format."""

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
    """Finds the route of a request. A fixed segment takes precedence over a parameter at the same place."""

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
        """The route and its parameters. Raises Problem: NO_ROUTE, or METHOD_NOT_ALLOWED with the allowed methods."""
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
    """The method does not exist at this URL; `allow` is the value of the header that lists those that do."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        super().__init__(METHOD_NOT_ALLOWED, f"Method {method[:16]} not available for that URI.")
        methods = set(allowed)
        self.allow = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def no_route(path: str) -> Problem:
    """The problem for a path without a route."""
    return Problem(NO_ROUTE, f"Could not route to {shown(path)}, perhaps your object identifier is invalid?")


def shown(path: str) -> str:
    """A path as it may be repeated in responses and logs: anything long enough to be a secret is left out."""
    segments = path[:1024].split("/")[:16]
    return "/".join("…" if len(segment) > _SHOWN_MAX or segment.startswith("fbx_") else segment for segment in segments)


def tidy_path(path: str) -> str:
    """A path without the doubled and trailing slashes that result from base URLs."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
